//! Operational negotiation (RFC 7143 §6.2, §13): one table of keys, each with the rule by which its value comes out.
//!
//! Invariants: a value that is out of bounds is answered with `Reject` and changes nothing; a key is negotiated at most once; a key that
//! is not in the table is answered with `NotUnderstood`.

use super::inbox::Digests;

/// The longest data segment that we take: MaxRecvDataSegmentLength of ours, in bytes.
pub(super) const RECEIVED_BYTES_MAX: u32 = 256 << 10;
const LENGTH_MAX: u32 = 0x00ff_ffff;

/// What was agreed on; before, what holds without agreement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Terms {
    pub(super) digests: Digests,
    pub(super) initial_r2t: bool,
    pub(super) immediate_data: bool,
    /// The initiator's MaxRecvDataSegmentLength, in bytes.
    pub(super) sent_bytes_max: u32,
    /// MaxBurstLength, in bytes.
    pub(super) burst_bytes: u32,
    /// FirstBurstLength, in bytes; use [`Terms::first_burst_bytes`].
    first_burst_bytes: u32,
    pub(super) r2t_max: u32,
    pub(super) time_to_wait_s: u32,
    pub(super) time_to_retain_s: u32,
}

impl Default for Terms {
    fn default() -> Self {
        Self {
            digests: Digests::default(),
            initial_r2t: true,
            immediate_data: true,
            sent_bytes_max: 8192,
            burst_bytes: 262_144,
            first_burst_bytes: 65_536,
            r2t_max: 1,
            time_to_wait_s: 2,
            time_to_retain_s: 20,
        }
    }
}

impl Terms {
    /// FirstBurstLength, which is not more than MaxBurstLength (§13.14).
    pub(super) fn first_burst_bytes(&self) -> u32 {
        self.first_burst_bytes.min(self.burst_bytes)
    }
}

/// How a value comes out of what both sides say.
#[derive(Clone, Copy, Debug)]
enum Rule {
    /// The smaller of two numbers.
    Least { low: u32, high: u32, ours: u32 },
    /// The larger of two numbers.
    Most { low: u32, high: u32, ours: u32 },
    /// `Yes` where one of the two says so; ours.
    Or(bool),
    /// `Yes` where both say so; ours.
    And(bool),
    /// The first of a list that we have: CRC32C or None.
    Digest,
    /// The first of a list, where it has this.
    Only(&'static str),
    /// A number that the initiator tells; there is nothing to agree on.
    Told { low: u32, high: u32 },
    /// A text that the initiator tells.
    Name,
    /// A key of old, which is refused (§13.25).
    Obsolete,
}

#[derive(Clone, Copy, Debug)]
enum Value {
    Number(u32),
    Flag(bool),
}

impl Value {
    fn number(self) -> u32 {
        match self {
            Self::Number(number) => number,
            Self::Flag(flag) => flag.into(),
        }
    }

