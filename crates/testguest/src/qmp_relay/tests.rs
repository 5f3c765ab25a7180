//! The relay in front of a small peer that speaks QMP.

use super::*;
use crate::RawQmp;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};

const LIMIT: Duration = Duration::from_secs(20);
const WHILE: Duration = Duration::from_millis(300);

/// A peer that speaks QMP, answers every command with the number of commands it has had, and serves one
/// client at a time; and a relay in front of it.
fn relay() -> (tempfile::TempDir, QmpRelay) {
    let folder = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(folder.path().join("qemu.sock")).unwrap();
    thread::spawn(move || {
        let mut had = 0;
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let greeting = r#"{"QMP":{"version":{"qemu":{"major":10,"minor":0,"micro":2}}}}"#;
            let _ = writeln!(stream, "{greeting}");
            let lines = BufReader::new(stream.try_clone().unwrap()).lines();
            for line in lines.map_while(Result::ok) {
                let command: Value = serde_json::from_str(&line).unwrap();
                had += 1;
                let _ = writeln!(stream, r#"{{"return":{had},"id":{}}}"#, command["id"]);
            }
        }
    });
    let front = Endpoint::Unix(folder.path().join("front.sock"));
    let relay = QmpRelay::start(front, folder.path().join("qemu.sock")).unwrap();
    (folder, relay)
}

fn client(relay: &QmpRelay) -> RawQmp {
    let Endpoint::Unix(path) = relay.endpoint() else { unreachable!() };
    RawQmp::connect(path, LIMIT).unwrap()
}

#[test]
fn clients_are_served_one_after_the_other_and_each_command_is_logged() {
    let (_folder, relay) = relay();
    let began = Instant::now();
    for answer in [2, 4] {
        let mut qmp = client(&relay);
        assert_eq!(qmp.run("query-status").unwrap(), answer);
    }
    let steps = |it: &RelayedCommand| (it.command == "query-status").then_some(it.step);
    let steps: Vec<_> = relay.log().iter().filter_map(steps).collect();
    use RelayStep::{Answered, Delivered, Returned, Sent};
    assert_eq!(steps[..4], [Sent, Delivered, Answered, Returned]);
    assert!(relay.wait_for("stop", Sent, began, Duration::from_millis(10)).is_none());
}

#[test]
fn a_command_held_back_holds_up_what_comes_behind_it_and_is_delivered_after_its_time() {
    let (_folder, relay) = relay();
    let mut qmp = client(&relay);
    relay.hold(HeldBack::Command, "stop", HoldRule::once_for(WHILE));
    let (held, behind) =
        (qmp.send("stop", json!({})).unwrap(), qmp.send("cont", json!({})).unwrap());
    let stopped = qmp.answer(&held, LIMIT).unwrap().unwrap();
    let continued = qmp.answer(&behind, LIMIT).unwrap().unwrap();
    assert_eq!((stopped.value, continued.value), (json!(2), json!(3)));
    assert!(continued.at - behind.asked >= WHILE);
    // Once only.
    assert!(qmp.ask("stop", json!({})).unwrap().took() < WHILE);
}

#[test]
fn an_answer_held_back_until_it_is_released_can_be_overtaken() {
    let (_folder, relay) = relay();
    let mut qmp = client(&relay);
    relay.hold(HeldBack::Answer, "stop", HoldRule::until_released().overtaken());
    let held = qmp.send("stop", json!({})).unwrap();
    assert_eq!(qmp.run("cont").unwrap(), 3);
    assert!(qmp.answer(&held, WHILE).unwrap().is_none());
    relay.release("stop");
    assert_eq!(qmp.answer(&held, LIMIT).unwrap().unwrap().value, 2);
}

#[test]
fn a_command_whose_client_is_gone_is_delivered_before_the_next_client_is_served() {
    let (_folder, relay) = relay();
    let mut qmp = client(&relay);
    relay.hold(HeldBack::Command, "migrate", HoldRule::once_for(WHILE));
    qmp.send("migrate", json!({})).unwrap();
    drop(qmp);
    assert_eq!(client(&relay).run("query-status").unwrap(), 4);
}

#[test]
fn answers_are_dropped_and_replaced_as_asked() {
    let (_folder, relay) = relay();
    let mut qmp = client(&relay);
    relay.replace_answers("query-status", json!({ "status": "running" }));
    relay.drop_answers("stop");
    assert_eq!(qmp.run("query-status").unwrap()["status"], "running");
    let dropped = qmp.send("stop", json!({})).unwrap();
    assert_eq!(qmp.run("cont").unwrap(), 4);
    assert!(qmp.answer(&dropped, WHILE).unwrap().is_none());
    relay.heal();
    assert_eq!(qmp.run("query-status").unwrap(), 5);
}

#[test]
fn silence_passes_nothing_and_a_closed_monitor_ends_its_client_and_refuses_the_next() {
    let (_folder, relay) = relay();
    let mut qmp = client(&relay);
    relay.set_silent(true);
    let asked = qmp.send("query-status", json!({})).unwrap();
    assert!(qmp.answer(&asked, WHILE).unwrap().is_none());
    relay.set_silent(false);
    assert!(qmp.answer(&asked, LIMIT).unwrap().is_some());
    relay.set_refusing(true);
    relay.disconnect();
    assert!(qmp.run("query-status").is_err());
    let Endpoint::Unix(path) = relay.endpoint() else { unreachable!() };
    assert!(RawQmp::connect(path, LIMIT).is_err());
    relay.set_refusing(false);
    assert!(client(&relay).run("query-status").is_ok());
}

#[test]
fn lines_are_injected_at_the_rate_asked_for() {
    let (_folder, relay) = relay();
    let mut qmp = client(&relay);
    let began = Instant::now();
    relay.inject(r#"{"event":"ONCE","data":{}}"#);
    qmp.wait_for_event("ONCE", began).unwrap();
    relay.flood(r#"{"event":"FLOOD","data":{}}"#, 20_000);
    qmp.wait_for_event("FLOOD", began).unwrap();
    assert!(qmp.run("query-status").is_ok(), "answers pass a flood");
    relay.flood("", 0);
    relay.inject("no json");
    let ended = qmp.event_within(LIMIT, began, |event| event.name == "NEVER");
    assert!(ended.is_err(), "garbage ends the client: {ended:?}");
}

#[test]
fn a_relay_in_front_of_tcp_ends_with_a_client_that_does_not_read() {
    let (folder, _) = relay();
    let front = Endpoint::Tcp(([127, 0, 0, 1], 0).into());
    let relay = QmpRelay::start(front, folder.path().join("qemu.sock")).unwrap();
    let Endpoint::Tcp(address) = relay.endpoint() else { unreachable!() };
    let _client = std::net::TcpStream::connect(address).unwrap();
    relay.flood(&"x".repeat(100_000), 10_000);
    thread::sleep(WHILE);
    drop(relay);
    assert!(UnixStream::connect(folder.path().join("qemu.sock")).is_ok());
}
