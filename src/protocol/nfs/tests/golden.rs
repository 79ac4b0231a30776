//! Golden bytes: for each procedure of each program, calls and their answers byte by byte, laid out by hand from the RFCs (`golden/*.txt`,
//! where each field says what it is), sent to the real server over TCP.
//!
//! The text: `= title` begins a case, or `def name` an abbreviation, which is used as `@name`. `nfs 1`, `mount 1`, `nlm 1`, `nsm 1` with what
//! follows are a call's arguments, `answer` its results, `record` and `reply` whole records. `share` says what the share is asked. Words are
//! hex, `'text'` is its bytes, `#` begins a comment.

use std::collections::HashMap;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::fixed::Fixed;
use super::*;

const TEXTS: [(&str, &str); 8] = [
    ("rpc", include_str!("golden/rpc.txt")),
    ("attr", include_str!("golden/attr.txt")),
    ("names", include_str!("golden/names.txt")),
    ("create", include_str!("golden/create.txt")),
    ("io", include_str!("golden/io.txt")),
    ("list", include_str!("golden/list.txt")),
    ("mount", include_str!("golden/mount.txt")),
    ("locks", include_str!("golden/locks.txt")),
];
const COMMON: &str = include_str!("golden/common.txt");

/// A call and what comes of it.
#[derive(Debug, Default)]
pub(super) struct Case {
    title: String,
    /// Program, version and procedure; a case of whole records has none.
    of: Option<(u32, u32, u32)>,
    pub(super) call: Vec<u8>,
    share: Vec<String>,
    answer: Vec<u8>,
}

type Names = HashMap<String, Vec<u8>>;

/// The bytes of a line.
fn bytes_of(line: &str, names: &Names) -> Vec<u8> {
    let mut bytes = Vec::new();
    let line = line.split('#').next().unwrap();
    for word in line.split_whitespace() {
        match word.as_bytes()[0] {
            b'@' => bytes.extend(names.get(&word[1..]).unwrap_or_else(|| panic!("{word} is not defined"))),
            b'\'' => bytes.extend(word.trim_matches('\'').as_bytes()),
            _ => bytes.extend(hex::decode(word).unwrap_or_else(|error| panic!("{word:?}: {error}"))),
        }
    }
    bytes
}

/// A record around what is after the header.
fn record(head: &[u32], auth: &[u8], body: &[u8]) -> Vec<u8> {
    let head: Vec<u8> = head.iter().flat_map(|word| word.to_be_bytes()).collect();
    let len = u32::try_from(head.len() + auth.len() + body.len()).unwrap();
    [&(0x8000_0000 | len).to_be_bytes(), head.as_slice(), auth, body].concat()
}

/// The words for programs: number and version.
const PROGRAMS: [(&str, u32, u32); 4] = [("nfs", 100_003, 3), ("mount", 100_005, 3), ("nlm", 100_021, 4), ("nsm", 100_024, 1)];

enum In {
    Definition(String),
    Call,
    Answer,
}

/// The cases of a text; definitions are added to `names`.
fn read(text: &str, names: &mut Names) -> Vec<Case> {
    let (mut cases, mut place): (Vec<Case>, In) = (Vec::new(), In::Call);
    for line in text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#')) {
        let (first, rest) = line.split_once(' ').unwrap_or((line, ""));
        let program = PROGRAMS.iter().find(|(word, ..)| *word == first);
        match (first, cases.last_mut()) {
            ("def", _) => place = In::Definition(rest.to_owned()),
            ("=", _) => {
                cases.push(Case { title: rest.to_owned(), ..Case::default() });
                place = In::Call;
            }
            ("share", Some(case)) => case.share.push(rest.to_owned()),
            ("answer" | "reply", _) => place = In::Answer,
            ("record", _) => {}
            (_, Some(case)) if program.is_some() => case.of = program.map(|of| (of.1, of.2, rest.parse().unwrap())),
            (_, case) => {
                assert!(line.starts_with("  "), "{line:?}");
                let bytes = bytes_of(line, names);
                match (&place, case) {
                    (In::Definition(name), _) => names.entry(name.clone()).or_default().extend(bytes),
                    (In::Call, Some(case)) => case.call.extend(bytes),
                    (In::Answer, Some(case)) => case.answer.extend(bytes),
                    _ => panic!("{line:?} is of no case"),
                }
            }
        }
    }
    for case in &mut cases {
        if let Some((program, version, procedure)) = case.of {
            case.call = record(&[1, 0, 2, program, version, procedure], &names["auth"], &case.call);
            case.answer = record(&[1, 1, 0, 0, 0, 0], &[], &case.answer);
        }
    }
    cases
}

fn all() -> Vec<(&'static str, Vec<Case>)> {
    let mut names = Names::new();
    read(COMMON, &mut names);
    TEXTS.iter().map(|(name, text)| (*name, read(text, &mut names.clone()))).collect()
}

/// The records of all calls: what a fuzzer begins with.
pub(super) fn calls() -> Vec<Vec<u8>> {
    all().into_iter().flat_map(|(_, cases)| cases).map(|case| case.call).collect()
}

/// How two byte strings differ, in words.
fn differ(expected: &[u8], found: &[u8]) -> String {
    let word = |bytes: &[u8], at: usize| bytes.get(at * 4..(at * 4 + 4).min(bytes.len())).map_or("-".into(), hex::encode);
    let count = expected.len().max(found.len()).div_ceil(4);
    let line = |at| {
        let (expected, found) = (word(expected, at), word(found, at));
        let sign = if expected == found { ' ' } else { '!' };
        format!("{sign} {:4} {expected:8} {found:8}\n", at * 4)
    };
    (0..count).map(line).collect()
}

#[tokio::test]
async fn answers_are_as_the_rfcs_lay_them_out() {
    let mut seen = std::collections::BTreeSet::new();
    for (name, cases) in all() {
        let share = Fixed::new();
        let nfs = Nfs::new(&KEY, None).unwrap();
        nfs.export("demo", open_rules(), Some(share.clone()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(nfs.clone().serve(listener));
        for case in cases {
            let mut socket = TcpStream::connect(address).await.unwrap();
            socket.write_all(&case.call).await.unwrap();
            let mut found = vec![0; 4];
            socket.read_exact(&mut found).await.unwrap();
            let len = u32::from_be_bytes(*found.first_chunk().unwrap()) & 0x7fff_ffff;
            found.resize(4 + len as usize, 0);
            socket.read_exact(&mut found[4..]).await.unwrap();
            assert_eq!(case.answer, found, "{name}: {}: expected, found:\n{}", case.title, differ(&case.answer, &found));
            let asked = std::mem::take(&mut *share.asked.lock());
            assert_eq!(case.share, asked, "{name}: {}", case.title);
            seen.extend(case.of.map(|(program, _, procedure)| (program, procedure)));
        }
    }
    let wanted = |program: u32, procedures: Vec<u32>| procedures.into_iter().map(move |procedure| (program, procedure));
    let nfs = wanted(100_003, (0..22).collect());
    let nlm = wanted(100_021, (0..=4).chain(20..=23).collect());
    let all = nfs.chain(wanted(100_005, (0..6).collect())).chain(nlm).chain(wanted(100_024, vec![0, 6]));
    let missing: Vec<(u32, u32)> = all.filter(|of| !seen.contains(of)).collect();
    assert!(missing.is_empty(), "procedures without a case: {missing:?}");
}
