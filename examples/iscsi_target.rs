//! An iSCSI target without a gateway, for suites of others and for benchmarks: `iscsi_target LISTEN [KEY=VALUE]...`. Prints the address
//! that it listens at and one line per target, and ends with its standard input.
//!
//! Targets: `iqn.2026-01.org.tidegate:disk` (unit 0: memory, unit 1: read-only, unit 2: blocks of 4096 bytes), the same with CHAP at `…:chap` (user `user`, password
//! `password-of-16`, mutual `target` with `secret-of-target`), and with `file=PATH` a disk in an image file at `…:file`.
//! Keys: `mib=SIZE` of the disks (64), `file=PATH`, `aptpl=DIRECTORY` for reservations that survive.

use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;

use tidegate::engine::volume::{BlockDevice, FileDisk, RamDisk};
use tidegate::protocol::iscsi::{Admission, Chap, Credential, Iscsi};
use tidegate::protocol::scsi::{Disk, Keeper, LogicalUnitNumber, Lun, Target};
use tokio::net::TcpListener;

const BLOCK_BYTES: u32 = 512;
const NAME: &str = "iqn.2026-01.org.tidegate";

async fn put(target: &Target, number: u16, device: Arc<dyn BlockDevice>, serial: &str, directory: Option<&PathBuf>) {
    let keeper = directory.map_or_else(Keeper::forgetful, |directory| Keeper::file(directory.join(serial)));
    let lun = Lun::open(Arc::new(Disk::new(device, "DISK", serial)), keeper).await.expect("reservations that were kept");
    target.put(LogicalUnitNumber::new(number).expect("a number"), lun);
}

fn credential(name: &str, secret: &str) -> Credential {
    Credential { name: name.to_owned(), secret: secret.as_bytes().to_vec() }
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let listen = arguments.next().unwrap_or_else(|| "127.0.0.1:3260".to_owned());
    let (mut mib, mut file, mut aptpl) = (64_u64, None, None);
    for argument in arguments {
        match argument.split_once('=') {
            Some(("mib", value)) => mib = value.parse().map_err(std::io::Error::other)?,
            Some(("file", value)) => file = Some(PathBuf::from(value)),
            Some(("aptpl", value)) => aptpl = Some(PathBuf::from(value)),
            _ => return Err(std::io::Error::other(format!("what is {argument}?"))),
        }
    }
    let blocks = (mib << 20) / u64::from(BLOCK_BYTES);
    let server = Iscsi::new();
    let offer = |kind: &str, admission| server.offer(&format!("{NAME}:{kind}"), admission).map_err(std::io::Error::other);

    let disk = offer("disk", Admission::default())?;
    put(&disk, 0, Arc::new(RamDisk::new(blocks, BLOCK_BYTES)), "disk-0", aptpl.as_ref()).await;
    let read_only = RamDisk::new(blocks, BLOCK_BYTES);
    read_only.set_read_only(true);
    put(&disk, 1, Arc::new(read_only), "disk-1", aptpl.as_ref()).await;
    put(&disk, 2, Arc::new(RamDisk::new((mib << 20) / 4096, 4096)), "disk-2", aptpl.as_ref()).await;

    let chap = Chap { initiator: credential("user", "password-of-16"), target: Some(credential("target", "secret-of-target")) };
    let protected = offer("chap", Admission { chap: Some(chap), ..Admission::default() })?;
    put(&protected, 0, Arc::new(RamDisk::new(blocks, BLOCK_BYTES)), "chap-0", aptpl.as_ref()).await;

    if let Some(path) = &file {
        let target = offer("file", Admission::default())?;
        put(&target, 0, Arc::new(FileDisk::open(path, blocks, BLOCK_BYTES)?), "file-0", aptpl.as_ref()).await;
    }

    let listener = TcpListener::bind(listen).await?;
    println!("{}", listener.local_addr()?);
    for name in server.status().targets {
        println!("{name}");
    }
    let serving = tokio::spawn(server.clone().serve(listener));
    tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new())).await.ok();
    server.drain().await;
    serving.await.map_err(std::io::Error::other)?
}
