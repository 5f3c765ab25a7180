//! How a setting is read from what people type.

use std::time::Duration;

use super::{InvalidAggression, Requirement, UnknownRequirement};
use crate::units::{ByteRate, UnitError, parse_duration};

/// What takes a limit away, as people type it.
pub const NONE: &str = "none";

/// Why a text is not a value of its setting, and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettingTextError {
    /// It is not a rate, a duration or a share.
    #[error(transparent)]
    Unit(#[from] UnitError),
    /// A bandwidth of zero. To QEMU, zero means no limit at all.
    #[error(
        "nothing can be sent at a rate of {0:?}; leave the setting out, or write {NONE}, for QEMU's own \
         limit"
    )]
    NothingCanBeSent(String),
    /// A time that no migration keeps.
    #[error(
        "{0:?} is too short: a switch-over alone takes some tens of ms; write 10ms or more, for \
         example 300ms"
    )]
    TooShort(String),
    /// The list names something that is not a requirement.
    #[error(transparent)]
    Requirement(#[from] UnknownRequirement),
    /// It is not an aggression.
    #[error(transparent)]
    Aggression(#[from] InvalidAggression),
}

/// The shortest stall or time that can be kept.
const SHORTEST: Duration = Duration::from_millis(10);

/// Reads a value that [`NONE`] may stand in for.
pub(super) fn optional<T>(
    text: &str,
    parse: fn(&str) -> Result<T, SettingTextError>,
) -> Result<Option<T>, SettingTextError> {
    if text.trim() == NONE { Ok(None) } else { parse(text).map(Some) }
}

/// Reads a bandwidth of at least one byte per second.
pub(super) fn parse_bandwidth(text: &str) -> Result<ByteRate, SettingTextError> {
    let rate: ByteRate = text.parse()?;
    match rate.per_second() {
        0 => Err(SettingTextError::NothingCanBeSent(text.to_owned())),
        _ => Ok(rate),
    }
}

/// Reads a time that is long enough to be kept.
pub(super) fn parse_time(text: &str) -> Result<Duration, SettingTextError> {
    let time = parse_duration(text)?;
    if time < SHORTEST { Err(SettingTextError::TooShort(text.to_owned())) } else { Ok(time) }
}

/// Reads a list of requirements and keeps each once.
pub(super) fn parse_give_way(text: &str) -> Result<Vec<Requirement>, SettingTextError> {
    let names = text.split(',').map(str::trim).filter(|name| !name.is_empty() && *name != NONE);
    let mut list = Vec::new();
    for name in names {
        let requirement: Requirement = name.parse()?;
        if !list.contains(&requirement) {
            list.push(requirement);
        }
    }
    Ok(list)
}
