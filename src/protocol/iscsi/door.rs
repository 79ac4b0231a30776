//! A socket's life: login, session, end.
//!
//! Invariants: a login ends in time, or makes room for another; a session is known to its target until nothing of it is under way,
//! however its task ends.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;

use super::Iscsi;
use super::budget::{Knock, Seat};
use super::connection::{Connection, End};
use super::inbox::Inbox;
use super::login::{Accepted, Login, Refusal, Step};
use super::outbox::Outbox;
use super::target::{Offer, Session};

/// The longest data segment before anything is negotiated (RFC 7143 §13.12), in bytes.
const LOGIN_BYTES_MAX: usize = 8192;
/// How long a login may take.
const LOGIN_TIME_MAX: Duration = Duration::from_secs(15);
/// Serves a connection until it ends.
pub(super) async fn serve(server: Arc<Iscsi>, socket: TcpStream, peer: SocketAddr, knock: Knock) {
    if let Err(error) = socket.set_nodelay(true) {
        tracing::debug!(%peer, %error, "TCP_NODELAY");
    }
    let mut inbox = Inbox::new(LOGIN_BYTES_MAX);
    let mut login = Login::default();
    let logged_in = tokio::select! {
        logged_in = timeout(LOGIN_TIME_MAX, log_in(&server, &socket, peer, &mut inbox, &mut login)) => logged_in.unwrap_or(Err(End::Late)),
        () = knock.evicted.cancelled() => Err(End::Late),
        () = server.stop.cancelled() => Err(End::Told),
    };
    drop(knock);
    let (accepted, registered, seat) = match logged_in {
        Ok(logged_in) => logged_in,
        Err(end) => {
            match end {
                End::Closed | End::Told => tracing::debug!(%peer, reason = %end, "no login"),
                _ => tracing::warn!(%peer, initiator = login.initiator(), reason = %end, "no login"),
            }
            return;
        }
    };
    let session = registered.1.clone();
    let name = accepted.target.as_ref().map_or("discovery", |target| &target.name).to_owned();
    tracing::info!(target = name, initiator = session.initiator, %peer, "a session begins");
    let connection = Connection::new(server, socket, session.clone(), &accepted, inbox);
    let end = connection.run().await;
    match &end {
        End::Fault(_) | End::Protocol(_) | End::Stalled | End::Broken => {
            tracing::warn!(target = name, initiator = session.initiator, reason = %end, "a session was ended");
        }
        _ => tracing::info!(target = name, initiator = session.initiator, reason = %end, "a session ended"),
    }
    drop(registered);
    drop(seat);
}

type LoggedIn = (Accepted, Registered, Seat);

/// The login phase: request, response, until it is accepted or refused.
async fn log_in(
    server: &Arc<Iscsi>,
    socket: &TcpStream,
    peer: SocketAddr,
    inbox: &mut Inbox,
    login: &mut Login,
) -> Result<LoggedIn, End> {
    let mut outbox = Outbox::default();
    loop {
        let pdu = loop {
            match inbox.next()? {
                Some(pdu) => break pdu,
                None => receive(socket, inbox).await?,
            }
        };
        let step = match login.step(server, &pdu) {
            Ok(Step::Done(header, text, accepted)) => match server.budget.seat() {
                Some(seat) => Ok((header, text, Some((accepted, seat)))),
                None => Err(Refusal::OutOfResources),
            },
            Ok(Step::Go(header, text)) => Ok((header, text, None)),
            Err(refusal) => Err(refusal),
        };
        match step {
            Ok((header, text, None)) => outbox.push(header, vec![text.into()], None),
            Ok((mut header, text, Some((accepted, seat)))) => {
                let registered = begin(server, &accepted, peer).await;
                header.0[14..16].copy_from_slice(&server.session_handle().to_be_bytes());
                outbox.push(header, vec![text.into()], None);
                send(socket, &mut outbox).await?;
                return Ok((*accepted, registered, seat));
            }
            Err(refusal) => {
                outbox.push(login.refusal(&pdu.header, refusal), Vec::new(), None);
                send(socket, &mut outbox).await?;
                return Err(End::Refused(refusal));
            }
        }
        send(socket, &mut outbox).await?;
    }
}

/// A session that its target knows of. However its task ends: another of the same initiator port may begin then.
struct Registered(Option<Arc<Offer>>, Arc<Session>);

impl Drop for Registered {
    fn drop(&mut self) {
        if let Some(target) = &self.0 {
            target.forget(&self.1);
        }
        self.1.done.cancel();
    }
}

async fn begin(server: &Iscsi, accepted: &Accepted, peer: SocketAddr) -> Registered {
    let session = match &accepted.target {
        Some(target) => target.establish(accepted, peer).await,
        None => Arc::new(Session::new(accepted, peer, server.stop.child_token())),
    };
    Registered(accepted.target.clone(), session)
}

/// Receives something. Memory is taken when something is there.
async fn receive(socket: &TcpStream, inbox: &mut Inbox) -> Result<(), End> {
    loop {
        socket.readable().await?;
        match socket.try_read_buf(inbox.room()) {
            Ok(0) => return Err(End::Closed),
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
    }
}

async fn send(socket: &TcpStream, outbox: &mut Outbox) -> Result<(), End> {
    loop {
        match outbox.write(socket) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => socket.writable().await?,
            Err(error) => return Err(error.into()),
        }
    }
}
