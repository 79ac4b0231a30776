//! Standard output, which may be a pipe that nobody reads any more.
//!
//! Invariant: that nobody reads is no fault of anybody's: it ends a command that only tells (`tidegate status | head -1`), and no
//! command that does something (`serve`, `check --salvage`).

use std::io::{self, ErrorKind, Write as _};

use super::{Exit, fail};

/// Writes lines. An error says that nobody reads them any more, or that they have no room.
pub(super) fn write(lines: &[String]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    for line in lines {
        writeln!(out, "{line}")?;
    }
    out.flush()
}

/// Writes lines that were asked for: how a command ends that does nothing else.
pub(super) fn print(lines: &[String]) -> Exit {
    match write(lines) {
        // Whoever read, like `head`, has enough.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Exit::Ok,
        Err(error) => fail(Exit::Failed, &format!("standard output: {error}")),
        Ok(()) => Exit::Ok,
    }
}

/// Writes a line beside what a command does: the latter goes on, whether or not anybody reads.
pub(super) fn say(line: String) {
    let _ = write(&[line]);
}
