//! Standard error and output, which may be gone: a terminal that was closed must not end landfall.

use std::io::{self, Write};

/// Says something to the operator, if there is anybody to say it to.
pub fn say(what: &str) {
    let _ = writeln!(io::stderr(), "{what}");
}

/// Prints a result on standard output, if there is anybody to read it.
pub fn tell(what: &str) {
    let _ = writeln!(io::stdout(), "{what}");
}
