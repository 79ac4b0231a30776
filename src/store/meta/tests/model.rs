//! Random stage, apply, evict, reopen and crash against ordered maps.

use std::collections::BTreeMap;

use super::*;
use crate::store::meta::arbitrary;

/// What a transaction made the database know, besides rows.
#[derive(Clone, Default)]
struct Applied {
    position: Position,
    seq: Seq,
    durable: bool,
    blobs: BTreeMap<BlobId, BlobRow>,
    pages: BTreeMap<(BlobId, u64), Vec<u8>>,
}

/// Where the database of a test is.
enum Ground {
    Memory(Arc<MemoryDatabase>),
    /// A directory for each life, since a database that is still open does not let go of its files.
    File(Vec<tempfile::TempDir>),
}

impl Ground {
    async fn open(&self) -> Meta {
        match self {
            Self::Memory(database) => Meta::open(Place::Memory(database.clone())).await.unwrap(),
            Self::File(lives) => Meta::open(Place::File(lives.last().unwrap().path().join("meta.db"))).await.unwrap(),
        }
    }

    /// The process dies, and what was not durable may be lost.
    fn crash(&mut self, random: &mut fastrand::Rng) {
        match self {
            Self::Memory(database) => database.power_loss(random.u64(..)),
            Self::File(lives) => {
                let next = tempfile::tempdir().unwrap();
                copy(lives.last().unwrap().path(), next.path());
                lives.push(next);
            }
        }
    }
}

struct World {
    random: fastrand::Rng,
    ground: Ground,
    meta: Meta,
    /// Everything that was ever staged: the log.
    log: Vec<(Seq, Vec<Change>)>,
    /// The rows after all of it.
    rows: BTreeMap<Key, Row>,
    /// What each transaction made; the first is the empty database.
    applied: Vec<Applied>,
}

impl World {
    async fn new(seed: u64, ground: Ground) -> Self {
        let meta = ground.open().await;
        let random = fastrand::Rng::with_seed(seed);
        Self { random, ground, meta, log: Vec::new(), rows: BTreeMap::new(), applied: vec![Applied::default()] }
    }

    async fn step(&mut self) {
        match self.random.u8(..40) {
            0..16 => self.stage(),
            16..22 => self.apply().await,
            22 => self.meta.cache.clear(),
            23 => self.restart(false).await,
            24 => self.restart(true).await,
            25..30 => self.check_range().await,
            30..32 => self.check_blobs().await,
            _ => self.check_key().await,
        }
    }

    fn stage(&mut self) {
        let seq = Seq(self.log.last().map_or(0, |(seq, _)| seq.0) + self.random.u64(1..4));
        let changes: Vec<Change> = (0..self.random.usize(1..6)).map(|_| arbitrary::change(&mut self.random)).collect();
        self.meta.stage(seq, changes.clone());
        self.play(&changes);
        self.log.push((seq, changes));
    }

    fn play(&mut self, changes: &[Change]) {
        for change in changes {
            match change {
                Change::Put(row) => self.rows.insert(row.key(), row.clone()),
                Change::Drop(key) => self.rows.remove(key),
            };
        }
    }

    async fn apply(&mut self) {
        let last = self.applied.last().unwrap().clone();
        let end = self.log.last().map_or(0, |(seq, _)| seq.0);
        let seq = Seq(if self.random.bool() { end } else { self.random.u64(last.seq.0..=end) });
        let mut next = Applied { position: Position(last.position.0 + 1), seq, durable: self.random.bool(), ..last };
        let mut checkpoint = Checkpoint { position: next.position, applied: seq, ..Checkpoint::default() };
        for _ in 0..self.random.usize(..3) {
            let blob = BlobId(self.random.u64(1..6));
            if self.random.u8(..4) == 0 {
                checkpoint.blobs.push((blob, None));
                next.blobs.remove(&blob);
                next.pages.retain(|(of, _), _| *of != blob);
            } else {
                let row = arbitrary::blob(&mut self.random);
                checkpoint.blobs.push((blob, Some(row.clone())));
                next.blobs.insert(blob, row);
            }
        }
        for _ in 0..self.random.usize(..3) {
            let key = (BlobId(self.random.u64(1..6)), self.random.u64(..4));
            let body = self.random.bool().then(|| vec![self.random.u8(..); 100]);
            checkpoint.pages.push((key.0, key.1, body.clone()));
            match body {
                Some(body) => next.pages.insert(key, body),
                None => next.pages.remove(&key),
            };
        }
        self.meta.apply(checkpoint, next.durable).await.unwrap();
        assert_eq!(self.meta.checkpoint(), (next.position, seq));
        self.applied.push(next);
        self.check_counts(false).await;
    }

