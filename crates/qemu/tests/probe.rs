//! The probe on real guests whose curve is known.

use std::fs;
use std::time::{Duration, Instant};

use landfall_core::model::CurvePoint;
use landfall_core::model::prior::PROBE_BUDGET;
use landfall_core::units::{Bytes, PAGE, Share};
use landfall_qemu::monitor::QemuMonitor;
use landfall_qemu::probe::{ProbeResult, probe_guest};
use landfall_qemu::qmp::QmpAddress;
use landfall_testguest::{GuestSpec, PagesPerSecond, Vm, VmBuilder, VmError, Workload, take_turn};
use serde_json::json;

/// For whatever must happen at all.
const PATIENCE: Duration = Duration::from_secs(60);

/// A guest at work, probed.
struct Probed {
    vm: Vm,
    found: ProbeResult,
    /// Pages that the guest says it wrote in a second of its CPU time while it was probed.
    pages_per_cpu: f64,
    _turn: fs::File,
}

/// `None`, with the reason printed, where there is no QEMU.
async fn probed(builder: VmBuilder, budget: Duration) -> Option<Probed> {
    let (vm, turn) = boot(builder)?;
    let begin = Instant::now();
    let found = probe_guest(&mut connect(&vm).await, None, budget).await;
    let end = Instant::now();
    let header = vm.heartbeats().header().unwrap().unwrap();
    let beats = vm.heartbeats().timeline().rate(0, begin, end);
    let pages = beats * header.units.per_beat[0] as f64 / header.phases[0].every as f64;
    let pages_per_cpu = found.prior.cpu_demand.map_or(0.0, |pace| pages / pace.0);
    Some(Probed { vm, found, pages_per_cpu, _turn: turn })
}

fn boot(builder: VmBuilder) -> Option<(Vm, fs::File)> {
    let turn = take_turn().unwrap();
    let vm = match builder.start() {
        Ok(vm) => vm,
        Err(error @ VmError::NoQemu { .. }) => {
            eprintln!("skipped: {error}");
            return None;
        }
        Err(error) => panic!("{error}"),
    };
    vm.heartbeats().ready(PATIENCE).unwrap();
    Some((vm, turn))
}

async fn connect(vm: &Vm) -> QemuMonitor {
    QemuMonitor::connect(&QmpAddress::Unix(vm.qmp_socket())).await.unwrap().0
}

fn guest(kind: Workload) -> VmBuilder {
    Vm::builder(&GuestSpec::new(kind))
}

#[tokio::test]
async fn a_sweeping_guest_saturates_at_its_working_set_and_is_not_probed_for_longer() {
    let Some(Probed { vm, found, .. }) = probed(guest(Workload::Sweep), PROBE_BUDGET).await else {
        return;
    };
    eprintln!("{found:?}");
    let set = vm.spec().working_set.as_f64();
    for point in &found.prior.points {
        let off = point.dirtied.as_f64() / set - 1.0;
        assert!(off.abs() < 3.0 * point.error + 0.02, "{point:?}");
    }
    let points = found.prior.points.len();
    assert!((2..6).contains(&points), "flat from the first point on, and {points} were taken");
    assert_eq!(found.covered, Some(Share::FULL));
}

#[tokio::test]
async fn the_points_of_a_randomly_writing_guest_lie_on_its_curve() {
    let kind = Workload::Random { rate: PagesPerSecond(20_000) };
    let Some(Probed { vm, found, pages_per_cpu, .. }) = probed(guest(kind), PROBE_BUDGET).await
    else {
        return;
    };
    eprintln!("{found:?}, {pages_per_cpu} pages per CPU second");
    let set = vm.spec().working_set.as_f64();
    let pages = set / PAGE.as_f64();
    assert!(found.prior.points.len() >= 4, "{found:?}");
    let off = |point: &CurvePoint| {
        let due = set * -(-point.cpu.0 * pages_per_cpu / pages).exp_m1();
        (point.dirtied.as_f64() / due - 1.0).abs()
    };
    // The median: on a busy host the guest may have most of its CPU at one end of a short span.
    let mut off: Vec<f64> = found.prior.points.iter().map(off).collect();
    off.sort_by(f64::total_cmp);
    assert!(off[off.len() / 2] < 0.15, "off by {off:?}");
    let contents = found.prior.contents.unwrap();
    assert!(contents >= vm.spec().working_set && contents < vm.spec().memory, "{contents}");
}

#[tokio::test]
async fn an_idle_guest_is_near_zero() {
    let Some(Probed { found, .. }) = probed(guest(Workload::Idle), PROBE_BUDGET).await else {
        return;
    };
    eprintln!("{found:?}");
    let last = found.prior.points.last().unwrap();
    assert!(last.dirtied < Bytes::mib(3), "{last:?}");
    assert!(found.prior.cpu_demand.unwrap().0 < 0.5, "{found:?}");
}

#[tokio::test]
async fn a_measurement_by_another_client_goes_on_and_delays_nothing() {
    let Some((vm, _turn)) = boot(guest(Workload::Sweep)) else { return };
    let mut other = vm.raw_qmp().unwrap();
    other.run_with("calc-dirty-rate", json!({ "calc-time": 30 })).unwrap();
    let found = probe_guest(&mut connect(&vm).await, None, Duration::from_millis(500)).await;
    assert!(!found.prior.points.is_empty(), "{found:?}");
    assert_eq!(other.run("query-dirty-rate").unwrap()["status"], "measuring");
}

#[tokio::test]
async fn a_small_guest_is_probed_as_well() {
    let spec = GuestSpec {
        memory: Bytes::mib(64),
        working_set: Bytes::mib(16),
        ..GuestSpec::new(Workload::Sweep)
    };
    let Some(Probed { vm, found, .. }) = probed(Vm::builder(&spec), PROBE_BUDGET).await else {
        return;
    };
    let point = found.prior.points.first().unwrap();
    let off = point.dirtied.as_f64() / vm.spec().working_set.as_f64() - 1.0;
    assert!(off.abs() < 3.0 * point.error + 0.02, "{point:?}");
    assert_eq!(found.covered, Some(Share::FULL));
}

#[tokio::test]
async fn the_oldest_supported_qemu_is_probed_too() {
    let Some(builder) = guest(Workload::Sweep).on_oldest_qemu() else { return };
    let Some(Probed { vm, found, .. }) = probed(builder, PROBE_BUDGET).await else { return };
    eprintln!("{found:?}");
    let point = found.prior.points.first().unwrap();
    let off = point.dirtied.as_f64() / vm.spec().working_set.as_f64() - 1.0;
    assert!(off.abs() < 3.0 * point.error + 0.02, "{point:?}");
    assert!(found.prior.contents.is_some(), "{found:?}");
}
