//! Every form in the wild, and that what is written is read back.

use proptest::prelude::*;

use super::*;

fn rules() -> Rules {
    Rules { file_mode: 0o666, dir_mode: 0o777, uid: 65_534, gid: 65_534, guess_mime: true, dress: Attributes::default() }
}

fn posix() -> Posix {
    Posix {
        kind: NodeKind::File,
        mode: 0o644,
        uid: 1000,
        gid: 100,
        rdev: 0,
        mtime_ns: 1_595_002_920_000_000_001,
        atime_ns: 1_595_002_921_000_000_000,
        birth_ns: 1_595_002_920_000_000_001,
        xattrs: BTreeMap::new(),
        link: None,
        open: false,
    }
}

fn foreign(metadata: &[(&str, &str)]) -> Attributes {
    Attributes {
        metadata: metadata.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        ..Attributes::default()
    }
}

fn read(metadata: &[(&str, &str)]) -> Posix {
    decode(&foreign(metadata), 7_000_000_000, "x.bin", false, &rules()).posix
}

#[test]
fn writes_the_schema_of_aws() {
    let out = encode(&posix(), "a/photo.jpg", "gw-1", &rules()).attributes;
    let get = |name: &str| out.metadata.get(name).map(String::as_str);
    assert_eq!(out.content_type.as_deref(), Some("image/jpeg"));
    assert_eq!(get("file-permissions"), Some("0100644"));
    assert_eq!(get("file-owner"), Some("1000"));
    assert_eq!(get("file-group"), Some("100"));
    assert_eq!(get("file-mtime"), Some("1595002920000000001ns"));
    assert_eq!(get("file-atime"), Some("1595002921000000000ns"));
    assert_eq!(out.metadata.len(), 5);
}

#[test]
fn type_bits_of_every_kind() {
    let of = |kind, mode| permissions(kind, mode);
    assert_eq!(of(NodeKind::Directory, 0o755), "0040755");
    assert_eq!(of(NodeKind::Symlink, 0o777), "0120777");
    assert_eq!(of(NodeKind::Fifo, 0o600), "0010600");
    assert_eq!(of(NodeKind::Socket, 0o600), "0140600");
    assert_eq!(of(NodeKind::File, 0o4755), "0104755");
    for kind in [NodeKind::Fifo, NodeKind::CharDevice, NodeKind::BlockDevice, NodeKind::File, NodeKind::Symlink, NodeKind::Socket]
    {
        let read = read(&[("file-permissions", &of(kind, 0o640))]);
        assert_eq!((read.kind, read.mode), (kind, 0o640));
    }
}

#[test]
fn permissions_in_the_wild() {
    for text in ["0100644", "100644", "0644", "644"] {
        let read = read(&[("file-permissions", text)]);
        assert_eq!((read.kind, read.mode), (NodeKind::File, 0o644), "{text}");
    }
    for text in ["", "rw-r--r--", "99", "0777777777777"] {
        assert_eq!(read(&[("file-permissions", text)]).mode, 0o666, "{text}");
    }
    // s3fs writes st_mode in decimal.
    assert_eq!(read(&[("mode", "33184"), ("uid", "5"), ("gid", "6")]).mode, 0o640);
    // The key decides what is a directory.
    assert_eq!(read(&[("file-permissions", "0040755")]).kind, NodeKind::File);
    let marker = decode(&foreign(&[("file-permissions", "0644")]), 0, "d", true, &rules()).posix;
    assert_eq!((marker.kind, marker.mode), (NodeKind::Directory, 0o644));
}

#[test]
fn times_in_the_wild() {
    for (text, ns) in [
        ("1595002920000000000ns", 1_595_002_920_000_000_000),
        ("1595002920123", 1_595_002_920_123_000_000),
        ("1595002920.5", 1_595_002_920_500_000_000),
        ("1595002920.123456789", 1_595_002_920_123_456_789),
        ("-1.5", -1_500_000_000),
        ("-0.25", -250_000_000),
        ("-5ns", -5),
        ("soon", 7_000_000_000),
        ("99999999999999999999ns", 7_000_000_000),
        ("9999999999999999", 7_000_000_000),
    ] {
        assert_eq!(read(&[("file-mtime", text)]).mtime_ns, ns, "{text}");
    }
    assert_eq!(read(&[("mtime", "1595002920")]).mtime_ns, 1_595_002_920_000_000_000);
    assert_eq!(read(&[("mtime", "1595002920.25")]).mtime_ns, 1_595_002_920_250_000_000);
    let both = read(&[("mtime", "5"), ("file-mtime", "6000")]);
    assert_eq!((both.mtime_ns, both.atime_ns, both.birth_ns), (6_000_000_000, 6_000_000_000, 6_000_000_000));
}

#[test]
fn defaults_where_nothing_is_said() {
    let read = read(&[]);
    assert_eq!((read.kind, read.mode, read.uid, read.gid), (NodeKind::File, 0o666, 65_534, 65_534));
    assert_eq!((read.mtime_ns, read.atime_ns), (7_000_000_000, 7_000_000_000));
    let marker = decode(&Attributes::default(), 1, "d", true, &rules()).posix;
    assert_eq!((marker.kind, marker.mode), (NodeKind::Directory, 0o777));
}

