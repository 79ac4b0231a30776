//! Who may in, and who replaces whom.

use md5::{Digest, Md5};

use super::*;
use crate::protocol::iscsi::pdu::{Header, at, request, response};

fn initiator_name(name: &str) -> String {
    format!("iqn.2026-01.org.example:{name}")
}

fn chap() -> Chap {
    let credential = |name: &str, secret: &str| Credential { name: name.to_owned(), secret: secret.into() };
    Chap { initiator: credential("user", "password-of-16"), target: Some(credential("gw", "secret-of-target")) }
}

fn find<'a>(pairs: &'a [(String, String)], key: &str) -> &'a str {
    pairs.iter().find(|(name, _)| name == key).map_or("", |(_, value)| value)
}

/// Logs in by CHAP with MD5; the target's own response where it was asked for.
async fn log_in(served: &Served, secret: &str, challenge: Option<&str>) -> Result<String, u16> {
    let mut initiator = Initiator::connect(served.address).await;
    let name = initiator_name("chap");
    let keys = [("InitiatorName", name.as_str()), ("TargetName", NAME), ("AuthMethod", "CHAP,None")];
    let (status, flags, pairs) = initiator.login_step(0, Some(1), &keys).await;
    assert_eq!((status, flags, find(&pairs, "AuthMethod")), (0, 0, "CHAP"));
    let (_, _, pairs) = initiator.login_step(0, None, &[("CHAP_A", "7,5")]).await;
    assert_eq!(find(&pairs, "CHAP_A"), "7");
    // The algorithm may be chosen once more: another challenge.
    let mut initiator = Initiator::connect(served.address).await;
    initiator.login_step(0, Some(1), &keys).await;
    let (_, _, pairs) = initiator.login_step(0, None, &[("CHAP_A", "5")]).await;
    let id: u8 = find(&pairs, "CHAP_I").parse().unwrap();
    let asked = hex::decode(&find(&pairs, "CHAP_C")[2..]).unwrap();
    let response = format!("0x{}", hex::encode(Md5::digest([&[id], secret.as_bytes(), &asked].concat())));
    let mut keys = vec![("CHAP_N", "user"), ("CHAP_R", response.as_str())];
    let reflected = find(&pairs, "CHAP_C").to_owned();
    if let Some(challenge) = challenge {
        keys.extend([("CHAP_I", "9"), ("CHAP_C", if challenge == "reflect" { &reflected } else { challenge })]);
    }
    let (status, flags, pairs) = initiator.login_step(0, Some(3), &keys).await;
    if status != 0 {
        assert!(initiator.is_closed().await);
        return Err(status);
    }
    assert_eq!(flags, 0x83);
    initiator.settle().await;
    Ok(find(&pairs, "CHAP_R").to_owned())
}

#[tokio::test]
async fn chap_is_asked_for_and_given() {
    let served = Served::with(Limits::default(), Admission { chap: Some(chap()), ..Admission::default() }).await;
    assert_eq!(log_in(&served, "password-of-16", None).await, Ok(String::new()));
    let expected = hex::encode(Md5::digest([&[9], &b"secret-of-target"[..], &[1, 2, 3]].concat()));
    assert_eq!(log_in(&served, "password-of-16", Some("0x010203")).await, Ok(format!("0x{expected}")));
    assert_eq!(log_in(&served, "password-of-17", None).await, Err(0x0201));
    assert_eq!(log_in(&served, "password-of-16", Some("reflect")).await, Err(0x0201));
    let mut without = Initiator::connect(served.address).await;
    assert_eq!(without.log_in("x", &[]).await, Err(0x0201));
    let mut none = Initiator::connect(served.address).await;
    let name = initiator_name("x");
    let keys = [("InitiatorName", name.as_str()), ("TargetName", NAME), ("AuthMethod", "None")];
    assert_eq!(none.login_step(0, Some(1), &keys).await.0, 0x0201);
    let mut early = Initiator::connect(served.address).await;
    let keys = [("InitiatorName", name.as_str()), ("TargetName", NAME), ("CHAP_R", "0x00"), ("CHAP_N", "user")];
    assert_eq!(early.login_step(0, Some(1), &keys).await.0, 0x0201);
}

