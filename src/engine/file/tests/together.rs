//! Many callers at once: whatever the order, the tree stays a tree, counts are right, and the bucket ends up with it.

use std::collections::BTreeMap;

use super::model::seen;
use super::*;

/// Random verbs of one caller, whatever they answer.
async fn work(world: &World, seed: u64, steps: usize) {
    let mut random = fastrand::Rng::with_seed(seed);
    let who = root();
    let mut open: Option<HandleId> = None;
    for _ in 0..steps {
        let mut path = || {
            let names: Vec<&str> = (0..random.usize(1..4)).map(|_| ["a", "b", "c"][random.usize(0..3)]).collect();
            names.join("/")
        };
        let (from, to) = (path(), path());
        match random.usize(0..12) {
            0 | 1 => drop(world.mkdir(&who, &from, 0o755).await),
            2 | 3 => drop(world.put(&from, from.as_bytes()).await),
            4 => drop(world.link(&who, &from, &to).await),
            5 | 6 => drop(world.rename(&who, &from, &to, Rename::Replace).await),
            7 => drop(world.rename(&who, &from, &to, Rename::Exchange).await),
            8 => drop(world.unlink(&who, &from).await),
            9 => drop(world.rmdir(&who, &from).await),
            10 => drop(world.chmod(&who, &from, 0o700).await),
            _ => match open.take() {
                Some(handle) => world.share.close(handle).await.unwrap(),
                None => {
                    let how = OpenHow { read: true, ..OpenHow::default() };
                    open = world.open_file(&who, &from, &how).await.ok().map(|opened| opened.handle);
                }
            },
        }
        if random.usize(0..30) == 0 {
            tokio::time::sleep(Duration::from_millis(random.u64(0..3000))).await;
        }
    }
    if let Some(handle) = open {
        world.share.close(handle).await.unwrap();
    }
}

/// Links, parents and counts, all from the entries.
async fn check(world: &World, seed: u64) {
    let meta = world.blobs.meta();
    let mut names: BTreeMap<NodeId, u32> = BTreeMap::new();
    let mut todo = vec![world.share.root()];
    let mut nodes = 1;
    while let Some(dir) = todo.pop() {
        let entries = meta.entries(dir, 0, usize::MAX).await.unwrap();
        let subdirs: Vec<NodeId> =
            entries.iter().filter(|entry| entry.kind == NodeKind::Directory).map(|entry| entry.node).collect();
        let attr = world.share.getattr(&root(), dir).await.unwrap();
        assert_eq!(attr.nlink as usize, 2 + subdirs.len(), "seed {seed}: {dir:?}");
        for sub in &subdirs {
            let up = world.share.lookup(&root(), *sub, b"..").await.unwrap();
            assert_eq!(up.node, dir, "seed {seed}");
        }
        nodes += subdirs.len() as u64;
        todo.extend(subdirs);
        for entry in entries.iter().filter(|entry| entry.kind != NodeKind::Directory) {
            *names.entry(entry.node).or_default() += 1;
        }
    }
    for (node, count) in &names {
        assert_eq!(world.share.getattr(&root(), *node).await.unwrap().nlink, *count, "seed {seed}: {node:?}");
    }
    let counted = meta.counts(world.share.owner()).await.unwrap().nodes;
    assert_eq!(counted, nodes + names.len() as u64, "seed {seed}: nodes without a name stay behind");
}

#[tokio::test(start_paused = true)]
async fn the_tree_stays_a_tree() {
    for seed in 0..12 {
        let world = World::new().await;
        let workers = (0..6).map(|worker| work(&world, seed * 100 + worker, 150));
        futures_util::future::join_all(workers).await;
        check(&world, seed).await;
        let before = seen(&world).await;
        let world = world.process_death().await;
        check(&world, seed).await;
        assert!(before == seen(&world).await, "seed {seed}");
        let settled = world.uploader.drain(world.share.owner(), Some(Duration::from_secs(3600)), &|_| false).await;
        assert!(settled, "seed {seed}: {:?}", world.uploader.status());
        for (path, item) in &before {
            if item.kind == NodeKind::File {
                let object = world.bucket.object(&path[1..]);
                assert_eq!(object.map(|object| object.bytes.to_vec()).as_ref(), Some(&item.bytes), "seed {seed}: {path}");
            }
        }
    }
}
