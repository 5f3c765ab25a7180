//! The lines a monitor sends: a greeting, answers, events.

use std::time::Instant;

use serde::Deserialize;
use serde_json::Value;

/// One line of a monitor.
#[derive(Debug, Clone)]
pub enum Message {
    /// The first one.
    Greeting(Greeting),
    /// To a command of ours.
    Answer {
        /// The number we gave it.
        id: u64,
        /// What came of it.
        answer: Result<Value, Refusal>,
    },
    /// Something happened.
    Event(Event),
    /// Valid, and of no interest: an answer that carries no number of ours.
    Other,
}

/// What QEMU says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Greeting {
    /// Its version.
    pub version: (u32, u32, u32),
    /// The capabilities it offers.
    pub capabilities: Vec<String>,
}

impl Greeting {
    /// Whether it offers a capability.
    pub fn offers(&self, capability: &str) -> bool {
        self.capabilities.iter().any(|offered| offered == capability)
    }
}

/// An event, stamped with the time of its arrival.
#[derive(Debug, Clone)]
pub struct Event {
    /// When it arrived.
    pub at: Instant,
    /// Its name, for example `STOP`.
    pub name: String,
    /// What came with it.
    pub data: Value,
}

/// The error QEMU answered with.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Refusal {
    /// Its class.
    pub class: String,
    /// Its words.
    pub desc: String,
}

/// A line that is not QMP.
#[derive(Debug, thiserror::Error)]
#[error("not a QMP message: {0}")]
pub struct MessageError(#[from] serde_json::Error);

/// The union of all lines; which one it is shows in which fields are there.
#[derive(Deserialize)]
struct Line {
    #[serde(rename = "QMP")]
    qmp: Option<Qmp>,
    event: Option<String>,
    #[serde(default)]
    data: Value,
    #[serde(rename = "return")]
    result: Option<Value>,
    error: Option<Refusal>,
    id: Option<Value>,
}

#[derive(Deserialize)]
struct Qmp {
    version: Version,
    #[serde(default)]
    capabilities: Vec<Value>,
}

#[derive(Deserialize)]
struct Version {
    qemu: Numbers,
}

#[derive(Deserialize)]
struct Numbers {
    major: u32,
    minor: u32,
    micro: u32,
}

impl Message {
    /// Reads a line, stamping an event with the present.
    ///
    /// # Errors
    /// [`MessageError`] for what is not JSON or has a known field of an impossible kind.
    pub fn parse(line: &[u8]) -> Result<Message, MessageError> {
        let line: Line = serde_json::from_slice(line)?;
        if let Some(Qmp { version: Version { qemu }, capabilities }) = line.qmp {
            let names = capabilities.iter().filter_map(Value::as_str).map(str::to_owned);
            return Ok(Message::Greeting(Greeting {
                version: (qemu.major, qemu.minor, qemu.micro),
                capabilities: names.collect(),
            }));
        }
        if let Some(name) = line.event {
            return Ok(Message::Event(Event { at: Instant::now(), name, data: line.data }));
        }
        let answer = match (line.error, line.result) {
            (Some(refusal), _) => Err(refusal),
            (None, Some(value)) => Ok(value),
            (None, None) => return Ok(Message::Other),
        };
        Ok(match line.id.and_then(|id| id.as_u64()) {
            Some(id) => Message::Answer { id, answer },
            None => Message::Other,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_greeting_tells_version_and_capabilities() {
        let line = br#"{"QMP": {"version": {"qemu": {"micro": 2, "minor": 0, "major": 10},
            "package": "Debian"}, "capabilities": ["oob", "news"]}}"#;
        let Ok(Message::Greeting(greeting)) = Message::parse(line) else { panic!() };
        assert_eq!(greeting.version, (10, 0, 2));
        assert!(greeting.offers("oob") && !greeting.offers("other"));
    }

    #[test]
    fn fields_and_events_never_heard_of_are_let_through() {
        let line = br#"{"event": "BRAND_NEW", "data": {"x": [1]}, "timestamp": {}, "more": 1}"#;
        let Ok(Message::Event(event)) = Message::parse(line) else { panic!() };
        assert_eq!(event.name, "BRAND_NEW");
        assert!(matches!(Message::parse(b"{}"), Ok(Message::Other)));
    }

    #[test]
    fn an_error_is_an_answer() {
        let line = br#"{"id": 7, "error": {"class": "GenericError", "desc": "no"}}"#;
        let Ok(Message::Answer { id: 7, answer: Err(refusal) }) = Message::parse(line) else {
            panic!()
        };
        assert_eq!(refusal.desc, "no");
    }

    proptest! {
        #[test]
        fn no_line_makes_it_panic(line in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Message::parse(&line);
        }

        #[test]
        fn no_json_object_makes_it_panic(
            key in "QMP|event|return|error|id|data", value in "null|1|\"x\"|\\[\\]|\\{\\}"
        ) {
            let _ = Message::parse(format!("{{{key:?}: {value}}}").as_bytes());
        }
    }
}
