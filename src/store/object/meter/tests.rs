use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::*;
use crate::store::object::fault::{Action, Faults, Rule};
use crate::store::object::layer::layered;
use crate::store::object::memory::MemoryStore;
use crate::store::object::{Attributes, Body, ListRequest, Precondition, SharedStore};

fn metered() -> (SharedStore, Arc<Meter>, Arc<Faults>) {
    let (meter, faults) = (Arc::new(Meter::new("b")), Arc::new(Faults::new(1)));
    let store = layered(layered(Arc::new(MemoryStore::default()), faults.clone()), meter.clone());
    (store, meter, faults)
}

async fn put(store: &SharedStore, bytes: &'static [u8]) {
    let body = Body::from(Bytes::from_static(bytes));
    store.put("k", body, &Attributes::default(), &Precondition::None).await.expect("put");
}

#[tokio::test]
async fn every_request_and_every_byte_is_counted_once() {
    let (store, meter, _) = metered();
    put(&store, b"12345").await;
    store.get("k", Some(1..3), None).await.expect("get");
    store.head("missing").await.expect_err("missing");
    store.list(&ListRequest::default()).await.expect("list");
    store.delete_many(&[("k".into(), None), ("l".into(), None)]).await.expect("delete_many");
    let upload = store.multipart_begin("m", &Attributes::default()).await.expect("begin");
    let part = store.multipart_part("m", &upload, 1, Body::from(Bytes::from_static(b"xyz"))).await.expect("part");
    store.multipart_commit("m", &upload, &[part], &Precondition::None).await.expect("commit");
    let counts = meter.counts();
    let expected =
        "head=1(1 failed) get=1 put=1 delete_many=1 list=1 multipart_begin=1 multipart_part=1 multipart_commit=1 up=8 down=2";
    assert_eq!(counts.to_string(), expected);
    assert_eq!((counts.total(), counts.of(Kind::Put), counts.failed(Kind::Head)), (8, 1, 1));
    assert_eq!(counts.besides(&[Kind::Put, Kind::List]), 6);
    put(&store, b"1").await;
    assert_eq!(meter.counts().since(&counts).to_string(), "put=1 up=1 down=0");
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_given_up_was_sent_all_the_same() {
    let (store, meter, faults) = metered();
    faults.add(Rule::new(Action::Hang));
    let _ = tokio::time::timeout(Duration::from_secs(1), store.head("k")).await.expect_err("given up");
    assert_eq!(meter.counts().of(Kind::Head), 1);
}

#[test]
fn kinds_have_names_of_their_own() {
    let mut names = Kind::ALL.map(Kind::name).to_vec();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), Kind::ALL.len());
    for (index, kind) in Kind::ALL.into_iter().enumerate() {
        assert_eq!(kind as usize, index, "counters are indexed by it");
    }
}
