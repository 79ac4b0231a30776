//! Endpoint, region, credentials and checksums: one client for all buckets of an endpoint.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use aws_config::profile::ProfileFileCredentialsProvider;
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_runtime::env_config::file::{EnvConfigFileKind, EnvConfigFiles};
use aws_sdk_s3::Client;
use aws_sdk_s3::config::{
    Builder, RequestChecksumCalculation, ResponseChecksumValidation, SharedCredentialsProvider, StalledStreamProtectionConfig,
};

use super::known::Known;
use super::{S3Store, Timeouts};
use crate::store::object::{Capabilities, ObjectError};

/// Where keys come from.
#[derive(Clone, Default)]
pub enum Credentials {
    /// AWS's chain: environment, files, container, instance; with this profile where one is given.
    #[default]
    Chain,
    /// [`Credentials::Chain`] with a profile.
    Profile(String),
    /// A file in AWS's credentials format, and a profile in it (`default` where none is given). Nothing else is asked.
    File(PathBuf, Option<String>),
    /// These.
    Keys {
        /// Access key id.
        access: String,
        /// Secret access key.
        secret: String,
        /// Session token, for temporary keys.
        session: Option<String>,
    },
}

/// Says where the keys come from, never what they are.
impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Chain => write!(f, "Chain"),
            Self::Profile(profile) => write!(f, "Profile({profile})"),
            Self::File(path, profile) => write!(f, "File({}, {profile:?})", path.display()),
            Self::Keys { access, .. } => write!(f, "Keys({access})"),
        }
    }
}

/// What an [`Endpoint`] is connected by.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// A URL; `None` is AWS (or what `AWS_ENDPOINT_URL` says).
    pub endpoint: Option<String>,
    /// The region; `None` asks AWS's chain. Endpoints that are not AWS get `us-east-1` where nobody knows one.
    pub region: Option<String>,
    /// Keys.
    pub credentials: Credentials,
    /// Whether a bucket is in the path rather than in the host's name; `None`: for all endpoints that are not AWS.
    pub path_style: Option<bool>,
    /// How long requests may take.
    pub timeouts: Timeouts,
}

/// An S3, from which buckets are opened. Its client (and connections) is shared by all of them.
#[derive(Clone)]
pub struct Endpoint {
    client: Client,
    aws: bool,
    timeouts: Timeouts,
}

impl Endpoint {
    /// Prepares a client. Sends nothing to the endpoint; wrong keys show at the first request.
    ///
    /// # Errors
    /// `Invalid` where it is AWS and nobody says which region.
    pub async fn connect(settings: &Settings) -> Result<Self, ObjectError> {
        let shared = load(settings).await;
        let url = settings.endpoint.as_deref().or(shared.endpoint_url());
        let aws = url.is_none_or(is_aws);
        if shared.region().is_none() && aws {
            return Err(ObjectError::Invalid("no AWS region is known: set `region` under [s3], or AWS_REGION".into()));
        }
        let config = configure(&shared, settings, aws);
        Ok(Self { client: Client::from_conf(config.build()), aws, timeouts: settings.timeouts })
    }

    /// Opens a bucket. Sends nothing.
    pub fn bucket(&self, name: &str, requester_pays: bool) -> Arc<S3Store> {
        Arc::new(S3Store {
            client: self.client.clone(),
            bucket: name.to_owned(),
            requester_pays,
            aws: self.aws,
            timeouts: self.timeouts,
            known: Known::new(self.aws.then_some(Capabilities::AWS)),
            checksums: AtomicBool::new(false),
        })
    }
}

/// Whether a URL is one of AWS's own.
fn is_aws(url: &str) -> bool {
    let host = url.split_once("://").map_or(url, |(_, rest)| rest);
    let host = host.split(['/', ':', '?']).next().unwrap_or_default();
    [".amazonaws.com", ".amazonaws.com.cn"].iter().any(|suffix| host.ends_with(suffix))
}

async fn load(settings: &Settings) -> SdkConfig {
    let mut loader = aws_config::defaults(BehaviorVersion::latest());
    if let Some(region) = &settings.region {
        loader = loader.region(Region::new(region.clone()));
    }
    loader = match &settings.credentials {
        Credentials::Chain => loader,
        Credentials::Profile(profile) => loader.profile_name(profile),
        Credentials::File(path, profile) => loader.credentials_provider(from_file(path.clone(), profile.clone())),
        Credentials::Keys { access, secret, session } => {
            loader.credentials_provider(aws_sdk_s3::config::Credentials::new(access, secret, session.clone(), None, "tidegate"))
        }
    };
    loader.load().await
}

fn from_file(path: PathBuf, profile: Option<String>) -> SharedCredentialsProvider {
    let files = EnvConfigFiles::builder().with_file(EnvConfigFileKind::Credentials, path).build();
    let provider = ProfileFileCredentialsProvider::builder().profile_files(files);
    SharedCredentialsProvider::new(provider.profile_name(profile.unwrap_or_else(|| "default".into())).build())
}

fn configure(shared: &SdkConfig, settings: &Settings, aws: bool) -> Builder {
    let timeouts = settings.timeouts;
    let mut config = aws_sdk_s3::config::Builder::from(shared)
        .retry_config(RetryConfig::disabled())
        // The rest of a request's time is bounded by the store, which knows the length of the body.
        .timeout_config(TimeoutConfig::builder().connect_timeout(timeouts.connect).build())
        .stalled_stream_protection(StalledStreamProtectionConfig::enabled().grace_period(timeouts.stall).build())
        .force_path_style(settings.path_style.unwrap_or(!aws));
    if let Some(url) = &settings.endpoint {
        config = config.endpoint_url(url);
    }
    if shared.region().is_none() {
        config = config.region(Region::new("us-east-1"));
    }
    if !aws {
        // Trailers with checksums, which AWS has wanted since 2025, are what many other endpoints fail on.
        config = config
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
    }
    config
}
