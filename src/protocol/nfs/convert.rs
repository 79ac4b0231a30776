//! Every mapping between RFC 1813's values and the share's: attributes, times, kinds, errors, access bits. Pure.

use nfs3_types::nfs3::{
    ACCESS3_DELETE, ACCESS3_EXECUTE, ACCESS3_EXTEND, ACCESS3_LOOKUP, ACCESS3_MODIFY, ACCESS3_READ, ftype3, nfsstat3,
};

use crate::engine::file::{AccessMask, Attr, NodeKind, SetAttr, SetTime, VfsError};

use super::xdr::{Decoder, Encode, Garbage};

/// `NFS3_FHSIZE` (RFC 1813 §2.4).
pub(super) const HANDLE_BYTES_MAX: usize = 64;
/// Names and paths have no limit in the RFC; longer ones than any share has are refused as too long after they were read.
pub(super) const NAME_BYTES_MAX: usize = 4096;

/// Nanoseconds of a second.
const NS: i64 = 1_000_000_000;

/// The one map of errors to `nfsstat3` (RFC 1813 §2.6). JUKEBOX: the client comes again, which is what a full cache, an archived object and a
/// bucket that does not answer need.
pub(super) fn status(error: &VfsError) -> nfsstat3 {
    use nfsstat3 as S;
    match error {
        VfsError::NotFound | VfsError::NoAttribute => S::NFS3ERR_NOENT,
        VfsError::Stale => S::NFS3ERR_STALE,
        VfsError::Exists => S::NFS3ERR_EXIST,
        VfsError::NotDirectory => S::NFS3ERR_NOTDIR,
        VfsError::IsDirectory => S::NFS3ERR_ISDIR,
        VfsError::NotEmpty => S::NFS3ERR_NOTEMPTY,
        VfsError::AccessDenied | VfsError::ShareViolation => S::NFS3ERR_ACCES,
        VfsError::NotPermitted => S::NFS3ERR_PERM,
        VfsError::ReadOnly => S::NFS3ERR_ROFS,
        VfsError::NameTooLong => S::NFS3ERR_NAMETOOLONG,
        VfsError::BadName | VfsError::Invalid | VfsError::RangeTooSmall => S::NFS3ERR_INVAL,
        VfsError::TooLarge => S::NFS3ERR_FBIG,
        VfsError::TooManyLinks => S::NFS3ERR_MLINK,
        VfsError::CrossShare => S::NFS3ERR_XDEV,
        VfsError::NotSync => S::NFS3ERR_NOT_SYNC,
        VfsError::BadHandle => S::NFS3ERR_BADHANDLE,
        VfsError::NoSuchAddress => S::NFS3ERR_NXIO,
        VfsError::Unsupported => S::NFS3ERR_NOTSUPP,
        VfsError::NoSpace | VfsError::WouldBlock | VfsError::Interrupted | VfsError::Offline | VfsError::Unavailable(_) => {
            S::NFS3ERR_JUKEBOX
        }
        VfsError::Deadlock | VfsError::Io(_) => S::NFS3ERR_IO,
    }
}

pub(super) fn file_type(kind: NodeKind) -> ftype3 {
    match kind {
        NodeKind::File => ftype3::NF3REG,
        NodeKind::Directory => ftype3::NF3DIR,
        NodeKind::BlockDevice => ftype3::NF3BLK,
        NodeKind::CharDevice => ftype3::NF3CHR,
        NodeKind::Symlink => ftype3::NF3LNK,
        NodeKind::Socket => ftype3::NF3SOCK,
        NodeKind::Fifo => ftype3::NF3FIFO,
    }
}

/// `nfstime3`: unsigned seconds, so what is before 1970 shows as its beginning and what is after 2106 as its end.
pub(super) fn put_time(out: &mut impl Encode, ns: i64) {
    let ns = ns.max(0);
    match u32::try_from(ns / NS) {
        Ok(seconds) => {
            out.u32(seconds);
            out.u32(u32::try_from(ns % NS).unwrap_or(0));
        }
        Err(_) => {
            out.u32(u32::MAX);
            out.u32(0);
        }
    }
}

/// What a time becomes on the wire: two times that differ only beyond it are the same to a client.
pub(super) fn on_wire(ns: i64) -> i64 {
    ns.clamp(0, i64::from(u32::MAX) * NS)
}

/// What `fattr3` takes, in bytes.
pub(super) const ATTR_BYTES: usize = 84;

