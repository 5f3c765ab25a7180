//! What has been begun and must not be forgotten.

use serde::{Deserialize, Serialize};

/// What a process that ends a migration owes the guest. Written down before the command that brings it
/// about, so that it may be owed without having happened; all that follows from it can be done then as
/// well.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Obligations {
    /// landfall has started the migration under way, so that it may cancel it. Withdrawn when that is
    /// over, or was refused.
    pub migration_started: bool,
    /// Post-copy was asked for. QEMU says so only later, so the status alone does not tell whether a cancel
    /// would lose the guest.
    pub post_copy_requested: bool,
    /// Another program has paused the guest at the source, so that it is to arrive paused.
    #[serde(default)]
    pub paused_by_other: bool,
    /// landfall told the source to stop the guest.
    pub guest_stopped: bool,
    /// The source was seen to have paused the guest before the final copy: it arrives paused.
    pub source_fenced: bool,
    /// landfall told the destination not to start the guest.
    pub destination_fenced: bool,
}

impl Obligations {
    pub(super) fn with_guest_stopped(self) -> Self {
        Self { guest_stopped: true, ..self }
    }

    pub(super) fn without_guest_stopped(self) -> Self {
        Self { guest_stopped: false, ..self }
    }

    pub(super) fn with_source_fence(self) -> Self {
        Self { source_fenced: true, ..self }
    }

    pub(super) fn with_destination_fence(self) -> Self {
        Self { destination_fenced: true, ..self }
    }

    /// Returns whether a guest that has arrived paused may be so because of landfall, which then owes it to
    /// be continued there.
    pub fn may_arrive_paused(self) -> bool {
        self.guest_stopped || self.destination_fenced
    }

    /// Returns whether a guest that has arrived paused is to be continued there: landfall may have paused it, or
    /// it ran at the source, and a destination that was started stopped (`-S`) does not start it by itself.
    pub fn continues_at_destination(self) -> bool {
        let ran_at_source = self.migration_started && !self.paused_by_other;
        self.may_arrive_paused() || ran_at_source
    }

    /// Returns whether nothing is owed.
    pub fn is_empty(self) -> bool {
        self == Self::default()
    }
}
