//! The stages of `predictive`. Which one is next, and when, is in the table of the module above.

use std::time::Duration;

/// The downtime limit under which QEMU lets every pass run to its end.
pub(super) const WHOLE_PASSES: Duration = Duration::from_millis(1);

/// What `predictive` is doing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// No pass is under way: nothing to decide.
    #[default]
    Idle,
    /// The kernel has no CPU counters of the guest: `progressive` decides.
    Blind,
    /// The guest's dirty curve is not known yet.
    Learning,
    /// No plan lands the guest, and that is sure: the migration is cancelled.
    GivingUp,
    /// No plan lands the guest by what is known in the first pass.
    NoPlanYet,
    /// No plan lands the guest by what is known; it is held as tightly as may be.
    TightestHold,
    /// There is a plan, and only the link's limit is known.
    AwaitingLink,
    /// The link is slower than it was: waiting at full speed until it recovers.
    Congested,
    /// The guest lands by QEMU's own rule.
    Unaided,
    /// The guest is being paused and the rest sent.
    Shipping,
    /// The hold of a pass that is nearly over stays as it is to its end.
    FinishingPass,
    /// This pass runs at full speed.
    FullSpeed,
    /// This pass is held, so that it leaves what the plan needs.
    Holding,
}

impl Stage {
    /// All stages, in the order in which they are tried.
    pub const ALL: [Stage; 13] = [
        Stage::Idle,
        Stage::Blind,
        Stage::Learning,
        Stage::GivingUp,
        Stage::NoPlanYet,
        Stage::TightestHold,
        Stage::AwaitingLink,
        Stage::Congested,
        Stage::Unaided,
        Stage::Shipping,
        Stage::FinishingPass,
        Stage::FullSpeed,
        Stage::Holding,
    ];

    /// Its name, as in the table of the module.
    pub fn name(self) -> &'static str {
        match self {
            Stage::Idle => "idle",
            Stage::Blind => "blind",
            Stage::Learning => "learning",
            Stage::GivingUp => "giving-up",
            Stage::NoPlanYet => "no-plan-yet",
            Stage::TightestHold => "tightest-hold",
            Stage::AwaitingLink => "awaiting-link",
            Stage::Congested => "congested",
            Stage::Unaided => "unaided",
            Stage::Shipping => "shipping",
            Stage::FinishingPass => "finishing-pass",
            Stage::FullSpeed => "full-speed",
            Stage::Holding => "holding",
        }
    }

    /// The reason that its decisions give. The blind stage has those of `progressive`, and giving up
    /// names the conflict.
    pub fn reason(self) -> &'static str {
        match self {
            Stage::Idle => "nothing to decide in this phase",
            Stage::Blind => "the guest's CPU time is not known",
            Stage::Learning => "learning how the guest writes",
            Stage::GivingUp => "no plan lands it",
            Stage::NoPlanYet => "the first pass goes on with the guest at full speed",
            Stage::TightestHold => "no plan lands it yet: the tightest hold",
            Stage::AwaitingLink => "the link is not known yet",
            Stage::Congested => "the link is slower than it was: waiting for it",
            Stage::Unaided => "it lands by itself",
            Stage::Shipping => "what is dirty fits the pause: shipping it",
            Stage::FinishingPass => "held to the end of this pass",
            Stage::FullSpeed => "at full speed: this pass costs no work",
            Stage::Holding => "held to what lands it at the end of this pass",
        }
    }
}
