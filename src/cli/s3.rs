//! `tidegate s3`: the embedded S3 endpoint alone.

use std::sync::Arc;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::stop::Stop;
use super::{Exit, S3Args, fail, out};
use crate::base::clock::SystemClock;
use crate::protocol::s3::{self, credentials};
use crate::store::object::local::Local;

pub(super) async fn run(args: S3Args) -> Exit {
    let signals = match Stop::catch() {
        Ok(signals) => signals,
        Err(exit) => return exit,
    };
    let local = match Local::open(&args.dir, Arc::new(SystemClock)).await {
        Ok(local) => local,
        Err(error) => return fail(Exit::Failed, &format!("{}: {error}", args.dir.display())),
    };
    let keys = match credentials::load_or_create(&args.dir.join("credentials")) {
        Ok(keys) => keys,
        Err(error) => return fail(Exit::Failed, &format!("{}: {error}", args.dir.display())),
    };
    let listener = match TcpListener::bind(args.listen).await {
        Ok(listener) => listener,
        Err(error) => return fail(Exit::Failed, &format!("cannot listen on {}: {error}; choose another --listen", args.listen)),
    };
    let address = listener.local_addr().unwrap_or(args.listen);
    out::say(format!("s3 endpoint http://{address}   keys in {}", args.dir.join("credentials").display()));
    let stop = CancellationToken::new();
    let server = tokio::spawn(s3::serve(listener, local.clone(), keys, stop.clone()));
    signals.asked().await;
    stop.cancel();
    let ended = server.await;
    local.close().await;
    match ended {
        Ok(Ok(())) => Exit::Ok,
        Ok(Err(error)) => fail(Exit::Failed, &error.to_string()),
        Err(error) => fail(Exit::Failed, &error.to_string()),
    }
}
