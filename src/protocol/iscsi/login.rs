//! The login phase (RFC 7143 §6.3): who the initiator is, whether that is true, and what is agreed on. A state machine without I/O.
//!
//! ```text
//!   first request ─► security negotiation ─► operational negotiation ─► full feature phase
//!                          (CHAP: method ─► challenge ─► proven)
//! ```
//!
//! Invariants:
//! - A target that wants CHAP is never reached without it, whatever stages the initiator chooses.
//! - Every login ends: requests are counted, texts are bounded, and the connection has a deadline.

use std::sync::Arc;

use super::chap::{Algorithm, Challenge, Chap, to_text};
use super::keys::{Negotiation, RECEIVED_BYTES_MAX, Terms};
use super::pdu::{FINAL, Header, Pdu, at, request, response};
use super::target::Offer;
use super::text::{Gathered, Pairs};
use super::{Iscsi, text};

/// Requests of one login.
const REQUESTS_MAX: u32 = 64;
const TRANSIT: u8 = FINAL;
const CONTINUES: u8 = 0x40;
const SECURITY: u8 = 0;
const OPERATIONAL: u8 = 1;
const FULL_FEATURE: u8 = 3;

/// Status-Class and Status-Detail (§11.13.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub(super) enum Refusal {
    InitiatorError = 0x0200,
    AuthenticationFailure = 0x0201,
    AuthorizationFailure = 0x0202,
    NotFound = 0x0203,
    UnsupportedVersion = 0x0205,
    MissingParameter = 0x0207,
    SessionTypeNotSupported = 0x0209,
    SessionDoesNotExist = 0x020a,
    InvalidDuringLogin = 0x020b,
    TargetError = 0x0300,
    OutOfResources = 0x0302,
}

/// Who logged in to what, and how.
#[derive(Clone)]
pub(super) struct Accepted {
    pub(super) initiator: String,
    pub(super) isid: [u8; 6],
    pub(super) connection: u16,
    /// `None`: a discovery session.
    pub(super) target: Option<Arc<Offer>>,
    pub(super) terms: Terms,
    /// CmdSN that comes next.
    pub(super) command_number: u32,
    /// StatSN that comes next, after the last login response.
    pub(super) status_number: u32,
}

impl Accepted {
    /// The SCSI name of the initiator port (RFC 7143 §4.4.4).
    pub(super) fn port(&self) -> String {
        format!("{},i,0x{}", self.initiator, hex::encode(self.isid))
    }
}

/// What comes after a request.
pub(super) enum Step {
    /// This response, and another request.
    Go(Header, Vec<u8>),
    /// This response, the last; its TSIH is to be put in.
    Done(Header, Vec<u8>, Box<Accepted>),
}

/// How far the initiator has proven itself.
enum Proof {
    /// Nothing was asked for.
    None,
    /// CHAP was agreed on.
    Method,
    Challenged(Challenge),
    Done,
}

/// A login under way.
pub(super) struct Login {
    requests: u32,
    first: Option<First>,
    stage: u8,
    proof: Proof,
    chap: Option<Chap>,
    target: Option<Arc<Offer>>,
    initiator: String,
    negotiation: Negotiation,
    /// Our own declarations were made.
    has_declared: bool,
    gathered: Gathered,
    status_number: u32,
}

/// What the first request fixes.
#[derive(Clone, Copy)]
struct First {
    isid: [u8; 6],
    connection: u16,
    command_number: u32,
}

impl Default for Login {
    fn default() -> Self {
        Self {
            requests: 0,
            first: None,
            stage: SECURITY,
            proof: Proof::None,
            chap: None,
            target: None,
            initiator: String::new(),
            negotiation: Negotiation::default(),
            has_declared: false,
            gathered: Gathered::default(),
            status_number: 0,
        }
    }
}

