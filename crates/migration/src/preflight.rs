//! What is found out about a guest and a link before a migration starts, and the forecast that follows.

use std::collections::BTreeSet;
use std::time::Duration;

use landfall_core::model::prior::Prior;
use landfall_core::report::{ForecastRange, Outcome};
use landfall_core::requirements::{Aggression, Requirements};
use landfall_core::telemetry::view::Levers;
use landfall_core::units::{Bytes, Share};
use landfall_qemu::cgroup::scheduler_tick;
use landfall_qemu::monitor::QemuMonitor;
use landfall_qemu::probe::{self, ProbeResult};
use landfall_qemu::qmp::{QmpAddress, QmpError};
use landfall_sim::{Expected, Question, forecast};

use crate::policy_registry::{NamedPolicy, report_first_failure};
use crate::text::format_seconds;

/// What is known about a guest and its link before the start.
#[derive(Debug, Clone, Default)]
pub struct Preflight {
    /// The guest's dirty curve, memory and CPU demand, and the link's rate.
    pub prior: Prior,
    /// How many vCPUs can be told apart.
    pub vcpus: u32,
    /// Why something is missing, in words for the operator.
    pub notes: Vec<String>,
}

impl Preflight {
    /// Probes the guest for about `budget`; with a budget of zero QEMU is not asked anything. What cannot
    /// be found out is missing. `qemu_pid` is the process that the operator vouches for, if any.
    ///
    /// # Errors
    /// [`QmpError`]: the monitor cannot be reached.
    pub async fn probe(
        source: &QmpAddress,
        qemu_pid: Option<i32>,
        asked: &Requirements,
        budget: Duration,
    ) -> Result<Preflight, QmpError> {
        if budget.is_zero() {
            let prior = Prior { link: asked.max_bandwidth, ..Prior::default() };
            return Ok(Preflight { prior, vcpus: 0, notes: Vec::new() });
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
        let ProbeResult { prior, notes, .. } =
            probe::probe_guest(&mut machine, qemu_pid, budget).await;
        Ok(Preflight {
            prior: Prior { link, ..prior },
            vcpus: threads.len() as u32,
            notes: notes.iter().map(ToString::to_string).collect(),
        })
    }

    /// Returns what is to be expected of a migration by a policy; `None` while too little is known.
    pub fn forecast(
        &self,
        policy: &NamedPolicy,
        asked: &Requirements,
        aggression: Aggression,
    ) -> Option<Expected> {
        let question = Question {
            prior: self.prior.clone(),
            requirements: asked.clone(),
            aggression,
            levers: all_levers(),
            vcpus: self.vcpus,
        };
        let tell = report_first_failure("in the forecast");
        forecast(&question, &|| policy.create(&tell))
    }
}

/// Returns the levers of a host where nothing stands in their way. Whether something does shows only when
/// the migration starts.
pub fn all_levers() -> Levers {
    Levers { quota: true, stop: true, post_copy: false, tick: scheduler_tick() }
}

/// Returns a forecast as one line of text.
pub fn forecast_line(expected: &Expected) -> String {
    let Some(forecast) = &expected.forecast else {
        let outcome = match expected.outcome {
            Outcome::Cancelled => "it is likely to be given up",
            Outcome::Refused => "it will be refused",
            _ => "it is not likely to land",
        };
        return format!("forecast: {outcome}");
    };
    let range = |ForecastRange { low, mid, high }: ForecastRange| {
        let [low, mid, high] = [low, mid, high].map(format_seconds);
        format!("{mid} ({low} to {high})")
    };
    format!(
        "forecast: lands in {}, stands still for {}, loses {} of work, keeps {} of its CPU, sends {}",
        range(forecast.total_s),
        range(forecast.longest_stall_s),
        range(forecast.guest_cpu_lost_s),
        Share::clamped(forecast.min_cpu_share.mid),
        Bytes(forecast.transferred_bytes.mid as u64)
    )
}
