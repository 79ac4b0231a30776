//! `tidegate volume inspect|verify|export`: a volume out of the bucket, whether or not a gateway runs.

use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};

use crate::base::clock::SystemClock;
use crate::cli::{Exit, Json, fail, out, show};
use crate::config::{Config, Endpoint};
use crate::engine::volume::{Offline, VolumeId};
use crate::gateway::s3_settings;
use crate::protocol::s3::credentials;
use crate::store::blob::FetchError;
use crate::store::object::SharedStore;
use crate::store::object::layer::{self, stack};
use crate::store::object::local::{Bucket, Local};
use crate::store::object::s3::{self, Credentials};

/// Which state of which volume.
#[derive(Args, Debug)]
pub struct Which {
    /// The volume's id, as `tidegate volume list --bucket` shows it.
    id: String,
    /// One of its snapshots.
    #[arg(long, value_name = "ID")]
    snapshot: Option<String>,
}

/// What is done to it.
#[derive(clap::Subcommand, Debug)]
pub enum FromBucket {
    /// Say what a volume is made of in S3, from the bucket alone.
    Inspect {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        json: Json,
    },
    /// Read all of a volume in S3 and verify it, from the bucket alone.
    Verify {
        #[command(flatten)]
        which: Which,
    },
    /// Write a volume as it is in S3 to an image file, from the bucket alone.
    Export {
        #[command(flatten)]
        which: Which,
        /// The file, which must not exist.
        file: PathBuf,
        /// `raw`, or what `qemu-img` makes, as `qcow2`.
        #[arg(long, default_value = "raw")]
        format: String,
    },
}

enum ExportError {
    Fetch(FetchError),
    Write(io::Error),
}

impl From<FetchError> for ExportError {
    fn from(error: FetchError) -> Self {
        Self::Fetch(error)
    }
}

pub async fn run(config: &Config, command: FromBucket) -> Exit {
    match done(config, command).await {
        Ok(exit) => exit,
        Err(reason) => fail(Exit::Failed, &reason),
    }
}

async fn done(config: &Config, command: FromBucket) -> Result<Exit, String> {
    let which = match &command {
        FromBucket::Inspect { which, .. } | FromBucket::Verify { which } | FromBucket::Export { which, .. } => which,
    };
    let id = |text: &String| text.parse::<VolumeId>().map_err(|reason| format!("{text}: {reason}"));
    let (volume, snapshot) = (id(&which.id)?, which.snapshot.as_ref().map(id).transpose()?);
    let bucket = bucket(config).await?;
    let offline = Offline::open(bucket, &config.volumes.prefix, volume, snapshot).await.map_err(|error| error.to_string())?;
    match command {
        FromBucket::Inspect { json, .. } => {
            let found = offline.inspect().await.map_err(|error| error.to_string())?;
            Ok(if json.json { show::json(&found) } else { show::inspection(&found) })
        }
        FromBucket::Verify { .. } => {
            let bar = bar(offline.len_bytes());
            let faults = offline.verify(|at| bar.set_position(at)).await.map_err(|error| error.to_string())?;
            bar.finish_and_clear();
            if faults.is_empty() {
                return Ok(out::print(&[format!("{} bytes are as they should be", offline.len_bytes())]));
            }
            let lines: Vec<String> =
                faults.iter().map(|(range, why)| format!("bytes {} to {}: {why}", range.start, range.end)).collect();
            out::print(&lines);
            Err(format!("{} parts of the volume cannot be read", faults.len()))
        }
        FromBucket::Export { file, format, .. } if format == "raw" => export(&offline, &file).await,
        FromBucket::Export { file, format, .. } => {
            let raw = file.with_extension("raw.part");
            let exported = export(&offline, &raw).await;
            let converted = exported.and_then(|_| convert(&raw, &file, &format));
            let _ = std::fs::remove_file(&raw);
            converted
        }
    }
}

async fn export(offline: &Offline, path: &Path) -> Result<Exit, String> {
    let failed = |error: io::Error| format!("{}: {error}", path.display());
    let file = File::create_new(path).map_err(failed)?;
    file.set_len(offline.len_bytes()).map_err(failed)?;
    let bar = bar(offline.len_bytes());
    let written = offline.export(|at, bytes| {
        bar.set_position(at);
        file.write_all_at(&bytes, at).map_err(ExportError::Write)
    });
    let written = written.await.map_err(|error| match error {
        ExportError::Fetch(error) => error.to_string(),
        ExportError::Write(error) => failed(error),
    });
    bar.finish_and_clear();
    if let Err(reason) = written.and_then(|()| file.sync_all().map_err(failed)) {
        let _ = std::fs::remove_file(path);
        return Err(reason);
    }
    Ok(Exit::Ok)
}

fn convert(raw: &Path, file: &Path, format: &str) -> Result<Exit, String> {
    if file.exists() {
        return Err(format!("{} exists already", file.display()));
    }
    let converted = Command::new("qemu-img").args(["convert", "-f", "raw", "-O", format]).arg(raw).arg(file).status();
    match converted {
        Ok(status) if status.success() => Ok(Exit::Ok),
        Ok(_) => Err(format!("qemu-img could not make {format} of it")),
        Err(error) => Err(format!("qemu-img is needed for {format}: {error}; --format raw needs nothing")),
    }
}

fn bar(len_bytes: u64) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{wide_bar} {bytes}/{total_bytes} {eta}");
    ProgressBar::new(len_bytes).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// The bucket of volumes: through the endpoint, or, where that is the embedded one and nothing serves it, in its directory.
async fn bucket(config: &Config) -> Result<SharedStore, String> {
    let (volumes, settings) = (&config.volumes, layer::Settings::default());
    let s3 = volumes.s3.as_ref().unwrap_or(&config.s3);
    let mut reached = s3_settings(s3);
    match s3.kind() {
        Endpoint::Embedded => {
            let directory = config.data_dir.join("s3");
            if tokio::net::TcpStream::connect(config.embedded.listen).await.is_err() {
                if !directory.is_dir() {
                    return Err(format!("there is no embedded endpoint in {}", directory.display()));
                }
                let local = Local::open(&directory, Arc::new(SystemClock))
                    .await
                    .map_err(|error| format!("{}: {error}", directory.display()))?;
                return Ok(stack(Arc::new(Bucket::new(local, &volumes.bucket)), &volumes.bucket, &settings, None).store);
            }
            let file = directory.join("credentials");
            credentials::load_or_create(&file).map_err(|error| format!("{}: {error}", file.display()))?;
            reached.endpoint = Some(format!("http://{}", config.embedded.listen));
            reached.credentials = Credentials::File(file, None);
        }
        Endpoint::Url(_) | Endpoint::Aws => {}
    }
    let endpoint = s3::Endpoint::connect(&reached).await.map_err(|error| format!("[s3]: {error}"))?;
    Ok(stack(endpoint.bucket(&volumes.bucket, false), &volumes.bucket, &settings, None).store)
}
