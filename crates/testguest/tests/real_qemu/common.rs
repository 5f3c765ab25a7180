//! What the tests with a real QEMU share.

use landfall_core::units::Bytes;
use landfall_testguest::{
    Endpoint, GuestSpec, LinkRelay, PagesPerSecond, Vm, VmBuilder, VmError, Workload,
};
use serde_json::json;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// For whatever must happen at all: long, because the machine may be busy with something else.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Starts a guest, or says why the test is skipped where there is no QEMU.
pub fn start(builder: VmBuilder) -> Option<Vm> {
    match builder.start() {
        Ok(vm) => Some(vm),
        Err(error @ VmError::NoQemu { .. }) => {
            eprintln!("skipped: {error}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// A small guest that writes at random.
pub fn random(rate: u64) -> GuestSpec {
    small(Workload::Random { rate: PagesPerSecond(rate) })
}

/// A guest of 64 MiB that uses 16 of them.
pub fn small(kind: Workload) -> GuestSpec {
    GuestSpec { memory: Bytes::mib(64), working_set: Bytes::mib(16), ..GuestSpec::new(kind) }
}

/// Pages in the working set of [`small`].
pub const SMALL_PAGES: u64 = 16 << 20 >> 12;

/// Waits until a condition holds.
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < until, "{what}: not within {PATIENCE:?}");
        sleep(Duration::from_millis(5));
    }
}

/// Waits until nothing passes a link any more: what it had in hand may still have to go.
pub fn wait_until_still(link: &LinkRelay) {
    wait_until("a link that stands still", || {
        let passed = link.passed();
        sleep(Duration::from_millis(200));
        link.passed() == passed
    });
}

/// A link to where a destination listens.
pub fn link_to(destination: &Vm) -> LinkRelay {
    let to: Endpoint = destination.incoming().unwrap().parse().unwrap();
    LinkRelay::new(to, None).unwrap()
}

/// Starts a migration, without QEMU's own bandwidth limit.
pub fn migrate(source: &Vm, uri: &str) {
    let mut probe = source.raw_qmp().unwrap();
    let unlimited = json!({"max-bandwidth": 100_000_000_000u64});
    probe.run_with("migrate-set-parameters", unlimited).unwrap();
    probe.run_with("migrate", json!({"uri": uri})).unwrap();
}

/// QEMU's word for how the migration stands.
pub fn migration_status(source: &Vm) -> String {
    let state = source.raw_qmp().unwrap().run("query-migrate").unwrap();
    state["status"].as_str().unwrap_or("none").to_owned()
}
