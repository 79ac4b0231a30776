//! Prints what a gateway answered, for people and as JSON.

use std::future::Future;
use std::time::Duration;

use indicatif::{HumanBytes, HumanDuration, MultiProgress, ProgressBar, ProgressStyle};
use serde::Serialize;

use super::{Exit, fail};
use crate::protocol::admin::{ProcedureStatus, ShareStatus, Status, UploadStatus};

/// Uploads that `status` shows at most.
const UPLOADS_SHOWN: usize = 20;

pub(super) fn json<T: Serialize + ?Sized>(value: &T) -> Exit {
    match serde_json::to_string_pretty(value) {
        Ok(text) => {
            println!("{text}");
            Exit::Ok
        }
        Err(error) => fail(Exit::Failed, &error.to_string()),
    }
}

pub(super) fn shares(status: &Status) -> Exit {
    println!("{:<20} {:<9} {:<30} {:>10} {:>6}  MOUNT", "SHARE", "STATE", "BUCKET", "DIRTY", "QUEUE");
    for share in &status.shares {
        let place = format!("{}/{}", share.bucket, share.prefix);
        println!(
            "{:<20} {:<9} {:<30} {:>10} {:>6}  {}",
            share.name,
            share.state,
            place,
            HumanBytes(share.dirty_bytes).to_string(),
            share.jobs,
            share.mount
        );
        if !share.reason.is_empty() {
            println!("    {}", share.reason);
        }
    }
    Exit::Ok
}

pub(super) fn share(share: &ShareStatus) -> Exit {
    println!("share        {}", share.name);
    println!("state        {} {}", share.state, share.reason);
    println!("bucket       {}/{}", share.bucket, share.prefix);
    println!("mount        {}", if share.mount.is_empty() { "none" } else { &share.mount });
    println!("nodes        {}", share.nodes);
    println!("dirty        {} of at most {}", HumanBytes(share.dirty_bytes), HumanBytes(share.dirty_bytes_max));
    println!("oldest dirty {}", age(share.oldest_dirty_s));
    println!("queue        {} ({} failing)", share.jobs, share.failing);
    Exit::Ok
}

pub(super) fn status(status: &Status) -> Exit {
    println!("tidegate {}  gateway {}", status.version, status.gateway);
    println!(
        "cache  {} of {} segments free, {} writable\n",
        status.cache.segments_free,
        status.cache.segments,
        HumanBytes(status.cache.writable_bytes)
    );
    shares(status);
    if status.uploads_total > 0 {
        println!("\nuploads: {}", status.uploads_total);
        for upload in status.uploads.iter().take(UPLOADS_SHOWN) {
            println!("  {}", line(upload));
        }
    }
    let nfs = &status.nfs;
    if nfs.connections > 0 || !nfs.mounts.is_empty() {
        println!("\nnfs: {} connections from {}", nfs.connections, nfs.clients.join(", "));
        for mount in &nfs.mounts {
            println!("  {mount}");
        }
        for procedure in &nfs.procedures {
            let ProcedureStatus { name, calls, errors, mean_us } = procedure;
            println!("  {name:<12} {calls:>12} calls {errors:>9} errors {mean_us:>9} µs");
        }
    }
    for notice in &status.notices {
        println!("\nnotice: {notice}");
    }
    Exit::Ok
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

/// Shows the status again and again, with a bar for each upload that runs, until the process is interrupted.
pub(super) async fn watch<F, R>(interval: Duration, look: F) -> Exit
where
    F: Fn() -> R,
    R: Future<Output = Result<Status, String>>,
{
    let screen = MultiProgress::new();
    let plain = ProgressStyle::with_template("{msg}").unwrap_or_else(|_| ProgressStyle::default_bar());
    let bars =
        ProgressStyle::with_template("{msg} {wide_bar} {bytes}/{total_bytes}").unwrap_or_else(|_| ProgressStyle::default_bar());
    let mut lines: Vec<ProgressBar> = Vec::new();
    loop {
        let status = match look().await {
            Ok(status) => status,
            Err(reason) => return fail(Exit::Failed, &reason),
        };
        let running: Vec<&UploadStatus> =
            status.uploads.iter().filter(|upload| !upload.key.is_empty()).take(UPLOADS_SHOWN).collect();
        let wanted = status.shares.len() + running.len();
        while lines.len() < wanted {
            lines.push(screen.add(ProgressBar::new(0)));
        }
        for gone in lines.drain(wanted..) {
            gone.finish_and_clear();
        }
        for (line, share) in lines.iter().zip(&status.shares) {
            line.set_style(plain.clone());
            line.set_message(format!(
                "{:<16} {:<8} dirty {:>10}  oldest {:<12} queue {} ({} failing) {}",
                share.name,
                share.state,
                HumanBytes(share.dirty_bytes).to_string(),
                age(share.oldest_dirty_s),
                share.jobs,
                share.failing,
                share.reason
            ));
        }
        for (line, upload) in lines[status.shares.len()..].iter().zip(running) {
            line.set_style(bars.clone());
            line.set_length(upload.total_bytes);
            line.set_position(upload.sent_bytes);
            line.set_message(format!("  {}", upload.key));
        }
        tokio::time::sleep(interval).await;
    }
}
