//! `tidegate volume`: disks of a running gateway; `volume/offline.rs` is what needs none.

mod offline;

use std::io::Read;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

use super::{Exit, Json, fail, show};
use crate::config::{Config, Size, Span};
use crate::protocol::admin::client::Client;
use crate::protocol::admin::volumes::{VolumeAnswer, VolumeCommand};

/// The longest file with a secret, in bytes.
const SECRET_FILE_BYTES_MAX: u64 = 4096;

/// What is done with volumes.
#[derive(Subcommand, Debug)]
pub(super) enum Command {
    /// Make a volume; with --from as a clone, usable at once.
    Create(CreateArgs),
    /// List the volumes of this gateway.
    List {
        /// All that are in the bucket, whichever gateway has them.
        #[arg(long)]
        bucket: bool,
        #[command(flatten)]
        json: Json,
    },
    /// Show one.
    Show {
        /// Its name.
        name: String,
        #[command(flatten)]
        json: Json,
    },
    /// Look for objects of volumes in the bucket that nothing names, and remove those that were found so a day before. It is done daily by itself.
    Collect {
        /// Only say what there is.
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        json: Json,
    },
    /// Make a volume larger, while it is in use.
    Grow {
        /// Its name.
        name: String,
        /// To, like "200 GiB".
        #[arg(long)]
        size: Size,
    },
    /// Take over a volume that is in the bucket.
    Attach {
        /// Its id, as `tidegate volume list --bucket` shows it.
        id: String,
        /// What it is called from now on.
        #[arg(long)]
        name: Option<String>,
        /// Also from a gateway that did not detach it: what that gateway did not upload is lost, and it cannot change the volume any more.
        #[arg(long)]
        force: bool,
    },
    /// Give a volume up for another gateway: uploads what is new first.
    Detach {
        /// Its name.
        name: String,
        /// Give up after this long, like "10m"; the volume stays then.
        #[arg(long, value_name = "TIME")]
        timeout: Option<Span>,
    },
    /// Remove a volume and its snapshots, here and in S3.
    Delete {
        /// Its name.
        name: String,
        /// It is meant.
        #[arg(long)]
        yes: bool,
    },
    /// Say which initiators may reach a volume; none: all.
    Initiators {
        /// The volume's name.
        name: String,
        /// Their iSCSI names.
        initiators: Vec<String>,
    },
    /// Say what initiators have to prove (CHAP). Sessions that were made before end.
    Chap(ChapArgs),
    /// Whether writes are acknowledged before they survive power loss, as by any disk with a cache.
    WriteCache {
        /// The volume's name.
        name: String,
        /// On or off.
        state: Switch,
    },
    /// Snapshots.
    #[command(subcommand)]
    Snapshot(SnapshotCommand),
    #[command(flatten)]
    FromBucket(offline::FromBucket),
}

/// On or off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Switch {
    /// On.
    On,
    /// Off.
    Off,
}

#[derive(Args, Debug)]
pub(super) struct CreateArgs {
    /// Its name: a-z, 0-9, - and .
    name: String,
    /// Its size, like "100 GiB"; a clone is as large as its source where it is not given.
    #[arg(long, required_unless_present = "from")]
    size: Option<Size>,
    /// Bytes of a logical block: 512 or 4096.
    #[arg(long, default_value_t = 512)]
    block: u32,
    /// Whether writes are acknowledged before they survive power loss.
    #[arg(long, value_enum, default_value = "on")]
    write_cache: Switch,
    /// The volume that it is a clone of: its name here, or its id.
    #[arg(long, value_name = "VOLUME")]
    from: Option<String>,
    /// The snapshot of that volume; what S3 has of the volume now, where it is not given.
    #[arg(long, value_name = "ID", requires = "from")]
    snapshot: Option<String>,
    #[command(flatten)]
    json: Json,
}

#[derive(Args, Debug)]
pub(super) struct ChapArgs {
    /// The volume's name.
    name: String,
    /// The initiator's user name; without it, nothing has to be proved.
    #[arg(long, requires = "secret_file")]
    user: Option<String>,
    /// A file with the initiator's secret: 12 to 16 characters. "-" is standard input.
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
    /// The target's user name, for mutual CHAP.
    #[arg(long, requires = "target_secret_file", requires = "user")]
    target_user: Option<String>,
    /// A file with the target's secret.
    #[arg(long, value_name = "FILE")]
    target_secret_file: Option<PathBuf>,
}

