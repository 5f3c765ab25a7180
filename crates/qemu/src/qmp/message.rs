//! The lines that a QMP monitor sends: a greeting, responses, events.

use std::time::Instant;

use serde::Deserialize;
use serde_json::Value;

use crate::clean_text::clean_text;

/// One line from a monitor.
#[derive(Debug, Clone)]
pub enum QmpMessage {
    /// The first line.
    Greeting(QmpGreeting),
    /// The response to one of landfall's commands.
    Response {
        /// The id that the command was sent with.
        id: u64,
        /// What QEMU returned, or its error.
        result: Result<Value, ErrorResponse>,
    },
    /// An event.
    Event(QmpEvent),
    /// Valid and of no interest, for example a response without an id.
    Other,
}

/// The first line of a monitor: what QEMU says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QmpGreeting {
    /// QEMU's version: major, minor, micro.
    pub version: (u32, u32, u32),
    /// The QMP capabilities that it offers, for example `oob`.
    pub capabilities: Vec<String>,
}

impl QmpGreeting {
    /// Returns whether the monitor offers a QMP capability.
    pub fn offers_capability(&self, capability: &str) -> bool {
        self.capabilities.iter().any(|offered| offered == capability)
    }
}

/// An event from QEMU.
#[derive(Debug, Clone)]
pub struct QmpEvent {
    /// When landfall received it.
    pub received_at: Instant,
    /// Its name, for example `STOP`.
    pub name: String,
    /// The data that belongs to it.
    pub data: Value,
}

/// The error that QEMU responded with.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct ErrorResponse {
    /// Its class, for example `CommandNotFound`.
    pub class: String,
    /// Its description, for people.
    pub desc: String,
}

impl ErrorResponse {
    fn cleaned(self) -> ErrorResponse {
        let clean = |text: &str| clean_text(text).chars().take(MAX_ERROR_CHARACTERS).collect();
        ErrorResponse { class: clean(&self.class), desc: clean(&self.desc) }
    }
}

/// The longest text of an error that is passed on.
const MAX_ERROR_CHARACTERS: usize = 1000;

/// Returns a response whose texts a terminal can show.
fn cleaned(value: Value) -> Value {
    match value {
        Value::String(text) => Value::String(clean_text(&text).into_owned()),
        Value::Array(values) => values.into_iter().map(cleaned).collect(),
        Value::Object(fields) => {
            let clean =
                |(name, value): (String, Value)| (clean_text(&name).into_owned(), cleaned(value));
            fields.into_iter().map(clean).collect()
        }
        plain => plain,
    }
}

/// A line that is not QMP: it is not JSON, or a known field has a wrong type.
#[derive(Debug, thiserror::Error)]
#[error("not a QMP message: {0}")]
pub struct QmpMessageError(#[from] serde_json::Error);

/// The fields of all kinds of lines; which of them are there tells the kind.
#[derive(Deserialize)]
struct RawLine {
    #[serde(rename = "QMP")]
    qmp: Option<RawGreeting>,
    event: Option<String>,
    #[serde(default)]
    data: Value,
    #[serde(rename = "return")]
    result: Option<Value>,
    error: Option<ErrorResponse>,
    id: Option<Value>,
}

#[derive(Deserialize)]
struct RawGreeting {
    version: RawVersion,
    #[serde(default)]
    capabilities: Vec<Value>,
}

#[derive(Deserialize)]
struct RawVersion {
    qemu: RawNumbers,
}

#[derive(Deserialize)]
struct RawNumbers {
    major: u32,
    minor: u32,
    micro: u32,
}

impl QmpMessage {
    /// Reads a line. An event gets the present time as that of its arrival.
    ///
    /// # Errors
    /// [`QmpMessageError`].
    pub fn parse(line: &[u8]) -> Result<QmpMessage, QmpMessageError> {
        let line: RawLine = serde_json::from_slice(line)?;
        if let Some(RawGreeting { version: RawVersion { qemu }, capabilities }) = line.qmp {
            let names = capabilities.iter().filter_map(Value::as_str).map(str::to_owned);
            return Ok(QmpMessage::Greeting(QmpGreeting {
                version: (qemu.major, qemu.minor, qemu.micro),
                capabilities: names.collect(),
            }));
        }
        if let Some(name) = line.event {
            return Ok(QmpMessage::Event(QmpEvent {
                received_at: Instant::now(),
                name,
                data: line.data,
            }));
        }
        let result = match (line.error, line.result) {
            (Some(error), _) => Err(error.cleaned()),
            (None, Some(value)) => Ok(cleaned(value)),
            (None, None) => return Ok(QmpMessage::Other),
        };
        Ok(match line.id.and_then(|id| id.as_u64()) {
            Some(id) => QmpMessage::Response { id, result },
            None => QmpMessage::Other,
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
        let Ok(QmpMessage::Greeting(greeting)) = QmpMessage::parse(line) else { panic!() };
        assert_eq!(greeting.version, (10, 0, 2));
        assert!(greeting.offers_capability("oob") && !greeting.offers_capability("other"));
    }

    #[test]
    fn unknown_fields_and_events_are_accepted() {
        let line = br#"{"event": "BRAND_NEW", "data": {"x": [1]}, "timestamp": {}, "more": 1}"#;
        let Ok(QmpMessage::Event(event)) = QmpMessage::parse(line) else { panic!() };
        assert_eq!(event.name, "BRAND_NEW");
        assert!(matches!(QmpMessage::parse(b"{}"), Ok(QmpMessage::Other)));
    }

    #[test]
    fn escape_sequences_of_a_hostile_guest_do_not_reach_a_terminal() {
        let line = br#"{"id": 7, "return": {"name": "\u001b[2Jvm", "x": ["\u009b31m"]}}"#;
        let Ok(QmpMessage::Response { result: Ok(value), .. }) = QmpMessage::parse(line) else {
            panic!()
        };
        assert_eq!(value["name"], "\\u{1b}[2Jvm");
        assert_eq!(value["x"][0], "\\u{9b}31m");
        let line = br#"{"id": 7, "error": {"class": "G", "desc": "\u001b]0;root\u0007"}}"#;
        let Ok(QmpMessage::Response { result: Err(error), .. }) = QmpMessage::parse(line) else {
            panic!()
        };
        assert_eq!(error.desc, "\\u{1b}]0;root\\u{7}");
    }

    #[test]
    fn an_error_is_a_response() {
        let line = br#"{"id": 7, "error": {"class": "GenericError", "desc": "no"}}"#;
        let Ok(QmpMessage::Response { id: 7, result: Err(error) }) = QmpMessage::parse(line) else {
            panic!()
        };
        assert_eq!(error.desc, "no");
    }

    proptest! {
        #[test]
        fn no_line_makes_it_panic(line in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = QmpMessage::parse(&line);
        }

        #[test]
        fn no_json_object_makes_it_panic(
            key in "QMP|event|return|error|id|data", value in "null|1|\"x\"|\\[\\]|\\{\\}"
        ) {
            let _ = QmpMessage::parse(format!("{{{key:?}: {value}}}").as_bytes());
        }
    }
}
