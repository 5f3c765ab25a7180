//! What is found out of a guest and a link before a migration starts.

use std::time::Duration;

use landfall_core::prior::Prior;
use landfall_core::requirements::Requirements;
use landfall_qemu::machine::Machine;
use landfall_qemu::probe;
use landfall_qemu::qmp::Address;

/// Probes the guest for about `budget`. What cannot be found out is missing: where something is wrong
/// with the source, the migration itself says so.
pub async fn look(source: &Address, asked: &Requirements, budget: Duration) -> Prior {
    let Ok((mut machine, _events)) = Machine::connect(source).await else {
        return Prior::default();
    };
    let link = match asked.max_bandwidth {
        Some(limit) => Some(limit),
        None => machine.settings().await.ok().and_then(|settings| settings.bandwidth_limit()),
    };
    if budget.is_zero() {
        return Prior { link, ..Prior::default() };
    }
    let found = probe::probe(&mut machine, budget).await;
    Prior { link, ..found.prior }
}