impl Login {
    /// Takes a request.
    ///
    /// # Errors
    /// Why the login is refused; the connection ends.
    pub(super) fn step(&mut self, server: &Iscsi, pdu: &Pdu) -> Result<Step, Refusal> {
        let header = &pdu.header;
        let (flags, current, next) = (header.flags(), header.flags() >> 2 & 3, header.flags() & 3);
        self.requests += 1;
        if header.opcode() != request::LOGIN {
            return Err(Refusal::InvalidDuringLogin);
        }
        if self.requests > REQUESTS_MAX || flags & (TRANSIT | CONTINUES) == TRANSIT | CONTINUES {
            return Err(Refusal::InitiatorError);
        }
        let first = self.begin(header, current)?;
        if current != self.stage || first.isid[..] != header.0[8..14] {
            return Err(Refusal::InitiatorError);
        }
        let pairs = self.gathered.add(&pdu.data, flags & CONTINUES != 0).map_err(|_| Refusal::InitiatorError)?;
        let Some(pairs) = pairs else { return Ok(Step::Go(self.response(header, current << 2), Vec::new())) };
        let mut answers: Vec<(String, String)> = Vec::new();
        if self.initiator.is_empty() {
            self.identify(server, &pairs)?;
            if self.target.is_some() {
                answers.push(("TargetPortalGroupTag".to_owned(), "1".to_owned()));
            }
        }
        match current {
            SECURITY => self.security(&pairs, &mut answers)?,
            _ => self.operational(&pairs, &mut answers)?,
        }
        let may_go_on = current == OPERATIONAL || self.chap.is_none() || matches!(self.proof, Proof::Done);
        let goes_on = flags & TRANSIT != 0 && may_go_on;
        if goes_on && (next <= current || next == 2) {
            return Err(Refusal::InitiatorError);
        }
        let answer = text::write(answers.iter().map(|(key, value)| (key.as_str(), value.as_str())));
        let flags = if goes_on { TRANSIT | current << 2 | next } else { current << 2 };
        let response = self.response(header, flags);
        if goes_on && next == FULL_FEATURE {
            return Ok(Step::Done(response, answer, Box::new(self.accepted(first))));
        }
        if goes_on {
            self.stage = next;
        }
        Ok(Step::Go(response, answer))
    }

    fn begin(&mut self, header: &Header, stage: u8) -> Result<First, Refusal> {
        if let Some(first) = self.first {
            return Ok(first);
        }
        // VersionMin: there is version 0 only.
        if header.0[3] > 0 {
            return Err(Refusal::UnsupportedVersion);
        }
        if stage > OPERATIONAL {
            return Err(Refusal::InitiatorError);
        }
        // One connection a session: there is none to be added to, and reinstatement comes with TSIH 0.
        if header.half(14) != 0 {
            return Err(Refusal::SessionDoesNotExist);
        }
        let mut isid = [0; 6];
        isid.copy_from_slice(&header.0[8..14]);
        let first = First { isid, connection: header.half(20), command_number: header.word(at::COMMAND) };
        self.stage = stage;
        self.status_number = header.word(at::EXPECTED);
        self.first = Some(first);
        Ok(first)
    }

