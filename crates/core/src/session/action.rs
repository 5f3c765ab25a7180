//! What a session asks its driver to do.

use crate::decision::{Hold, Tuning};

/// One step on the guest or its hypervisor. A driver carries actions out in the order in which it
/// gets them, and says of each whether it was done.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Action {
    /// Holds one vCPU by a quota, or frees it; never [`Hold::Stopped`].
    Hold {
        /// Its index in the hypervisor's order.
        vcpu: usize,
        /// Its new hold.
        hold: Hold,
    },
    /// Frees every vCPU that is held by a quota, whatever is known of it.
    ReleaseAll,
    /// Frees every vCPU, then has the hypervisor stop the guest, which has to be continued later.
    StopGuest,
    /// Continues a guest that was stopped by [`Action::StopGuest`].
    ContinueGuest,
    /// Changes the hypervisor's own parameters.
    Tune(Tuning),
    /// Has the hypervisor go over to post-copy.
    StartPostCopy,
    /// Cancels the migration, unless the guest could then run twice.
    Cancel,
    /// Breaks the migration's connection, where the guest then goes on at the source.
    BreakLink,
}
