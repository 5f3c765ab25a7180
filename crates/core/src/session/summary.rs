//! The report on a migration that has ended.

use std::time::Duration;

use super::Session;
use crate::policy::with_fallback_reason;
use crate::report::{Class, Measurements, Outcome, Report};
use crate::units::Moment;

impl Session<'_> {
    /// The reason of the report: the one given, or else how the policy explains a landing; and what
    /// broke in the policy, where something did.
    pub fn final_reason(&self, outcome: Outcome, reason: Option<String>) -> Option<String> {
        let explanation =
            || (outcome == Outcome::Landed).then(|| self.policy.explanation()).flatten();
        with_fallback_reason(&*self.policy, reason.or_else(explanation))
    }

    /// Reports on a migration that ended so, at that moment.
    pub fn report(mut self, outcome: Outcome, reason: Option<String>, ended: Moment) -> Report {
        let measured = self.measure(outcome, ended);
        let asked = &self.observer.settings().requirements;
        let name = self.policy.name();
        let mut report = Report::of(outcome, name, None, asked, &measured);
        let hindered = measured.losses.throttled > Duration::ZERO;
        report.class = match outcome {
            Outcome::Landed if !hindered && !self.is_shipping() && !self.post_copy => {
                Class::Unaided
            }
            // A guest that landed with help might have landed without; its curve tells.
            _ => self.class,
        };
        if self.post_copy {
            report.guest_cpu_lost_s = None;
        }
        report.reason = self.final_reason(outcome, reason);
        report.forecast = self.forecast;
        report.changes = self.changes;
        report
    }

    /// What was measured until the end.
    pub fn measure(&mut self, outcome: Outcome, ended: Moment) -> Measurements {
        let downtime = self.last_migration.as_ref().and_then(|migration| migration.downtime);
        if outcome == Outcome::Landed
            && self.arrived.is_none()
            && let Some(length) = downtime
        {
            self.losses.on_reported_downtime(length);
        }
        let stalls_known = match outcome {
            // In post-copy the guest stands still at every fault, which no counter shows.
            Outcome::Landed => !self.post_copy && (self.arrived.is_some() || downtime.is_some()),
            Outcome::Unknown => false,
            _ => self.losses.stopped_since().is_none(),
        };
        Measurements {
            total: self.arrived.unwrap_or(ended).0,
            downtime: downtime.filter(|_| outcome == Outcome::Landed),
            losses: self.losses.losses(),
            judged: self.losses.since_tightened(),
            stalls_known,
            transferred: self.last_ram.map(|ram| ram.transferred),
            passes: self.last_ram.map(|ram| ram.syncs),
            peak_rate: self.peak_rate.peak(),
        }
    }
}
