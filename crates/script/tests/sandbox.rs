//! Nothing that a script does can do harm: it fails, `predictive` steers on, and it is said once.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use landfall_core::decision::{Decision, Finish, Hold};
use landfall_core::guard::enforce;
use landfall_core::model::LazyEstimate;
use landfall_core::policy::{Policy, PreflightRefusal};
use landfall_core::requirements::{Aggression, Requirement, Requirements};
use landfall_core::telemetry::view::{Levers, Phase, VcpuView, View};
use landfall_core::units::{ByteRate, Bytes, Moment, Share};
use landfall_script::{Of, Program, Script};
use proptest::prelude::*;

fn view(vcpus: usize) -> View {
    let vcpu = VcpuView { used: Some(Share::FULL), ..VcpuView::unobserved(Hold::Free) };
    View {
        now: Moment::ms(1000),
        requirements: Requirements::default(),
        aggression: Aggression::DEFAULT,
        phase: Phase::Iterating,
        total: Bytes(256_000_000),
        remaining: Bytes(96_000_000),
        link: Some(ByteRate::mb(100)),
        link_error: None,
        last_sync: None,
        syncs: 1,
        cpu_since_sync: None,
        migrated: Bytes(100_000_000),
        zeros: Bytes(0),
        dirtied: Bytes(96_000_000),
        curve_estimate: LazyEstimate::default(),
        contents: None,
        cpu_demand: None,
        vcpus: vec![vcpu; vcpus],
        levers: Levers {
            quota: true,
            stop: false,
            post_copy: false,
            tick: Duration::from_millis(4),
        },
    }
}

/// A policy by a script, and what it told of itself.
fn script(text: &str) -> (Script, Arc<Mutex<Vec<String>>>) {
    let told = Arc::new(Mutex::new(Vec::new()));
    let hear = Arc::clone(&told);
    let program = Program::read("script:test.rhai", text).unwrap_or_else(|e| panic!("{text}: {e}"));
    (program.policy(Arc::new(move |what| hear.lock().unwrap().push(what.to_owned()))), told)
}

fn decide(body: &str, view: &View) -> Decision {
    script(&format!("fn decide(view) {{ {body} }}")).0.decide(view)
}

#[track_caller]
fn assert_falls_back(text: &str, says: &str) {
    let (mut policy, told) = script(text);
    let mut later = view(1);
    assert_eq!(policy.fallback_reason(), None);
    let first = policy.decide(&later);
    later.now = Moment::ms(1100);
    let second = policy.decide(&later);
    for decision in [&first, &second] {
        assert!(
            decision.reason.contains("script:test.rhai failed at 1.0 s"),
            "{}",
            decision.reason
        );
        assert!(decision.reason.contains("predictive steers from there"), "{}", decision.reason);
        assert!(decision.reason.contains(says), "{text}: {}", decision.reason);
    }
    assert_eq!(told.lock().unwrap().len(), 1, "it is said once");
    assert!(policy.explanation().unwrap().contains(says));
    assert!(policy.fallback_reason().unwrap().contains(says));
}

#[test]
fn a_script_that_runs_too_long_or_grows_too_large_falls_back_to_predictive() {
    for (body, says) in [
        ("loop { }", "Too many operations"),
        ("let n = 0; while true { n += 1; }", "Too many operations"),
        ("loop { try { loop { } } catch { } }", "Too many operations"),
        ("for n in 0..9223372036854775807 { let m = n; }", "Too many operations"),
        ("let a = []; loop { a.push(1); }", "1024"),
        ("let a = [1]; loop { a = [a]; }", "too large"),
        ("let a = [1, 2]; loop { a = [a, a]; }", "too large"),
        ("let m = #{}; loop { m = #{ inside: m }; }", "too large"),
        ("loop { this.inside = this; }", "too large"),
        ("let s = \"word\"; loop { s += s; }", "too large"),
        ("let s = \"\"; loop { s = `${s}aaaaaaaa${s}`; }", "too large"),
        ("let s = \"\"; s.pad(100000000000, \"a\"); hold(1.0, s)", "Function not found: pad"),
        ("let a = []; for n in 0..1000 { a.push(n); } loop { let b = a; b.push(1); }", "Too many"),
    ] {
        let began = std::time::Instant::now();
        assert_falls_back(&format!("fn decide(view) {{ {body} }}"), says);
        println!("{:?} {body}", began.elapsed());
    }
}

