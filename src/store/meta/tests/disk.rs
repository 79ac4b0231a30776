//! The database's files: refused where they are not ours and whole, and never touched then; durable where asked; fast.

use std::collections::BTreeMap;
use std::fs;
use std::time::Instant;

use super::*;

/// All files of a directory, with their bytes, but for SQLite's shared memory, which is not data.
fn bytes_in(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let files = fs::read_dir(directory).unwrap().map(|file| file.unwrap());
    let named = files.map(|file| (file.file_name().into_string().unwrap(), fs::read(file.path()).unwrap()));
    named.filter(|(name, _)| !name.ends_with("-shm")).collect()
}

async fn open(directory: &Path) -> Result<Meta, MetaError> {
    Meta::open(Place::File(directory.join("meta.db"))).await
}

/// A database with some hundred pages.
async fn filled(directory: &Path) -> Meta {
    let meta = open(directory).await.unwrap();
    meta.stage(Seq(1), (3..6000).map(|index| put(entry(1, &format!("name {index}"), index, index))).collect());
    meta.apply(through(1), true).await.unwrap();
    meta
}

/// It is refused, in words that have `words`, and nothing is touched.
async fn is_refused(directory: &Path, words: &str) {
    let before = bytes_in(directory);
    let Err(MetaError::Refused(said)) = open(directory).await else { panic!("not refused: {words}") };
    assert!(said.contains(words) && said.contains("tidegate check --salvage"), "{said}");
    assert!(bytes_in(directory) == before, "{words}: it was written to");
}

#[tokio::test]
async fn what_is_not_a_database_of_ours_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("meta.db");
    fs::write(&path, "These are my holiday notes, and nobody shall write into them. ".repeat(100)).unwrap();
    is_refused(directory.path(), "not a SQLite database").await;
    fs::write(&path, "short").unwrap();
    is_refused(directory.path(), "not a SQLite database").await;

    fs::remove_file(&path).unwrap();
    use sqlx::{ConnectOptions, Connection};
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&path).create_if_missing(true);
    let mut foreign = options.connect().await.unwrap();
    sqlx::query("CREATE TABLE bookmarks (url TEXT)").execute(&mut foreign).await.unwrap();
    foreign.close().await.unwrap();
    is_refused(directory.path(), "another program's database").await;
}

#[tokio::test]
async fn a_newer_version_is_refused_also_where_only_the_wal_says_so() {
    let directory = tempfile::tempdir().unwrap();
    filled(directory.path()).await.close().await;
    use sqlx::{ConnectOptions, Connection};
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(directory.path().join("meta.db"));
    let mut newer = options.connect().await.unwrap();
    sqlx::query("PRAGMA user_version = 7").execute(&mut newer).await.unwrap();
    let copied = tempfile::tempdir().unwrap();
    copy(directory.path(), copied.path());
    assert!(fs::metadata(copied.path().join("meta.db-wal")).unwrap().len() > 0);
    is_refused(copied.path(), "version 7").await;
    newer.close().await.unwrap();
    is_refused(directory.path(), "version 7").await;
}

/// A database from before owners had an endpoint is brought up to date where it is.
#[tokio::test]
async fn a_database_of_version_1_gets_the_endpoint() {
    use sqlx::{ConnectOptions, Connection};
    let directory = tempfile::tempdir().unwrap();
    let owner = OwnerRow {
        owner: OwnerId(3),
        kind: "share".to_owned(),
        name: "demo".to_owned(),
        bucket: "photos".to_owned(),
        prefix: String::new(),
        root: NodeId(1),
        endpoint: "aws".to_owned(),
    };
    let meta = open(directory.path()).await.unwrap();
    meta.stage(Seq(1), vec![put(Row::Owner(owner.clone()))]);
    meta.apply(through(1), true).await.unwrap();
    assert_eq!(meta.get(&Key::Owner(OwnerId(3))).await.unwrap(), Some(Row::Owner(owner.clone())));
    meta.close().await;
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(directory.path().join("meta.db"));
    let mut older = options.connect().await.unwrap();
    for statement in
        ["ALTER TABLE owner DROP COLUMN endpoint", "DELETE FROM _sqlx_migrations WHERE version = 2", "PRAGMA user_version = 1"]
    {
        sqlx::query(statement).execute(&mut older).await.unwrap();
    }
    older.close().await.unwrap();
    let meta = open(directory.path()).await.unwrap();
    let unknown = OwnerRow { endpoint: String::new(), ..owner };
    assert_eq!(meta.get(&Key::Owner(OwnerId(3))).await.unwrap(), Some(Row::Owner(unknown)));
}

