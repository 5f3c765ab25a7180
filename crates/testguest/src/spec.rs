//! What a guest shall be: its size, how it uses its memory, and the command line that tells it so.

use landfall_core::units::{Bytes, PAGE, Share};
use std::fmt;
use std::time::Duration;

/// Beyond this the machine `pc` or `q35` would put memory above 4 GiB, where the guest does not look.
const MOST_MEMORY: Bytes = Bytes::mib(2048);
/// The guest's image, its table of generations (for [`MOST_MEMORY`]) and what the firmware keeps.
const OVERHEAD: Bytes = Bytes::mib(8);
const MOST_VCPUS: u32 = 16;
const MOST_PAGES_PER_SECOND: u64 = 100_000_000;

/// Pages in a second of a vCPU's own CPU time. A vCPU that is throttled to a half writes half.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PagesPerSecond(pub u64);

impl fmt::Display for PagesPerSecond {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} pages/s", self.0)
    }
}

/// How a guest uses its working set. Rates and parts of the working set are those of each vCPU
/// that dirties memory.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Workload {
    /// Every page in turn, flat out.
    Sweep,
    /// Pages at random.
    Random {
        /// How fast.
        rate: PagesPerSecond,
    },
    /// Pages at random, those of a hot part more often than the rest.
    HotCold {
        /// How fast, both parts together.
        rate: PagesPerSecond,
        /// Share of the writes that go to the hot part.
        hot_writes: Share,
        /// Share of the working set that is hot.
        hot_memory: Share,
    },
    /// Busy and quiet by turns, pages at random in both.
    Phases {
        /// The first of the two.
        busy: WorkPhase,
        /// The second.
        quiet: WorkPhase,
    },
    /// Asleep; wakes every 10 ms, writes one page and beats.
    Idle,
}

impl Workload {
    /// The guest's own name for it, which its header repeats.
    pub fn name(self) -> &'static str {
        match self {
            Workload::Sweep => "sweep",
            Workload::Random { .. } => "random",
            Workload::HotCold { .. } => "hotcold",
            Workload::Phases { .. } => "phases",
            Workload::Idle => "idle",
        }
    }
}

/// One of the two phases of [`Workload::Phases`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct WorkPhase {
    /// How long it lasts, in CPU time of the vCPU: a throttled guest stays in it longer.
    pub lasts: Duration,
    /// How fast pages are written.
    pub rate: PagesPerSecond,
    /// Share of the working set that they are taken from.
    pub memory: Share,
}

/// What the pages hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PageContent {
    /// One word over and over, not zero: QEMU sends such a page whole unless it compresses.
    #[default]
    Compressible,
    /// Nothing that a compression could use.
    Random,
}

/// A guest: its machine's size and its workload.
#[derive(Debug, Clone, PartialEq)]
pub struct GuestSpec {
    /// How it uses its working set.
    pub kind: Workload,
    /// Memory of the machine. Default 256 MiB, at most 2 GiB.
    pub memory: Bytes,
    /// Memory that is written all the time, by all dirtying vCPUs together. Default 96 MiB.
    pub working_set: Bytes,
    /// Further memory that is filled at the start and never written again. Default none.
    pub cold: Bytes,
    /// Default 1, at most 16.
    pub vcpus: u32,
    /// How many of the vCPUs, from the first on, dirty memory; the others only compute. Default 1.
    pub dirtiers: u32,
    /// Default [`PageContent::Compressible`].
    pub content: PageContent,
    /// CPU time of a vCPU from one beat to the next. Default 2 ms; from 100 us to 1 s.
    pub beat: Duration,
    /// What random choices and contents follow from. Default 1.
    pub seed: u64,
}

/// Why a [`GuestSpec`] cannot be.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum GuestSpecError {
    /// More vCPUs than the guest has stacks for, or none.
    #[error("vcpus is {0}; choose 1 to {MOST_VCPUS}")]
    Vcpus(u32),
    /// Not so many vCPUs are there.
    #[error("dirtiers is {dirtiers}, but the guest has {vcpus} vCPUs; choose 1 to {vcpus}")]
    Dirtiers {
        /// What was asked for.
        dirtiers: u32,
        /// The vCPUs there are.
        vcpus: u32,
    },
    /// More memory than the guest can address.
    #[error("memory is {0}; choose at most {MOST_MEMORY}")]
    Memory(Bytes),
    /// Not a page for each dirtier.
    #[error("the working set is {working_set}; {dirtiers} dirtying vCPUs need at least {needed}")]
    NoPages {
        /// What was asked for.
        working_set: Bytes,
        /// The vCPUs that share it.
        dirtiers: u32,
        /// A page for each.
        needed: Bytes,
    },
    /// Working set and cold memory are larger than the machine.
    #[error(
        "working set ({working_set}) and cold memory ({cold}) do not fit into {memory}; \
         give the guest at least {needed}, or make them smaller"
    )]
    DoesNotFit {
        /// The working set.
        working_set: Bytes,
        /// Cold memory.
        cold: Bytes,
        /// The machine's memory.
        memory: Bytes,
        /// Memory that would do, including what the guest itself takes.
        needed: Bytes,
    },
    /// A beat too short to be reported, or too long to tell anything.
    #[error("beat is {0:?}; choose 100us to 1s")]
    Beat(Duration),
    /// A rate that is none.
    #[error(
        "{name} is {value}; choose 1 to {MOST_PAGES_PER_SECOND} pages/s, or kind sweep for flat out"
    )]
    Rate {
        /// Which.
        name: &'static str,
        /// What was asked for.
        value: PagesPerSecond,
    },
    /// A phase that would be over at once, or never.
    #[error("the {name} phase lasts {value:?}; choose 10ms to 1h")]
    PhaseLength {
        /// Which.
        name: &'static str,
        /// What was asked for.
        value: Duration,
    },
}

