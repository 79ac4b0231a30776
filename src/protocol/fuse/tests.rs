//! Through the kernel: a directory of this machine, mounted, and changed behind the mount's back. They need `/dev/fuse` and root.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use bytes::Bytes;

use super::*;
use crate::engine::file::passthrough::Passthrough;
use crate::engine::file::{Caller, Changed, Io};

const OURS: Origin = Origin(1);
const OTHER: Origin = Origin(2);

/// A directory and its mount, where the kernel believes everything for an hour.
struct World {
    below: tempfile::TempDir,
    vfs: Arc<Passthrough>,
    mount: Mount,
    _at: tempfile::TempDir,
}

impl World {
    async fn new(files: &[&str]) -> Self {
        let (below, at) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for name in files {
            fs::write(below.path().join(name), "before").unwrap();
        }
        let vfs = Passthrough::new(below.path()).unwrap();
        let settings = Settings { cache: Duration::from_secs(3600), ..Settings::at(at.path().join("mount")) };
        let (share, runtime) = (vfs.clone(), Handle::current());
        let mounted = tokio::task::spawn_blocking(move || mount("test", share, OURS, &settings, &runtime)).await;
        Self { below, vfs, mount: mounted.unwrap().unwrap(), _at: at }
    }

    /// What a program does with a file of the mount.
    async fn with<T: Send + 'static>(&self, name: &str, run: impl FnOnce(PathBuf) -> T + Send + 'static) -> T {
        let path = self.mount.path().join(name);
        tokio::task::spawn_blocking(move || run(path)).await.unwrap()
    }

    async fn read(&self, name: &str) -> String {
        self.with(name, |path| fs::read_to_string(path).unwrap()).await
    }

    async fn unmount(self) {
        tokio::task::spawn_blocking(move || self.mount.unmount()).await.unwrap().unwrap();
    }
}

fn pread(file: &Arc<File>) -> String {
    let mut buffer = [0; 6];
    file.read_exact_at(&mut buffer, 0).unwrap();
    String::from_utf8_lossy(&buffer).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_lag_nothing_old_is_read() {
    let world = World::new(&["open", "closed"]).await;
    let open = world.with("open", |path| Arc::new(File::open(path).unwrap())).await;
    let read_open = || {
        let open = open.clone();
        world.with("", move |_| pread(&open))
    };
    assert_eq!((read_open().await, world.read("closed").await), ("before".into(), "before".into()));
    for name in ["open", "closed"] {
        fs::write(world.below.path().join(name), "after!").unwrap();
    }
    // The kernel has it all, and knows of nothing.
    assert_eq!((read_open().await, world.read("closed").await), ("before".into(), "before".into()));
    world.vfs.changes.tell(OTHER, Changed::Everything);
    world.vfs.changes.told(OTHER).await;
    assert_eq!((read_open().await, world.read("closed").await), ("after!".into(), "after!".into()));
    drop(open);
    world.unmount().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_written_elsewhere_is_read_as_soon_as_it_was_told() {
    let world = World::new(&["file"]).await;
    let other = Caller::root(OTHER);
    let open = world.with("file", |path| Arc::new(File::open(path).unwrap())).await;
    let node = world.vfs.lookup(&other, world.vfs.root(), b"file").await.unwrap().node;
    for round in 0..200 {
        let body = format!("{round:06}");
        world.vfs.write(&other, Io::Node(node), 0, Bytes::from(body.clone())).await.unwrap();
        world.vfs.changes.told(OTHER).await;
        let open = open.clone();
        assert_eq!(world.with("", move |_| pread(&open)).await, body);
        assert_eq!(world.read("file").await, body);
    }
    drop(open);
    world.unmount().await;
}