    fn flag(self) -> bool {
        self.number() != 0
    }
}

struct Key {
    name: &'static str,
    rule: Rule,
    put: fn(&mut Terms, Value),
}

const fn key(name: &'static str, rule: Rule, put: fn(&mut Terms, Value)) -> Key {
    Key { name, rule, put }
}

static KEYS: &[Key] = &[
    key("HeaderDigest", Rule::Digest, |terms, value| terms.digests.header = value.flag()),
    key("DataDigest", Rule::Digest, |terms, value| terms.digests.data = value.flag()),
    key("MaxConnections", Rule::Least { low: 1, high: 65_535, ours: 1 }, |_, _| {}),
    key("InitialR2T", Rule::Or(false), |terms, value| terms.initial_r2t = value.flag()),
    key("ImmediateData", Rule::And(true), |terms, value| terms.immediate_data = value.flag()),
    key("MaxRecvDataSegmentLength", Rule::Told { low: 512, high: LENGTH_MAX }, |terms, value| {
        terms.sent_bytes_max = value.number();
    }),
    key("MaxBurstLength", Rule::Least { low: 512, high: LENGTH_MAX, ours: 1 << 20 }, |terms, value| {
        terms.burst_bytes = value.number();
    }),
    key("FirstBurstLength", Rule::Least { low: 512, high: LENGTH_MAX, ours: 64 << 10 }, |terms, value| {
        terms.first_burst_bytes = value.number();
    }),
    key("MaxOutstandingR2T", Rule::Least { low: 1, high: 65_535, ours: 4 }, |terms, value| terms.r2t_max = value.number()),
    key("DefaultTime2Wait", Rule::Most { low: 0, high: 3600, ours: 0 }, |terms, value| terms.time_to_wait_s = value.number()),
    // What a connection leaves behind is not kept: error recovery level 0.
    key("DefaultTime2Retain", Rule::Least { low: 0, high: 3600, ours: 0 }, |terms, value| {
        terms.time_to_retain_s = value.number();
    }),
    key("DataPDUInOrder", Rule::Or(true), |_, _| {}),
    key("DataSequenceInOrder", Rule::Or(true), |_, _| {}),
    key("ErrorRecoveryLevel", Rule::Least { low: 0, high: 2, ours: 0 }, |_, _| {}),
    key("TaskReporting", Rule::Only("RFC3720"), |_, _| {}),
    key("iSCSIProtocolLevel", Rule::Least { low: 0, high: 31, ours: 1 }, |_, _| {}),
    key("InitiatorAlias", Rule::Name, |_, _| {}),
    key("IFMarker", Rule::Obsolete, |_, _| {}),
    key("OFMarker", Rule::Obsolete, |_, _| {}),
    key("IFMarkInt", Rule::Obsolete, |_, _| {}),
    key("OFMarkInt", Rule::Obsolete, |_, _| {}),
];

/// Keys that are said again in the middle of a session (§13: "FFP").
const ANY_TIME: &[&str] = &["MaxRecvDataSegmentLength", "InitiatorAlias"];

/// A key that was said twice: the initiator does not keep to the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SaidTwice;

/// A negotiation under way.
#[derive(Debug, Default)]
pub(super) struct Negotiation {
    pub(super) terms: Terms,
    said: Vec<&'static str>,
}

impl Negotiation {
    /// Takes what the initiator says of a key; what we answer, where an answer is due.
    ///
    /// # Errors
    /// Where the key was said before.
    pub(super) fn say(&mut self, name: &str, offered: &str) -> Result<Option<String>, SaidTwice> {
        let Some(key) = KEYS.iter().find(|key| key.name == name) else { return Ok(Some("NotUnderstood".to_owned())) };
        if self.said.contains(&key.name) {
            return Err(SaidTwice);
        }
        self.said.push(key.name);
        Ok(agree(key, offered, &mut self.terms))
    }

    /// The same once the session runs: few keys may be said then.
    pub(super) fn say_later(terms: &mut Terms, name: &str, offered: &str) -> Option<String> {
        match KEYS.iter().find(|key| key.name == name) {
            Some(key) if ANY_TIME.contains(&name) => agree(key, offered, terms),
            Some(_) => Some("Reject".to_owned()),
            None => Some("NotUnderstood".to_owned()),
        }
    }
}

fn agree(key: &Key, offered: &str, terms: &mut Terms) -> Option<String> {
    let reject = || Some("Reject".to_owned());
    match outcome(key.rule, offered) {
        Some((value, answer)) => {
            if let Some(value) = value {
                (key.put)(terms, value);
            }
            answer
        }
        None => reject(),
    }
}

/// The value, and what is answered. `None`: what is offered cannot be.
fn outcome(rule: Rule, offered: &str) -> Option<(Option<Value>, Option<String>)> {
    let numbered = |number: u32| (Some(Value::Number(number)), Some(number.to_string()));
    let flagged = |flag: bool| (Some(Value::Flag(flag)), Some(if flag { "Yes" } else { "No" }.to_owned()));
    Some(match rule {
        Rule::Least { low, high, ours } => numbered(number(offered, low, high)?.min(ours)),
        Rule::Most { low, high, ours } => numbered(number(offered, low, high)?.max(ours)),
        Rule::Or(ours) => flagged(flag(offered)? || ours),
        Rule::And(ours) => flagged(flag(offered)? && ours),
        Rule::Digest => {
            let chosen = offered.split(',').find(|choice| matches!(*choice, "CRC32C" | "None"))?;
            (Some(Value::Flag(chosen == "CRC32C")), Some(chosen.to_owned()))
        }
        Rule::Only(choice) => (None, Some(offered.split(',').find(|offered| *offered == choice)?.to_owned())),
        Rule::Told { low, high } => (Some(Value::Number(number(offered, low, high)?)), None),
        Rule::Name => (None, None),
        Rule::Obsolete => return None,
    })
}

/// A number in decimal or hexadecimal (§6.1), within bounds.
fn number(text: &str, low: u32, high: u32) -> Option<u32> {
    let number = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => u32::from_str_radix(digits, 16),
        None if text.starts_with('+') => return None,
        None => text.parse(),
    };
    number.ok().filter(|number| (low..=high).contains(number))
}

