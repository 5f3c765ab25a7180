//! The view as a script sees it: fields that can be read and not written, in seconds, bytes, bytes per
//! second and shares of a CPU from 0 to 1; what is not known is `()`.
//!
//! An unknown name is an error, not `()`, so that a typo is not read as a missing value. The table in `docs/scripts.md` has all names; a test holds it to this file.

use std::sync::Arc;
use std::time::Duration;

use landfall_core::telemetry::view::{Phase, SyncInterval, VcpuView, View};
use landfall_core::units::{ByteRate, Bytes, CpuTime, Share};
use rhai::{Dynamic, Engine, EvalAltResult, Map};

use crate::sandbox::number;

/// A view in a script's hands.
#[derive(Debug, Clone)]
pub struct Seen(pub Arc<View>);

/// A field, by the name that scripts use.
type Field = (&'static str, fn(&View) -> Dynamic);

/// All fields.
pub const FIELDS: &[Field] = &[
    ("now", |view| view.now.as_secs_f64().into()),
    ("phase", |view| phase(view.phase).into()),
    ("aggression", |view| view.aggression.get().into()),
    ("total", |view| bytes(view.total)),
    ("remaining", |view| bytes(view.remaining)),
    ("migrated", |view| bytes(view.migrated)),
    ("dirtied", |view| bytes(view.dirtied)),
    ("contents", |view| or_unknown(view.contents.map(bytes))),
    ("link", |view| or_unknown(view.link.map(rate))),
    ("link_error", |view| or_unknown(view.link_error.map(Dynamic::from))),
    ("dirty_rate", |view| or_unknown(view.dirty_rate().map(rate))),
    ("syncs", |view| (view.syncs as i64).into()),
    ("last_sync", |view| or_unknown(view.last_sync.map(last_sync))),
    ("cpu_since_sync", |view| or_unknown(view.cpu_since_sync.map(|cpu| cpu.0.into()))),
    ("cpu_demand", |view| or_unknown(view.cpu_demand.map(|demand| demand.0.into()))),
    ("used_share", |view| or_unknown(view.mean_used_share().map(share))),
    ("used_share_of_pass", |view| or_unknown(view.mean_used_share_of_pass().map(share))),
    ("working_set", |view| {
        or_unknown(view.estimate().map(|guest| bytes(guest.curve.working_set())))
    }),
    ("curve_error", |view| or_unknown(view.estimate().map(|guest| guest.error.into()))),
    ("downtime_if_shipped", |view| or_unknown(view.downtime_if_shipped().map(seconds))),
    ("dirty_now", |view| or_unknown(view.dirty_now().map(bytes))),
    ("fits_downtime", |view| view.fits_downtime().into()),
    ("tightest_share", |view| share(view.tightest_share())),
    ("longest_gap", |view| seconds(view.longest_gap())),
    ("vcpus", |view| (view.vcpus.len() as i64).into()),
    ("can_hold", |view| view.levers.quota.into()),
    ("can_stop", |view| view.levers.stop.into()),
    ("can_post_copy", |view| view.levers.post_copy.into()),
    ("min_cpu", |view| share(view.requirements.min_cpu)),
    ("max_stall", |view| seconds(view.requirements.max_stall)),
    ("max_time", |view| or_unknown(view.requirements.max_time.map(seconds))),
    ("max_bandwidth", |view| or_unknown(view.requirements.max_bandwidth.map(rate))),
];

/// A question about one vCPU, by its number from 0.
type OfVcpu = (&'static str, fn(&VcpuView) -> Dynamic);

/// What can be asked of a vCPU.
pub const OF_VCPU: &[OfVcpu] = &[
    ("used", |vcpu| or_unknown(vcpu.used.map(share))),
    ("demand", |vcpu| or_unknown(vcpu.demand.map(share))),
    ("unthrottled", |vcpu| or_unknown(vcpu.unthrottled.map(share))),
    ("held_share", |vcpu| share(vcpu.hold.share())),
];

/// Names that landfall 0.1 had, and their names now. Scripts that use them go on, and so do recordings,
/// which keep the script's text.
pub const OLD_NAMES: &[(&str, &str)] = &[
    ("intervals", "syncs"),
    ("interval", "last_sync"),
    ("pace", "cpu_demand"),
    ("guest_cpu", "used_share"),
    ("guest_cpu_of_interval", "used_share_of_pass"),
    ("blackout_if_shipped", "downtime_if_shipped"),
    ("may_ship", "fits_downtime"),
    ("wanted", "demand"),
    ("unheld", "unthrottled"),
    ("held_to", "held_share"),
];

/// Returns the names that a field or a question can be called by.
fn all_names(name: &'static str) -> impl Iterator<Item = &'static str> {
    let old = OLD_NAMES.iter().filter(move |(_, new)| *new == name).map(|(old, _)| *old);
    std::iter::once(name).chain(old)
}

/// Makes views readable in an engine.
pub fn register(engine: &mut Engine) {
    engine.register_type_with_name::<Seen>("View");
    let fields = FIELDS.iter().flat_map(|(name, field)| all_names(name).map(move |n| (n, field)));
    for (name, field) in fields {
        engine.register_get(name, move |seen: &mut Seen| field(&seen.0));
    }
    let questions = OF_VCPU.iter().flat_map(|(name, of)| all_names(name).map(move |n| (n, of)));
    for (name, of) in questions {
        engine.register_fn(name, move |seen: &mut Seen, index: i64| {
            let vcpu = usize::try_from(index).ok().and_then(|index| seen.0.vcpus.get(index));
            let count = seen.0.vcpus.len();
            vcpu.map(of)
                .ok_or_else(|| wrong(format!("{name}({index}): there are {count} vCPUs, from 0")))
        });
    }
    engine.register_fn("may_break", |seen: &mut Seen, name: &str| {
        let requirement = name.parse().map_err(|error| wrong(format!("may_break: {error}")))?;
        Ok::<bool, Box<EvalAltResult>>(seen.0.requirements.may_break(requirement))
    });
    engine.register_fn("dirtied_in", |seen: &mut Seen, cpu: Dynamic| {
        let cpu = positive("dirtied_in", &cpu)?;
        let dirtied = seen.0.estimate().map(|guest| bytes(guest.curve.dirtied(CpuTime(cpu))));
        Ok::<Dynamic, Box<EvalAltResult>>(or_unknown(dirtied))
    });
    engine.register_fn("cpu_to_dirty", |seen: &mut Seen, amount: Dynamic| {
        let amount = Bytes(positive("cpu_to_dirty", &amount)? as u64);
        let cpu = seen.0.estimate().and_then(|guest| guest.curve.time_to_dirty(amount));
        Ok::<Dynamic, Box<EvalAltResult>>(or_unknown(cpu.map(|cpu| cpu.0.into())))
    });
    engine.register_fn("percent", |value: f64| Share::clamped(value).to_string());
}

fn last_sync(interval: SyncInterval) -> Dynamic {
    let fields: [(&str, Dynamic); 7] = [
        ("ended", interval.ended.as_secs_f64().into()),
        ("length", seconds(interval.length)),
        ("dirtied", bytes(interval.dirtied)),
        ("sent", bytes(interval.sent)),
        ("remaining_after", bytes(interval.remaining_after)),
        ("left", bytes(interval.remaining_after)),
        ("cpu", or_unknown(interval.cpu.map(seconds))),
    ];
    fields.into_iter().map(|(name, value)| (name.into(), value)).collect::<Map>().into()
}

fn phase(phase: Phase) -> &'static str {
    match phase {
        Phase::Setup => "setup",
        Phase::FirstPass => "first-pass",
        Phase::Iterating => "iterating",
        Phase::SwitchOver => "switch-over",
        Phase::PostCopy => "post-copy",
        Phase::Over => "over",
    }
}

fn or_unknown(value: Option<Dynamic>) -> Dynamic {
    value.unwrap_or(Dynamic::UNIT)
}

fn bytes(bytes: Bytes) -> Dynamic {
    bytes.as_f64().into()
}

fn rate(rate: ByteRate) -> Dynamic {
    rate.0.into()
}

fn share(share: Share) -> Dynamic {
    share.get().into()
}

fn seconds(time: Duration) -> Dynamic {
    time.as_secs_f64().into()
}

/// A number that is not below zero.
fn positive(name: &str, value: &Dynamic) -> Result<f64, Box<EvalAltResult>> {
    let known = number(value).filter(|number| *number >= 0.0);
    known.ok_or_else(|| wrong(format!("{name}({value}): write a number, 0 or above")))
}

/// An error that a script has made.
pub fn wrong(problem: String) -> Box<EvalAltResult> {
    problem.into()
}
