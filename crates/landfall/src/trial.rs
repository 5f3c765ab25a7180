//! One guest moved once, watched from inside: what it lost is told by its own beats.

use std::env;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use landfall_core::model::prior::PROBE_BUDGET;
use landfall_core::report::{Outcome, Report};
use landfall_core::requirements::{Aggression, Requirement, Requirements};
use landfall_core::switch_over;
use landfall_core::units::{ByteRate, Bytes, show_duration};
use landfall_qemu::driver::{self, Look, Order, Stops};
use landfall_qemu::qmp::QmpAddress;
use landfall_qemu::stdio::eprint_line;
use landfall_sim::Expected;
use landfall_testguest::{Pair, Processors, Spec, Vm};
use rustix::time::{ClockId, clock_gettime};

use crate::foresight::Foresight;
use crate::law::{Law, say_once};
use crate::recording::Recorder;
use crate::recording::write::Begun;

/// How long the guest is watched before it is moved, to know how fast it works undisturbed.
const BASELINE: Duration = Duration::from_secs(1);

/// How long it may take until the guest is heard of at the destination, and its memory checked.
const HEARD: Duration = Duration::from_secs(20);

/// Width of a point of the curves.
const STEP: Duration = Duration::from_millis(200);

/// Longest a trial may take; auto-converge may never land a guest that dirties all its working set in
/// the 10 ms that it lets it run.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// What the link carries, as a multiple of what may be used of it.
pub const ROOM: f64 = 1.12;

/// Sets a processor apart for the vCPU of the guests to come, as they have one on a host that is not
/// overbooked. Two QEMUs, the link and landfall itself would otherwise take from a guest what its
/// migration is then blamed for. Says so where it cannot be.
pub fn set_a_processor_apart() -> Option<Processors> {
    let problem = match Processors::set_apart(1) {
        Ok(Some(processors)) => return Some(processors),
        Ok(None) => "there is but one".to_owned(),
        Err(error) => error.to_string(),
    };
    eprint_line(&format!("landfall: no processor is set apart for the guest's vCPU: {problem}"));
    None
}

/// What a policy is asked for in a comparison: all the same bandwidth, and a switch-over within QEMU's
/// default of 300 ms.
///
/// Of its own downtime limit landfall keeps a part back for what QEMU does not count; QEMU's
/// auto-converge gets the limit whole, as it has it without landfall. And it may not pause the guest
/// for longer, which it has no way to do.
pub fn asked_of(policy: &str, link: ByteRate) -> Requirements {
    let asked = Requirements {
        max_bandwidth: Some(link),
        max_time: Some(PATIENCE),
        ..Requirements::default()
    };
    match policy {
        "auto-converge" => {
            Requirements { max_stall: asked.max_stall + switch_over::ALLOWANCE, ..asked }
        }
        _ => Requirements { give_way: vec![Requirement::MaxStall], ..asked },
    }
}

/// What to move, how.
pub struct Trial {
    /// What kind of guest it is, for people.
    pub guest: &'static str,
    /// The guest.
    pub spec: Spec,
    /// By which policy.
    pub policy: &'static str,
    /// Under which requirements.
    pub asked: Requirements,
    /// How hard.
    pub aggression: Aggression,
    /// Over a link of which it may use this rate. The link itself carries a little more: where the
    /// limit is the link's own rate, what waits in its buffers adds to the switch-over.
    pub link: ByteRate,
    /// Where the recording goes, if one is wanted.
    pub record: Option<PathBuf>,
    /// Where the guest's vCPUs run, if not everywhere.
    pub processors: Option<Processors>,
}

/// What came of it.
pub struct Seen {
    /// landfall's own report.
    pub report: Report,
    /// From the start until the guest worked at the destination, or until it was given up.
    pub total: Duration,
    /// Longest time without work, by the guest's own beats.
    pub longest_stall: Duration,
    /// Work lost, in seconds of undisturbed work of a vCPU, by the guest's own beats.
    pub lost: Duration,
    /// What was known before.
    pub foresight: Foresight,
    /// Pages a second of CPU time that a dirtying vCPU wrote before, beside those it was to write: what
    /// the guest made of it. `None` where its CPU time is not known.
    pub zeal: Option<f64>,
    /// What was expected.
    pub expected: Option<Expected>,
    /// Bytes that went over the link.
    pub sent: Bytes,
    /// Work per second over time, as a share of the undisturbed rate.
    pub work: Vec<(f64, f64)>,
    /// Share of a CPU that steering took, with all that its thread does besides: the live line, a
    /// recording.
    pub steering: f64,
    /// Share of a CPU that the source's vCPUs used over time.
    pub cpu: Vec<(f64, f64)>,
    /// Whether the guest found its memory as it had left it.
    pub memory_intact: bool,
}

impl Seen {
    /// Whether the guest arrived within the time allowed.
    pub fn landed(&self) -> bool {
        self.report.outcome == Outcome::Landed
    }

    /// The total time, or that it was too long.
    pub fn total_in_words(&self) -> String {
        let total = show_duration(self.total);
        if self.landed() { total } else { format!("over {total}") }
    }
}

/// A signal is heard of within this.
const SIGNALLED: Duration = Duration::from_millis(100);

