//! A large directory is listed while names in it come, go and change.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};

use super::remote::Remote;
use super::*;
use crate::base::id::NodeId;
use crate::engine::file::tests::{root, settings};
use crate::engine::file::{Attr, Caller, DirEntry, Remove, Rename, SetAttr, Vfs, VfsError};

/// Names of the directory at the beginning.
fn entries() -> usize {
    if soak() { 100_000 } else { 8_000 }
}

/// Reads a directory from its beginning to its end; how often each name was there.
async fn listing(remote: &Remote, dir: NodeId, plus: bool) -> HashMap<String, u32> {
    let mut names = HashMap::new();
    let mut sink = |entry: DirEntry| {
        *names.entry(String::from_utf8(entry.name).unwrap()).or_default() += 1;
        true
    };
    assert!(remote.readdir(&root(), dir, 0, plus, &mut sink).await.unwrap());
    names
}

/// Of four names one stays, one is removed, one is renamed, and one is removed and made again; new ones come.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_entry_that_stays_is_seen_exactly_once() {
    let count = entries();
    // Nothing is uploaded meanwhile: this is about names.
    let quiet = crate::engine::file::share::Settings { upload_delay: Duration::from_secs(3600), ..settings() };
    let served = Served::over(World::with(quiet).await, open_rules()).await;
    let share = served.world.share.clone();
    served.world.mkdir(&root(), "big", 0o755).await.unwrap();
    for number in 0..count {
        served.world.create(&root(), &format!("big/file-{number:06}"), 0o644).await.unwrap();
    }
    let dir = served.world.stat("big").await.unwrap().node;
    let remote = Remote::mount(served.address, "/demo").await;
    let found = remote.lookup(&root(), remote.root(), b"big").await.unwrap();
    assert_eq!(found.node, dir);
    let is_over = Arc::new(AtomicBool::new(false));
    let changing = {
        let is_over = is_over.clone();
        tokio::spawn(async move {
            let who = root();
            let mut random = fastrand::Rng::with_seed(5);
            let mut numbers: Vec<usize> = (0..count).filter(|number| number % 4 != 0).collect();
            random.shuffle(&mut numbers);
            for number in &numbers {
                let name = format!("file-{number:06}");
                let name = name.as_bytes();
                match number % 4 {
                    1 => share.remove(&who, dir, name, Remove::File).await.unwrap(),
                    2 => {
                        let to = format!("moved-{number:06}");
                        share.rename(&who, (dir, name), (dir, to.as_bytes()), Rename::Replace).await.unwrap();
                    }
                    _ => {
                        share.remove(&who, dir, name, Remove::File).await.unwrap();
                        let create = crate::engine::file::Create { mode: 0o755 };
                        share.mkdir(&who, dir, name, create).await.unwrap();
                    }
                }
                tokio::task::yield_now().await;
            }
            is_over.store(true, Ordering::Relaxed);
            numbers.len()
        })
    };
    let mut rounds = 0;
    while rounds < 2 || !is_over.load(Ordering::Relaxed) {
        let names = listing(&remote, dir, rounds % 2 == 1).await;
        rounds += 1;
        for number in (0..count).step_by(4) {
            let name = format!("file-{number:06}");
            assert_eq!(names.get(&name), Some(&1), "round {rounds}: {name} stays");
        }
        // A name that went away and came back may be there as both; what was renamed under its old name and its new one.
        let twice = names.iter().find(|(name, seen)| {
            let number: usize = name.rsplit('-').next().and_then(|digits| digits.parse().ok()).unwrap_or(0);
            **seen > if number % 4 == 3 { 2 } else { 1 }
        });
        assert_eq!(twice, None, "round {rounds}");
    }
    assert_eq!(changing.await.unwrap(), count - count.div_ceil(4));
    let names = listing(&remote, dir, true).await;
    assert!(names.values().all(|seen| *seen == 1));
    let expected = 2 + count - (0..count).filter(|number| number % 4 == 1).count();
    assert_eq!(names.len(), expected);
}

/// Every page of a directory with the attributes of what it names, twice: made, and perhaps kept.
async fn pages(remote: &Remote, who: &Caller, dir: NodeId) -> Result<Vec<(Vec<u8>, Option<Attr>)>, VfsError> {
    let mut found = Vec::new();
    for _ in 0..2 {
        found.clear();
        let mut sink = |entry: DirEntry| {
            found.push((entry.name, entry.attr));
            true
        };
        remote.readdir(who, dir, 0, true, &mut sink).await?;
    }
    Ok(found)
}

/// Whatever changes, through whatever front end: the next page tells of it, though the last one was kept.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_that_is_kept_is_true() {
    let served = Served::over(World::new().await, open_rules()).await;
    let (world, who) = (&served.world, root());
    world.mkdir(&who, "dir", 0o755).await.unwrap();
    for number in 0..20 {
        world.create(&who, &format!("dir/{number}"), 0o644).await.unwrap();
    }
    let dir = world.stat("dir").await.unwrap().node;
    let remote = Remote::mount(served.address, "/demo").await;
    remote.lookup(&who, remote.root(), b"dir").await.unwrap();
    let share = world.share.clone();
    let node = world.stat("dir/7").await.unwrap().node;
    for step in 0..6 {
        let before = pages(&remote, &who, dir).await.unwrap();
        assert!(served.nfs.listings.kept() > 0, "step {step}: nothing is kept");
        match step {
            0 => {
                share.setattr(&who, node, None, &SetAttr { mode: Some(0o600), ..SetAttr::default() }).await.unwrap();
            }
            1 => {
                world.put("dir/7", b"some bytes").await.unwrap();
            }
            2 => {
                world.create(&who, "dir/new", 0o640).await.unwrap();
            }
            3 => share.rename(&who, (dir, b"new"), (dir, b"other"), Rename::Replace).await.unwrap(),
            4 => share.remove(&who, dir, b"3", Remove::File).await.unwrap(),
            _ => {
                share.link(&who, node, dir, b"link").await.unwrap();
            }
        }
        let after = pages(&remote, &who, dir).await.unwrap();
        assert_ne!(before, after, "step {step}");
        for (name, attr) in after.iter().filter(|(name, _)| name != b"." && name != b"..") {
            let path = format!("dir/{}", String::from_utf8_lossy(name));
            assert_eq!(attr.as_ref().unwrap().ctime_ns, world.stat(&path).await.unwrap().ctime_ns, "step {step}: {path}");
        }
    }
    share.setattr(&who, dir, None, &SetAttr { mode: Some(0o700), ..SetAttr::default() }).await.unwrap();
    pages(&remote, &who, dir).await.unwrap();
    let other = Caller { uid: 1000, gid: 1000, ..root() };
    assert_eq!(pages(&remote, &other, dir).await, Err(VfsError::AccessDenied), "kept for one, forbidden to another");
}
