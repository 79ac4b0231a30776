//! The signals that end a server: SIGTERM and SIGINT.

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{Exit, fail};

/// Signals that are caught from the moment that this is made.
pub(super) struct Stop {
    terminate: Signal,
    interrupt: Signal,
}

impl Stop {
    /// # Errors
    /// How the program ends where signals cannot be caught.
    pub(super) fn catch() -> Result<Self, Exit> {
        match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
            (Ok(terminate), Ok(interrupt)) => Ok(Self { terminate, interrupt }),
            (Err(error), _) | (_, Err(error)) => Err(fail(Exit::Failed, &format!("signals cannot be caught: {error}"))),
        }
    }

    /// Returns when one of them has come.
    pub(super) async fn asked(mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
