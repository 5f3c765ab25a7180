//! Lines on standard error and standard output. Errors of writing are ignored: both streams can be
//! closed, for example with the terminal, and that must not end landfall.

use std::io::{self, Write};

/// Writes a line for the operator to standard error.
pub fn eprint_line(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// Writes a line of a result to standard output.
pub fn print_line(line: &str) {
    let _ = writeln!(io::stdout(), "{line}");
}