#[tokio::test]
async fn logins_are_refused_as_the_rfc_says() {
    let admission = Admission { initiators: [initiator_name("good")].into(), chap: None };
    let served = Served::with(Limits::default(), admission).await;
    let step = async |keys: &[(&str, &str)]| Initiator::connect(served.address).await.login_step(1, Some(3), keys).await.0;
    let (good, bad) = (initiator_name("good"), initiator_name("bad"));
    let (good, bad) = (("InitiatorName", good.as_str()), ("InitiatorName", bad.as_str()));
    assert_eq!(step(&[good, ("TargetName", NAME)]).await, 0);
    assert_eq!(step(&[bad, ("TargetName", NAME)]).await, 0x0202);
    assert_eq!(step(&[good, ("TargetName", "iqn.other")]).await, 0x0203);
    assert_eq!(step(&[good]).await, 0x0207);
    assert_eq!(step(&[("TargetName", NAME)]).await, 0x0207);
    assert_eq!(step(&[good, ("TargetName", NAME), ("SessionType", "Odd")]).await, 0x0209);
    assert_eq!(step(&[good, ("TargetName", NAME), ("InitialR2T", "No"), ("InitialR2T", "No")]).await, 0x0200);
    let changed = async |change: fn(&mut Header)| {
        let mut initiator = Initiator::connect(served.address).await;
        let mut header = initiator.login_header(1, Some(3));
        change(&mut header);
        initiator.send(header, &text::write([good, ("TargetName", NAME)])).await;
        initiator.receive().await.header.half(36)
    };
    assert_eq!(changed(|header| header.0[3] = 1).await, 0x0205);
    assert_eq!(changed(|header| header.0[15] = 9).await, 0x020a);
    assert_eq!(changed(|header| header.0[0] = request::COMMAND).await, 0x020b);
    assert_eq!(changed(|header| header.0[1] = 0x80 | 2 << 2 | 3).await, 0x0200);
    assert_eq!(changed(|header| header.0[1] = 0xc0 | 1 << 2 | 3).await, 0x0200);
    assert_eq!(changed(|header| header.0[1] = 0x80 | 1 << 2).await, 0x0200);
}

#[tokio::test]
async fn every_key_is_answered_and_both_digests_work() {
    let served = Served::new().await;
    for (header, data) in [("None", "CRC32C"), ("CRC32C", "None"), ("CRC32C", "CRC32C"), ("None", "None")] {
        let mut initiator = Initiator::connect(served.address).await;
        let keys =
            [("HeaderDigest", header), ("DataDigest", data), ("X-odd", "1"), ("MaxConnections", "4"), ("InitiatorAlias", "me")];
        initiator.log_in("digests", &keys).await.unwrap();
        assert_eq!(find(&initiator.agreed, "X-odd"), "NotUnderstood");
        assert_eq!(find(&initiator.agreed, "MaxConnections"), "1");
        assert_eq!(find(&initiator.agreed, "TargetPortalGroupTag"), "1");
        assert_eq!(find(&initiator.agreed, "MaxRecvDataSegmentLength"), "262144");
        initiator.settle().await;
        let bytes: Vec<u8> = (0..100 * 512).map(|at| (at % 251) as u8).collect();
        assert_eq!(initiator.write(3, &bytes).await.status, 0);
        assert_eq!(initiator.read(3, 100).await.data, bytes);
    }
}

