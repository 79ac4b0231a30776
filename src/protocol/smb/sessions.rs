//! Who is connected, as the crate's log tells it: it has no other way to say.
//!
//! What lives here: [`layer`], a listener to the log that keeps one entry for each connection, and [`sessions`]. Invariant: an entry goes when its
//! connection goes; there are as many as connections at most. What the crate does not log is not known: whether a session signs or encrypts, and
//! when a user logs off on a connection that stays.

use std::collections::BTreeMap;
use std::fmt;

use parking_lot::Mutex;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

/// The crate's log.
const TARGET: &str = "smb_server";
/// What of the crate's log is worth showing where nobody asked for more: trouble and logons, and the span that names the client.
pub const LOG_FILTER: &str = "smb_server=warn,smb_server::server=info,smb_server::handlers::session_setup=info";
/// Users and shares that are told of one connection.
const TOLD_MAX: usize = 16;

/// All connections, by their span. One for the process, as its log is.
static CONNECTIONS: Mutex<BTreeMap<u64, Session>> = Mutex::new(BTreeMap::new());

/// One connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Session {
    /// Address and port of the client.
    pub client: String,
    /// The protocol's version, once it was negotiated.
    pub dialect: String,
    /// Users that logged on.
    pub users: Vec<String>,
    /// Shares that were connected.
    pub shares: Vec<String>,
    /// Logons that failed.
    pub failed_logons: u64,
}

/// Every connection there is.
pub fn sessions() -> Vec<Session> {
    CONNECTIONS.lock().values().cloned().collect()
}

/// Listens to the log, whatever else of it is shown.
pub fn layer<S: Subscriber + for<'a> LookupSpan<'a>>() -> impl Layer<S> {
    // A filter that is known beforehand: what nobody wants costs nothing, in all of the program.
    Listener.with_filter(Targets::new().with_target(TARGET, Level::INFO))
}

struct Listener;

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Listener {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, _: Context<'_, S>) {
        if attributes.metadata().name() == "conn" {
            let mut fields = Fields::default();
            attributes.record(&mut fields);
            let session = Session { client: fields.take("peer"), ..Session::default() };
            CONNECTIONS.lock().insert(id.into_u64(), session);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let Some(mut scope) = context.event_scope(event) else { return };
        let Some(span) = scope.find(|span| span.name() == "conn") else { return };
        let mut fields = Fields::default();
        event.record(&mut fields);
        if let Some(session) = CONNECTIONS.lock().get_mut(&span.id().into_u64()) {
            session.note(&mut fields);
        }
    }

    fn on_close(&self, id: Id, _: Context<'_, S>) {
        CONNECTIONS.lock().remove(&id.into_u64());
    }
}

impl Session {
    fn note(&mut self, fields: &mut Fields) {
        let add = |list: &mut Vec<String>, item: String| {
            if list.len() < TOLD_MAX && !list.contains(&item) {
                list.push(item);
            }
        };
        match fields.take("message").as_str() {
            "NEGOTIATE complete" => self.dialect = dialect(&fields.take("dialect")),
            "session established" => add(&mut self.users, fields.take("identity")),
            "tree connect" => add(&mut self.shares, fields.take("share")),
            "NTLM authenticate failed" => self.failed_logons += 1,
            _ => {}
        }
    }
}

/// `Smb311` → `3.1.1`.
fn dialect(name: &str) -> String {
    let digits = name.strip_prefix("Smb").unwrap_or(name);
    if digits.len() == 3 && digits.bytes().all(|byte| byte.is_ascii_digit()) {
        digits.chars().map(String::from).collect::<Vec<_>>().join(".")
    } else {
        name.to_owned()
    }
}

/// Fields as text.
#[derive(Default)]
struct Fields(BTreeMap<&'static str, String>);

impl Fields {
    fn take(&mut self, name: &str) -> String {
        self.0.remove(name).unwrap_or_default()
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name(), value.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing_subscriber::layer::SubscriberExt;

    #[test]
    fn what_is_not_listened_to_costs_nothing() {
        use tracing::level_filters::LevelFilter;
        let hint = Layer::<tracing_subscriber::Registry>::max_level_hint(&layer::<tracing_subscriber::Registry>());
        assert_eq!(hint, Some(LevelFilter::INFO));
    }

    #[test]
    fn a_connection_is_known_from_its_log() {
        let of_test = || sessions().into_iter().filter(|session| session.client == "192.0.2.7:445").collect::<Vec<_>>();
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer()), || {
            let span = tracing::info_span!(target: "smb_server::server", "conn", peer = %"192.0.2.7:445");
            span.in_scope(|| {
                tracing::info!(target: "smb_server::x", dialect = ?"Smb311", "NEGOTIATE complete");
                tracing::info!(target: "smb_server::x", "NTLM authenticate failed");
                for _ in 0..2 {
                    tracing::info!(target: "smb_server::x", identity = %"ana", "session established");
                    tracing::info!(target: "smb_server::x", share = %"demo", "tree connect");
                }
                tracing::debug!(target: "smb_server::x", share = %"secret", "tree connect");
                tracing::info!(target: "elsewhere", share = %"other", "tree connect");
            });
            let expected = Session {
                client: "192.0.2.7:445".into(),
                dialect: "\"Smb311\"".into(),
                users: vec!["ana".into()],
                shares: vec!["demo".into()],
                failed_logons: 1,
            };
            assert_eq!(of_test(), [expected]);
        });
        assert_eq!(of_test(), []);
        assert_eq!((dialect("Smb202").as_str(), dialect("Smb302").as_str(), dialect("?").as_str()), ("2.0.2", "3.0.2", "?"));
    }
}