#[tokio::test]
async fn a_damaged_database_is_refused() {
    let whole = tempfile::tempdir().unwrap();
    filled(whole.path()).await.close().await;
    let bytes = fs::read(whole.path().join("meta.db")).unwrap();
    let damaged = |change: &dyn Fn(&mut Vec<u8>)| {
        let directory = tempfile::tempdir().unwrap();
        let mut bytes = bytes.clone();
        change(&mut bytes);
        fs::write(directory.path().join("meta.db"), bytes).unwrap();
        directory
    };
    is_refused(damaged(&|bytes| bytes.truncate(bytes.len() / 2)).path(), "damaged").await;
    is_refused(damaged(&|bytes| bytes.truncate(700)).path(), "damaged").await;
    is_refused(damaged(&|bytes| bytes[100..4096].fill(0)).path(), "damaged").await;
    let half = bytes.len() / 2 / 4096 * 4096;
    is_refused(damaged(&|bytes| bytes[half..half + 4096].fill(0x5a)).path(), "damaged").await;
    is_refused(damaged(&|bytes| bytes[20..100].fill(0xff)).path(), "damaged").await;

    let gone = tempfile::tempdir().unwrap();
    fs::write(gone.path().join("meta.db-wal"), &bytes[..4096]).unwrap();
    is_refused(gone.path(), "`-wal` is there").await;
}

#[tokio::test]
async fn a_durable_apply_is_in_the_files_when_it_returns_with_all_before_it() {
    let directory = tempfile::tempdir().unwrap();
    let meta = filled(directory.path()).await;
    for seq in 2..6 {
        meta.stage(Seq(seq), vec![put(value("a", seq)), put(value(&seq.to_string(), seq))]);
        meta.apply(through(seq), seq == 5).await.unwrap();
    }
    let copied = tempfile::tempdir().unwrap();
    copy(directory.path(), copied.path());
    let copy = open(copied.path()).await.unwrap();
    assert_eq!(copy.checkpoint(), (Position(5), Seq(5)));
    for seq in 2..6 {
        assert_eq!(copy.get(&Key::Value(seq.to_string())).await.unwrap(), Some(value(&seq.to_string(), seq)));
    }
    assert_eq!(copy.entries(NodeId(1), 0, usize::MAX).await.unwrap().len(), 5997);
}

/// Recovers by its own rules from a WAL that is cut or flipped: to a transaction's end, or it says what is wrong.
#[tokio::test]
async fn a_torn_wal_gives_an_earlier_transaction() {
    let directory = tempfile::tempdir().unwrap();
    let meta = open(directory.path()).await.unwrap();
    for seq in 1..20 {
        meta.stage(Seq(seq), vec![put(value("a", seq)), put(value("b", seq))]);
        meta.apply(through(seq), false).await.unwrap();
    }
    let mut random = fastrand::Rng::with_seed(3);
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..20 {
        let copied = tempfile::tempdir().unwrap();
        copy(directory.path(), copied.path());
        let wal = copied.path().join("meta.db-wal");
        let mut bytes = fs::read(&wal).unwrap();
        let at = random.usize(bytes.len() / 2..bytes.len());
        if random.bool() {
            bytes.truncate(at);
        } else {
            bytes[at] ^= 0x10;
        }
        fs::write(&wal, bytes).unwrap();
        let torn = open(copied.path()).await.unwrap();
        let (_, applied) = torn.checkpoint();
        seen.insert(applied.0);
        let expected = (applied.0 > 0).then(|| value("b", applied.0));
        assert_eq!(torn.get(&Key::Value("b".into())).await.unwrap(), expected);
        torn.stage(Seq(99), vec![put(value("b", 99))]);
        torn.apply(through(99), true).await.unwrap();
    }
    assert!(seen.len() > 3);
}

#[tokio::test]
async fn closing_leaves_one_file_and_its_ballast() {
    let directory = tempfile::tempdir().unwrap();
    filled(directory.path()).await.close().await;
    let files: Vec<String> = bytes_in(directory.path()).into_keys().collect();
    assert_eq!(files, ["meta.db", "meta.db.ballast"]);
    let meta = open(directory.path()).await.unwrap();
    meta.check().await.unwrap();
    meta.close().await;
    assert!(matches!(meta.get(&Key::Node(NodeId(1))).await, Err(MetaError::Failed(_))));
    assert!(matches!(meta.apply(through(9), false).await, Err(MetaError::Failed(_))));
}

