//! One connection, which is one session: a task that owns its state. It waits for the next event asynchronously, and applies it
//! synchronously.
//!
//! ```text
//!   full feature ─► logout, a fault, stop ─► what is under way ends ─► done
//!
//!   socket ─► Inbox ─► Window ─► command ─► granted? ─► Data-Out whole? ─► running (a task of its own) ─► Outbox ─► socket
//! ```
//!
//! Invariants:
//! - All state is this task's; running commands own what they need and hand back a [`Done`].
//! - While more than [`OUTBOX_BYTES_MAX`] wait to be taken by the initiator, nothing more is read from it.
//! - An initiator that owes something (the rest of a unit, Data-Out, the taking of our bytes) has [`STALL_MAX`]; one that owes nothing is
//!   asked whether it is there (NOP-In) after [`PING_AFTER`].

mod command;
mod data;
mod manage;
mod text;

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{Interest, Ready};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::Iscsi;
use super::inbox::{Fault, Inbox};
use super::keys::{RECEIVED_BYTES_MAX, Terms};
use super::login::{Accepted, Refusal};
use super::outbox::Outbox;
use super::pdu::{Header, NO_TAG, Pdu, at, request, response};
use super::target::{Offer, Session};
use super::window::Window;
use crate::base::purse::{Held, Purse};
use crate::protocol::scsi::{Completion, Nexus};
use command::Slot;
use manage::Managed;

/// How long an initiator may owe something.
const STALL_MAX: Duration = Duration::from_secs(60);
/// How long an initiator may say nothing before it is asked.
const PING_AFTER: Duration = Duration::from_secs(60);
/// How often the above are looked at.
const TICK: Duration = Duration::from_secs(5);
/// How long initiators have to log out when the server stops.
const LOGOUT_TIME: Duration = Duration::from_secs(3);
/// What may wait to be written before no more is read, in bytes.
const OUTBOX_BYTES_MAX: usize = 8 << 20;

