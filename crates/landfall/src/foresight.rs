//! What is found out of a guest and a link before a migration starts, and what follows from it.

use std::collections::BTreeSet;
use std::time::Duration;

use landfall_core::model::prior::Prior;
use landfall_core::report::Outcome;
use landfall_core::requirements::{Aggression, Requirements};
use landfall_core::telemetry::view::Levers;
use landfall_core::units::{Bytes, Share};
use landfall_qemu::cgroup::scheduler_tick;
use landfall_qemu::monitor::QemuMonitor;
use landfall_qemu::probe::{self, ProbeResult};
use landfall_qemu::qmp::{QmpAddress, QmpError};
use landfall_sim::{Expected, Question, forecast};

use crate::law::{Law, say_once};
use crate::words::seconds;

/// What is known before the start.
#[derive(Debug, Clone, Default)]
pub struct Foresight {
    /// Of the guest and the link.
    pub prior: Prior,
    /// How many vCPUs can be told apart.
    pub vcpus: u32,
    /// Why something is missing, in words for the operator.
    pub notes: Vec<String>,
}

impl Foresight {
    /// Probes the guest for about `budget`; without one, nobody is asked anything. What cannot be found
    /// out is missing.
    ///
    /// # Errors
    /// There is no monitor to ask.
    pub async fn gain(
        source: &QmpAddress,
        asked: &Requirements,
        budget: Duration,
    ) -> Result<Foresight, QmpError> {
        if budget.is_zero() {
            let prior = Prior { link: asked.max_bandwidth, ..Prior::default() };
            return Ok(Foresight { prior, vcpus: 0, notes: Vec::new() });
        }
        let (mut machine, _events) = QemuMonitor::connect(source).await?;
        let link = match asked.max_bandwidth {
            Some(limit) => Some(limit),
            None => machine
                .query_migration_parameters()
                .await
                .ok()
                .and_then(|settings| settings.max_bandwidth()),
        };
        let threads = machine.query_vcpu_threads().await.unwrap_or_default();
        let threads: BTreeSet<i32> = threads.into_iter().collect();
        let ProbeResult { prior, notes, .. } = probe::probe_guest(&mut machine, budget).await;
        Ok(Foresight {
            prior: Prior { link, ..prior },
            vcpus: threads.len() as u32,
            notes: notes.iter().map(ToString::to_string).collect(),
        })
    }

    /// What is to be expected of a migration by a policy; `None` while too little is known.
    pub fn expect(
        &self,
        law: &Law,
        asked: &Requirements,
        aggression: Aggression,
    ) -> Option<Expected> {
        let question = Question {
            prior: self.prior.clone(),
            requirements: asked.clone(),
            aggression,
            levers: levers(),
            vcpus: self.vcpus,
        };
        let tell = say_once("in the forecast");
        forecast(&question, &|| law.policy(&tell))
    }
}

/// The levers there are where nothing stands in the way. What does is found before the start.
pub fn levers() -> Levers {
    Levers { quota: true, stop: true, post_copy: false, tick: scheduler_tick() }
}

/// A forecast in a line, for people.
pub fn in_words(expected: &Expected) -> String {
    let Some(forecast) = &expected.forecast else {
        let outcome = match expected.outcome {
            Outcome::Cancelled => "it is likely to be given up",
            Outcome::Refused => "it will be refused",
            _ => "it is not likely to land",
        };
        return format!("forecast: {outcome}");
    };
    let range = |range: &landfall_core::report::ForecastRange| {
        format!("{} ({} to {})", seconds(range.mid), seconds(range.low), seconds(range.high))
    };
    format!(
        "forecast: lands in {}, stands still for {}, loses {} of work, keeps {} of its CPU, sends {}",
        range(&forecast.total_s),
        range(&forecast.longest_stall_s),
        range(&forecast.guest_cpu_lost_s),
        Share::clamped(forecast.min_cpu_share.mid),
        Bytes(forecast.transferred_bytes.mid as u64)
    )
}
