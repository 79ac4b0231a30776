//! The store as a whole: the conformance suite, versions, multipart, references, and what a crash leaves.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;

use bytes::Bytes;
use tempfile::TempDir;

use super::*;
use crate::base::clock::SimulatedClock;
use crate::store::object::conformance;

mod durability;
mod listing;

struct World {
    local: Arc<Local>,
    dir: TempDir,
}

async fn open(dir: &Path) -> Arc<Local> {
    Local::open(dir, Arc::new(SimulatedClock::new(1_700_000_000_000_000_000))).await.expect("open")
}

async fn world() -> World {
    let dir = tempfile::tempdir().expect("a directory");
    let local = open(dir.path()).await;
    local.create_bucket("bucket").await.expect("a bucket");
    World { local, dir }
}

fn noise(seed: u64, len: usize) -> Bytes {
    let mut random = fastrand::Rng::with_seed(seed);
    std::iter::repeat_with(|| random.u8(..)).take(len).collect()
}

impl World {
    async fn put(&self, key: &str, bytes: impl Into<Bytes>) -> Stored {
        let put = Put { bucket: "bucket".into(), key: key.into(), ..Put::default() };
        self.local.put_bytes(put, [bytes.into()]).await.expect("put")
    }

    async fn get(&self, key: &str, version: Option<VersionId>) -> Result<Bytes, LocalError> {
        let opened = self.local.open_object("bucket", key, version, &Conditions::default()).await?;
        let size = opened.info.size_bytes;
        opened.bytes(0..size).await
    }

    async fn begin(&self, key: &str) -> String {
        let begin = Begin { bucket: "bucket".into(), key: key.into(), ..Begin::default() };
        self.local.begin(begin).await.expect("begin")
    }

    async fn part(&self, key: &str, upload: &str, number: u32, bytes: Bytes) -> NamedPart {
        let mut intake = self.local.intake_part(&[]);
        intake.push(bytes).await.expect("push");
        let content = intake.finish(&Expected::default()).await.expect("finish");
        let part = self.local.put_part("bucket", key, upload, number, content).await.expect("part");
        NamedPart { number, etag: part.etag, checksums: Vec::new() }
    }

    async fn complete(&self, key: &str, upload: &str, parts: Vec<NamedPart>) -> Result<Stored, LocalError> {
        self.local.complete("bucket", key, upload, Complete { parts, ..Complete::default() }).await
    }

    /// Waits until the disk has so many data files: they are removed in the background.
    async fn files_become(&self, count: usize) {
        for _ in 0..500 {
            if count_files(self.dir.path()) == count {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        assert_eq!(count_files(self.dir.path()), count);
    }
}

fn count_files(dir: &Path) -> usize {
    let blocks = fs::read_dir(dir.join("data")).expect("data");
    blocks.map(|block| fs::read_dir(block.expect("block").path()).expect("block").count()).sum()
}

/// The directory as a dying process leaves it.
fn crash_image(dir: &Path) -> TempDir {
    let image = tempfile::tempdir().expect("a directory");
    let status = std::process::Command::new("cp").arg("-a").arg(dir.join(".")).arg(image.path()).status();
    assert!(status.expect("cp").success());
    image
}

#[tokio::test]
async fn conforms() {
    let world = world().await;
    conformance::run(Arc::new(Bucket::new(world.local.clone(), "bucket"))).await;
    world.local.close().await;
}

#[tokio::test]
async fn conforms_with_versions() {
    let world = world().await;
    world.local.set_versioning("bucket", true).await.expect("versioning");
    conformance::run(Arc::new(Bucket::new(world.local.clone(), "bucket"))).await;
}