/// `fattr3` (RFC 1813 §2.6).
pub(super) fn put_attr(out: &mut impl Encode, attr: &Attr, fsid: u64) {
    out.u32(file_type(attr.kind) as u32);
    out.u32(attr.mode & 0o7777);
    out.u32(attr.nlink);
    out.u32(attr.uid);
    out.u32(attr.gid);
    out.u64(attr.size_bytes);
    out.u64(attr.allocated_bytes);
    out.u32(major(attr.rdev));
    out.u32(minor(attr.rdev));
    out.u64(fsid);
    out.u64(attr.node.0);
    put_time(out, attr.atime_ns);
    put_time(out, attr.mtime_ns);
    put_time(out, attr.ctime_ns);
}

/// `wcc_attr`: what a client compares with what it knew.
pub(super) fn put_before(out: &mut impl Encode, attr: &Attr) {
    out.u64(attr.size_bytes);
    put_time(out, attr.mtime_ns);
    put_time(out, attr.ctime_ns);
}

/// Device numbers as the kernel passes them in 32 bits (Linux: `new_encode_dev`).
fn major(rdev: u32) -> u32 {
    (rdev >> 8) & 0xfff
}

fn minor(rdev: u32) -> u32 {
    (rdev & 0xff) | ((rdev >> 12) & 0xfff00)
}

/// The reverse of `major` and `minor`.
pub(super) fn device(major: u32, minor: u32) -> u32 {
    (minor & 0xff) | ((major & 0xfff) << 8) | ((minor & 0xfff00) << 12)
}

fn time(decoder: &mut Decoder) -> Result<i64, Garbage> {
    let (seconds, nanoseconds) = (decoder.u32()?, decoder.u32()?);
    Ok(i64::from(seconds) * NS + i64::from(nanoseconds))
}

/// `set_atime`, `set_mtime`.
fn set_time(decoder: &mut Decoder) -> Result<Option<SetTime>, Garbage> {
    match decoder.u32()? {
        0 => Ok(None),
        1 => Ok(Some(SetTime::Now)),
        2 => time(decoder).map(|ns| Some(SetTime::At(ns))),
        _ => Err(Garbage),
    }
}

/// `sattr3` (RFC 1813 §2.6).
pub(super) fn set_attr(decoder: &mut Decoder) -> Result<SetAttr, Garbage> {
    Ok(SetAttr {
        mode: decoder.option(Decoder::u32)?.map(|mode| mode & 0o7777),
        uid: decoder.option(Decoder::u32)?,
        gid: decoder.option(Decoder::u32)?,
        size_bytes: decoder.option(Decoder::u64)?,
        atime: set_time(decoder)?,
        mtime: set_time(decoder)?,
        ..SetAttr::default()
    })
}

/// `sattrguard3`.
pub(super) fn guard(decoder: &mut Decoder) -> Result<Option<i64>, Garbage> {
    decoder.option(time)
}

/// The permission bits that ACCESS's bits need.
pub(super) fn access_wanted(access: u32, kind: NodeKind) -> AccessMask {
    let mut mask = 0;
    for (bit, permission) in access_table(kind) {
        if access & bit != 0 {
            mask |= permission;
        }
    }
    AccessMask(mask)
}

/// The bits of ACCESS that permission bits give.
pub(super) fn access_granted(access: u32, kind: NodeKind, granted: AccessMask, read_only: bool) -> u32 {
    let granted = if read_only { granted.0 & !WRITE } else { granted.0 };
    let bits = access_table(kind).iter().filter(|(bit, permission)| access & bit != 0 && granted & permission == *permission);
    bits.fold(0, |sum, (bit, _)| sum | bit)
}

const READ: u8 = 4;
const WRITE: u8 = 2;
const EXECUTE: u8 = 1;

/// RFC 1813 §3.3.4: names in a directory change with permission to write and to search.
fn access_table(kind: NodeKind) -> &'static [(u32, u8)] {
    match kind {
        NodeKind::Directory => &[
            (ACCESS3_READ, READ),
            (ACCESS3_LOOKUP, EXECUTE),
            (ACCESS3_MODIFY, WRITE | EXECUTE),
            (ACCESS3_EXTEND, WRITE | EXECUTE),
            (ACCESS3_DELETE, WRITE | EXECUTE),
        ],
        _ => &[(ACCESS3_READ, READ), (ACCESS3_MODIFY, WRITE), (ACCESS3_EXTEND, WRITE), (ACCESS3_EXECUTE, EXECUTE)],
    }
}

#[cfg(test)]
mod tests {
    use nfs3_types::nfs3::{Nfs3Option, fattr3, nfstime3, sattr3, set_atime, set_mtime, specdata3, wcc_attr};
    use nfs3_types::xdr_codec::Pack;