impl GuestSpec {
    /// A guest of this kind, everything else as by default.
    pub fn new(kind: Workload) -> Self {
        Self {
            kind,
            memory: Bytes::mib(256),
            working_set: Bytes::mib(96),
            cold: Bytes(0),
            vcpus: 1,
            dirtiers: 1,
            content: PageContent::default(),
            beat: Duration::from_millis(2),
            seed: 1,
        }
    }

    /// Whether such a guest can be.
    ///
    /// # Errors
    /// The first thing that cannot be, with its value and what to choose instead.
    pub fn validate(&self) -> Result<(), GuestSpecError> {
        if !(1..=MOST_VCPUS).contains(&self.vcpus) {
            return Err(GuestSpecError::Vcpus(self.vcpus));
        }
        if !(1..=self.vcpus).contains(&self.dirtiers) {
            return Err(GuestSpecError::Dirtiers { dirtiers: self.dirtiers, vcpus: self.vcpus });
        }
        self.validate_memory()?;
        if !(Duration::from_micros(100)..=Duration::from_secs(1)).contains(&self.beat) {
            return Err(GuestSpecError::Beat(self.beat));
        }
        match self.kind {
            Workload::Sweep | Workload::Idle => Ok(()),
            Workload::Random { rate } | Workload::HotCold { rate, .. } => {
                validate_rate("rate", rate)
            }
            Workload::Phases { busy, quiet } => {
                validate_rate("busy rate", busy.rate)?;
                validate_rate("quiet rate", quiet.rate)?;
                validate_length("busy", busy.lasts)?;
                validate_length("quiet", quiet.lasts)
            }
        }
    }

    fn validate_memory(&self) -> Result<(), GuestSpecError> {
        let Self { memory, working_set, cold, dirtiers, .. } = *self;
        if memory > MOST_MEMORY {
            return Err(GuestSpecError::Memory(memory));
        }
        let least = Bytes(u64::from(dirtiers) * PAGE.0);
        if working_set < least {
            return Err(GuestSpecError::NoPages { working_set, dirtiers, needed: least });
        }
        let whole = |bytes: Bytes| Bytes(bytes.0.div_ceil(Bytes::mib(1).0).saturating_mul(1 << 20));
        let needed = whole(working_set + cold + OVERHEAD);
        if needed > memory {
            return Err(GuestSpecError::DoesNotFit { working_set, cold, memory, needed });
        }
        Ok(())
    }

    /// The guest's command line.
    pub fn command_line(&self) -> String {
        let mut line = format!(
            "kind={} ws={} cold={} vcpus={} dirtiers={} content={} beat={} seed={}",
            self.kind.name(),
            self.working_set.0,
            self.cold.0,
            self.vcpus,
            self.dirtiers,
            match self.content {
                PageContent::Compressible => "compressible",
                PageContent::Random => "random",
            },
            self.beat.as_micros(),
            self.seed,
        );
        line += &match self.kind {
            Workload::Sweep | Workload::Idle => String::new(),
            Workload::Random { rate } => format!(" rate={}", rate.0),
            Workload::HotCold { rate, hot_writes, hot_memory } => format!(
                " rate={} hot_writes={} hot_pages={}",
                rate.0,
                per_mille(hot_writes),
                per_mille(hot_memory)
            ),
            Workload::Phases { busy, quiet } => format!(
                " rate={} busy={} busy_pages={} quiet_rate={} quiet={} quiet_pages={}",
                busy.rate.0,
                busy.lasts.as_millis(),
                per_mille(busy.memory),
                quiet.rate.0,
                quiet.lasts.as_millis(),
                per_mille(quiet.memory),
            ),
        };
        line
    }
}

fn per_mille(share: Share) -> u64 {
    (share.get() * 1000.0).round() as u64
}

fn validate_rate(name: &'static str, value: PagesPerSecond) -> Result<(), GuestSpecError> {
    let fits = (1..=MOST_PAGES_PER_SECOND).contains(&value.0);
    fits.then_some(()).ok_or(GuestSpecError::Rate { name, value })
}