    /// Who it is, and what it wants to reach: said in the first request (§6.3.1).
    fn identify(&mut self, server: &Iscsi, pairs: &Pairs) -> Result<(), Refusal> {
        let find = |key: &str| pairs.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str());
        let initiator =
            find("InitiatorName").filter(|name| !name.is_empty() && name.len() <= 223).ok_or(Refusal::MissingParameter)?;
        self.initiator = initiator.to_ascii_lowercase();
        match find("SessionType").unwrap_or("Normal") {
            "Discovery" => self.chap = server.discovery_chap(),
            "Normal" => {
                let name = find("TargetName").ok_or(Refusal::MissingParameter)?;
                let target = server.find(name).ok_or(Refusal::NotFound)?;
                if !target.admits(&self.initiator) {
                    return Err(Refusal::AuthorizationFailure);
                }
                self.chap = target.chap();
                self.target = Some(target);
            }
            _ => return Err(Refusal::SessionTypeNotSupported),
        }
        Ok(())
    }

    fn security(&mut self, pairs: &Pairs, answers: &mut Pairs) -> Result<(), Refusal> {
        let find = |key: &str| pairs.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str());
        let mut say = |key: &str, value: String| answers.push((key.to_owned(), value));
        if let Some(offered) = find("AuthMethod") {
            let wanted = if self.chap.is_some() { "CHAP" } else { "None" };
            if !offered.split(',').any(|method| method == wanted) || !matches!(self.proof, Proof::None) {
                return Err(Refusal::AuthenticationFailure);
            }
            self.proof = if self.chap.is_some() { Proof::Method } else { Proof::Done };
            say("AuthMethod", wanted.to_owned());
        }
        if let Some(list) = find("CHAP_A") {
            let algorithm = Algorithm::choose(list).filter(|_| matches!(self.proof, Proof::Method));
            let algorithm = algorithm.ok_or(Refusal::AuthenticationFailure)?;
            let challenge = Challenge::new(algorithm).map_err(|_| Refusal::TargetError)?;
            say("CHAP_A", (algorithm as u8).to_string());
            say("CHAP_I", challenge.id.to_string());
            say("CHAP_C", to_text(&challenge.bytes));
            self.proof = Proof::Challenged(challenge);
        }
        if let Some(response) = find("CHAP_R") {
            let Proof::Challenged(challenge) = std::mem::replace(&mut self.proof, Proof::None) else {
                return Err(Refusal::AuthenticationFailure);
            };
            let chap = self.chap.as_ref().ok_or(Refusal::AuthenticationFailure)?;
            if !challenge.is_met(&chap.initiator, find("CHAP_N").unwrap_or_default(), response) {
                return Err(Refusal::AuthenticationFailure);
            }
            if let Some(theirs) = find("CHAP_C") {
                let own = chap.target.as_ref().ok_or(Refusal::AuthenticationFailure)?;
                let answer = challenge.answer(own, find("CHAP_I").unwrap_or_default(), theirs);
                say("CHAP_N", own.name.clone());
                say("CHAP_R", answer.ok_or(Refusal::AuthenticationFailure)?);
            }
            self.proof = Proof::Done;
        }
        self.negotiate(pairs, answers)
    }

    fn operational(&mut self, pairs: &Pairs, answers: &mut Pairs) -> Result<(), Refusal> {
        if self.chap.is_some() && !matches!(self.proof, Proof::Done) {
            return Err(Refusal::AuthenticationFailure);
        }
        self.negotiate(pairs, answers)?;
        if !self.has_declared {
            self.has_declared = true;
            answers.push(("MaxRecvDataSegmentLength".to_owned(), RECEIVED_BYTES_MAX.to_string()));
        }
        Ok(())
    }

    fn negotiate(&mut self, pairs: &Pairs, answers: &mut Pairs) -> Result<(), Refusal> {
        const SAID_ELSEWHERE: &[&str] = &["InitiatorName", "SessionType", "TargetName", "AuthMethod"];
        for (key, value) in pairs {
            if SAID_ELSEWHERE.contains(&key.as_str()) || key.starts_with("CHAP_") {
                continue;
            }
            if let Some(answer) = self.negotiation.say(key, value).map_err(|_| Refusal::InitiatorError)? {
                answers.push((key.clone(), answer));
            }
        }
        Ok(())
    }

    fn response(&mut self, header: &Header, flags: u8) -> Header {
        let mut response = Header::new(response::LOGIN, header.task());
        response.0[1] = flags;
        response.0[8..14].copy_from_slice(&header.0[8..14]);
        response.set(at::STATUS, self.status_number);
        self.status_number = self.status_number.wrapping_add(1);
        let command_number = self.first.map_or(0, |first| first.command_number);
        response.set(at::EXPECTED, command_number);
        response.set(at::COMMAND_MAX, command_number);
        response
    }

    /// The last response of a login that is refused.
    pub(super) fn refusal(&mut self, header: &Header, refusal: Refusal) -> Header {
        let mut response = self.response(header, 0);
        let [class, detail] = (refusal as u16).to_be_bytes();
        response.0[36] = class;
        response.0[37] = detail;
        response
    }

    fn accepted(&self, first: First) -> Accepted {
        Accepted {
            initiator: self.initiator.clone(),
            isid: first.isid,
            connection: first.connection,
            target: self.target.clone(),
            terms: self.negotiation.terms.clone(),
            command_number: first.command_number,
            status_number: self.status_number,
        }
    }

    /// Who is known to log in, for the log.
    pub(super) fn initiator(&self) -> &str {
        &self.initiator
    }
}
