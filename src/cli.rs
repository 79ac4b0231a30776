//! The command line.
//!
//! What lives here: the commands and their arguments; `cli/serve.rs` runs a gateway, `cli/listen.rs` its listeners, `cli/s3.rs` the embedded endpoint alone, `cli/check.rs`
//! reads and prints the configuration, `cli/salvage.rs` rescues files without a database, `cli/ask.rs` asks a running gateway, `cli/volume.rs` about volumes, `cli/show.rs` shows what it answers, `cli/user.rs` keeps the users of SMB; `cli/out.rs` is standard output.
//!
//! Invariant: what goes wrong is one line on standard error that names the thing and the remedy; the exit code says which kind it was.

mod ask;
mod check;
mod listen;
mod out;
mod s3;
mod salvage;
mod serve;
mod show;
mod stop;
mod user;
mod volume;

use std::io::{IsTerminal as _, Write as _};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::config::{Config, Span};
use crate::protocol::smb::sessions;

/// How the program ends, as sysexits(3) numbers it where it has a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// All is well.
    Ok = 0,
    /// It could not be done.
    Failed = 1,
    /// The command line is wrong.
    Usage = 2,
    /// Not within the time given.
    TimedOut = 3,
    /// The configuration is wrong (`EX_CONFIG`): starting again will not help.
    Config = 78,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// A storage gateway: files on S3.
#[derive(Parser, Debug)]
#[command(name = "tidegate", version, about, max_term_width = 100)]
struct CommandLine {
    /// The gateway's configuration; ./tidegate.toml where it is not given and exists.
    #[arg(long, short, global = true, value_name = "FILE", env = "TIDEGATE_CONFIG")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Run the gateway. Without any configuration: the embedded S3 endpoint and every share of ./shares.
    Serve,
    /// Read the configuration, say what is wrong with it, and print what is in force.
    Check(CheckArgs),
    /// The shares of a running gateway.
    #[command(subcommand)]
    Share(ShareCommand),
    /// What a running gateway is doing: shares, dirty bytes, uploads, what fails and why.
    Status(StatusArgs),
    /// The upload queue of a running gateway.
    #[command(subcommand)]
    Upload(UploadCommand),
    /// Disks, served by iSCSI.
    #[command(subcommand)]
    Volume(volume::Command),
    /// The users of SMB. What is changed is in force at once, also where the gateway runs.
    #[command(subcommand)]
    User(UserCommand),
    /// SMB of a running gateway.
    #[command(subcommand)]
    Smb(SmbCommand),
    /// Run the embedded S3 endpoint alone.
    S3(S3Args),
}

#[derive(Subcommand, Debug)]
enum ShareCommand {
    /// List them.
    List(Json),
    /// Show one.
    Show {
        /// Its name.
        name: String,
        #[command(flatten)]
        json: Json,
    },
    /// Look at the bucket again for what others wrote, now.
    Refresh {
        /// The share's name.
        name: String,
        /// Only this directory and what is below it.
        #[arg(default_value = "")]
        path: String,
    },
}

#[derive(Subcommand, Debug)]
enum UploadCommand {
    /// Return when all that was written before this call is in S3.
    Wait {
        /// Only this share.
        #[arg(long)]
        share: Option<String>,
        /// Give up after this long, like "10m" (exit code 3).
        #[arg(long, value_name = "TIME")]
        timeout: Option<Span>,
    },
}

#[derive(Subcommand, Debug)]
enum UserCommand {
    /// Add one; the password is asked for, or is the first line of standard input.
    Add {
        /// The name; "smbguest" is the guest of shares that let one in.
        name: String,
        /// A group, for lists of shares ("@GROUP"); may be given several times.
        #[arg(long = "group", value_name = "GROUP")]
        groups: Vec<String>,
    },
    /// Give one another password; sessions of the old one end.
    Passwd {
        /// The name.
        name: String,
    },
    /// Put one into these groups and no others.
    Groups {
        /// The name.
        name: String,
        /// The groups; none: of no group.
        groups: Vec<String>,
    },
    /// Let one log on no longer, and end the sessions there are.
    Disable {
        /// The name.
        name: String,
    },
    /// Let one log on again.
    Enable {
        /// The name.
        name: String,
    },
    /// Remove one.
    Remove {
        /// The name.
        name: String,
    },
    /// List them, without passwords.
    List(Json),
}