#[tokio::test]
async fn a_full_disk_fails_the_apply_and_heals() {
    let directory = tempfile::tempdir().unwrap();
    let (database, loaded) = sqlite::Database::open(&directory.path().join("meta.db")).await.unwrap();
    let database = Arc::new(database);
    let meta = Meta::new(database.clone(), loaded);
    database.limit_pages(60).await;
    meta.stage(Seq(1), (3..6000).map(|index| put(entry(1, &format!("name {index}"), index, index))).collect());
    assert!(matches!(meta.apply(through(1), true).await, Err(MetaError::Failed(_))));
    assert_eq!(meta.checkpoint().1, Seq(0));
    assert_eq!(meta.entries(NodeId(1), 0, usize::MAX).await.unwrap().len(), 5997);
    database.limit_pages(100_000).await;
    meta.apply(through(1), true).await.unwrap();
    assert_eq!(meta.entries(NodeId(1), 0, usize::MAX).await.unwrap().len(), 5997);
    assert_eq!(meta.look_at_disk(), None, "the ballast is back");
}

/// An apply whose caller goes away at any point of it leaves the database as it was, or as it should be.
#[tokio::test]
async fn an_apply_that_is_given_up_is_made_up_for() {
    let directory = tempfile::tempdir().unwrap();
    let meta = open(directory.path()).await.unwrap();
    for seq in 1..60 {
        let changes = (0..40).map(|index| put(value(&format!("{index}"), seq))).collect();
        meta.stage(Seq(seq), changes);
        let mut applying = Box::pin(meta.apply(through(seq), seq % 2 == 0));
        for _ in 0..seq {
            if futures_util::poll!(&mut applying).is_ready() {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_micros(20)).await;
        }
        drop(applying);
        assert_eq!(meta.get(&Key::Value("39".into())).await.unwrap(), Some(value("39", seq)));
    }
    meta.apply(through(59), true).await.unwrap();
    let copied = tempfile::tempdir().unwrap();
    copy(directory.path(), copied.path());
    let copy = open(copied.path()).await.unwrap();
    assert_eq!(copy.checkpoint().1, Seq(59));
    assert_eq!(copy.get(&Key::Value("39".into())).await.unwrap(), Some(value("39", 59)));
}

/// Not a benchmark: that nothing is slower by a factor than it is known to be.
#[tokio::test]
async fn speed() {
    const FILES: u64 = 20_000;
    let directory = tempfile::tempdir().unwrap();
    let meta = open(directory.path()).await.unwrap();
    let node = crate::store::meta::arbitrary::node(&mut fastrand::Rng::with_seed(1));
    let per_second = |count: u64, from: Instant| count as f64 / from.elapsed().as_secs_f64();

    let start = Instant::now();
    for index in 1..=FILES {
        let name = format!("a file name of some length {index}");
        let node = Row::Node(NodeRow { node: NodeId(index), owner: OwnerId(1), links: 1, ..node.clone() });
        meta.stage(Seq(index), vec![put(node), put(entry(1 + index / 1000, &name, index, index + 3))]);
    }
    println!("stage: {:.0} rows/s, {} bytes pinned", per_second(2 * FILES, start), meta.staged_bytes());
    let start = Instant::now();
    meta.apply(through(FILES), true).await.unwrap();
    let applied = per_second(2 * FILES, start);
    println!("apply: {applied:.0} rows/s");
    assert_eq!(meta.counts(OwnerId(1)).await.unwrap().nodes, FILES);

    let start = Instant::now();
    for index in 1..=FILES {
        assert!(meta.try_get(&Key::Node(NodeId(index))).is_some());
    }
    println!("cached reads: {:.0}/s", per_second(FILES, start));
    meta.cache.clear();
    let start = Instant::now();
    for index in 1..=10_000 {
        assert!(meta.get(&Key::Node(NodeId(index))).await.unwrap().is_some());
    }
    println!("reads: {:.0}/s", per_second(10_000, start));
    let start = Instant::now();
    for parent in 1..=20 {
        assert!(meta.entries(NodeId(parent), 0, 10_000).await.unwrap().len() >= 999);
    }
    println!("listed entries: {:.0}/s", per_second(FILES, start));
    assert!(applied > 2_000.0, "{applied} rows/s");
}

/// Simulated worlds are opened by the ten thousand.
#[tokio::test]
async fn worlds_are_cheap() {
    let start = Instant::now();
    for seed in 0..1000 {
        let (database, meta) = in_memory().await;
        meta.stage(Seq(1), vec![put(value("a", 1))]);
        meta.apply(through(1), false).await.unwrap();
        drop(meta);
        database.power_loss(seed);
        assert!(Meta::open(Place::Memory(database)).await.unwrap().checkpoint().1 <= Seq(1));
    }
    let worlds = 1000.0 / start.elapsed().as_secs_f64();
    println!("worlds: {worlds:.0}/s");
    assert!(worlds > 100.0);
}
