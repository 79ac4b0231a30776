//! Wire formats and sessions: what machines on the network (and this machine's kernel) speak. Siblings are strangers, but for
//! `iscsi`, which stands on `scsi`. Wire bytes live only here.

pub mod admin;
pub mod fuse;
pub mod iscsi;
pub mod nfs;
pub mod s3;
pub mod scsi;
pub mod smb;
