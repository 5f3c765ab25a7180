//! One guest moved once and watched from inside: its own beats tell what it lost.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use landfall_core::model::prior::PROBE_BUDGET;
use landfall_core::report::{Outcome, Report};
use landfall_core::requirements::{Aggression, Requirement, Requirements};
use landfall_core::session::SWITCH_OVER_DEADLINE;
use landfall_core::switch_over;
use landfall_core::units::{ByteRate, Bytes, show_duration};
use landfall_migration::policy_registry::{NamedPolicy, PolicyError, report_first_failure};
use landfall_migration::preflight::Preflight;
use landfall_migration::recording::CreateError;
use landfall_migration::run::{MigrationRun, RunConfig};
use landfall_qemu::driver::{Interrupts, Tick};
use landfall_qemu::qmp::QmpAddress;
use landfall_qemu::stdio::eprint_line;
use landfall_sim::Expected;
use landfall_testguest::{GuestSpec, IsolatedCpus, MigrationPair, Vm};
use rustix::time::{ClockId, clock_gettime};

/// How long the guest is watched before the migration, to know how fast it works undisturbed.
const BASELINE: Duration = Duration::from_secs(1);

/// How long it may take until the guest's first beat at the destination, and until its memory is checked.
const BEAT_TIMEOUT: Duration = Duration::from_secs(20);

/// Width of a point of the curves.
const STEP: Duration = Duration::from_millis(200);

/// Longest time for one migration. Auto-converge may never land a guest that dirties its whole working set
/// in the 10 ms for which it lets it run.
pub const MAX_TIME: Duration = Duration::from_secs(60);

/// Rate of the link, as a multiple of the rate that the migration may use.
pub const LINK_HEADROOM: f64 = 1.12;

/// Reserves a CPU for the vCPU of the guests that are booted later, as on a host that is not overcommitted.
/// Otherwise two QEMUs, the link and landfall itself take CPU time from the guest, and the migration is
/// blamed for it. Reports if it cannot be done.
pub fn isolate_guest_cpu() -> Option<IsolatedCpus> {
    let problem = match IsolatedCpus::isolate(1) {
        Ok(Some(cpus)) => return Some(cpus),
        Ok(None) => "the machine has only one".to_owned(),
        Err(error) => error.to_string(),
    };
    eprint_line(&format!("landfall: no CPU is reserved for the guest's vCPU: {problem}"));
    None
}

/// Returns the requirements of a policy in a comparison: the same bandwidth for all, and a switch-over
/// within QEMU's default of 300 ms.
///
/// landfall keeps back a part of the downtime limit for what QEMU does not count. QEMU's auto-converge gets
/// the whole limit, as it has without landfall. And it may not pause the guest for longer, because it has no
/// way to do so.
pub fn standard_requirements(policy: &str, link: ByteRate) -> Requirements {
    let asked = Requirements {
        max_bandwidth: Some(link),
        max_time: Some(MAX_TIME),
        ..Requirements::default()
    };
    match policy {
        "auto-converge" => {
            Requirements { max_stall: asked.max_stall + switch_over::ALLOWANCE, ..asked }
        }
        _ => Requirements { give_way: vec![Requirement::MaxStall], ..asked },
    }
}

/// Which guest to move, and how.
pub struct LabRun {
    /// What kind of guest it is, in words.
    pub guest: &'static str,
    /// The guest.
    pub spec: GuestSpec,
    /// Name of the policy that steers.
    pub policy: &'static str,
    /// The requirements.
    pub asked: Requirements,
    /// How fast against how gentle.
    pub aggression: Aggression,
    /// The rate that the migration may use. The link itself carries a little more ([`LINK_HEADROOM`]):
    /// at exactly the limit, what waits in its buffers would add to the switch-over.
    pub link: ByteRate,
    /// File of the recording, if one is wanted.
    pub record: Option<PathBuf>,
    /// The CPUs that the guest's vCPUs run on; `None` for all.
    pub isolated_cpus: Option<IsolatedCpus>,
}