    /// Ends the process, well or badly; looks at what is left; and replays the log.
    async fn restart(&mut self, crash: bool) {
        if crash {
            self.ground.crash(&mut self.random);
        } else {
            self.meta.close().await;
        }
        self.meta = self.ground.open().await;
        let (position, seq) = self.meta.checkpoint();
        let durable = self.applied.iter().rposition(|applied| applied.durable).unwrap_or(0);
        let found = self.applied.iter().position(|applied| applied.position == position).unwrap();
        assert!(found >= durable && (crash || found + 1 == self.applied.len()));
        self.applied.truncate(found + 1);
        assert_eq!(self.applied[found].seq, seq);

        let log = std::mem::take(&mut self.log);
        self.rows.clear();
        for (_, changes) in log.iter().filter(|(of, _)| *of <= seq) {
            self.play(changes);
        }
        self.check_all().await;
        self.check_counts(true).await;
        let mut replay: Vec<_> = log.iter().filter(|(of, _)| *of > seq || self.random.bool()).cloned().collect();
        if self.random.bool() {
            self.random.shuffle(&mut replay);
        }
        for (seq, changes) in replay {
            self.meta.stage(seq, changes);
        }
        for (_, changes) in log.iter().filter(|(of, _)| *of > seq) {
            self.play(changes);
        }
        self.log = log;
        self.check_all().await;
    }

    async fn check_key(&mut self) {
        let key = arbitrary::row(&mut self.random).key();
        self.check(&key).await;
    }

    async fn check(&self, key: &Key) {
        let row = self.rows.get(key).cloned();
        if let Some(read) = self.meta.try_get(key) {
            assert_eq!(read, row, "{key:?} in memory");
        }
        assert_eq!(self.meta.get(key).await.unwrap(), row, "{key:?}");
    }

    async fn check_all(&mut self) {
        for key in self.rows.keys() {
            self.check(key).await;
        }
        for _ in 0..20 {
            self.check_key().await;
            self.check_range().await;
        }
        self.check_blobs().await;
    }

    async fn check_counts(&self, whole: bool) {
        if self.meta.staged_bytes() > 0 && !whole {
            return;
        }
        for owner in (1..4).map(OwnerId) {
            let mut counts = Counts::default();
            for row in self.rows.values() {
                match row {
                    Row::Node(row) if row.owner == owner => counts.nodes += 1,
                    Row::Job(row) if row.owner == owner => counts.jobs += 1,
                    Row::Object(row) if row.owner == owner => {
                        counts.objects += 1;
                        counts.object_bytes += row.size_bytes;
                    }
                    _ => {}
                }
            }
            assert_eq!(self.meta.counts(owner).await.unwrap(), counts);
        }
    }

    async fn check_blobs(&mut self) {
        let now = self.applied.last().unwrap();
        let after = BlobId(self.random.u64(..5));
        let limit = self.random.usize(1..5);
        let above = || now.blobs.iter().filter(|(blob, _)| **blob > after).map(|(blob, row)| (*blob, row.clone()));
        assert_eq!(self.meta.blobs(after, limit).await.unwrap(), above().take(limit).collect::<Vec<_>>());
        let dirty = above().filter(|(_, row)| row.modified_seq > row.clean_through);
        assert_eq!(self.meta.dirty_blobs(after, limit).await.unwrap(), dirty.take(limit).collect::<Vec<_>>());
        assert_eq!(self.meta.blob(after).await.unwrap(), now.blobs.get(&after).cloned());
        let page = self.random.u64(..4);
        assert_eq!(self.meta.page(after, page).await.unwrap(), now.pages.get(&(after, page)).cloned());
    }

