//! Any course of counters, events and failures, however impossible, through a steering session:
//! nothing panics, no decision breaks a requirement that may not give way, and once a migration is
//! aborted nothing is held any more.

#![no_main]

use std::time::Duration;

use landfall_core::decision::{Finish, Hold};
use landfall_core::ending::GuestState;
use landfall_core::model::prior::Prior;
use landfall_core::policy;
use landfall_core::report::Outcome;
use landfall_core::requirements::{Aggression, Requirements, Settings};
use landfall_core::session::{Action, Observation, Session, SessionConfig};
use landfall_core::telemetry::sample::{Migration, Ram, Sample, Status, VcpuCounters};
use landfall_core::telemetry::view::Levers;
use landfall_core::units::{ByteRate, Bytes, Moment, Share};
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
struct Course {
    policy: u8,
    aggression: u8,
    min_cpu: u8,
    max_stall_ms: u16,
    max_time_ms: Option<u16>,
    max_bandwidth_mb: Option<u16>,
    give_way: u8,
    levers: u8,
    vcpus: u8,
    tick_us: u16,
    steps: Vec<Step>,
}

#[derive(Arbitrary, Debug)]
struct Step {
    after_us: u32,
    status: u8,
    own_throttle: Option<u8>,
    ram: Option<Memory>,
    downtime_ms: Option<u64>,
    vcpus: Vec<[Option<u64>; 4]>,
    event: u8,
    kernel_only: bool,
    fails: bool,
}

#[derive(Arbitrary, Debug)]
struct Memory {
    total: u64,
    remaining: u64,
    transferred: u64,
    normal: u64,
    duplicate: u64,
    syncs: u64,
}

const STATUS: [Status; 11] = [
    Status::None,
    Status::Setup,
    Status::Active,
    Status::SwitchOver,
    Status::PostCopy,
    Status::PostCopyPaused,
    Status::Cancelling,
    Status::Cancelled,
    Status::Failed,
    Status::Completed,
    Status::Unknown,
];

impl Step {
    fn sample(&self, at: Moment) -> Sample {
        let ram = self.ram.as_ref().map(|ram| Ram {
            total: Bytes(ram.total),
            remaining: Bytes(ram.remaining),
            transferred: Bytes(ram.transferred),
            normal: Bytes(ram.normal),
            duplicate: Bytes(ram.duplicate),
            syncs: ram.syncs,
        });
        let migration = Migration {
            status: STATUS[usize::from(self.status) % STATUS.len()],
            ram,
            own_throttle: self
                .own_throttle
                .map(|percent| Share::clamped(f64::from(percent) / 100.0)),
            downtime: self.downtime_ms.map(Duration::from_millis),
            error: None,
        };
        let ns = |value: Option<u64>| value.map(Duration::from_nanos);
        let counters = |[cpu, wait, held, holds]: &[Option<u64>; 4]| VcpuCounters {
            cpu: ns(*cpu),
            run_delay: ns(*wait),
            throttled: ns(*held),
            nr_throttled: *holds,
        };
        Sample {
            at,
            migration: (!self.kernel_only).then_some(migration),
            vcpus: self.vcpus.iter().take(4).map(counters).collect(),
        }
    }
}

fuzz_target!(|course: Course| {
    use landfall_core::requirements::Requirement as R;
    let give_way = R::ALL.into_iter().enumerate();
    let requirements = Requirements {
        max_bandwidth: course.max_bandwidth_mb.map(|mb| ByteRate::mb(mb.into())),
        min_cpu: Share::clamped(f64::from(course.min_cpu) / 255.0),
        max_stall: Duration::from_millis(course.max_stall_ms.into()),
        max_time: course.max_time_ms.map(|ms| Duration::from_millis(ms.into())),
        give_way: give_way.filter(|(n, _)| course.give_way >> n & 1 == 1).map(|(_, r)| r).collect(),
    };
    let bit = |n: u8| course.levers >> n & 1 == 1;
    let tick = Duration::from_micros(u64::from(course.tick_us).max(1000));
    let levers = Levers { quota: bit(0), stop: bit(1), post_copy: bit(2), tick };
    let aggression = Aggression::new(f64::from(course.aggression) / 255.0).unwrap();
    let entry = &policy::ALL[usize::from(course.policy) % policy::ALL.len()];
    let settings = Settings { requirements: requirements.clone(), aggression };
    let prior = Prior::default();
    let vcpus = usize::from(course.vcpus % 9);
    let config = SessionConfig { settings, levers, prior: &prior, forecast: None, vcpus };
    let mut session = Session::new(config, (entry.make)());
    let (mut now, mut done) = (Moment::START, 0.0);
    for step in &course.steps {
        now = now + Duration::from_micros(step.after_us.into());
        match step.event % 8 {
            0 => session.on_stop(now),
            1 => session.on_resume(now, false),
            2 => session.on_resume(now, true),
            3 => session.abort(Outcome::Cancelled, "asked to".to_owned(), now),
            4 => {
                session.check_monitor_stall(now, Duration::from_secs(step.after_us.into()), bit(3))
            }
            5 => session.on_run_state(Some(match step.kernel_only {
                true => GuestState::Paused,
                false => GuestState::FinalCopy,
            })),
            _ => {}
        }
        let sample = step.sample(now);
        if let Some(observation) = session.on_sample(&sample) {
            check(&observation, &requirements, levers);
            session.classify(&observation.view);
            assert!(observation.fraction >= done && observation.fraction <= 1.0);
            done = observation.fraction;
            let _ = observation.progress();
        }
        let aborted = session.aborted().is_some();
        let mut actions = 0;
        while let Some(action) = session.poll_action() {
            actions += 1;
            assert!(actions < 1000, "actions without end");
            let holds = matches!(action, Action::Hold { hold, .. } if hold != Hold::Free);
            assert!(!(aborted && holds), "an aborted migration holds no vCPU");
            assert!(levers.post_copy || action != Action::StartPostCopy);
            match step.fails {
                true => session.on_action_failed(action, "it was refused".to_owned(), now),
                false => session.on_action_done(action),
            }
        }
        assert!(session.next_counters_in() > Duration::ZERO);
        assert!((0.0..=1.0).contains(&session.losses().min_share.get()));
    }
    let outcome = if bit(4) { Outcome::Landed } else { Outcome::Failed };
    let _ = session.report(outcome, None, now);
});

/// No decision breaks a requirement that may not give way.
fn check(observation: &Observation, requirements: &Requirements, levers: Levers) {
    use landfall_core::requirements::Requirement as R;
    let Observation { view, decision, .. } = observation;
    for vcpu in 0..view.vcpus.len() {
        // Stopped is not held: the floor is for a guest that runs.
        let Hold::Quota(quota) = decision.hold(vcpu) else { continue };
        assert!(levers.quota, "there is no such lever: {quota}");
        if !requirements.may_break(R::MinCpu) {
            assert!(quota.share().get() >= requirements.min_cpu.get() - 1e-9, "{quota}");
        }
        if !requirements.may_break(R::MaxStall) {
            assert!(quota.longest_gap(levers.tick) <= requirements.max_stall, "{quota}");
        }
    }
    let tuning = decision.tuning;
    if let (Some(limit), false) =
        (requirements.max_bandwidth, requirements.may_break(R::MaxBandwidth))
    {
        assert!(tuning.max_bandwidth.is_none_or(|rate| rate <= limit));
    }
    if !requirements.may_break(R::MaxStall) {
        assert!(tuning.downtime_limit.is_none_or(|limit| limit <= requirements.max_stall));
    }
    assert!(levers.post_copy || decision.finish != Some(Finish::PostCopy));
}