/// What became of a guest that was moved.
pub struct LabResult {
    /// landfall's own report.
    pub report: Report,
    /// From the start until the guest worked at the destination, or until the migration was cancelled.
    pub total: Duration,
    /// Longest time without work, by the guest's own beats.
    pub longest_stall: Duration,
    /// Work lost, in seconds of undisturbed work of a vCPU, by the guest's own beats.
    pub lost: Duration,
    /// What was known before the start.
    pub preflight: Preflight,
    /// How fast the guest worked before the start, as a multiple of the speed it was told to work at;
    /// `None` if its CPU time is not known.
    pub relative_speed: Option<f64>,
    /// The forecast.
    pub expected: Option<Expected>,
    /// Bytes that went over the link.
    pub sent: Bytes,
    /// Work per second over time, as a share of the undisturbed rate.
    pub work: Vec<(f64, f64)>,
    /// Share of a CPU that the steering thread took, the live line and a recording included.
    pub steering_cpu: f64,
    /// Share of a CPU that the source's vCPUs used over time.
    pub cpu: Vec<(f64, f64)>,
    /// Whether the guest found its memory unchanged.
    pub memory_intact: bool,
}

impl LabResult {
    /// Returns whether the guest arrived.
    pub fn landed(&self) -> bool {
        self.report.outcome == Outcome::Landed
    }

    /// Returns the total time as text: `over 60s` if the guest did not arrive.
    pub fn format_total(&self) -> String {
        let total = show_duration(self.total);
        if self.landed() { total } else { format!("over {total}") }
    }
}

/// How long a signal may take to arrive.
const SIGNAL_DELAY: Duration = Duration::from_millis(100);

