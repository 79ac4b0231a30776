//! A tape library in memory without a gateway, for other people's programs and for benchmarks: `tape_library LISTEN [KEY=VALUE]...`. Prints the
//! address that it listens at and one line per target, and ends with its standard input.
//!
//! Targets: `iqn.2026-01.org.tidegate:mediachanger`, and a drive each at `…:tapedrive-01` and so on. In the first storage slots are cartridges
//! `TST001L5` and so on, in the first import/export slot is one that is written once, `WRM001LT`.
//! Keys: `drives=N` (2), `slots=N` (8), `ports=N` (4), `tapes=N` (5) of `mib=SIZE` (64), `drive=PRODUCT`, `changer=NAME` of a personality.

use std::io::Read;
use std::sync::Arc;

use tidegate::engine::tape::{Barcode, Cartridge, Forgetful, Layout, Library, MemoryReel};
use tidegate::protocol::iscsi::{Admission, Iscsi};
use tidegate::protocol::scsi::{Changer, ChangerModel, DriveModel, Keeper, LogicalUnit, LogicalUnitNumber, Lun, Tape};
use tokio::net::TcpListener;

const NAME: &str = "iqn.2026-01.org.tidegate";
const SERIAL: &str = "TDG00001";

struct Arguments {
    layout: (u16, u16, u16),
    tapes: u16,
    mib: u64,
    drive: &'static DriveModel,
    changer: &'static ChangerModel,
}

fn number<T: std::str::FromStr<Err = std::num::ParseIntError>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|error| format!("{text}: {error}"))
}

fn parse(arguments: impl Iterator<Item = String>) -> Result<Arguments, String> {
    let mut parsed =
        Arguments { layout: (2, 8, 4), tapes: 5, mib: 64, drive: &DriveModel::ALL[0], changer: &ChangerModel::ALL[0] };
    for argument in arguments {
        let (key, value) = argument.split_once('=').ok_or_else(|| format!("what is {argument}?"))?;
        match key {
            "drives" => parsed.layout.0 = number(value)?,
            "slots" => parsed.layout.1 = number(value)?,
            "ports" => parsed.layout.2 = number(value)?,
            "tapes" => parsed.tapes = number(value)?,
            "mib" => parsed.mib = number(value)?,
            "drive" => parsed.drive = DriveModel::find(value).ok_or_else(|| format!("no drive {value} is known"))?,
            "changer" => parsed.changer = ChangerModel::find(value).ok_or_else(|| format!("no changer {value} is known"))?,
            _ => return Err(format!("what is {argument}?")),
        }
    }
    Ok(parsed)
}

fn cartridge(barcode: &str, number: u16, mib: u64, is_worm: bool) -> Arc<Cartridge> {
    let mut id = [0; 16];
    id[..2].copy_from_slice(&number.to_le_bytes());
    Cartridge::new(Barcode::new(barcode).expect("a barcode"), Arc::new(MemoryReel::new(id, mib << 20, is_worm)))
}

/// The targets: the changer, the drives.
async fn offer(server: &Iscsi, arguments: &Arguments) -> Result<(), String> {
    let (drives, slots, ports) = arguments.layout;
    let library = Library::new(Layout::new(drives, slots, ports)?, SERIAL, Arc::new(Forgetful));
    for number in 1..=arguments.tapes {
        let slot = library.layout().slots.start + number - 1;
        let tape = cartridge(&format!("TST{number:03}L5"), number, arguments.mib, false);
        library.resume(slot, tape).await.map_err(|error| error.to_string())?;
    }
    library.import(cartridge("WRM001LT", 0, arguments.mib, true)).await.map_err(|error| error.to_string())?;
    let identities: Vec<_> = library.drives().iter().map(|drive| Tape::identity_of(drive, arguments.drive)).collect();
    let changer = Changer::new(library.clone(), arguments.changer, &format!("{SERIAL}-00"), &identities);
    put(server, "mediachanger", Arc::new(changer)).await?;
    for (number, drive) in library.drives().iter().enumerate() {
        let tape = Tape::new(drive.clone(), arguments.drive);
        put(server, &format!("tapedrive-{:02}", number + 1), Arc::new(tape)).await?;
    }
    Ok(())
}

async fn put(server: &Iscsi, name: &str, unit: Arc<dyn LogicalUnit>) -> Result<(), String> {
    let target = server.offer(&format!("{NAME}:{name}"), Admission::default())?;
    let lun = Lun::open(unit, Keeper::forgetful()).await.map_err(|error| error.to_string())?;
    target.put(LogicalUnitNumber::new(0).expect("a number"), lun);
    Ok(())
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let mut words = std::env::args().skip(1);
    let listen = words.next().unwrap_or_else(|| "127.0.0.1:3260".to_owned());
    let arguments = parse(words).map_err(std::io::Error::other)?;
    let server = Iscsi::new();
    offer(&server, &arguments).await.map_err(std::io::Error::other)?;
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
