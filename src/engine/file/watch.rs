//! Waiting on behalf of a process: bounded, and over soon after it was killed.
//!
//! The kernel keeps a killed process until its request is answered, and says nothing of it to us: a signal that is pending shows in
//! `/proc/PID/status` (proc(5): `SigPnd`, `ShdPnd`, `SigBlk`, `SigIgn`).

use std::future::Future;
use std::time::Duration;

use crate::engine::file::{Caller, VfsError};

/// How often a waiting caller is looked at.
const POLL: Duration = Duration::from_millis(200);

/// Signals whose default is to do nothing, or to stop or continue: SIGCHLD, SIGCONT, SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU, SIGURG, SIGWINCH.
const HARMLESS: u64 = bit(17) | bit(18) | bit(19) | bit(20) | bit(21) | bit(22) | bit(23) | bit(28);
/// SIGKILL: what every fatal signal becomes (Linux: `complete_signal`).
const KILL: u64 = bit(9);

const fn bit(signal: u32) -> u64 {
    1 << (signal - 1)
}

/// Which signals end a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EndsBy {
    /// Only what kills: reads and writes are not interruptible.
    Death,
    /// Whatever the process would notice (a waiting lock answers EINTR).
    Signal,
}

/// Awaits `work`, no longer than `limit`, and not for a caller that is dead.
///
/// # Errors
/// `Interrupted`, or `Unavailable` after `limit`.
pub(super) async fn watched<T>(
    who: &Caller,
    limit: Option<Duration>,
    by: EndsBy,
    work: impl Future<Output = T>,
) -> Result<T, VfsError> {
    let mut work = std::pin::pin!(work);
    let end = limit.map(|limit| tokio::time::Instant::now() + limit);
    loop {
        let now = tokio::time::Instant::now();
        let left = end.map_or(POLL, |end| end.saturating_duration_since(now));
        let step = if who.pid.is_some() { POLL.min(left) } else { left };
        let waited = match (end, who.pid) {
            (None, None) => Ok(work.as_mut().await),
            _ => tokio::time::timeout(step, work.as_mut()).await,
        };
        match waited {
            Ok(value) => return Ok(value),
            Err(_) if who.pid.is_some_and(|pid| has_signal(pid, by)) => return Err(VfsError::Interrupted),
            Err(_) if end.is_some_and(|end| tokio::time::Instant::now() >= end) => {
                return Err(VfsError::Unavailable("no answer in time".into()));
            }
            Err(_) => {}
        }
    }
}

/// Whether the process (or thread) is gone or has a signal pending that ends a wait.
fn has_signal(pid: u32, by: EndsBy) -> bool {
    match std::fs::read_to_string(format!("/proc/{pid}/status")) {
        Ok(status) => is_signalled(&status, by),
        Err(error) => error.kind() == std::io::ErrorKind::NotFound,
    }
}

/// What a process's status says.
fn is_signalled(status: &str, by: EndsBy) -> bool {
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|value| u64::from_str_radix(value.trim(), 16).ok()).unwrap_or(0)
    };
    let dead = status.lines().any(|line| line.starts_with("State:") && (line.contains('Z') || line.contains("X (")));
    let pending = field("SigPnd:") | field("ShdPnd:");
    let open = pending & !(field("SigBlk:") | field("SigIgn:"));
    let caught = field("SigCgt:");
    let noticed = match by {
        // What has no handler and a fatal default.
        EndsBy::Death => open & !HARMLESS & !caught,
        EndsBy::Signal => open & (!HARMLESS | caught),
    };
    dead || pending & KILL != 0 || noticed != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(pid: Option<u32>) -> Caller {
        Caller { pid, ..Caller::root(crate::engine::file::Origin(1)) }
    }

    #[test]
    fn pending_signals_are_told_apart() {
        let status = |pnd: u64, blk: u64, ign: u64, cgt: u64| {
            format!(
                "Name:\tx\nState:\tS (sleeping)\nSigPnd:\t0\nShdPnd:\t{pnd:016x}\nSigBlk:\t{blk:016x}\nSigIgn:\t{ign:016x}\nSigCgt:\t{cgt:016x}\n"
            )
        };
        for (pnd, blk, ign, cgt, death, signal) in [
            (0, 0, 0, 0, false, false),
            (bit(9), bit(9), 0, 0, true, true),
            (bit(15), 0, 0, 0, true, true),
            (bit(15), bit(15), 0, 0, false, false),
            (bit(14), 0, 0, bit(14), false, true),
            (bit(17), 0, 0, 0, false, false),
            (bit(17), 0, 0, bit(17), false, true),
            (bit(2), 0, bit(2), 0, false, false),
        ] {
            let text = status(pnd, blk, ign, cgt);
            assert_eq!(is_signalled(&text, EndsBy::Death), death, "{text}");
            assert_eq!(is_signalled(&text, EndsBy::Signal), signal, "{text}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_ends_at_its_limit() {
        let never = std::future::pending::<()>();
        let ended = watched(&caller(None), Some(Duration::from_secs(3)), EndsBy::Death, never).await;
        assert!(matches!(ended, Err(VfsError::Unavailable(_))));
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_ends_with_its_process() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        child.kill().unwrap();
        let ended = watched(&caller(Some(child.id())), None, EndsBy::Death, std::future::pending::<()>()).await;
        assert_eq!(ended, Err(VfsError::Interrupted));
        child.wait().unwrap();
    }
}
