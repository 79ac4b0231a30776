//! How volumes and snapshots look on a terminal.

use indicatif::HumanBytes;
use jiff::Timestamp;

use crate::cli::{Exit, out};
use crate::engine::volume::Inspection;
use crate::protocol::admin::volumes::{CollectionStatus, SnapshotStatus, VolumeStatus};

/// A moment in the gateway's time zone; "-" for none.
fn moment(seconds: i64) -> String {
    let when = Timestamp::from_second(seconds).ok().filter(|_| seconds > 0);
    when.map_or_else(|| "-".to_owned(), |when| when.to_zoned(jiff::tz::TimeZone::system()).strftime("%F %T %Z").to_string())
}

/// Lines of a table of volumes.
pub fn table(volumes: &[VolumeStatus]) -> Vec<String> {
    let mut lines = vec![format!(
        "{:<20} {:<13} {:>10} {:>10}  {:<24} {:<32}  GATEWAY",
        "VOLUME", "STATUS", "SIZE", "DIRTY", "RECOVERY POINT", "ID"
    )];
    lines.extend(volumes.iter().map(|volume| {
        format!(
            "{:<20} {:<13} {:>10} {:>10}  {:<24} {:<32}  {}",
            volume.name,
            volume.status,
            HumanBytes(volume.len_bytes).to_string(),
            HumanBytes(volume.dirty_bytes).to_string(),
            moment(volume.recovery_point_s),
            volume.id,
            volume.gateway
        )
    }));
    lines
}

/// A table of volumes.
pub fn volumes(volumes: &[VolumeStatus]) -> Exit {
    out::print(&table(volumes))
}

/// All of one.
pub fn volume(volume: &VolumeStatus) -> Exit {
    let or = |list: &[String], none: &str| if list.is_empty() { none.to_owned() } else { list.join(", ") };
    let switch = |on: bool| if on { "on" } else { "off" };
    out::print(&[
        format!("volume         {}", volume.name),
        format!("id             {}", volume.id),
        format!("status         {}", volume.status),
        format!("size           {} ({} bytes, blocks of {})", HumanBytes(volume.len_bytes), volume.len_bytes, volume.block_bytes),
        format!("target         {}", volume.target),
        format!("initiators     {}", or(&volume.initiators, "all")),
        format!("chap           {}", switch(volume.chap)),
        format!("sessions       {}", or(&volume.sessions, "none")),
        format!("write cache    {}", switch(volume.write_cache)),
        format!("dirty          {}", HumanBytes(volume.dirty_bytes)),
        format!("recovery point {}", moment(volume.recovery_point_s)),
    ])
}

/// What a volume is made of in S3.
pub fn inspection(found: &Inspection) -> Exit {
    out::print(&[
        format!("volume           {} {}", found.name, found.volume),
        format!("size             {} ({} bytes, blocks of {})", HumanBytes(found.len_bytes), found.len_bytes, found.block_bytes),
        format!("gateway          {}", if found.gateway.is_empty() { "none" } else { &found.gateway }),
        format!("attached         {} times", found.epoch),
        format!("recovery point   {}", moment(found.at_ns / 1_000_000_000)),
        format!("mapped           {} in {} pieces", HumanBytes(found.mapped_bytes), found.pieces),
        format!("stored           {} in {} segments", HumanBytes(found.stored_bytes), found.segments),
        format!("since checkpoint {} segments", found.since_checkpoint),
    ])
}

/// What a collection found.
pub fn collection(found: &CollectionStatus) -> Exit {
    let of = |count: u64, bytes: u64| format!("{count} objects, {}", HumanBytes(bytes));
    let verb = if found.dry_run { "due for removal" } else { "removed" };
    let mut lines = vec![
        format!("in the bucket      {}", of(found.objects, found.bytes)),
        format!("named by nothing   {}", of(found.unreferenced, found.unreferenced_bytes)),
        format!("{verb:<18} {} (found so a day before)", of(found.removed, found.removed_bytes)),
    ];
    lines.extend(found.keys.iter().map(|key| format!("  {key}")));
    out::print(&lines)
}

/// A table of snapshots.
pub fn snapshots(snapshots: &[SnapshotStatus]) -> Exit {
    let mut lines =
        vec![format!("{:<32} {:<16} {:<10} {:>10}  {:<24}  DESCRIPTION", "SNAPSHOT", "VOLUME", "STATUS", "SIZE", "TAKEN")];
    lines.extend(snapshots.iter().map(|snapshot| {
        format!(
            "{:<32} {:<16} {:<10} {:>10}  {:<24}  {}",
            snapshot.id,
            snapshot.volume,
            snapshot.status,
            HumanBytes(snapshot.len_bytes).to_string(),
            moment(snapshot.created_s),
            snapshot.description
        )
    }));
    out::print(&lines)
}
