//! Puts the store of one bucket together: the endpoint that the configuration names, under the decorators.
//!
//! Invariant: an endpoint that does not answer does not keep a share from opening: what it can do is asked again until it answers. Nor does one that
//! says what an operator has to mend (no such bucket, not allowed, not S3): a share waits only for what may pass by itself. Its uploads wait until it is known
//! what the endpoint does (`ObjectStore::ready`).

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::config::{Endpoint, S3Config};
use crate::store::object::layer::{self, stack};
use crate::store::object::local::Bucket;
use crate::store::object::probe;
use crate::store::object::s3::{self, S3Store};
use crate::store::object::{ObjectError, SharedStore, limit};

use super::Gateway;
use super::notices::About;

/// How long the first look at an endpoint may take before the share opens without it.
const FIRST_LOOK: Duration = Duration::from_secs(5);

/// The least time between two looks.
const PAUSE_MIN: Duration = Duration::from_millis(500);

/// A bucket that is wanted.
#[derive(Clone, Copy)]
pub(super) struct Wanted<'a> {
    /// Who wants it, in words for an operator and as notices have it: `share "photos"`, `[volumes]`.
    pub who: &'a str,
    /// The name that notices have it under.
    pub name: &'a str,
    /// The bucket.
    pub bucket: &'a str,
    /// Before all keys.
    pub prefix: &'a str,
    /// Where.
    pub s3: &'a S3Config,
    /// See the share's setting.
    pub requester_pays: bool,
}

/// The bucket's store, ready for use; `Err` is a sentence for the operator.
pub(super) async fn open(gateway: &Arc<Gateway>, wanted: Wanted<'_>) -> Result<SharedStore, String> {
    let Wanted { bucket, s3: config, .. } = wanted;
    let settings = layer::Settings {
        limit: limit::Settings {
            concurrency: config.concurrency,
            upload_bytes_per_second: config.upload_limit.map(|limit| limit.0),
            download_bytes_per_second: config.download_limit.map(|limit| limit.0),
        },
        ..layer::Settings::default()
    };
    if config.kind() == Endpoint::Embedded {
        let local = gateway.open_embedded().await?;
        local.ensure_bucket(bucket).await.map_err(|error| format!("bucket \"{bucket}\": {error}"))?;
        return Ok(stack(Arc::new(Bucket::new(local, bucket)), bucket, &settings, None).store);
    }
    let endpoint = s3::Endpoint::connect(&s3_settings(config)).await.map_err(|error| format!("[s3]: {error}"))?;
    let bare = endpoint.bucket(bucket, wanted.requester_pays);
    look(gateway, wanted, &bare).await;
    Ok(stack(bare, bucket, &settings, None).store)
}

/// How the endpoint that a configuration names is reached.
pub(crate) fn s3_settings(config: &S3Config) -> s3::Settings {
    let credentials = match (&config.credentials_file, &config.profile) {
        (Some(file), profile) => s3::Credentials::File(file.clone(), profile.clone()),
        (None, Some(profile)) => s3::Credentials::Profile(profile.clone()),
        (None, None) => s3::Credentials::Chain,
    };
    s3::Settings {
        endpoint: match config.kind() {
            Endpoint::Url(url) => Some(url),
            _ => None,
        },
        region: Some(config.region.clone()),
        credentials,
        ..s3::Settings::default()
    }
}

/// Finds out what the endpoint does; where it does not answer in time, goes on looking in the background.
async fn look(gateway: &Arc<Gateway>, wanted: Wanted<'_>, store: &Arc<S3Store>) {
    // A store that nobody uses any more is not asked any more.
    let store = Arc::downgrade(store);
    let (who, name, gateway) = (wanted.who.to_owned(), wanted.name.to_owned(), gateway.clone());
    let (prefix, bucket) = (wanted.prefix.to_owned(), wanted.bucket.to_owned());
    let (decided, first) = oneshot::channel::<()>();
    tokio::spawn(async move {
        let mut undecided = Some(decided);
        let mut wait = Duration::from_secs(1);
        loop {
            let Some(asked) = store.upgrade() else { return };
            let mut probing = std::pin::pin!(probe::adopt(&asked, &prefix));
            let found = tokio::select! {
                found = &mut probing => found,
                () = gateway.stop.cancelled() => {
                    asked.leave_unknown();
                    // It goes on, to leave nothing behind.
                    probing.await
                }
            };
            match found {
                Ok(found) => {
                    gateway.mended(&About::Endpoint(name.clone()));
                    let lacks = found.missing().join("; ");
                    if lacks.is_empty() {
                        gateway.mended(&About::Lacks(name));
                    } else {
                        gateway.notice(About::Lacks(name.clone()), format!("{who}: {lacks}"));
                    }
                    return;
                }
                Err(error) => {
                    gateway.notice(About::Endpoint(name.clone()), explain(&who, &bucket, &error));
                    undecided = undecided.filter(|_| error.is_transient());
                    asked.unknown(error);
                }
            }
            // Uploads wait for the answer, so one that is about to go asks at once.
            let pause = async {
                tokio::select! {
                    () = tokio::time::sleep(wait) => {}
                    () = asked.asked() => tokio::time::sleep(PAUSE_MIN).await,
                }
            };
            tokio::select! {
                () = pause => wait = (wait * 2).min(Duration::from_secs(60)),
                () = gateway.stop.cancelled() => return asked.leave_unknown(),
            }
        }
    });
    // The task goes on where this gives up. It lets go of its end when the endpoint has said what it is.
    let _ = tokio::time::timeout(FIRST_LOOK, first).await;
}

fn explain(who: &str, bucket: &str, error: &ObjectError) -> String {
    let remedy = match error {
        ObjectError::NoSuchBucket(_) => "create it, or correct the configuration's `bucket`",
        ObjectError::Denied(_) | ObjectError::Credentials(_) => "check the credentials and the bucket's policy",
        _ => "what is cached is served, what is written is kept, and it is tried again",
    };
    format!("{who}: bucket \"{bucket}\": {error}; {remedy}")
}