#[test]
fn a_script_that_calls_itself_for_ever_falls_back_on_a_small_stack_too() {
    // As much expression as the sandbox allows round each call.
    let deep = format!("{}f(x){}", "(1 + ".repeat(9), ")".repeat(9));
    let text = format!("fn f(x) {{ {deep} }} fn decide(view) {{ f(1) }}");
    let thread = std::thread::Builder::new().stack_size(2 << 20);
    thread.spawn(move || assert_falls_back(&text, "Stack overflow")).unwrap().join().unwrap();
}

#[test]
fn memory_that_nests_from_look_to_look_is_bounded() {
    let (mut policy, told) = script(
        "fn start() { #{ m: () } } fn decide(view) { this.m = [this.m]; leave_alone(\"\") }",
    );
    let looks = (0..5000).take_while(|_| {
        policy.decide(&view(1));
        told.lock().unwrap().is_empty()
    });
    let looks = looks.count();
    assert!((100..2000).contains(&looks), "{looks}");
}

#[test]
fn a_script_that_is_wrong_about_something_falls_back_and_says_what() {
    for (body, says) in [
        ("1", "decide gives i64"),
        ("", "decide gives ()"),
        ("view.remaning", "remaning"),
        ("view.remaining = 5.0; leave_alone(\"\")", "remaining"),
        ("hold(view.last_sync, \"\")", "not a share"),
        ("hold(0.0 / 0.0, \"\")", "NaN is not a share"),
        ("hold(\"much\", \"\")", "not a share"),
        ("hold([0.5, 0.5], \"\")", "2 shares for 1 vCPUs"),
        ("hold([], \"\")", "0 shares for 1 vCPUs"),
        ("hold([[0.5]], \"\")", "not a share"),
        ("view.used(1)", "there are 1 vCPUs, from 0"),
        ("view.used(-1)", "there are 1 vCPUs, from 0"),
        ("view.may_break(\"speed\")", "speed"),
        ("view.dirtied_in(-1.0)", "0 or above"),
        ("leave_alone(\"\").tune(#{ max_bandwidth: 0 })", "not a rate"),
        ("leave_alone(\"\").tune(#{ max_bandwidth: -1.0 })", "not a rate"),
        ("leave_alone(\"\").tune(#{ downtime_limit: -1 })", "not a time"),
        ("leave_alone(\"\").tune(#{ downtime_limit: 1e300 })", "not a time"),
        ("leave_alone(\"\").tune(#{ speed: 1 })", "there is no \"speed\""),
        ("throw \"I give up\"", "I give up"),
        ("sleep(100)", "sleep"),
        ("timestamp()", "timestamp"),
        ("exit()", "exit"),
        ("9223372036854775807 + 1", "overflow"),
        ("1 / 0", "Division by zero"),
        ("view.link * view.contents", "not found"),
    ] {
        assert_falls_back(&format!("fn decide(view) {{ {body} }}"), says);
    }
    assert_falls_back("fn preflight(view) { 1 } fn decide(view) { view.nothing }", "nothing");
}

