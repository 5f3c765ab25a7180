//! The guest's command line: `key=value`, separated by blanks.
//!
//! Only `core` is used here and nothing of the machine: the host's tests compile this file too, to
//! hold that the guest reads what `Spec` writes.

/// How the guest uses its memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Every page in turn.
    Sweep,
    /// A page at random.
    Random,
    /// A page at random, from a hot part more often than from the rest.
    HotCold,
    /// Busy and quiet by turns.
    Phases,
    /// Asleep, but for a moment every 10 ms.
    Idle,
}

impl Kind {
    /// The name on the command line and in the header.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Sweep => "sweep",
            Kind::Random => "random",
            Kind::HotCold => "hotcold",
            Kind::Phases => "phases",
            Kind::Idle => "idle",
        }
    }
}

/// What the words of a page are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// One word over and over; never zero, for zero pages are not sent in a migration.
    Compressible,
    /// Words without a pattern.
    Random,
}

/// Everything that can be set. Parts of a whole are per mille.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Params {
    /// `kind`
    pub kind: Kind,
    /// `content`
    pub content: Content,
    /// `ws`: bytes written to by all vCPUs together.
    pub working_set: u64,
    /// `cold`: bytes filled once and never written again.
    pub cold: u64,
    /// `vcpus`: how many there are.
    pub vcpus: u64,
    /// `dirtiers`: how many of them write; the others compute.
    pub dirtiers: u64,
    /// `rate`: pages that each dirtier writes in a second of its CPU time; 0: as many as it can.
    pub rate: u64,
    /// `beat`: microseconds of CPU time from one beat to the next.
    pub beat: u64,
    /// `seed`: of what is random.
    pub seed: u64,
    /// `hot_writes`: part of the writes that go to the hot part.
    pub hot_writes: u64,
    /// `hot_pages`: part of the working set that is hot.
    pub hot_pages: u64,
    /// `busy`: CPU milliseconds of a busy phase.
    pub busy: u64,
    /// `busy_pages`: part of the working set used in it.
    pub busy_pages: u64,
    /// `quiet`: CPU milliseconds of a quiet phase.
    pub quiet: u64,
    /// `quiet_pages`: part of the working set used in it.
    pub quiet_pages: u64,
    /// `quiet_rate`: as `rate`, in a quiet phase.
    pub quiet_rate: u64,
}

impl Default for Params {
    fn default() -> Self {
        Self {
            kind: Kind::Sweep,
            content: Content::Compressible,
            working_set: 96 << 20,
            cold: 0,
            vcpus: 1,
            dirtiers: 1,
            rate: 0,
            beat: 2000,
            seed: 1,
            hot_writes: 900,
            hot_pages: 100,
            busy: 2000,
            busy_pages: 1000,
            quiet: 2000,
            quiet_pages: 50,
            quiet_rate: 1000,
        }
    }
}

/// Reads a command line.
///
/// # Errors
/// The first word that says nothing that is known.
pub fn parse(command_line: &str) -> Result<Params, &str> {
    let mut params = Params::default();
    for word in command_line.split_ascii_whitespace() {
        let (key, value) = word.split_once('=').ok_or(word)?;
        set(&mut params, key, value).ok_or(word)?;
    }
    Ok(params)
}

fn set(params: &mut Params, key: &str, value: &str) -> Option<()> {
    let number = match key {
        "kind" => {
            let kinds = [Kind::Sweep, Kind::Random, Kind::HotCold, Kind::Phases, Kind::Idle];
            params.kind = kinds.into_iter().find(|kind| kind.name() == value)?;
            return Some(());
        }
        "content" => {
            params.content = match value {
                "compressible" => Content::Compressible,
                "random" => Content::Random,
                _ => return None,
            };
            return Some(());
        }
        "ws" => &mut params.working_set,
        "cold" => &mut params.cold,
        "vcpus" => &mut params.vcpus,
        "dirtiers" => &mut params.dirtiers,
        "rate" => &mut params.rate,
        "beat" => &mut params.beat,
        "seed" => &mut params.seed,
        "hot_writes" => &mut params.hot_writes,
        "hot_pages" => &mut params.hot_pages,
        "busy" => &mut params.busy,
        "busy_pages" => &mut params.busy_pages,
        "quiet" => &mut params.quiet,
        "quiet_pages" => &mut params.quiet_pages,
        "quiet_rate" => &mut params.quiet_rate,
        _ => return None,
    };
    *number = value.parse().ok()?;
    Some(())
}