#[tokio::test]
async fn discovery_tells_of_targets_and_of_the_address_that_was_reached() {
    let served = Served::new().await;
    for number in 0..300 {
        served.server.offer(&format!("iqn.2026-01.org.example:more-{number}"), Admission::default()).unwrap();
    }
    served
        .server
        .offer("iqn.2026-01.org.example:other", Admission { initiators: ["iqn.nobody".to_owned()].into(), chap: None })
        .unwrap();
    let mut initiator = Initiator::connect(served.address).await;
    let name = initiator_name("seeker");
    initiator.login_step(1, Some(3), &[("InitiatorName", &name), ("SessionType", "Discovery")]).await;
    let (mut found, mut transfer) = (Vec::new(), u32::MAX);
    loop {
        initiator.tag += 1;
        let mut header = Header::new(request::TEXT | 0x40, initiator.tag);
        header.set(at::TRANSFER, transfer);
        header.set(at::COMMAND, initiator.command_number);
        let asked = if transfer == u32::MAX { text::write([("SendTargets", "All")]) } else { Vec::new() };
        initiator.send(header, &asked).await;
        let answer = initiator.receive().await;
        assert_eq!(answer.header.opcode(), response::TEXT);
        assert!(answer.data.len() <= 8192);
        found.extend_from_slice(&answer.data);
        transfer = answer.header.word(at::TRANSFER);
        if answer.header.flags() & 0x80 != 0 {
            break;
        }
    }
    let pairs = text::parse(&found).unwrap_or_else(|_| {
        let lossy = String::from_utf8_lossy(&found).into_owned();
        lossy.split('\0').filter_map(|pair| pair.split_once('=')).map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
    });
    let names: Vec<_> = pairs.iter().filter(|(key, _)| key == "TargetName").map(|(_, value)| value.as_str()).collect();
    assert_eq!(names.len(), 301);
    assert!(names.contains(&NAME) && !names.contains(&"iqn.2026-01.org.example:other"));
    assert!(pairs.iter().any(|(key, value)| key == "TargetAddress" && *value == format!("{},1", served.address)));
    // A discovery session has no commands.
    let header = initiator.command_header(&[0; 6], 0, 0);
    initiator.send(header, &[]).await;
    assert_eq!(initiator.receive().await.header.opcode(), response::REJECT);
}

#[tokio::test]
async fn a_session_is_reinstated_when_the_old_one_has_ended() {
    let served = Served::new().await;
    let mut old = served.initiator("same").await;
    let mut other = served.initiator("other").await;
    served.disk.close();
    let header = old.command_header(&initiator::ten(0x2a, 0, 1), initiator::WRITES, 512);
    old.send(header, &[1; 512]).await;
    Served::until(|| served.disk.begun.load(Atomic::SeqCst) == 1).await;
    let mut new = Initiator::connect(served.address).await;
    let logging_in = tokio::spawn(async move {
        new.log_in("same", &[]).await.unwrap();
        new
    });
    assert!(old.is_closed_or_silent().await);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!logging_in.is_finished(), "a write of the old session still runs");
    served.disk.open();
    let mut new = logging_in.await.unwrap();
    assert_eq!(served.disk.done.load(Atomic::SeqCst), 1);
    let first = new.command(&[0; 6], 0, &[], 0).await;
    assert_eq!(first.sense[12..14], [0x29, 0x07], "the nexus was lost");
    assert!(new.is_well().await && other.is_well().await);
    assert_eq!(served.server.status().sessions.len(), 2);
    // Another ISID is another session.
    let mut second = Initiator::connect(served.address).await;
    second.isid[5] = 2;
    second.log_in("same", &[]).await.unwrap();
    second.settle().await;
    assert!(new.is_well().await && second.is_well().await);
}

#[tokio::test]
async fn new_credentials_end_sessions_and_draining_asks_first() {
    let served = Served::new().await;
    let mut initiator = served.initiator("a").await;
    served.server.admit(NAME, Admission::default());
    assert!(initiator.is_well().await, "nothing has changed");
    served.server.admit(NAME, Admission { chap: Some(chap()), ..Admission::default() });
    assert!(initiator.is_closed().await);
    served.server.admit(NAME, Admission::default());
    let mut initiator = served.initiator("a").await;
    let server = served.server.clone();
    let draining = tokio::spawn(async move { server.drain().await });
    let message = initiator.receive().await;
    assert_eq!((message.header.opcode(), message.header.0[36]), (response::ASYNC, 1));
    let mut header = Header::new(request::LOGOUT | 0x40, 77);
    header.set(at::COMMAND, initiator.command_number);
    initiator.send(header, &[]).await;
    assert_eq!(initiator.receive().await.header.opcode(), response::LOGOUT);
    assert!(initiator.is_closed().await);
    draining.await.unwrap();
}

#[tokio::test]
async fn a_target_that_is_withdrawn_is_gone() {
    let served = Served::new().await;
    let mut initiator = served.initiator("a").await;
    served.server.withdraw(NAME).await;
    assert!(initiator.is_closed().await);
    let mut again = Initiator::connect(served.address).await;
    assert_eq!(again.log_in("a", &[]).await, Err(0x0203));
}