/// Why a connection ends.
#[derive(Debug, thiserror::Error)]
pub(super) enum End {
    #[error("the initiator closed it")]
    Closed,
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Fault(#[from] Fault),
    #[error("the initiator does not keep to the protocol: {0}")]
    Protocol(&'static str),
    #[error("the login was refused: {0:?}")]
    Refused(Refusal),
    #[error("the initiator owed something for too long")]
    Stalled,
    #[error("it logged out")]
    LoggedOut,
    #[error("the session is to end")]
    Told,
    #[error("the login took too long, or made room for another")]
    Late,
    #[error("a command broke")]
    Broken,
}

/// What a task of its own hands back.
enum Done {
    /// A command, with what it held. `None`: it was aborted.
    Command(u32, Option<Completion>, Option<Held>),
    /// A task management function has done its work.
    Managed(u32),
}

/// What happened.
enum Event {
    Ready(Ready),
    Done(Option<Done>),
    Granted(Option<Held>),
    Woken,
    Drain,
    Stop,
    Tick,
}

type Grant = Pin<Box<dyn Future<Output = Option<Held>> + Send>>;

/// A connection in the full feature phase.
pub(super) struct Connection {
    server: Arc<Iscsi>,
    socket: TcpStream,
    session: Arc<Session>,
    /// `None`: discovery.
    target: Option<(Arc<Offer>, Arc<Nexus>)>,
    /// CID.
    id: u16,
    terms: Terms,
    inbox: Inbox,
    outbox: Outbox,
    window: Window,
    /// StatSN that comes next.
    status_number: u32,
    /// Commands under way, by initiator task tag.
    slots: HashMap<u32, Slot>,
    /// Target transfer tag that comes next.
    next_transfer: u32,
    running: JoinSet<Done>,
    purse: Purse,
    /// Commands that wait for a part of the budget, in order; the first is being granted.
    starving: VecDeque<u32>,
    grant: Option<Grant>,
    managed: Vec<Managed>,
    text: text::Exchange,
    /// When something was received, and when something was written, last.
    received: Instant,
    written: Instant,
    /// When the unit that is being received began.
    begun: Option<Instant>,
    /// We asked whether the initiator is there.
    is_pinged: bool,
    /// The last unit is in the outbox: the connection ends when it is written.
    ending: Option<End>,
    /// The initiator was asked to log out.
    draining: Option<Instant>,
}

impl Connection {
    pub(super) fn new(
        server: Arc<Iscsi>,
        socket: TcpStream,
        session: Arc<Session>,
        accepted: &Accepted,
        mut inbox: Inbox,
    ) -> Self {
        let terms = accepted.terms.clone();
        inbox.digests = terms.digests;
        inbox.data_bytes_max = RECEIVED_BYTES_MAX as usize;
        let target = accepted.target.clone().map(|target| {
            let nexus = target.scsi.connect(&accepted.port());
            (target, nexus)
        });
        Self {
            purse: server.budget.purse(),
            server,
            socket,
            session,
            target,
            id: accepted.connection,
            inbox,
            outbox: Outbox::new(terms.digests),
            terms,
            window: Window::new(accepted.command_number),
            status_number: accepted.status_number,
            slots: HashMap::new(),
            next_transfer: 0,
            running: JoinSet::new(),
            starving: VecDeque::new(),
            grant: None,
            managed: Vec::new(),
            text: text::Exchange::default(),
            received: Instant::now(),
            written: Instant::now(),
            begun: None,
            is_pinged: false,
            ending: None,
            draining: None,
        }
    }

    /// Serves the session until it ends.
    pub(super) async fn run(mut self) -> End {
        let mut end = None;
        let mut tick = tokio::time::interval(TICK);
        while end.is_none() {
            // What was read, now or with the last login request, or could not be taken while too much waited to be written.
            end = self.take_units().err();
            if end.is_some() {
                break;
            }
            end = match self.flush() {
                Ok(true) => self.ending.take(),
                Ok(false) => None,
                Err(error) => Some(error.into()),
            };
            if end.is_some() {
                break;
            }
            let event = self.next(&mut tick).await;
            end = match event {
                Ok(event) => self.apply(event).err(),
                Err(error) => Some(error.into()),
            };
        }
        self.tear_down().await;
        end.unwrap_or(End::Closed)
    }

    /// Waits for the next event. Nothing is changed here.
    async fn next(&mut self, tick: &mut tokio::time::Interval) -> io::Result<Event> {
        let mut interest = None;
        if self.outbox.len() < OUTBOX_BYTES_MAX && self.ending.is_none() {
            interest = Some(Interest::READABLE);
        }
        if !self.outbox.is_empty() {
            interest = Some(interest.map_or(Interest::WRITABLE, |interest| interest | Interest::WRITABLE));
        }
        let is_draining = self.draining.is_some();
        let Self { server, socket, session, target, running, grant, .. } = self;
        let woken = async {
            match target {
                Some((_, nexus)) => nexus.wake.notified().await,
                None => std::future::pending().await,
            }
        };
        let granted = async {
            match grant {
                Some(grant) => grant.await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = session.stop.cancelled() => Ok(Event::Stop),
            () = server.stop.cancelled(), if !is_draining => Ok(Event::Drain),
            Some(done) = running.join_next() => Ok(Event::Done(done.ok())),
            held = granted => Ok(Event::Granted(held)),
            () = woken => Ok(Event::Woken),
            ready = socket.ready(interest.unwrap_or(Interest::READABLE)), if interest.is_some() => Ok(Event::Ready(ready?)),
            _ = tick.tick() => Ok(Event::Tick),
        }
    }

    fn apply(&mut self, event: Event) -> Result<(), End> {
        match event {
            Event::Ready(ready) if ready.is_readable() && self.ending.is_none() => self.read(),
            Event::Ready(_) => Ok(()),
            Event::Done(Some(Done::Command(task, completion, held))) => {
                self.complete(task, completion, held);
                Ok(())
            }
            Event::Done(Some(Done::Managed(task))) => {
                self.managed_is_done(task);
                Ok(())
            }
            Event::Done(None) => Err(End::Broken),
            Event::Granted(held) => {
                self.granted(held);
                Ok(())
            }
            Event::Woken => {
                self.sweep();
                Ok(())
            }
            Event::Drain => {
                self.ask_to_log_out();
                Ok(())
            }
            Event::Stop => Err(End::Told),
            Event::Tick => self.look(),
        }
    }

    /// Reads what is there.
    fn read(&mut self) -> Result<(), End> {
        self.inbox.rest();
        match self.socket.try_read_buf(self.inbox.room()) {
            Ok(0) => return Err(End::Closed),
            Ok(_) => self.received = Instant::now(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        self.is_pinged = false;
        Ok(())
    }

    fn take_units(&mut self) -> Result<(), End> {
        let mut any = false;
        while self.ending.is_none() && self.outbox.len() < OUTBOX_BYTES_MAX {
            let Some(pdu) = self.inbox.next()? else { break };
            any = true;
            self.take(pdu)?;
        }
        self.begun = match self.begun {
            _ if self.inbox.is_empty() => None,
            Some(begun) if !any => Some(begun),
            _ => Some(Instant::now()),
        };
        Ok(())
    }

    /// A unit: numbered ones come in the order of their numbers.
    fn take(&mut self, pdu: Pdu) -> Result<(), End> {
        let opcode = pdu.header.opcode();
        let is_numbered = !pdu.header.is_immediate() && !matches!(opcode, request::DATA_OUT | request::SNACK);
        if !is_numbered {
            return self.carry_out(pdu);
        }
        let number = pdu.header.word(at::COMMAND);
        for pdu in self.window.take(number, pdu) {
            self.carry_out(pdu)?;
        }
        Ok(())
    }

    fn carry_out(&mut self, pdu: Pdu) -> Result<(), End> {
        let is_discovery = self.target.is_none();
        match pdu.header.opcode() {
            request::NOP_OUT => self.nop_out(&pdu),
            request::TEXT => self.text_request(&pdu),
            request::LOGOUT => self.log_out(&pdu.header),
            request::COMMAND if !is_discovery => self.command(pdu),
            request::DATA_OUT if !is_discovery => {
                self.data_out(&pdu);
                Ok(())
            }
            request::TASK_MANAGEMENT if !is_discovery => {
                self.manage(&pdu.header);
                Ok(())
            }
            request::SNACK => {
                self.reject(&pdu.header, 0x03);
                Ok(())
            }
            _ => {
                self.reject(&pdu.header, 0x05);
                Ok(())
            }
        }
    }

    /// Numbers a unit that has a status number of its own, and sends it.
    fn answer(&mut self, header: Header, data: Vec<Bytes>, held: Option<Held>) {
        let number = self.status_number;
        self.status_number = number.wrapping_add(1);
        self.push(header, number, data, held);
    }

    /// Sends a unit that says which status number comes next (R2T, NOP-In of ours).
    fn tell(&mut self, header: Header) {
        self.push(header, self.status_number, Vec::new(), None);
    }

    fn push(&mut self, mut header: Header, status_number: u32, data: Vec<Bytes>, held: Option<Held>) {
        if self.outbox.is_empty() {
            self.written = Instant::now();
        }
        header.set(at::STATUS, status_number);
        header.set(at::EXPECTED, self.window.expected());
        header.set(at::COMMAND_MAX, self.window.last(self.slots.len()));
        self.outbox.push(header, data, held);
    }

    /// Writes what the socket takes. Whether nothing is left.
    fn flush(&mut self) -> io::Result<bool> {
        let before = self.outbox.len();
        let written = self.outbox.write(&self.socket);
        if self.outbox.len() < before {
            self.written = Instant::now();
        }
        match written {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            _ => Ok(self.outbox.is_empty()),
        }
    }

    /// REJECT (§11.17), with the header that it is about.
    fn reject(&mut self, about: &Header, reason: u8) {
        tracing::debug!(initiator = self.session.initiator, opcode = about.opcode(), reason, "a unit was rejected");
        let mut header = Header::new(response::REJECT, NO_TAG);
        header.0[2] = reason;
        self.answer(header, vec![Bytes::copy_from_slice(&about.0)], None);
    }

    fn nop_out(&mut self, pdu: &Pdu) -> Result<(), End> {
        let task = pdu.header.task();
        if task == NO_TAG {
            // The answer to a NOP-In of ours.
            return Ok(());
        }
        let mut header = Header::new(response::NOP_IN, task);
        header.set_lun(pdu.header.lun());
        header.set(at::TRANSFER, NO_TAG);
        let len = pdu.data.len().min(self.terms.sent_bytes_max as usize);
        self.answer(header, vec![pdu.data.slice(..len)], None);
        Ok(())
    }

    /// LOGOUT (§11.14): of the session or of this connection, which is the same. Commands under way end with it.
    fn log_out(&mut self, request: &Header) -> Result<(), End> {
        let reason = request.flags() & 0x7f;
        let mut header = Header::new(response::LOGOUT, request.task());
        header.0[2] = match reason {
            0 => 0,
            1 if request.half(20) == self.id => 0,
            1 => 1,
            2 => 2,
            _ => {
                self.reject(request, 0x09);
                return Ok(());
            }
        };
        if header.0[2] == 0 {
            self.ending = Some(End::LoggedOut);
        }
        self.answer(header, Vec::new(), None);
        Ok(())
    }

    /// ASYNCHRONOUS MESSAGE 1 (§11.9.1): the target requests logout.
    fn ask_to_log_out(&mut self) {
        self.draining = Some(Instant::now());
        let mut header = Header::new(response::ASYNC, NO_TAG);
        header.0[36] = 1;
        header.0[42..44].copy_from_slice(&(LOGOUT_TIME.as_secs() as u16).to_be_bytes());
        self.answer(header, Vec::new(), None);
    }

    /// Who owes something for too long, and who may be gone.
    fn look(&mut self) -> Result<(), End> {
        let now = Instant::now();
        let is_over = |since: Instant| now.duration_since(since) > STALL_MAX;
        if self.draining.is_some_and(|since| now.duration_since(since) >= LOGOUT_TIME) {
            return Err(End::Told);
        }
        let owes_data = self.slots.values().any(Slot::waits_for_data) && is_over(self.received);
        let takes_nothing = !self.outbox.is_empty() && is_over(self.written);
        if owes_data || takes_nothing || self.begun.is_some_and(is_over) {
            return Err(End::Stalled);
        }
        if now.duration_since(self.received) > PING_AFTER {
            if self.is_pinged && now.duration_since(self.received) > 2 * PING_AFTER {
                return Err(End::Stalled);
            }
            if !self.is_pinged {
                self.is_pinged = true;
                let mut header = Header::new(response::NOP_IN, NO_TAG);
                header.set(at::TRANSFER, 0);
                self.tell(header);
            }
        }
        Ok(())
    }

    /// Ends what is under way. Commands that change something come to their end.
    async fn tear_down(mut self) {
        for slot in self.slots.values() {
            slot.cancel.cancel();
        }
        self.slots.clear();
        self.grant = None;
        while self.running.join_next().await.is_some() {}
        if let Some((target, nexus)) = &self.target {
            target.scsi.disconnect(nexus);
        }
    }
}
