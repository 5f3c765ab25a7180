//! The one error that a command ends with: what failed, what to do about it, and the exit status.
//!
//! `landfall migrate` is apart from it once the guest was looked at: its report says what happened, and
//! the report's outcome is the exit status.

use std::fmt;

use landfall_qemu::stdio::eprint_line;

/// What a command could not do, by whose turn it is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The command line or a file named on it: the user corrects it.
    Usage,
    /// A landfall that steers refused the request, or there is none.
    Refused,
    /// Something outside failed. Everything is as before.
    Failed,
    /// landfall has a bug, and what became of the guest is not known.
    Bug,
}

impl ErrorKind {
    /// Returns the exit status.
    pub fn exit_status(self) -> u8 {
        match self {
            ErrorKind::Refused => 1,
            ErrorKind::Usage => 2,
            ErrorKind::Failed => 5,
            ErrorKind::Bug => 6,
        }
    }
}

/// Why a command ends without its result.
#[derive(Debug)]
pub struct CommandError {
    kind: ErrorKind,
    message: String,
    hints: Vec<String>,
}

impl CommandError {
    /// An error of the command line, or of a file named on it.
    pub fn usage(message: impl fmt::Display) -> CommandError {
        CommandError::new(ErrorKind::Usage, message)
    }

    /// A request that was refused.
    pub fn refused(message: impl fmt::Display) -> CommandError {
        CommandError::new(ErrorKind::Refused, message)
    }

    /// A failure of something outside.
    pub fn failed(message: impl fmt::Display) -> CommandError {
        CommandError::new(ErrorKind::Failed, message)
    }

    /// A failure of landfall itself.
    pub fn bug(message: impl fmt::Display) -> CommandError {
        CommandError::new(ErrorKind::Bug, message)
    }

    fn new(kind: ErrorKind, message: impl fmt::Display) -> CommandError {
        CommandError { kind, message: message.to_string(), hints: Vec::new() }
    }

    /// Adds what the user can do, as a sentence without its full stop.
    pub fn hint(mut self, hint: impl Into<String>) -> CommandError {
        self.hints.push(hint.into());
        self
    }

    /// Prints it on standard error and returns the exit status.
    pub fn report(&self) -> u8 {
        eprint_line(&self.to_string());
        self.kind.exit_status()
    }
}

impl fmt::Display for CommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "landfall: {}", self.message)?;
        self.hints.iter().try_for_each(|hint| write!(f, "\n  hint: {hint}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_its_message_and_below_it_what_to_do() {
        let error = CommandError::usage("vm.jsonl: it is empty").hint("record another migration");
        assert_eq!(
            error.to_string(),
            "landfall: vm.jsonl: it is empty\n  hint: record another migration"
        );
        assert_eq!(error.kind.exit_status(), 2);
    }
}