#[test]
fn what_others_wrote_is_kept() {
    let mut theirs = foreign(&[("project", "apollo"), ("user-agent", "aws-storage-gateway"), ("file-acl", "AQ==")]);
    theirs.content_type = Some("application/x-special".into());
    let read = decode(&theirs, 0, "a.txt", false, &rules()).posix;
    assert_eq!(read.xattrs.get(b"user.s3.meta.project".as_slice()), Some(&b"apollo".to_vec()));
    assert_eq!(read.xattrs.get(XATTR_CONTENT_TYPE), Some(&b"application/x-special".to_vec()));
    assert!(!read.xattrs.contains_key(b"user.s3.meta.user-agent".as_slice()));
    let again = encode(&read, "a.txt", "gw-1", &rules()).attributes;
    assert_eq!(again.content_type, theirs.content_type);
    assert_eq!(again.metadata.get("project").map(String::as_str), Some("apollo"));
    assert!(!again.metadata.contains_key("tidegate-overflow"));
}

#[test]
fn the_digest_leaves_out_what_never_causes_a_request() {
    let one = encode(&posix(), "a.txt", "gw-1", &rules()).attributes;
    let mut other = encode(&Posix { atime_ns: 5, ..posix() }, "a.txt", "gw-1", &rules()).attributes;
    other.metadata.insert(GENERATION_MARK.into(), "x".into());
    assert_eq!(digest(&one), digest(&other));
    let renamed = encode(&posix(), "a.jpg", "gw-1", &rules()).attributes;
    assert_ne!(digest(&one), digest(&renamed));
    let touched = encode(&Posix { mtime_ns: 5, ..posix() }, "a.txt", "gw-1", &rules()).attributes;
    assert_ne!(digest(&one), digest(&touched));
}

#[test]
fn devices_keep_their_number() {
    let device = Posix { kind: NodeKind::CharDevice, rdev: libc::makedev(10, 229) as u32, ..posix() };
    let out = encode(&device, "fuse", "gw-1", &rules()).attributes;
    assert_eq!(out.metadata.get("tidegate-rdev").map(String::as_str), Some("10:229"));
    assert_eq!(decode(&out, 0, "fuse", false, &rules()).posix, device);
}

fn any_xattrs() -> impl Strategy<Value = BTreeMap<Vec<u8>, Vec<u8>>> {
    let name = prop_oneof![
        prop::collection::vec(any::<u8>(), 1..40).prop_map(|tail| [b"user.".as_slice(), &tail].concat()),
        "[a-z]{1,20}".prop_map(|tail| [XATTR_METADATA, tail.as_bytes()].concat()),
    ];
    let value = prop_oneof![prop::collection::vec(any::<u8>(), 0..300), "[ -~]{0,200}".prop_map(String::into_bytes)];
    prop::collection::btree_map(name, value, 0..12)
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(
        kind in prop::sample::select(vec![NodeKind::File, NodeKind::Symlink, NodeKind::Fifo, NodeKind::Socket, NodeKind::BlockDevice]),
        mode in 0u32..0o10000,
        ids in any::<(u32, u32)>(),
        times in any::<(i64, i64, i64)>(),
        xattrs in any_xattrs(),
        link in prop::option::of("[a-z0-9-]{1,40}"),
        open in any::<bool>(),
    ) {
        let rdev = if kind == NodeKind::BlockDevice { libc::makedev(8, 3) as u32 } else { 0 };
        let (mtime_ns, atime_ns, birth_ns) = times;
        let posix = Posix { kind, mode, uid: ids.0, gid: ids.1, rdev, mtime_ns, atime_ns, birth_ns, xattrs, link, open };
        let out = encode(&posix, "a.txt", "gateway-17", &rules());
        let used: usize = out.attributes.metadata.iter().map(|(name, value)| name.len() + value.len()).sum();
        prop_assert!(used <= METADATA_BYTES_MAX);
        let mut read = decode(&out.attributes, 1, "a.txt", false, &rules());
        prop_assert_eq!(read.overflow.as_deref(), out.overflow.as_ref().map(|(name, _)| name.as_str()));
        if let Some((name, body)) = &out.overflow {
            prop_assert!(overflow::is_name(name));
            read.posix.xattrs.extend(overflow::decode(body).unwrap_or_default());
        }
        prop_assert_eq!(read.posix, posix);
    }

    #[test]
    fn nothing_that_others_write_stops_us(metadata in prop::collection::btree_map("(file-(permissions|owner|mtime|atime)|mode|mtime|tidegate-(xattrs|rdev|overflow)|[a-z]{1,5})", ".{0,40}", 0..8)) {
        let attributes = Attributes { metadata, ..Attributes::default() };
        let _ = decode(&attributes, 1, "a", false, &rules());
        let _ = overflow::decode(attributes.metadata.values().next().map_or(b"", |value| value.as_bytes()));
    }
}