/// Why a guest could not be moved and watched.
#[derive(Debug, thiserror::Error)]
pub enum LabRunError {
    /// The guest did not start.
    #[error(transparent)]
    Vm(#[from] landfall_testguest::VmError),
    /// Its QEMU does not answer.
    #[error(transparent)]
    Qmp(#[from] landfall_qemu::qmp::QmpError),
    /// The guest does not answer.
    #[error(transparent)]
    Guest(#[from] landfall_testguest::GuestError),
    /// The migration failed.
    #[error("the guest did not land: {0}")]
    NotLanded(String),
    /// A request to end, such as Ctrl-C.
    #[error("{0}; the guests have ended")]
    Ended(String),
    /// The recording cannot be written.
    #[error(transparent)]
    NotRecorded(#[from] CreateError),
    /// There is no such policy.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// Something else.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

impl LabRun {
    /// Boots the guest, moves it, and asks it how it fared. A request to end takes effect at once: the
    /// guests end with this program.
    ///
    /// # Errors
    /// [`LabRunError`].
    pub async fn run(
        &self,
        stops: &mut Interrupts,
        watch: &mut dyn FnMut(&Tick<'_>),
    ) -> Result<LabResult, LabRunError> {
        let ended = tokio::select! {
            seen = self.move_guest(watch) => match seen {
                Ok(seen) => return Ok(seen),
                Err(error) => error,
            },
            Some(reason) = stops.recv() => return Err(LabRunError::Ended(reason)),
        };
        // A signal from the terminal reaches the guests as well, and their end may be noticed first.
        let told = tokio::time::timeout(SIGNAL_DELAY, stops.recv()).await;
        Err(told.ok().flatten().map_or(ended, LabRunError::Ended))
    }

    async fn move_guest(&self, watch: &mut dyn FnMut(&Tick<'_>)) -> Result<LabResult, LabRunError> {
        let source = Vm::builder(&self.spec).isolated_cpus(self.isolated_cpus).start()?;
        let pair = MigrationPair::start(source, ByteRate(self.link.0 * LINK_HEADROOM))?;
        tokio::time::sleep(BASELINE).await;
        let config = RunConfig {
            source: QmpAddress::Unix(pair.source.qmp_socket()),
            destination: pair.uri(),
            destination_qmp: Some(QmpAddress::Unix(pair.destination.qmp_socket())),
            qemu_pid: None,
            requirements: self.asked.clone(),
            aggression: self.aggression,
            policy: NamedPolicy::by_name(self.policy, Path::new(""))?,
            post_copy: false,
            switch_over_deadline: SWITCH_OVER_DEADLINE,
        };
        let mut run = MigrationRun::new(config, &report_first_failure(self.guest));
        let (preflight, expected) = run.probe(PROBE_BUDGET).await?;
        if let Some(path) = &self.record {
            run.record_to(path)?;
        }
        let mut cpu = Vec::new();
        let (begin, spent) = (Instant::now(), cpu_of_this_thread());
        // A request to end drops this future as a whole, so none is passed on.
        let (_sender, mut no_stops) = tokio::sync::mpsc::unbounded_channel();
        let mut on_tick = |look: &Tick<'_>| {
            let used: Option<Duration> = look.sample.vcpus.iter().map(|vcpu| vcpu.cpu).sum();
            cpu.extend(used.map(|used| (look.sample.at.0, used)));
            watch(look);
        };
        let report = run.steer(&mut no_stops, &mut on_tick).await.report;
        let steering_cpu =
            cpu_of_this_thread().saturating_sub(spent).div_duration_f64(begin.elapsed());
        let landed = report.outcome == Outcome::Landed;
        let stayed = matches!(report.outcome, Outcome::Cancelled | Outcome::Refused);
        if !landed && !stayed {
            let reason = report.reason.unwrap_or_default();
            return Err(LabRunError::NotLanded(reason));
        }
        let heartbeats = pair.source.heartbeats();
        let end = match landed {
            true => heartbeats.beat_from(pair.destination.qemu_index(), None, BEAT_TIMEOUT)?,
            false => Instant::now(),
        };
        let verified = heartbeats.verify(BEAT_TIMEOUT)?;
        let timeline = heartbeats.timeline();
        let baseline = timeline.baseline(begin - BASELINE, begin);
        let undisturbed: f64 = (0..timeline.vcpus()).filter_map(|vcpu| baseline.rate(vcpu)).sum();
        let relative_speed =
            preflight.prior.cpu_demand.zip(baseline.rate(0)).map(|(pace, beats)| {
                // A beat stands for the CPU time that it took when the guest was calibrated.
                beats * self.spec.beat.as_secs_f64() * self.spec.vcpus as f64 / pace.0
            });
        let work = timeline.progress(begin, end, STEP).into_iter().map(|sample| {
            (sample.at.as_secs_f64(), sample.rates.iter().sum::<f64>() / undisturbed.max(1e-9))
        });
        Ok(LabResult {
            total: end.saturating_duration_since(begin),
            longest_stall: timeline.longest_stall(begin, end, &baseline),
            lost: timeline.total_work_lost(begin, end, &baseline),
            sent: pair.link.passed(),
            work: work.collect(),
            steering_cpu,
            cpu: shares(&cpu, timeline.vcpus()),
            memory_intact: verified.errors == 0 && heartbeats.corruptions().is_empty(),
            relative_speed,
            preflight,
            expected,
            report,
        })
    }
}

/// Returns the CPU time of the calling thread. The runtime has one thread, which steers; links and heartbeats
/// have their own.
fn cpu_of_this_thread() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Turns CPU time used so far, at several moments, into the share of a CPU used by each vCPU in between.
fn shares(used: &[(Duration, Duration)], vcpus: usize) -> Vec<(f64, f64)> {
    let mut points = Vec::new();
    let Some(mut last) = used.first().copied() else { return points };
    for &(at, cpu) in used {
        let span = at.saturating_sub(last.0);
        if span >= STEP {
            let share = cpu.saturating_sub(last.1).as_secs_f64() / span.as_secs_f64();
            points.push((at.as_secs_f64(), share / vcpus.max(1) as f64));
            last = (at, cpu);
        }
    }
    points
}