#[test]
fn what_reaches_beyond_the_sandbox_is_refused_before_the_start() {
    for body in [
        "eval(\"1\")",
        "print(1)",
        "debug(1)",
        "Fn(\"decide\")",
        "let f = |x| x; f",
        "let f = decide; f",
        "1.curry(1)",
        "std::fs::read(\"/etc/passwd\")",
        "import \"file\" as f;",
        "export view;",
    ] {
        let read = Program::read("script:x", &format!("fn decide(view) {{\n  {body} }}"));
        let error = read.expect_err(body).to_string();
        assert!(error.starts_with("line 2, column "), "{body}: {error}");
    }
}

#[test]
fn a_script_that_cannot_be_used_is_refused_with_place_and_remedy() {
    for (text, says) in [
        ("fn decide(view) {\n  let = 5;\n}", "line 2, column 7: "),
        ("fn decide(view) {\n  hold(shrae, \"\")\n}", "line 2, column 8: "),
        ("fn decide(view) {", "line 1, column "),
        ("", "write one that answers"),
        ("fn decide() { }", "write one that answers"),
        ("loop { } fn decide(view) { }", "Too many operations"),
        ("fn start() { loop { } } fn decide(view) { }", "start: Too many operations"),
        ("fn start() { 5 } fn decide(view) { }", "start: it gives i64, not a map; give a map"),
        ("fn needs() { #{ time: true } } fn decide(view) { }", "there is no \"time\"; give a map"),
        ("fn needs() { #{ quota: 1 } } fn decide(view) { }", "quota is 1; give a map"),
        (&"x".repeat(70_000), "70000 bytes"),
    ] {
        let error = Program::read("script:x", text).expect_err(text).to_string();
        assert!(error.contains(says), "{error}");
    }
}

#[test]
fn a_script_builds_each_decision_there_is() {
    let view = view(2);
    assert_eq!(decide("leave_alone(\"so\")", &view), Decision::leave_alone("so"));
    assert_eq!(decide("ship(\"so\")", &view), Decision::finish(Finish::Ship, "so"));
    assert_eq!(decide("cancel(\"so\")", &view), Decision::finish(Finish::Cancel, "so"));
    assert_eq!(decide("post_copy(\"so\")", &view), Decision::finish(Finish::PostCopy, "so"));
    assert_eq!(decide("stop(\"so\")", &view), Decision::hold_all(2, Hold::Stopped, "so"));
    let half = Hold::Quota(view.quota_for(Share::clamped(0.5)).unwrap());
    assert_eq!(decide("hold(0.5, \"so\")", &view), Decision::hold_all(2, half, "so"));
    let one = Decision { holds: vec![half, Hold::Free], ..Decision::leave_alone("so") };
    assert_eq!(decide("hold([0.5, 1], \"so\")", &view), one);
    let tuned = decide(
        "hold(0.5, \"so\").ship().tune(#{ downtime_limit: 0.2, max_bandwidth: 1e6 })",
        &view,
    );
    assert_eq!((tuned.finish, tuned.holds), (Some(Finish::Ship), vec![half; 2]));
    assert_eq!(tuned.tuning.downtime_limit, Some(Duration::from_millis(200)));
    assert_eq!(tuned.tuning.max_bandwidth, Some(ByteRate::mb(1)));
}

#[test]
fn a_script_remembers_and_each_migration_begins_anew() {
    let text = "fn start() { #{ n: 0 } } fn decide(view) { this.n += 1; leave_alone(`${this.n}`) }";
    let program = Program::read("script:x", text).unwrap();
    for _ in 0..2 {
        let mut policy = program.policy(Arc::new(|what| panic!("{what}")));
        assert_eq!(policy.decide(&view(1)).reason, "1");
        assert_eq!(policy.decide(&view(1)).reason, "2");
    }
}

#[test]
fn a_script_can_refuse_before_the_start() {
    let (mut policy, _) = script("fn preflight(view) { \"not on a Friday\" } fn decide(view) { }");
    let refused = PreflightRefusal::Script("not on a Friday".to_owned());
    assert_eq!(policy.preflight(&view(1)), Err(refused));
    let (mut policy, told) = script("fn preflight(view) { } fn decide(view) { }");
    assert_eq!(policy.preflight(&view(1)), Ok(()));
    assert!(told.lock().unwrap().is_empty());
}