    /// The rows that `of` picks, ordered by what it gives.
    fn sorted<T, O: Ord>(&self, of: impl Fn(&Row) -> Option<(O, T)>) -> Vec<T> {
        let mut rows: Vec<(O, T)> = self.rows.values().filter_map(of).collect();
        rows.sort_by(|(a, _), (b, _)| a.cmp(b));
        rows.into_iter().map(|(_, row)| row).collect()
    }

    async fn check_range(&mut self) {
        let node = arbitrary::node_id(&mut self.random);
        let owner = arbitrary::owner(&mut self.random);
        let limit = self.random.usize(..6);
        match self.random.u8(..9) {
            0 | 1 => {
                let after = self.random.u64(..40);
                let mut model = self.sorted(|row| match row {
                    Row::Entry(row) if row.parent == node && row.cookie > after => {
                        Some(((row.cookie, row.name.clone()), row.clone()))
                    }
                    _ => None,
                });
                model.truncate(limit);
                assert_eq!(self.meta.entries(node, after, limit).await.unwrap(), model);
            }
            2 => {
                let mut model = self.sorted(|row| match row {
                    Row::Entry(row) if row.node == node => Some(((row.parent, row.name.clone()), row.clone())),
                    _ => None,
                });
                model.truncate(limit);
                assert_eq!(self.meta.names_of(node, limit).await.unwrap(), model);
            }
            3 => {
                let (prefix, from) = (arbitrary::key(&mut self.random), arbitrary::key(&mut self.random));
                let mut model = self.sorted(|row| match row {
                    Row::Object(row) if row.owner == owner && row.key.starts_with(&prefix) && row.key >= from => {
                        Some((row.key.clone(), row.clone()))
                    }
                    _ => None,
                });
                model.truncate(limit);
                assert_eq!(self.meta.objects(owner, &prefix, &from, limit).await.unwrap(), model);
            }
            4 => {
                let model = self.sorted(|row| match row {
                    Row::Object(row) if row.node == node => Some(((row.owner, row.key.clone()), row.clone())),
                    _ => None,
                });
                assert_eq!(self.meta.objects_of(node).await.unwrap(), model);
            }
            5 => {
                let model = self.sorted(|row| match row {
                    Row::Job(row) if row.owner == owner => Some(((row.since_ns, row.subject), row.clone())),
                    _ => None,
                });
                assert_eq!(self.meta.jobs(owner).await.unwrap(), model);
            }
            6 => {
                let model = self.sorted(|row| match row {
                    Row::Move(row) if row.owner == owner => Some(((row.seq, row.node, row.prefix.clone()), row.clone())),
                    _ => None,
                });
                assert_eq!(self.meta.moves(owner).await.unwrap(), model);
            }
            7 => {
                let model = self.sorted(|row| match row {
                    Row::Xattr(row) if row.node == node => Some((row.name.clone(), row.clone())),
                    _ => None,
                });
                assert_eq!(self.meta.xattrs(node).await.unwrap(), model);
            }
            _ => {
                let model = self.sorted(|row| match row {
                    Row::Node(row) if row.owner == owner && row.links == 0 => Some((row.node, row.clone())),
                    _ => None,
                });
                assert_eq!(self.meta.orphans(owner).await.unwrap(), model);
                let model = self.sorted(|row| match row {
                    Row::Owner(row) => Some((row.owner, row.clone())),
                    _ => None,
                });
                assert_eq!(self.meta.owners().await.unwrap(), model);
            }
        }
    }
}

#[tokio::test]
async fn sqlite_is_as_the_model() {
    for seed in 0..6 {
        let mut world = World::new(seed, Ground::File(vec![tempfile::tempdir().unwrap()])).await;
        for _ in 0..200 {
            world.step().await;
        }
        world.check_all().await;
    }
}

#[tokio::test]
async fn memory_is_as_the_model() {
    for seed in 0..100 {
        let mut world = World::new(seed, Ground::Memory(Arc::default())).await;
        for _ in 0..300 {
            world.step().await;
        }
        world.check_all().await;
    }
}
