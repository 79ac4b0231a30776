//! A small NFS client for tests: what it sends and how it reads answers is `nfs3_types`' encoding, not the server's.

use std::io::Cursor;
use std::net::SocketAddr;

use nfs3_types::mount;
use nfs3_types::nfs3::*;
use nfs3_types::rpc::auth_unix;
use nfs3_types::xdr_codec::{Opaque, Pack, Unpack, Void};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::protocol::nfs::rpc::LAST_FRAGMENT;

pub(crate) struct Client {
    pub(crate) socket: TcpStream,
    pub(crate) xid: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
}

pub(crate) fn pack(value: &impl Pack) -> Vec<u8> {
    let mut bytes = Vec::new();
    value.pack(&mut bytes).unwrap();
    assert_eq!(bytes.len(), value.packed_size());
    bytes
}

pub(crate) fn name(text: &str) -> filename3<'static> {
    text.as_bytes().to_vec().into()
}

pub(crate) fn place(dir: &nfs_fh3, text: &str) -> diropargs3<'static> {
    diropargs3 { dir: dir.clone(), name: name(text) }
}

pub(crate) fn mode(bits: u32) -> sattr3 {
    sattr3 { mode: Nfs3Option::Some(bits), ..sattr3::default() }
}

impl Client {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let socket = TcpStream::connect(address).await.unwrap();
        Self { socket, xid: fastrand::u32(..), uid: 0, gid: 0, groups: Vec::new() }
    }

    /// The record of a call, with its mark.
    pub(crate) fn record(&mut self, program: u32, version: u32, procedure: u32, args: &[u8]) -> Vec<u8> {
        self.xid = self.xid.wrapping_add(1);
        let sys = auth_unix {
            stamp: 1,
            machinename: Opaque::borrowed(b"test"),
            uid: self.uid,
            gid: self.gid,
            gids: self.groups.clone(),
        };
        let mut call = Vec::new();
        for word in [self.xid, 0, 2, program, version, procedure, 1] {
            call.extend(word.to_be_bytes());
        }
        call.extend(pack(&Opaque::from_vec(pack(&sys))));
        call.extend([0; 8]);
        call.extend(args);
        let mark = LAST_FRAGMENT | u32::try_from(call.len()).unwrap();
        [&mark.to_be_bytes(), call.as_slice()].concat()
    }

    /// A whole answer: its xid and what comes after.
    pub(crate) async fn answer(&mut self) -> std::io::Result<(u32, Vec<u8>)> {
        let mark = self.socket.read_u32().await?;
        assert!(mark & LAST_FRAGMENT != 0);
        let mut record = vec![0; (mark & !LAST_FRAGMENT) as usize];
        self.socket.read_exact(&mut record).await?;
        let xid = u32::from_be_bytes(*record.first_chunk().unwrap());
        Ok((xid, record.split_off(4)))
    }

    pub(crate) async fn send(&mut self, record: &[u8]) {
        self.socket.write_all(record).await.unwrap();
    }

    /// Sends a call and reads its answer's results: what follows the header of a success.
    pub(crate) async fn raw(&mut self, program: u32, version: u32, procedure: u32, args: &[u8]) -> Vec<u8> {
        let record = self.record(program, version, procedure, args);
        self.send(&record).await;
        let (xid, answer) = self.answer().await.unwrap();
        assert_eq!(xid, self.xid);
        answer
    }

    pub(crate) async fn call<R: Unpack>(&mut self, procedure: u32, args: &impl Pack) -> R {
        let answer = self.raw(PROGRAM, VERSION, procedure, &pack(args)).await;
        results(&answer)
    }

    pub(crate) async fn mount(&mut self, path: &str) -> Result<nfs_fh3, u32> {
        let args = Opaque::borrowed(path.as_bytes()).into_owned();
        let answer = self.raw(mount::PROGRAM, 3, 1, &pack(&Opaque::from_vec(args))).await;
        let status = u32::from_be_bytes(*answer[20..].first_chunk().unwrap());
        if status != 0 {
            return Err(status);
        }
        let (data, _) = Opaque::unpack(&mut Cursor::new(&answer[24..])).unwrap();
        Ok(nfs_fh3 { data })
    }

    pub(crate) async fn getattr(&mut self, object: &nfs_fh3) -> Result<fattr3, nfsstat3> {
        let result: GETATTR3res = self.call(1, &GETATTR3args { object: object.clone() }).await;
        match result {
            Nfs3Result::Ok(ok) => Ok(ok.obj_attributes),
            Nfs3Result::Err((status, Void)) => Err(status),
        }
    }

    pub(crate) async fn lookup(&mut self, dir: &nfs_fh3, text: &str) -> Result<nfs_fh3, nfsstat3> {
        let result: LOOKUP3res = self.call(3, &LOOKUP3args { what: place(dir, text) }).await;
        match result {
            Nfs3Result::Ok(ok) => Ok(ok.object),
            Nfs3Result::Err((status, _)) => Err(status),
        }
    }

    pub(crate) async fn create(&mut self, dir: &nfs_fh3, text: &str, how: createhow3) -> Result<nfs_fh3, nfsstat3> {
        let result: CREATE3res = self.call(8, &CREATE3args { where_: place(dir, text), how }).await;
        match result {
            Nfs3Result::Ok(ok) => Ok(ok.obj.unwrap()),
            Nfs3Result::Err((status, _)) => Err(status),
        }
    }

    pub(crate) async fn file(&mut self, dir: &nfs_fh3, text: &str) -> nfs_fh3 {
        self.create(dir, text, createhow3::GUARDED(mode(0o644))).await.unwrap()
    }

    pub(crate) async fn mkdir(&mut self, dir: &nfs_fh3, text: &str, bits: u32) -> Result<nfs_fh3, nfsstat3> {
        let result: MKDIR3res = self.call(9, &MKDIR3args { where_: place(dir, text), attributes: mode(bits) }).await;
        match result {
            Nfs3Result::Ok(ok) => Ok(ok.obj.unwrap()),
            Nfs3Result::Err((status, _)) => Err(status),
        }
    }

    pub(crate) async fn write(&mut self, file: &nfs_fh3, offset: u64, data: &[u8], stable: stable_how) -> WRITE3res {
        let count = u32::try_from(data.len()).unwrap();
        let data = Opaque::from_vec(data.to_vec());
        self.call(7, &WRITE3args { file: file.clone(), offset, count, stable, data }).await
    }

    pub(crate) async fn read(&mut self, file: &nfs_fh3, offset: u64, count: u32) -> Result<(Vec<u8>, bool), nfsstat3> {
        let result: READ3res<'static> = self.call(6, &READ3args { file: file.clone(), offset, count }).await;
        match result {
            Nfs3Result::Ok(ok) => {
                assert_eq!(ok.count as usize, ok.data.len());
                Ok((ok.data.into_owned(), ok.eof))
            }
            Nfs3Result::Err((status, _)) => Err(status),
        }
    }

    pub(crate) async fn remove(&mut self, dir: &nfs_fh3, text: &str) -> nfsstat3 {
        let result: REMOVE3res = self.call(12, &REMOVE3args { object: place(dir, text) }).await;
        super::error(result)
    }

    pub(crate) async fn rename(&mut self, from: (&nfs_fh3, &str), to: (&nfs_fh3, &str)) -> nfsstat3 {
        let result: RENAME3res = self.call(14, &RENAME3args { from: place(from.0, from.1), to: place(to.0, to.1) }).await;
        super::error(result)
    }

    /// Names and cookies of one page, and whether it is the last.
    pub(crate) async fn page(&mut self, dir: &nfs_fh3, cookie: u64, count: u32) -> Result<(Vec<(String, u64)>, bool), nfsstat3> {
        let args = READDIR3args { dir: dir.clone(), cookie, cookieverf: cookieverf3::default(), count };
        let answer = self.raw(PROGRAM, VERSION, 16, &pack(&args)).await;
        let is_ok = answer[20..24] == [0; 4];
        assert!(!is_ok || answer.len() - 24 <= count as usize, "the answer is longer than its client can take");
        let result: READDIR3res<'static> = results(&answer);
        match result {
            Nfs3Result::Ok(ok) => {
                let text = |entry: entry3<'_>| (String::from_utf8(entry.name.as_ref().to_vec()).unwrap(), entry.cookie);
                Ok((ok.reply.entries.into_inner().into_iter().map(text).collect(), ok.reply.eof))
            }
            Nfs3Result::Err((status, _)) => Err(status),
        }
    }
}

/// What a success says: everything, and nothing more.
pub(crate) fn results<R: Unpack>(answer: &[u8]) -> R {
    assert_eq!(answer[..20], [&[0, 0, 0, 1], [0; 16].as_slice()].concat(), "not accepted");
    let (value, read) = R::unpack(&mut Cursor::new(&answer[20..])).unwrap();
    assert_eq!(read, answer.len() - 20, "more than the results");
    value
}