fn flag(text: &str) -> Option<bool> {
    match text {
        "Yes" => Some(true),
        "No" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(name: &str, offered: &str) -> Option<String> {
        Negotiation::default().say(name, offered).unwrap()
    }

    #[test]
    fn values_come_out_by_their_rules() {
        for (name, offered, expected) in [
            ("HeaderDigest", "CRC32C,None", "CRC32C"),
            ("HeaderDigest", "None,CRC32C", "None"),
            ("DataDigest", "MD5,CRC32C", "CRC32C"),
            ("DataDigest", "MD5", "Reject"),
            ("MaxConnections", "8", "1"),
            ("InitialR2T", "No", "No"),
            ("InitialR2T", "Yes", "Yes"),
            ("ImmediateData", "No", "No"),
            ("ImmediateData", "Yes", "Yes"),
            ("ImmediateData", "yes", "Reject"),
            ("MaxBurstLength", "16776192", "1048576"),
            ("MaxBurstLength", "512", "512"),
            ("MaxBurstLength", "0x1000", "4096"),
            ("MaxBurstLength", "511", "Reject"),
            ("MaxBurstLength", "16777216", "Reject"),
            ("MaxBurstLength", "99999999999999999999", "Reject"),
            ("FirstBurstLength", "262144", "65536"),
            ("MaxOutstandingR2T", "1", "1"),
            ("MaxOutstandingR2T", "0", "Reject"),
            ("DefaultTime2Wait", "2", "2"),
            ("DefaultTime2Retain", "20", "0"),
            ("DataPDUInOrder", "No", "Yes"),
            ("DataSequenceInOrder", "No", "Yes"),
            ("ErrorRecoveryLevel", "2", "0"),
            ("TaskReporting", "FastAbort,RFC3720", "RFC3720"),
            ("TaskReporting", "FastAbort", "Reject"),
            ("iSCSIProtocolLevel", "2", "1"),
            ("IFMarker", "No", "Reject"),
            ("OFMarkInt", "2048", "Reject"),
            ("X-com.example.key", "1", "NotUnderstood"),
        ] {
            assert_eq!(answer(name, offered).as_deref(), Some(expected), "{name}={offered}");
        }
        assert_eq!(answer("MaxRecvDataSegmentLength", "65536"), None);
        assert_eq!(answer("MaxRecvDataSegmentLength", "1"), Some("Reject".to_owned()));
        assert_eq!(answer("InitiatorAlias", "host"), None);
    }

    #[test]
    fn what_is_agreed_on_is_put() {
        let mut negotiation = Negotiation::default();
        assert_eq!(negotiation.terms, Terms::default());
        for (name, offered) in [
            ("HeaderDigest", "CRC32C"),
            ("InitialR2T", "No"),
            ("MaxRecvDataSegmentLength", "131072"),
            ("MaxBurstLength", "4096"),
            ("FirstBurstLength", "8192"),
            ("MaxOutstandingR2T", "16"),
            ("ImmediateData", "maybe"),
        ] {
            negotiation.say(name, offered).unwrap();
        }
        let terms = &negotiation.terms;
        assert_eq!(terms.digests, Digests { header: true, data: false });
        assert_eq!((terms.sent_bytes_max, terms.burst_bytes, terms.first_burst_bytes()), (131_072, 4096, 4096));
        assert_eq!((terms.r2t_max, terms.initial_r2t, terms.immediate_data), (4, false, true));
        assert_eq!(negotiation.say("InitialR2T", "No"), Err(SaidTwice));
    }

    #[test]
    fn few_keys_are_said_later() {
        let mut terms = Terms::default();
        assert_eq!(Negotiation::say_later(&mut terms, "MaxRecvDataSegmentLength", "4096"), None);
        assert_eq!(terms.sent_bytes_max, 4096);
        assert_eq!(Negotiation::say_later(&mut terms, "HeaderDigest", "CRC32C").as_deref(), Some("Reject"));
        assert_eq!(Negotiation::say_later(&mut terms, "Strange", "x").as_deref(), Some("NotUnderstood"));
    }
}