fn validate_length(name: &'static str, value: Duration) -> Result<(), GuestSpecError> {
    let fits = (Duration::from_millis(10)..=Duration::from_secs(3600)).contains(&value);
    fits.then_some(()).ok_or(GuestSpecError::PhaseLength { name, value })
}

#[cfg(test)]
#[path = "../kernel/params.rs"]
#[allow(dead_code)]
mod guest_params;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn kinds() -> impl Strategy<Value = Workload> {
        let rate = || (1..=MOST_PAGES_PER_SECOND).prop_map(PagesPerSecond);
        let share = || (0.0..=1.0).prop_map(Share::clamped);
        let phase = move || {
            (10..3_600_000u64, rate(), share()).prop_map(|(ms, rate, memory)| WorkPhase {
                lasts: Duration::from_millis(ms),
                rate,
                memory,
            })
        };
        prop_oneof![
            Just(Workload::Sweep),
            Just(Workload::Idle),
            rate().prop_map(|rate| Workload::Random { rate }),
            (rate(), share(), share()).prop_map(|(rate, hot_writes, hot_memory)| {
                Workload::HotCold { rate, hot_writes, hot_memory }
            }),
            (phase(), phase()).prop_map(|(busy, quiet)| Workload::Phases { busy, quiet }),
        ]
    }

    proptest! {
        #[test]
        fn the_guest_reads_what_the_host_writes(kind in kinds(), vcpus in 1..=16u32, ws in 1..1u64 << 31) {
            let spec = GuestSpec { vcpus, working_set: Bytes(ws), ..GuestSpec::new(kind) };
            let line = spec.command_line();
            let read = guest_params::parse(&line).map_err(|word| TestCaseError::fail(word.to_owned()))?;
            prop_assert_eq!(read.kind.name(), kind.name());
            prop_assert_eq!(read.working_set, ws);
            prop_assert_eq!(read.vcpus, u64::from(vcpus));
            prop_assert_eq!(read.beat, 2000);
            match kind {
                Workload::Sweep | Workload::Idle => prop_assert_eq!(read.rate, 0),
                Workload::Random { rate } => prop_assert_eq!(read.rate, rate.0),
                Workload::HotCold { rate, hot_writes, hot_memory } => {
                    prop_assert_eq!(read.rate, rate.0);
                    prop_assert_eq!(read.hot_writes, per_mille(hot_writes));
                    prop_assert_eq!(read.hot_pages, per_mille(hot_memory));
                }
                Workload::Phases { busy, quiet } => {
                    prop_assert_eq!((read.rate, read.quiet_rate), (busy.rate.0, quiet.rate.0));
                    prop_assert_eq!(u128::from(read.busy), busy.lasts.as_millis());
                    prop_assert_eq!(u128::from(read.quiet), quiet.lasts.as_millis());
                    prop_assert_eq!(read.busy_pages, per_mille(busy.memory));
                    prop_assert_eq!(read.quiet_pages, per_mille(quiet.memory));
                }
            }
        }

        #[test]
        fn any_guest_is_either_valid_or_refused_without_a_panic(
            memory: u64, ws: u64, cold: u64, vcpus: u32, dirtiers: u32,
        ) {
            let spec = GuestSpec {
                memory: Bytes(memory), working_set: Bytes(ws), cold: Bytes(cold), vcpus, dirtiers,
                ..GuestSpec::new(Workload::Sweep)
            };
            if spec.validate().is_ok() {
                prop_assert!(ws + cold < memory);
            }
        }
    }

    #[test]
    fn the_defaults_are_valid() {
        assert_eq!(GuestSpec::new(Workload::Sweep).validate(), Ok(()));
    }

    #[test]
    fn a_working_set_that_does_not_fit_is_refused_with_the_memory_it_needs() {
        let spec = GuestSpec { working_set: Bytes::mib(250), ..GuestSpec::new(Workload::Sweep) };
        let error = spec.validate().unwrap_err();
        assert!(
            matches!(error, GuestSpecError::DoesNotFit { needed, .. } if needed == Bytes::mib(258))
        );
        assert!(error.to_string().contains("at least 271 MB"), "{error}");
        let roomy = GuestSpec { memory: Bytes::mib(258), ..spec };
        assert_eq!(roomy.validate(), Ok(()));
    }

    #[test]
    fn more_dirtiers_than_vcpus_are_refused() {
        let spec = GuestSpec { vcpus: 2, dirtiers: 3, ..GuestSpec::new(Workload::Sweep) };
        assert_eq!(spec.validate(), Err(GuestSpecError::Dirtiers { dirtiers: 3, vcpus: 2 }));
    }

    #[test]
    fn a_rate_of_zero_is_refused() {
        let spec = GuestSpec::new(Workload::Random { rate: PagesPerSecond(0) });
        assert!(spec.validate().unwrap_err().to_string().contains("kind sweep"));
    }
}
