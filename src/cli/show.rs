//! Shows what a gateway answered, for people and as JSON.

mod volumes;

use std::future::Future;
use std::time::Duration;

use indicatif::{HumanBytes, HumanDuration, MultiProgress, ProgressBar, ProgressStyle};
use serde::Serialize;

use super::{Exit, fail, out};
use crate::protocol::admin::{ProcedureStatus, ShareStatus, Status, UploadStatus};

/// Uploads that `status` shows at most.
const UPLOADS_SHOWN: usize = 20;

pub(super) fn json<T: Serialize + ?Sized>(value: &T) -> Exit {
    match serde_json::to_string_pretty(value) {
        Ok(text) => out::print(&[text]),
        Err(error) => fail(Exit::Failed, &error.to_string()),
    }
}

pub(super) use volumes::{collection, inspection, snapshots, volume, volumes};

pub(super) fn shares(status: &Status) -> Exit {
    out::print(&table(status))
}

fn table(status: &Status) -> Vec<String> {
    let mut lines = vec![format!("{:<20} {:<9} {:<30} {:>10} {:>6}  MOUNT", "SHARE", "STATE", "BUCKET", "DIRTY", "QUEUE")];
    for share in &status.shares {
        lines.push(format!(
            "{:<20} {:<9} {:<30} {:>10} {:>6}  {}",
            share.name,
            share.state,
            format!("{}/{}", share.bucket, share.prefix),
            HumanBytes(share.dirty_bytes).to_string(),
            share.jobs,
            share.mount
        ));
        if !share.reason.is_empty() {
            lines.push(format!("    {}", share.reason));
        }
    }
    lines
}

pub(super) fn share(share: &ShareStatus) -> Exit {
    out::print(&[
        format!("share        {}", share.name),
        format!("state        {} {}", share.state, share.reason),
        format!("bucket       {}/{}", share.bucket, share.prefix),
        format!("mount        {}", if share.mount.is_empty() { "none" } else { &share.mount }),
        format!("nodes        {}", share.nodes),
        format!("dirty        {} of at most {}", HumanBytes(share.dirty_bytes), HumanBytes(share.dirty_bytes_max)),
        format!("oldest dirty {}", age(share.oldest_dirty_s)),
        format!("queue        {} ({} failing)", share.jobs, share.failing),
    ])
}

pub(super) fn sessions(status: &Status) -> Exit {
    out::print(&session_lines(status))
}

fn session_lines(status: &Status) -> Vec<String> {
    let mut lines = vec![format!("{:<24} {:<8} {:<24} {:<24} FAILED LOGONS", "CLIENT", "DIALECT", "USERS", "SHARES")];
    lines.extend(status.smb.sessions.iter().map(|session| {
        let (users, shares) = (session.users.join(", "), session.shares.join(", "));
        format!("{:<24} {:<8} {users:<24} {shares:<24} {}", session.client, session.dialect, session.failed_logons)
    }));
    lines
}

pub(super) fn status(status: &Status) -> Exit {
    let cache = &status.cache;
    let writable = HumanBytes(cache.writable_bytes);
    let mut lines = vec![
        format!("tidegate {}  gateway {}", status.version, status.gateway),
        format!("cache  {} of {} segments free, {writable} writable\n", cache.segments_free, cache.segments),
    ];
    lines.extend(table(status));
    if status.uploads_total > 0 {
        lines.push(format!("\nuploads: {}", status.uploads_total));
        lines.extend(status.uploads.iter().take(UPLOADS_SHOWN).map(|upload| format!("  {}", line(upload))));
    }
    if !status.volumes.is_empty() {
        lines.push(String::new());
        lines.extend(volumes::table(&status.volumes));
    }
    let nfs = &status.nfs;
    if nfs.connections > 0 || !nfs.mounts.is_empty() {
        lines.push(format!("\nnfs: {} connections from {}", nfs.connections, nfs.clients.join(", ")));
        lines.extend(nfs.mounts.iter().map(|mount| format!("  {mount}")));
        for procedure in &nfs.procedures {
            let ProcedureStatus { name, calls, errors, mean_us } = procedure;
            lines.push(format!("  {name:<12} {calls:>12} calls {errors:>9} errors {mean_us:>9} µs"));
        }
    }
    if !status.smb.sessions.is_empty() {
        lines.push(format!("\nsmb: {} connections", status.smb.sessions.len()));
        lines.extend(session_lines(status).into_iter().map(|line| format!("  {line}")));
        lines.extend(status.smb.shares.iter().map(|share| {
            let (read, written) = (HumanBytes(share.read_bytes), HumanBytes(share.written_bytes));
            format!("  {}: {} open, {read} read, {written} written, {} errors", share.name, share.open_files, share.errors)
        }));
    }
    lines.extend(status.notices.iter().map(|notice| format!("\nnotice: {notice}")));
    out::print(&lines)
}

fn line(upload: &UploadStatus) -> String {
    let what = if upload.key.is_empty() { "waiting" } else { &upload.key };
    let progress = match upload.total_bytes {
        0 => String::new(),
        total => format!("  {} of {}", HumanBytes(upload.sent_bytes), HumanBytes(total)),
    };
    let failure = match upload.attempts {
        0 => String::new(),
        attempts => format!("  failed {attempts}x: {}", upload.error),
    };
    format!("{}: {what}  since {}{progress}{failure}", upload.share, age(upload.age_s))
}