    use super::*;
    use crate::base::id::NodeId;

    fn attr() -> Attr {
        Attr {
            node: NodeId(0x0102_0304),
            kind: NodeKind::File,
            mode: 0o4751,
            nlink: 3,
            uid: 1000,
            gid: 100,
            rdev: 0,
            size_bytes: 1 << 33,
            allocated_bytes: 4096,
            atime_ns: 1_500_000_007,
            mtime_ns: 2_000_000_008,
            ctime_ns: 3_000_000_009,
            birth_ns: 0,
            change: 0,
        }
    }

    fn nfstime(seconds: u32, nseconds: u32) -> nfstime3 {
        nfstime3 { seconds, nseconds }
    }

    fn packed(value: &impl Pack) -> Vec<u8> {
        let mut bytes = Vec::new();
        value.pack(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn attributes_are_encoded_as_others_encode_them() {
        let expected = fattr3 {
            type_: ftype3::NF3REG,
            mode: 0o4751,
            nlink: 3,
            uid: 1000,
            gid: 100,
            size: 1 << 33,
            used: 4096,
            rdev: specdata3 { specdata1: 0, specdata2: 0 },
            fsid: 77,
            fileid: 0x0102_0304,
            atime: nfstime(1, 500_000_007),
            mtime: nfstime(2, 8),
            ctime: nfstime(3, 9),
        };
        let mut bytes = Vec::new();
        put_attr(&mut bytes, &attr(), 77);
        assert_eq!(bytes, packed(&expected));
        assert_eq!(bytes.len(), ATTR_BYTES);
        let mut bytes = Vec::new();
        put_before(&mut bytes, &attr());
        assert_eq!(bytes, packed(&wcc_attr { size: 1 << 33, mtime: nfstime(2, 8), ctime: nfstime(3, 9) }));
    }

    #[test]
    fn what_is_to_be_set_is_read_as_others_write_it() {
        let sent = sattr3 {
            mode: Nfs3Option::Some(0o100_644),
            uid: Nfs3Option::None,
            gid: Nfs3Option::Some(5),
            size: Nfs3Option::Some(9),
            atime: set_atime::SET_TO_SERVER_TIME,
            mtime: set_mtime::SET_TO_CLIENT_TIME(nfstime(7, 8)),
        };
        let read = set_attr(&mut Decoder::new(packed(&sent).into())).unwrap();
        let expected = SetAttr {
            mode: Some(0o644),
            gid: Some(5),
            size_bytes: Some(9),
            atime: Some(SetTime::Now),
            mtime: Some(SetTime::At(7_000_000_008)),
            ..SetAttr::default()
        };
        assert_eq!(read, expected);
        assert_eq!(set_attr(&mut Decoder::new(packed(&sattr3::default()).into())), Ok(SetAttr::default()));
    }

    #[test]
    fn devices_keep_their_numbers() {
        for (major_number, minor_number) in [(1, 3), (8, 17), (0xfff, 0xfffff), (253, 300)] {
            let rdev = device(major_number, minor_number);
            assert_eq!((major(rdev), minor(rdev)), (major_number, minor_number));
        }
    }

    #[test]
    fn times_stay_within_the_wire() {
        let wire = |ns| {
            let mut out = Vec::new();
            put_time(&mut out, ns);
            out
        };
        assert_eq!(wire(-5), [0; 8]);
        assert_eq!(wire(1_500_000_007), [0, 0, 0, 1, 0x1d, 0xcd, 0x65, 0x07]);
        assert_eq!(wire(i64::MAX), [255, 255, 255, 255, 0, 0, 0, 0]);
    }

    #[test]
    fn access_bits_follow_permission_bits() {
        let all = 0x3f;
        assert_eq!(access_granted(all, NodeKind::File, AccessMask(7), false), 1 | 4 | 8 | 32);
        assert_eq!(access_granted(all, NodeKind::File, AccessMask(4), false), 1);
        assert_eq!(access_granted(all, NodeKind::Directory, AccessMask(7), false), 1 | 2 | 4 | 8 | 16);
        assert_eq!(access_granted(all, NodeKind::Directory, AccessMask(7), true), 1 | 2);
        assert_eq!(access_granted(all, NodeKind::Directory, AccessMask(6), false), 1, "writing needs searching");
        assert_eq!(access_granted(ACCESS3_READ, NodeKind::File, AccessMask(7), false), 1);
        assert_eq!(access_wanted(ACCESS3_READ | ACCESS3_EXECUTE, NodeKind::File), AccessMask(5));
    }
}