/// Why a trial could not be made.
#[derive(Debug, thiserror::Error)]
pub enum TrialError {
    /// The guest did not start.
    #[error(transparent)]
    Vm(#[from] landfall_testguest::VmError),
    /// Its QEMU does not answer.
    #[error(transparent)]
    Qmp(#[from] landfall_qemu::qmp::QmpError),
    /// The guest is not heard of.
    #[error(transparent)]
    Guest(#[from] landfall_testguest::GuestError),
    /// It was not moved.
    #[error("the guest did not land: {0}")]
    NotLanded(String),
    /// Somebody asked for an end.
    #[error("{0}; the guests have ended")]
    Ended(String),
    /// The recording cannot be written.
    #[error("{0}")]
    NotRecorded(String),
    /// Something else.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

impl Trial {
    /// Boots the guest, moves it, and asks it how it was. Whoever asks for an end meanwhile gets it at
    /// once: the guests are our own, and end with it.
    ///
    /// # Errors
    /// [`TrialError`].
    pub async fn run(
        &self,
        stops: &mut Stops,
        watch: &mut dyn FnMut(&Look<'_>),
    ) -> Result<Seen, TrialError> {
        let ended = tokio::select! {
            seen = self.move_it(watch) => match seen {
                Ok(seen) => return Ok(seen),
                Err(error) => error,
            },
            Some(reason) = stops.recv() => return Err(TrialError::Ended(reason)),
        };
        // What a terminal sends reaches the guests as well, and their end may show first.
        let told = tokio::time::timeout(SIGNALLED, stops.recv()).await;
        Err(told.ok().flatten().map_or(ended, TrialError::Ended))
    }

    async fn move_it(&self, watch: &mut dyn FnMut(&Look<'_>)) -> Result<Seen, TrialError> {
        let source = Vm::builder(&self.spec).processors(self.processors).start()?;
        let pair = Pair::start(source, ByteRate(self.link.0 * ROOM))?;
        tokio::time::sleep(BASELINE).await;
        let source = QmpAddress::Unix(pair.source.qmp_socket());
        let foresight = Foresight::gain(&source, &self.asked, PROBE_BUDGET).await?;
        let law = Law::named(self.policy, Path::new("")).map_err(std::io::Error::other)?;
        let expected = foresight.expect(&law, &self.asked, self.aggression);
        let order = Order {
            source,
            destination: pair.uri(),
            destination_qmp: Some(QmpAddress::Unix(pair.destination.qmp_socket())),
            requirements: self.asked.clone(),
            aggression: self.aggression,
            policy: law.policy(&say_once(self.guest)),
            post_copy: false,
            prior: foresight.prior.clone(),
            forecast: expected.as_ref().and_then(|expected| expected.forecast),
            guardian: env::current_exe()?,
        };
        let mut recorder = match &self.record {
            None => None,
            Some(path) => Some(self.recorder(path, &foresight)?),
        };
        let mut cpu = Vec::new();
        let (begin, spent) = (Instant::now(), cpu_of_this_thread());
        // Nobody tells: it ends as a whole, or not at all.
        let (_tell, mut never) = tokio::sync::mpsc::unbounded_channel();
        let report = driver::migrate(order, &mut never, &mut |look| {
            let used: Option<Duration> = look.sample.vcpus.iter().map(|vcpu| vcpu.cpu).sum();
            cpu.extend(used.map(|used| (look.sample.at.0, used)));
            if let Some(recorder) = &mut recorder {
                recorder.look(look);
            }
            watch(look);
        })
        .await;
        let steering = cpu_of_this_thread().saturating_sub(spent).div_duration_f64(begin.elapsed());
        if let Some(recorder) = recorder {
            recorder.report(&report);
        }
        let landed = report.outcome == Outcome::Landed;
        let stayed = matches!(report.outcome, Outcome::Cancelled | Outcome::Refused);
        if !landed && !stayed {
            let reason = report.reason.unwrap_or_default();
            return Err(TrialError::NotLanded(reason));
        }
        let heartbeats = pair.source.heartbeats();
        let end = match landed {
            true => heartbeats.beat_from(pair.destination.place(), None, HEARD)?,
            false => Instant::now(),
        };
        let verified = heartbeats.verify(HEARD)?;
        let timeline = heartbeats.timeline();
        let baseline = timeline.baseline(begin - BASELINE, begin);
        let undisturbed: f64 = (0..timeline.vcpus()).filter_map(|vcpu| baseline.rate(vcpu)).sum();
        let zeal = foresight.prior.pace.zip(baseline.rate(0)).map(|(pace, beats)| {
            // A beat stands for the CPU time that it took when the guest was calibrated.
            beats * self.spec.beat.as_secs_f64() * self.spec.vcpus as f64 / pace.0
        });
        let work = timeline.progress(begin, end, STEP).into_iter().map(|sample| {
            (sample.at.as_secs_f64(), sample.rates.iter().sum::<f64>() / undisturbed.max(1e-9))
        });
        Ok(Seen {
            total: end.saturating_duration_since(begin),
            longest_stall: timeline.longest_stall(begin, end, &baseline),
            lost: timeline.total_work_lost(begin, end, &baseline),
            sent: pair.link.passed(),
            work: work.collect(),
            steering,
            cpu: shares(&cpu, timeline.vcpus()),
            memory_intact: verified.errors == 0 && heartbeats.corruptions().is_empty(),
            zeal,
            foresight,
            expected,
            report,
        })
    }

    fn recorder(&self, path: &Path, foresight: &Foresight) -> Result<Recorder, TrialError> {
        let begun = Begun {
            policy: self.policy.to_owned(),
            script: None,
            aggression: self.aggression,
            requirements: self.asked.clone(),
            prior: foresight.prior.clone(),
        };
        Recorder::create(path, begun).map_err(TrialError::NotRecorded)
    }
}

/// CPU time of the calling thread. The runtime has one thread, which steers; links and beats have their
/// own.
fn cpu_of_this_thread() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// CPU time used so far, at several times, as the share of a CPU used by each vCPU in between.
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