fn age(seconds: u64) -> String {
    if seconds == 0 { "-".into() } else { HumanDuration(Duration::from_secs(seconds)).to_string() }
}

/// How `watch` shows a status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum View {
    /// One JSON document a line.
    Json,
    /// Plain lines on standard output, a block for each look.
    Lines,
    /// On the terminal (standard error): lines that are drawn over, with a bar for each upload that runs.
    Screen,
}

/// Shows the status again and again until the process is interrupted, or nobody reads any more.
pub(super) async fn watch<F, R>(interval: Duration, view: View, look: F) -> Exit
where
    F: Fn() -> R,
    R: Future<Output = Result<Status, String>>,
{
    let mut screen = Screen::default();
    loop {
        let status = match look().await {
            Ok(status) => status,
            Err(reason) => return fail(Exit::Failed, &reason),
        };
        let shown = match view {
            View::Screen => {
                screen.draw(&status);
                Ok(())
            }
            View::Json => match serde_json::to_string(&status) {
                Ok(text) => out::write(&[text]),
                Err(error) => return fail(Exit::Failed, &error.to_string()),
            },
            View::Lines => out::write(&lines(&status)),
        };
        if shown.is_err() {
            // Whoever read, like `head`, has enough.
            return Exit::Ok;
        }
        tokio::time::sleep(interval).await;
    }
}

fn share_line(share: &ShareStatus) -> String {
    let line = format!(
        "{:<16} {:<9} dirty {:>10}  oldest {:<12} queue {} ({} failing) {}",
        share.name,
        share.state,
        HumanBytes(share.dirty_bytes).to_string(),
        age(share.oldest_dirty_s),
        share.jobs,
        share.failing,
        share.reason
    );
    line.trim_end().to_owned()
}

/// Uploads that run, and uploads that failed, the former first.
fn shown_uploads(status: &Status) -> (Vec<&UploadStatus>, Vec<&UploadStatus>) {
    let failing = status.uploads.iter().filter(|upload| upload.attempts > 0).take(UPLOADS_SHOWN);
    let running = status.uploads.iter().filter(|upload| upload.attempts == 0 && !upload.key.is_empty());
    (running.take(UPLOADS_SHOWN).collect(), failing.collect())
}

/// A status as lines: shares, uploads with what fails and why, notices.
fn lines(status: &Status) -> Vec<String> {
    let (running, failing) = shown_uploads(status);
    let shares = status.shares.iter().map(share_line);
    let uploads = running.into_iter().chain(failing).map(|upload| format!("  {}", line(upload)));
    let notices = status.notices.iter().map(|notice| format!("notice: {notice}"));
    shares.chain(uploads).chain(notices).collect()
}

/// What is drawn over on the terminal.
#[derive(Default)]
struct Screen {
    bars: MultiProgress,
    rows: Vec<ProgressBar>,
}

impl Screen {
    fn draw(&mut self, status: &Status) {
        let plain = || ProgressStyle::with_template("{msg}").unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = || {
            let style = ProgressStyle::with_template("{msg} {wide_bar} {bytes}/{total_bytes}");
            style.unwrap_or_else(|_| ProgressStyle::default_bar())
        };
        let (running, failing) = shown_uploads(status);
        let before = status.shares.iter().map(share_line).map(|text| (text, None));
        let bars = running.iter().map(|upload| (format!("  {}", upload.key), Some((upload.sent_bytes, upload.total_bytes))));
        let failures = failing.iter().map(|upload| (format!("  {}", line(upload)), None));
        let notices = status.notices.iter().map(|notice| (format!("notice: {notice}"), None));
        let wanted: Vec<(String, Option<(u64, u64)>)> = before.chain(bars).chain(failures).chain(notices).collect();
        while self.rows.len() < wanted.len() {
            self.rows.push(self.bars.add(ProgressBar::new(0)));
        }
        for gone in self.rows.drain(wanted.len()..) {
            gone.finish_and_clear();
        }
        for (row, (text, progress)) in self.rows.iter().zip(wanted) {
            match progress {
                Some((sent_bytes, total_bytes)) => {
                    row.set_style(bar());
                    row.set_length(total_bytes);
                    row.set_position(sent_bytes);
                }
                None => row.set_style(plain()),
            }
            row.set_message(text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_have_shares_uploads_failures_and_notices() {
        let share =
            ShareStatus { name: "demo".into(), state: "read-only".into(), reason: "no disk".into(), ..ShareStatus::default() };
        let upload = |key: &str, attempts, error: &str| UploadStatus {
            share: "demo".into(),
            key: key.into(),
            attempts,
            error: error.into(),
            sent_bytes: 1 << 20,
            total_bytes: 4 << 20,
            ..UploadStatus::default()
        };
        let status = Status {
            shares: vec![share],
            uploads: vec![upload("a/b", 0, ""), upload("", 3, "access denied"), upload("", 0, "")],
            notices: vec!["the disk is full".into()],
            ..Status::default()
        };
        let lines = lines(&status);
        assert_eq!(lines.len(), 4, "{lines:?}");
        for (line, words) in lines.iter().zip([
            &["demo", "read-only", "no disk"][..],
            &["a/b", "1.00 MiB of 4.00 MiB"],
            &["failed 3x: access denied"],
            &["notice: the disk is full"],
        ]) {
            assert!(words.iter().all(|word| line.contains(word)), "{line}");
        }
    }
}
