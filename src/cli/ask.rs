//! The commands that ask a running gateway, over its admin address.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::{Exit, ShareCommand, StatusArgs, fail, show};
use crate::config::{Config, Span};
use crate::protocol::admin::client::Client;
use crate::protocol::admin::{ShareStatus, Status};

/// How often `--watch` and progress bars look.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

fn client(config: &Config) -> Client {
    Client::new(config.admin.listen)
}

pub(super) async fn share(config: &Config, command: ShareCommand) -> Exit {
    match command {
        ShareCommand::List(json) => match client(config).status().await {
            Ok(status) if json.json => show::json(&status.shares),
            Ok(status) => show::shares(&status),
            Err(reason) => fail(Exit::Failed, &reason),
        },
        ShareCommand::Show { name, json } => match client(config).status().await {
            Ok(status) => one(&status, &name, json.json),
            Err(reason) => fail(Exit::Failed, &reason),
        },
        ShareCommand::Refresh { name, path } => match client(config).refresh(&name, &path).await {
            Ok(()) => Exit::Ok,
            Err(reason) => fail(Exit::Failed, &reason),
        },
    }
}

fn one(status: &Status, name: &str, json: bool) -> Exit {
    let found: Option<&ShareStatus> = status.shares.iter().find(|share| share.name == name);
    match found {
        None => fail(Exit::Failed, &format!("there is no share \"{name}\"; see `tidegate share list`")),
        Some(share) if json => show::json(share),
        Some(share) => show::share(share),
    }
}

/// SMB connections; those of `close` are ended first.
pub(super) async fn sessions(config: &Config, close: Option<String>, json: bool) -> Exit {
    let client = client(config);
    if let Some(user) = close
        && let Err(reason) = client.end_sessions(&user).await
    {
        return fail(Exit::Failed, &reason);
    }
    match client.status().await {
        Ok(status) if json => show::json(&status.smb.sessions),
        Ok(status) => show::sessions(&status),
        Err(reason) => fail(Exit::Failed, &reason),
    }
}

pub(super) async fn status(config: &Config, args: &StatusArgs) -> Exit {
    let client = client(config);
    if args.watch {
        // The screen is drawn on standard error; who pipes standard output somewhere wants lines there.
        let is_terminal = std::io::stdout().is_terminal() && std::io::stderr().is_terminal();
        let view = match (args.json.json, is_terminal) {
            (true, _) => show::View::Json,
            (false, true) => show::View::Screen,
            (false, false) => show::View::Lines,
        };
        return show::watch(LOOK_INTERVAL, view, || client.status()).await;
    }
    match client.status().await {
        Ok(status) if args.json.json => show::json(&status),
        Ok(status) => show::status(&status),
        Err(reason) => fail(Exit::Failed, &reason),
    }
}

/// Waits, with a bar of what is left where it is a terminal.
pub(super) async fn wait(config: &Config, share: Option<String>, timeout: Option<Span>) -> Exit {
    let client = client(config);
    let waited = client.wait_for_uploads(share.as_deref(), timeout.map(|span| span.0));
    tokio::pin!(waited);
    let bar = std::io::stderr().is_terminal().then(|| {
        let style = ProgressStyle::with_template("{spinner} {msg} {wide_bar} {pos}/{len}");
        ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar())).with_message("uploading")
    });
    let mut ticks = tokio::time::interval(LOOK_INTERVAL);
    let outcome = loop {
        tokio::select! {
            outcome = &mut waited => break outcome,
            _ = ticks.tick() => if let (Some(bar), Ok(status)) = (&bar, client.status().await) {
                let length = bar.length().unwrap_or(0).max(status.uploads_total);
                bar.set_length(length);
                bar.set_position(length - status.uploads_total);
            },
        }
    };
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    match outcome {
        Ok(true) => Exit::Ok,
        Ok(false) => fail(Exit::TimedOut, "not everything is in S3 yet; `tidegate status` says what is left and why"),
        Err(reason) => fail(Exit::Failed, &reason),
    }
}
