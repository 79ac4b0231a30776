//! The crate `nfsserve` over a trivial file system in memory: `nfsserve-yardstick ADDRESS`.
//!
//! One directory, files that grow. Nothing here syncs or waits, so what is measured is the crate.

use std::collections::BTreeMap;
use std::sync::Mutex;

use async_trait::async_trait;
use nfsserve::nfs::{fattr3, fileid3, filename3, ftype3, nfspath3, nfsstat3, sattr3};
use nfsserve::tcp::{NFSTcp, NFSTcpListener};
use nfsserve::vfs::{DirEntry, NFSFileSystem, ReadDirResult, VFSCapabilities};

const ROOT: fileid3 = 1;

#[derive(Default)]
struct Memory(Mutex<State>);

#[derive(Default)]
struct State {
    /// Files by number: ids count up from the root's.
    nodes: Vec<Node>,
    /// Names of each directory.
    names: BTreeMap<(fileid3, Vec<u8>), fileid3>,
}

#[derive(Default)]
struct Node {
    is_directory: bool,
    bytes: Vec<u8>,
}

impl State {
    fn node(&mut self, id: fileid3) -> Result<&mut Node, nfsstat3> {
        self.nodes.get_mut((id - ROOT) as usize).ok_or(nfsstat3::NFS3ERR_STALE)
    }

    fn attributes(&mut self, id: fileid3) -> Result<fattr3, nfsstat3> {
        let node = self.node(id)?;
        let size = node.bytes.len() as u64;
        let ftype = if node.is_directory { ftype3::NF3DIR } else { ftype3::NF3REG };
        Ok(fattr3 { ftype, mode: 0o755, nlink: 1, size, used: size, fileid: id, ..Default::default() })
    }

    fn make(&mut self, directory: fileid3, name: &filename3, is_directory: bool) -> Result<(fileid3, fattr3), nfsstat3> {
        self.nodes.push(Node { is_directory, bytes: Vec::new() });
        let id = ROOT + self.nodes.len() as u64 - 1;
        self.names.insert((directory, name.0.clone()), id);
        Ok((id, self.attributes(id)?))
    }
}

#[async_trait]
impl NFSFileSystem for Memory {
    fn capabilities(&self) -> VFSCapabilities {
        VFSCapabilities::ReadWrite
    }

    fn root_dir(&self) -> fileid3 {
        ROOT
    }

    async fn lookup(&self, directory: fileid3, name: &filename3) -> Result<fileid3, nfsstat3> {
        let state = self.0.lock().unwrap();
        state.names.get(&(directory, name.0.clone())).copied().ok_or(nfsstat3::NFS3ERR_NOENT)
    }

    async fn getattr(&self, id: fileid3) -> Result<fattr3, nfsstat3> {
        self.0.lock().unwrap().attributes(id)
    }

    async fn setattr(&self, id: fileid3, _: sattr3) -> Result<fattr3, nfsstat3> {
        self.0.lock().unwrap().attributes(id)
    }

    async fn read(&self, id: fileid3, offset: u64, count: u32) -> Result<(Vec<u8>, bool), nfsstat3> {
        let mut state = self.0.lock().unwrap();
        let bytes = &state.node(id)?.bytes;
        let from = bytes.len().min(offset as usize);
        let to = bytes.len().min(from + count as usize);
        Ok((bytes[from..to].to_vec(), to == bytes.len()))
    }

    async fn write(&self, id: fileid3, offset: u64, data: &[u8]) -> Result<fattr3, nfsstat3> {
        let mut state = self.0.lock().unwrap();
        let bytes = &mut state.node(id)?.bytes;
        let (from, to) = (offset as usize, offset as usize + data.len());
        bytes.resize(bytes.len().max(to), 0);
        bytes[from..to].copy_from_slice(data);
        state.attributes(id)
    }

    async fn create(&self, directory: fileid3, name: &filename3, _: sattr3) -> Result<(fileid3, fattr3), nfsstat3> {
        self.0.lock().unwrap().make(directory, name, false)
    }

    async fn create_exclusive(&self, directory: fileid3, name: &filename3) -> Result<fileid3, nfsstat3> {
        Ok(self.0.lock().unwrap().make(directory, name, false)?.0)
    }

    async fn mkdir(&self, directory: fileid3, name: &filename3) -> Result<(fileid3, fattr3), nfsstat3> {
        self.0.lock().unwrap().make(directory, name, true)
    }

    async fn remove(&self, directory: fileid3, name: &filename3) -> Result<(), nfsstat3> {
        self.0.lock().unwrap().names.remove(&(directory, name.0.clone())).map(drop).ok_or(nfsstat3::NFS3ERR_NOENT)
    }

    async fn rename(&self, _: fileid3, _: &filename3, _: fileid3, _: &filename3) -> Result<(), nfsstat3> {
        Err(nfsstat3::NFS3ERR_NOTSUPP)
    }

    async fn readdir(&self, directory: fileid3, after: fileid3, most: usize) -> Result<ReadDirResult, nfsstat3> {
        let mut state = self.0.lock().unwrap();
        let names = state.names.range((directory, Vec::new())..(directory + 1, Vec::new()));
        // Ids are in the order of creation: names are listed in it too.
        let mut found: Vec<_> = names.filter(|(_, id)| **id > after).map(|((_, name), id)| (*id, name.clone())).collect();
        found.sort_unstable();
        let end = found.len() <= most;
        found.truncate(most);
        let entries: Result<_, _> = found
            .into_iter()
            .map(|(id, name)| Ok(DirEntry { fileid: id, name: name.into(), attr: state.attributes(id)? }))
            .collect();
        Ok(ReadDirResult { entries: entries?, end })
    }

    async fn symlink(&self, _: fileid3, _: &filename3, _: &nfspath3, _: &sattr3) -> Result<(fileid3, fattr3), nfsstat3> {
        Err(nfsstat3::NFS3ERR_NOTSUPP)
    }

    async fn readlink(&self, _: fileid3) -> Result<nfspath3, nfsstat3> {
        Err(nfsstat3::NFS3ERR_INVAL)
    }
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:0".into());
    let memory = Memory::default();
    memory.0.lock().unwrap().nodes.push(Node { is_directory: true, bytes: Vec::new() });
    let listener = NFSTcpListener::bind(&address, memory).await?;
    println!("{}", listener.get_listen_port());
    listener.handle_forever().await
}
