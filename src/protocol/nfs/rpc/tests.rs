//! Golden bytes of RFC 5531, and what a stranger may send instead.

use nfs3_types::rpc as other;
use nfs3_types::xdr_codec::{Opaque, Pack};

use super::*;

fn peer() -> SocketAddr {
    "10.0.0.9:700".parse().unwrap()
}

fn words(words: &[u32]) -> Bytes {
    words.iter().flat_map(|word| word.to_be_bytes()).collect::<Vec<_>>().into()
}

fn parse(record: Bytes) -> Result<Result<Request, Vec<u8>>, NotACall> {
    Request::parse(record, peer()).map(|parsed| parsed.map_err(|reply| reply.finish().0))
}

#[test]
fn a_call_is_read_as_others_write_it() {
    let sys = other::auth_unix { stamp: 7, machinename: Opaque::borrowed(b"client"), uid: 1000, gid: 100, gids: vec![4, 24, 27] };
    let mut body = Vec::new();
    sys.pack(&mut body).unwrap();
    let mut call = Vec::new();
    call.u32(0xabcd);
    for word in [CALL, 2, 100_003, 3, 1, AUTH_SYS] {
        call.u32(word);
    }
    call.opaque(&body);
    call.absent(2);
    call.u32(42);
    let mut request = parse(call.into()).unwrap().unwrap();
    assert_eq!((request.xid, request.program, request.version, request.procedure), (0xabcd, 100_003, 3, 1));
    assert_eq!(request.credential, Credential::Sys { uid: 1000, gid: 100, groups: vec![4, 24, 27] });
    assert_eq!(request.args.u32(), Ok(42));
    assert_eq!(parse(words(&[1, CALL, 2, 3, 4, 5, 0, 0, 0, 0])).unwrap().unwrap().credential, Credential::None);
}

#[test]
fn refusals_are_the_rfcs() {
    let refused = |why| {
        let (head, payload) = Reply::refused(9, why).finish();
        assert!(payload.is_empty());
        assert_eq!(head[..4], (LAST_FRAGMENT | u32::try_from(head.len() - 4).unwrap()).to_be_bytes());
        Bytes::from(head).slice(4..)
    };
    assert_eq!(refused(Refusal::RpcVersion), words(&[9, 1, 1, 0, 2, 2]));
    assert_eq!(refused(Refusal::Auth(AuthStat::BadCredential)), words(&[9, 1, 1, 1, 1]));
    assert_eq!(refused(Refusal::Program), words(&[9, 1, 0, 0, 0, 1]));
    assert_eq!(refused(Refusal::Version(3, 3)), words(&[9, 1, 0, 0, 0, 2, 3, 3]));
    assert_eq!(refused(Refusal::Procedure), words(&[9, 1, 0, 0, 0, 3]));
    assert_eq!(refused(Refusal::Arguments), words(&[9, 1, 0, 0, 0, 4]));
}

#[test]
fn strangers_are_answered_or_cut_off() {
    assert_eq!(parse(Bytes::new()).unwrap_err(), NotACall);
    assert_eq!(parse(words(&[1, REPLY, 2, 3, 4, 5])).unwrap_err(), NotACall);
    let version = parse(words(&[1, CALL, 3, 3, 4, 5])).unwrap().unwrap_err();
    assert_eq!(version[4..], words(&[1, 1, 1, 0, 2, 2])[..]);
    for credential in [
        &[][..],
        &[6, 0, 0, 0],
        &[AUTH_SYS, 0xffff_ffff],
        &[AUTH_SYS, 404, 0],
        &[AUTH_SYS, 4, 0, 0, 0],
        // 17 groups
        &[AUTH_SYS, 20, 0, 0, 1, 1, 17, 0, 0],
        // groups that are not there
        &[AUTH_SYS, 20, 0, 0, 1, 1, 16, 0, 0],
    ] {
        let call = [&[1, CALL, 2, 100_003, 3, 0], credential].concat();
        let refused = parse(words(&call)).unwrap().unwrap_err();
        assert_eq!(refused[4..], words(&[1, 1, 1, 1, 1])[..], "{credential:?}");
    }
}

#[test]
fn a_payload_is_padded_and_counted() {
    let mut reply = Reply::success(5);
    reply.u32(77);
    assert_eq!(reply.results_bytes(), 4);
    reply.payload(vec![Bytes::from_static(b"abc"), Bytes::from_static(b"de")]);
    let (head, payload) = reply.finish();
    let record = [head.as_slice(), &payload.concat()].concat();
    assert_eq!(record[..4], (LAST_FRAGMENT | 40).to_be_bytes());
    assert_eq!(record[4..], [&words(&[5, 1, 0, 0, 0, 0, 77, 5])[..], b"abcde\0\0\0"].concat());
}
