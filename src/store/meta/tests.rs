//! The metadata against a model, over both back ends; and what the model cannot see: races, damage, speed.

mod disk;
mod model;
mod race;

use std::path::Path;

use super::*;
use crate::base::id::NodeId;

fn put(row: Row) -> Change {
    Change::Put(row)
}

fn entry(parent: u64, name: &str, node: u64, cookie: u64) -> Row {
    let (parent, name, node) = (NodeId(parent), name.as_bytes().to_vec(), NodeId(node));
    Row::Entry(EntryRow { parent, name, node, kind: NodeKind::File, cookie })
}

fn value(name: &str, value: u64) -> Row {
    Row::Value(ValueRow { name: name.to_owned(), value: value.to_le_bytes().to_vec() })
}

fn through(applied: u64) -> Checkpoint {
    Checkpoint { applied: Seq(applied), position: Position(applied), ..Checkpoint::default() }
}

async fn in_memory() -> (Arc<MemoryDatabase>, Meta) {
    let database = Arc::new(MemoryDatabase::default());
    let meta = Meta::open(Place::Memory(database.clone())).await.unwrap();
    (database, meta)
}

#[tokio::test]
async fn what_is_staged_is_read_at_once_and_without_the_database() {
    let (_, meta) = in_memory().await;
    meta.stage(Seq(5), vec![put(value("a", 1))]);
    assert_eq!(meta.try_get(&Key::Value("a".into())), Some(Some(value("a", 1))));
    assert_eq!(meta.try_get(&Key::Value("b".into())), None);
    assert_eq!(meta.get(&Key::Value("b".into())).await.unwrap(), None);
    assert_eq!(meta.try_get(&Key::Value("b".into())), Some(None), "absence is cached");
    meta.stage(Seq(6), vec![put(value("b", 2)), Change::Drop(Key::Value("a".into()))]);
    assert_eq!(meta.try_get(&Key::Value("a".into())), Some(None));
    assert_eq!(meta.try_get(&Key::Value("b".into())), Some(Some(value("b", 2))));
}

#[tokio::test]
async fn an_apply_in_the_middle_writes_what_stood_there() {
    let (database, meta) = in_memory().await;
    for seq in 1..=4 {
        meta.stage(Seq(seq), vec![put(value("a", seq))]);
    }
    meta.apply(through(2), true).await.unwrap();
    assert_eq!(meta.checkpoint(), (Position(2), Seq(2)));
    assert_eq!(meta.try_get(&Key::Value("a".into())), Some(Some(value("a", 4))));
    assert!(meta.staged_bytes() > 0);
    let reopened = Meta::open(Place::Memory(database)).await.unwrap();
    assert_eq!(reopened.get(&Key::Value("a".into())).await.unwrap(), Some(value("a", 2)));
    meta.apply(through(4), true).await.unwrap();
    assert_eq!(meta.staged_bytes(), 0);
}

#[tokio::test]
async fn a_failed_apply_leaves_everything_staged() {
    let (database, meta) = in_memory().await;
    meta.stage(Seq(1), vec![put(value("a", 1))]);
    database.fail_applies(1);
    assert!(matches!(meta.apply(through(1), true).await, Err(MetaError::Failed(_))));
    assert_eq!(meta.checkpoint().1, Seq(0));
    assert_eq!(meta.try_get(&Key::Value("a".into())), Some(Some(value("a", 1))));
    meta.apply(through(1), true).await.unwrap();
    assert_eq!(meta.checkpoint().1, Seq(1));
}

#[tokio::test]
async fn replay_in_any_order_ends_with_the_highest_number() {
    let (_, meta) = in_memory().await;
    meta.stage(Seq(3), vec![put(value("a", 3))]);
    meta.stage(Seq(1), vec![put(value("a", 1)), put(value("b", 1))]);
    meta.stage(Seq(3), vec![put(value("a", 3))]);
    assert_eq!(meta.try_get(&Key::Value("a".into())), Some(Some(value("a", 3))));
    meta.apply(through(3), false).await.unwrap();
    meta.stage(Seq(2), vec![put(value("b", 2))]);
    assert_eq!(meta.get(&Key::Value("a".into())).await.unwrap(), Some(value("a", 3)));
    assert_eq!(meta.get(&Key::Value("b".into())).await.unwrap(), Some(value("b", 1)), "2 is below what is applied");
}

/// What is in a database's files at this moment, as a process that dies leaves it.
fn copy(from: &Path, to: &Path) {
    for suffix in ["", "-wal"] {
        let name = format!("meta.db{suffix}");
        if from.join(&name).exists() {
            std::fs::copy(from.join(&name), to.join(&name)).unwrap();
        }
    }
}

/// A directory of which the database, and what is staged over it, have different halves.
#[tokio::test]
async fn a_listing_passes_over_many_staged_removals() {
    let (_, meta) = in_memory().await;
    let names: Vec<String> = (0..500).map(|index| format!("f{index}")).collect();
    meta.stage(Seq(1), (3..).zip(&names).map(|(cookie, name)| put(entry(1, name, cookie, cookie))).collect());
    meta.apply(through(1), true).await.unwrap();
    meta.stage(Seq(2), names[..400].iter().map(|name| Change::Drop(Key::Entry(NodeId(1), name.clone().into()))).collect());
    meta.stage(Seq(3), vec![put(entry(1, "f450", 453, 1000))]);
    let listed = meta.entries(NodeId(1), 0, 3).await.unwrap();
    assert_eq!(listed.iter().map(|row| row.cookie).collect::<Vec<_>>(), [403, 404, 405]);
    let listed = meta.entries(NodeId(1), 451, 3).await.unwrap();
    assert_eq!(listed.iter().map(|row| row.cookie).collect::<Vec<_>>(), [452, 454, 455]);
    let listed = meta.entries(NodeId(1), 501, 3).await.unwrap();
    assert_eq!(listed.iter().map(|row| row.cookie).collect::<Vec<_>>(), [502, 1000]);
    assert!(meta.entries(NodeId(1), u64::MAX, 3).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_power_loss_takes_back_whole_transactions_but_no_durable_one() {
    let mut kept = std::collections::BTreeSet::new();
    for seed in 0..40 {
        let (database, meta) = in_memory().await;
        for seq in 1..=5 {
            meta.stage(Seq(seq), vec![put(value("a", seq)), put(value("b", seq))]);
            meta.apply(through(seq), seq == 2).await.unwrap();
        }
        drop(meta);
        database.power_loss(seed);
        let meta = Meta::open(Place::Memory(database)).await.unwrap();
        let (position, applied) = meta.checkpoint();
        assert_eq!(position.0, applied.0);
        for name in ["a", "b"] {
            assert_eq!(meta.get(&Key::Value(name.into())).await.unwrap(), Some(value(name, applied.0)));
        }
        kept.insert(applied.0);
    }
    assert_eq!(kept.into_iter().collect::<Vec<_>>(), [2, 3, 4, 5]);
}