/// What is done with snapshots.
#[derive(Subcommand, Debug)]
pub(super) enum SnapshotCommand {
    /// Take one, of this moment; it is in S3 when it is COMPLETED.
    Create {
        /// The volume's name.
        volume: String,
        /// What it is for.
        #[arg(long, default_value = "")]
        description: String,
        /// Return when it is in S3.
        #[arg(long)]
        wait: bool,
        #[command(flatten)]
        json: Json,
    },
    /// List those of a volume.
    List {
        /// The volume's name.
        volume: String,
        #[command(flatten)]
        json: Json,
    },
    /// Show one.
    Show {
        /// The volume's name.
        volume: String,
        /// The snapshot's id.
        id: String,
        #[command(flatten)]
        json: Json,
    },
    /// Remove one; others stay whole.
    Delete {
        /// The volume's name.
        volume: String,
        /// The snapshot's id.
        id: String,
    },
    /// Make a volume of one, usable at once.
    Restore {
        /// The volume's name, or its id.
        volume: String,
        /// The snapshot's id.
        id: String,
        /// The new volume's name.
        #[arg(long)]
        to: String,
        /// Its size, where it is to be larger.
        #[arg(long)]
        size: Option<Size>,
        #[command(flatten)]
        json: Json,
    },
}

pub(super) async fn run(config: &Config, command: Command) -> Exit {
    let client = Client::new(config.admin.listen);
    if let Command::FromBucket(command) = command {
        return offline::run(config, command).await;
    }
    match done(&client, command).await {
        Ok(exit) => exit,
        Err(reason) => fail(Exit::Failed, &reason),
    }
}

async fn done(client: &Client, command: Command) -> Result<Exit, String> {
    let (command, json) = match command {
        Command::Create(args) => {
            let json = args.json.json;
            let create = VolumeCommand::Create {
                name: args.name,
                len_bytes: args.size.map(|size| size.0),
                block_bytes: args.block,
                write_cache: args.write_cache == Switch::On,
                from: args.from,
                snapshot: args.snapshot,
            };
            (create, json)
        }
        Command::List { bucket: false, json } => (VolumeCommand::List, json.json),
        Command::List { bucket: true, json } => (VolumeCommand::ListBucket, json.json),
        Command::Show { name, json } => return show_one(client, &name, json.json).await,
        Command::Collect { dry_run, json } => (VolumeCommand::Collect { dry_run }, json.json),
        Command::Grow { name, size } => (VolumeCommand::Grow { name, len_bytes: size.0 }, false),
        Command::Attach { id, name, force } => (VolumeCommand::Attach { id, name, force }, false),
        Command::Detach { name, timeout } => {
            let limit = timeout.map_or(Duration::from_secs(3600), |span| span.0);
            (VolumeCommand::Detach { name, limit_ms: u64::try_from(limit.as_millis()).unwrap_or(u64::MAX) }, false)
        }
        Command::Delete { name, yes: true } => (VolumeCommand::Delete { name }, false),
        Command::Delete { name, yes: false } => {
            return Err(format!("this removes {name} and all of its snapshots, also in S3; say --yes if it is meant"));
        }
        Command::Initiators { name, initiators } => (VolumeCommand::Initiators { name, initiators }, false),
        Command::Chap(args) => (chap(args)?, false),
        Command::WriteCache { name, state } => (VolumeCommand::WriteCache { name, on: state == Switch::On }, false),
        Command::Snapshot(command) => return snapshot(client, command).await,
        Command::FromBucket(_) => return Ok(Exit::Usage),
    };
    Ok(shown(client.volume(&command).await?, json))
}