#[test]
fn names_of_landfall_0_1_mean_what_they_meant() {
    let (mut policy, _) = script("fn before(view) { `${view.intervals}` } fn decide(view) { }");
    let refused = policy.preflight(&view(7)).unwrap_err();
    assert_eq!(refused.to_string(), view(7).syncs.to_string());
    let pairs = [
        ("view.interval", "view.last_sync"),
        ("view.blackout_if_shipped", "view.downtime_if_shipped"),
        ("view.wanted(0)", "view.demand(0)"),
    ];
    for (old, new) in pairs {
        let text = format!("fn decide(view) {{ leave_alone(`${{{old} == {new}}}`) }}");
        assert_eq!(script(&text).0.decide(&view(1)).reason, "true", "{old}");
    }
}

#[test]
fn the_description_has_every_field_and_every_limit() {
    let page = include_str!("../../../docs/scripts.md");
    for (name, of) in landfall_script::names() {
        let written = match of {
            Of::View => format!("`{name}`"),
            Of::Vcpu => format!("`view.{name}(n)`"),
        };
        assert!(page.contains(&written), "docs/scripts.md does not have {written}");
    }
    for limit in ["25,000", "1,024"] {
        assert!(page.contains(limit), "{limit}");
    }
}

/// A number as a script may come by it, the impossible ones too.
fn any_number() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<f64>().prop_filter("written out", |n| n.is_finite()).prop_map(|n| format!("{n:e}")),
        (-2.0f64..3.0).prop_map(|n| format!("{n:?}")),
        Just("(0.0 / 0.0)".to_owned()),
        Just("(1.0 / 0.0)".to_owned()),
        Just("(-1.0 / 0.0)".to_owned()),
        Just("()".to_owned()),
        any::<i32>().prop_map(|n| n.to_string()),
    ]
}

proptest! {
    #[test]
    fn no_answer_of_a_script_breaks_a_requirement(
        all in any_number(), each in prop::collection::vec(any_number(), 0..4),
        alone in any::<bool>(), tuned in any_number(), end in 0..4,
        floor in 0.0f64..=1.0, stall_ms in 1u64..3000, give_way in any::<bool>(),
    ) {
        let mut view = view(2);
        view.requirements.min_cpu = Share::clamped(floor);
        view.requirements.max_stall = Duration::from_millis(stall_ms);
        view.requirements.max_bandwidth = Some(ByteRate::mb(100));
        if give_way { view.requirements.give_way = vec![Requirement::MaxTime] }
        let shares = if alone { all } else { format!("[{}]", each.join(", ")) };
        let end = ["", ".ship()", ".post_copy()", ".cancel()"][end as usize];
        let body = format!(
            "hold({shares}, \"\"){end}.tune(#{{ max_bandwidth: {tuned}, downtime_limit: {tuned} }})"
        );
        let decision = enforce(&view, decide(&body, &view));
        prop_assert!(decision.holds.len() <= 2);
        for hold in &decision.holds {
            prop_assert!(hold.share().get() >= floor - 1e-9, "{hold:?}");
            prop_assert!(*hold != Hold::Stopped);
            if let Hold::Quota(quota) = hold { prop_assert!(quota.gap() <= view.requirements.max_stall) }
        }
        prop_assert!(decision.tuning.max_bandwidth.is_none_or(|r| r.0 >= 1.0 && r <= ByteRate::mb(100)));
        prop_assert!(decision.tuning.downtime_limit.is_none_or(|l| l <= view.requirements.max_stall));
        prop_assert!(decision.finish != Some(Finish::PostCopy), "it is not allowed");
        if decision.finish == Some(Finish::Ship) { prop_assert!(view.fits_downtime()) }
    }
}
