use std::sync::Arc;

use bytes::Bytes;
use tokio::time::Instant;

use super::*;
use crate::store::object::layer::layered;
use crate::store::object::memory::MemoryStore;
use crate::store::object::{Attributes, Body, ETag, Precondition, SharedStore};

fn world(seed: u64) -> (Arc<MemoryStore>, Arc<Faults>, SharedStore) {
    let memory = Arc::new(MemoryStore::versioned());
    let faults = Arc::new(Faults::new(seed));
    let store = layered(memory.clone(), faults.clone());
    (memory, faults, store)
}

async fn put(store: &SharedStore, key: &str, text: &'static str) -> Result<ETag, ObjectError> {
    let body = Body::from(Bytes::from_static(text.as_bytes()));
    store.put(key, body, &Attributes::default(), &Precondition::None).await.map(|written| written.etag)
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_and_a_lost_request_look_the_same() {
    let (memory, faults, store) = world(1);
    faults.add(Rule::new(Action::LoseAnswer).at(Keys::Is("a".into())));
    faults.add(Rule::new(Action::LoseRequest).at(Keys::Below("b/".into())));
    let (a, b) = (put(&store, "a", "1").await.expect_err("lost"), put(&store, "b/1", "1").await.expect_err("lost"));
    assert_eq!((a.outcome(), b.outcome()), (Outcome::Unknown, Outcome::Unknown));
    assert_eq!(memory.keys(), ["a"]);
    put(&store, "b", "not below").await.expect("no rule is about it");
}

#[tokio::test(start_paused = true)]
async fn a_rule_counts_its_own_requests() {
    let (_, faults, store) = world(1);
    faults.add(Rule::new(Action::Refuse(ObjectError::SlowDown)).on(Kind::Put).at(Keys::Is("k".into())).after(1).times(2));
    let mut seen = Vec::new();
    for _ in 0..4 {
        let _ = store.head("k").await;
        put(&store, "other", "").await.expect("another key");
        seen.push(put(&store, "k", "").await.is_ok());
    }
    assert_eq!((seen, faults.injected()), (vec![true, false, false, true], 2));
}

#[tokio::test(start_paused = true)]
async fn delete_many_is_hit_by_any_of_its_keys() {
    let (_, faults, store) = world(1);
    faults.add(Rule::new(Action::Refuse(ObjectError::SlowDown)).at(Keys::Is("c".into())));
    let keys = ["a", "b", "c"].map(|key| (key.to_owned(), None));
    store.delete_many(&keys[..2]).await.expect("not hit");
    store.delete_many(&keys).await.expect_err("hit");
}

#[tokio::test(start_paused = true)]
async fn silence_ends_with_patience_and_applies_or_not() {
    let (memory, faults, store) = world(1);
    for (action, applied) in [(Action::Hang, false), (Action::HangAfter, true)] {
        faults.heal();
        faults.add(Rule::new(action));
        let begun = Instant::now();
        put(&store, "k", "1").await.expect_err("no answer");
        assert_eq!((begun.elapsed(), memory.object("k").is_some()), (Faults::PATIENCE, applied));
    }
}

#[tokio::test(start_paused = true)]
async fn bodies_are_cut_or_truncated() {
    let (memory, faults, store) = world(1);
    put(&store, "k", "0123456789").await.expect("put");
    faults.add(Rule::new(Action::Truncate(3)).on(Kind::Get).times(1));
    faults.add(Rule::new(Action::CutBody).times(2));
    let (head, bytes) = store.get("k", None, None).await.expect("a lie");
    assert_eq!((head.size_bytes, bytes), (10, Bytes::from_static(b"012")));
    assert_eq!(store.get("k", None, None).await.expect_err("cut").outcome(), Outcome::Refused);
    assert_eq!(put(&store, "k", "new").await.expect_err("cut").outcome(), Outcome::Unknown);
    assert_eq!(memory.versions("k").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn delays_reorder_and_a_seed_repeats_them() {
    let order = async |seed| {
        let (memory, faults, store) = world(seed);
        faults.add(Rule::new(Action::Delay(Duration::ZERO..Duration::from_secs(9))));
        faults.add(Rule::new(Action::DelayAnswer(Duration::ZERO..Duration::from_secs(9))));
        let puts = ["1", "2", "3", "4"].map(|text| put(&store, "k", text));
        let [a, b, c, d] = puts;
        let (a, b, c, d) = tokio::join!(a, b, c, d);
        assert!([a, b, c, d].iter().all(Result::is_ok));
        memory.versions("k").iter().map(|version| version.object.clone().expect("a put").bytes.clone()).collect::<Vec<_>>()
    };
    let first = order(3).await;
    assert_eq!(order(3).await, first);
    let mut orders: Vec<_> = Vec::new();
    for seed in 0..20 {
        orders.push(order(seed).await);
    }
    orders.sort();
    orders.dedup();
    assert!(orders.len() > 10, "{} orders", orders.len());
}

#[tokio::test(start_paused = true)]
async fn chaos_is_repeatable_and_spares_nobody() {
    let run = async |seed| {
        let (memory, faults, store) = world(seed);
        faults.chaos(0.3);
        let mut seen = String::new();
        for _ in 0..200 {
            seen.push(if put(&store, "k", "1").await.is_ok() { '.' } else { 'x' });
        }
        (seen, memory.versions("k").len())
    };
    let (seen, applied) = run(5).await;
    assert_eq!(run(5).await, (seen.clone(), applied));
    let succeeded = seen.matches('.').count();
    assert!(succeeded > 100 && succeeded < 180, "{seen}");
    assert!(applied > succeeded, "some answers were lost: {applied} > {succeeded}");
}