#[derive(Subcommand, Debug)]
enum SmbCommand {
    /// Who is connected.
    Sessions {
        /// End all sessions of this user first; who has the password may connect again.
        #[arg(long, value_name = "USER")]
        close: Option<String>,
        #[command(flatten)]
        json: Json,
    },
}

#[derive(Args, Debug)]
struct CheckArgs {
    /// Rescue what was not uploaded yet from a cache directory whose database is lost: every such file is written to DIR, which
    /// has to be empty or new, with a report. Cache and database are left as they are.
    #[arg(long, value_name = "DIR")]
    salvage: Option<PathBuf>,
}

#[derive(Args, Debug)]
struct Json {
    /// As JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Args, Debug)]
struct StatusArgs {
    /// Again each second, until interrupted: with progress bars on a terminal, else as plain lines; with --json one document a line.
    #[arg(long, short)]
    watch: bool,
    #[command(flatten)]
    json: Json,
}

#[derive(Args, Debug)]
struct S3Args {
    /// The directory that holds the buckets; created where it does not exist.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// Where to listen.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9000")]
    listen: SocketAddr,
}

/// Parses the arguments and runs the command.
pub fn main() -> ExitCode {
    let line = CommandLine::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(workers()).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(Exit::Failed, &format!("no threads could be started: {error}")).into(),
    };
    let exit = runtime.block_on(run(line));
    // What is still blocked (a disk that does not answer) must not hold up the end.
    runtime.shutdown_timeout(std::time::Duration::from_secs(5));
    exit.into()
}

/// Short disk reads and writes are done on the runtime's own threads: so there are more of them than cores.
fn workers() -> usize {
    std::thread::available_parallelism().map_or(8, |cores| (cores.get() * 2).clamp(8, 64))
}

async fn run(line: CommandLine) -> Exit {
    if let Command::S3(args) = line.command {
        start_log();
        return s3::run(args).await;
    }
    let config = match Config::load(line.config.as_deref()) {
        Ok(config) => config,
        Err(error) => return fail(Exit::Config, &error.to_string()),
    };
    match line.command {
        Command::Serve => {
            start_log();
            serve::run(config).await
        }
        Command::Check(CheckArgs { salvage: None }) => check::run(&config),
        Command::Check(CheckArgs { salvage: Some(target) }) => salvage::run(&config, &target),
        Command::Share(command) => ask::share(&config, command).await,
        Command::Status(args) => ask::status(&config, &args).await,
        Command::Upload(UploadCommand::Wait { share, timeout }) => ask::wait(&config, share, timeout).await,
        Command::Volume(command) => volume::run(&config, command).await,
        Command::User(command) => user::run(&config, command).await,
        Command::Smb(SmbCommand::Sessions { close, json }) => ask::sessions(&config, close, json.json).await,
        Command::S3(_) => Exit::Usage,
    }
}

/// The log goes to standard error; `RUST_LOG` chooses what is in it.
fn start_log() {
    use tracing_subscriber::Layer;
    use tracing_subscriber::layer::SubscriberExt;
    use tracing_subscriber::util::SubscriberInitExt;
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| {
        let smb = sessions::LOG_FILTER;
        tracing_subscriber::EnvFilter::new(format!("info,fuser=warn,aws=warn,sqlx=warn,hyper=warn,s3s=warn,{smb}"))
    });
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(std::io::stderr().is_terminal())
        .with_filter(filter);
    // A second subscriber is only there in tests that run several commands in one process.
    let _ = tracing_subscriber::registry().with(sessions::layer()).with(lines).try_init();
}

fn fail(exit: Exit, reason: &str) -> Exit {
    // Where nobody reads, the exit code still says it.
    let _ = writeln!(std::io::stderr(), "tidegate: {reason}");
    exit
}