fn shown(answer: VolumeAnswer, json: bool) -> Exit {
    match answer {
        VolumeAnswer::Done => Exit::Ok,
        VolumeAnswer::Volumes(volumes) if json => show::json(&volumes),
        VolumeAnswer::Volumes(volumes) => show::volumes(&volumes),
        VolumeAnswer::Snapshots(snapshots) if json => show::json(&snapshots),
        VolumeAnswer::Snapshots(snapshots) => show::snapshots(&snapshots),
        VolumeAnswer::Collected(found) if json => show::json(&found),
        VolumeAnswer::Collected(found) => show::collection(&found),
    }
}

async fn show_one(client: &Client, name: &str, json: bool) -> Result<Exit, String> {
    let VolumeAnswer::Volumes(volumes) = client.volume(&VolumeCommand::List).await? else { return Ok(Exit::Failed) };
    let found = volumes.into_iter().find(|volume| volume.name == name || volume.id == name);
    let volume = found.ok_or_else(|| format!("there is no volume \"{name}\"; see `tidegate volume list`"))?;
    Ok(if json { show::json(&volume) } else { show::volume(&volume) })
}

async fn snapshots_of(client: &Client, volume: &str) -> Result<Vec<crate::protocol::admin::volumes::SnapshotStatus>, String> {
    match client.volume(&VolumeCommand::Snapshots { name: volume.to_owned() }).await? {
        VolumeAnswer::Snapshots(snapshots) => Ok(snapshots),
        _ => Err("the gateway's answer is not understood; is it another version?".into()),
    }
}

async fn snapshot(client: &Client, command: SnapshotCommand) -> Result<Exit, String> {
    match command {
        SnapshotCommand::Create { volume, description, wait, json } => {
            let taken = client.volume(&VolumeCommand::Snapshot { name: volume.clone(), description }).await?;
            let VolumeAnswer::Snapshots(mut taken) = taken else { return Ok(Exit::Failed) };
            while wait && taken.iter().any(|one| one.status == "PENDING") {
                tokio::time::sleep(Duration::from_millis(300)).await;
                let ids: Vec<String> = taken.into_iter().map(|one| one.id).collect();
                taken = snapshots_of(client, &volume).await?.into_iter().filter(|one| ids.contains(&one.id)).collect();
            }
            Ok(shown(VolumeAnswer::Snapshots(taken), json.json))
        }
        SnapshotCommand::List { volume, json } => {
            Ok(shown(VolumeAnswer::Snapshots(snapshots_of(client, &volume).await?), json.json))
        }
        SnapshotCommand::Show { volume, id, json } => {
            let found: Vec<_> = snapshots_of(client, &volume).await?.into_iter().filter(|one| one.id == id).collect();
            if found.is_empty() {
                return Err(format!("the volume has no snapshot {id}; see `tidegate volume snapshot list {volume}`"));
            }
            Ok(shown(VolumeAnswer::Snapshots(found), json.json))
        }
        SnapshotCommand::Delete { volume, id } => {
            Ok(shown(client.volume(&VolumeCommand::DeleteSnapshot { name: volume, id }).await?, false))
        }
        SnapshotCommand::Restore { volume, id, to, size, json } => {
            let restore = VolumeCommand::Create {
                name: to,
                len_bytes: size.map(|size| size.0),
                block_bytes: 512,
                write_cache: true,
                from: Some(volume),
                snapshot: Some(id),
            };
            Ok(shown(client.volume(&restore).await?, json.json))
        }
    }
}

fn chap(args: ChapArgs) -> Result<VolumeCommand, String> {
    let secret = |file: Option<PathBuf>| file.map(|file| read_secret(&file)).transpose();
    let initiator = args.user.zip(secret(args.secret_file)?);
    let target = args.target_user.zip(secret(args.target_secret_file)?);
    Ok(VolumeCommand::Chap { name: args.name, initiator, target })
}

/// A secret is not an argument: everybody on the machine sees those.
fn read_secret(file: &std::path::Path) -> Result<String, String> {
    let mut text = String::new();
    let read = if file.as_os_str() == "-" {
        std::io::stdin().take(SECRET_FILE_BYTES_MAX).read_to_string(&mut text)
    } else {
        std::fs::File::open(file).and_then(|file| file.take(SECRET_FILE_BYTES_MAX).read_to_string(&mut text))
    };
    read.map_err(|error| format!("{}: {error}", file.display()))?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}
