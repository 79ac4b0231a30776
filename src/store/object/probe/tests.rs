use std::sync::Arc;

use super::*;
use crate::base::clock::SimulatedClock;
use crate::store::object::fault::{Action, Faults, Keys, Rule};
use crate::store::object::layer::{Kind, layered};
use crate::store::object::memory::MemoryStore;

fn store(capabilities: Capabilities) -> MemoryStore {
    MemoryStore::new(Arc::new(SimulatedClock::new(0)), capabilities)
}

#[tokio::test]
async fn every_combination_is_found_and_leaves_nothing_behind() {
    for bits in 0..32u8 {
        let bit = |n: u8| bits & (1 << n) != 0;
        let capabilities = Capabilities {
            conditional_put: bit(0),
            conditional_delete: bit(1),
            conditional_copy: bit(2),
            part_copy: bit(3),
            versioned: bit(4),
            ..Capabilities::AWS
        };
        let store = store(capabilities);
        let report = run(&store, "share/").await.expect("a probe");
        assert_eq!(report.capabilities, capabilities);
        assert_eq!(report.missing().len(), 4 - (bits & 15).count_ones() as usize);
        assert!(store.keys().is_empty() && store.pending().is_empty(), "{:?}", store.keys());
    }
}

#[tokio::test(start_paused = true)]
async fn a_condition_that_is_refused_as_such_is_not_honoured() {
    let memory = Arc::new(store(Capabilities { conditional_put: false, ..Capabilities::AWS }));
    let faults = Arc::new(Faults::new(1));
    let refusal = || Rule::new(Action::Refuse(ObjectError::Unsupported("NotImplemented".into()))).on(Kind::Put);
    faults.add(refusal().times(2));
    let store = layered(memory.clone(), faults);
    let report = run(&*store, "").await.expect("a probe");
    assert!(!report.capabilities.conditional_put);
    assert!(report.capabilities.part_copy);
    assert!(memory.keys().is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_cannot_be_used_is_an_error_and_no_report() {
    for error in [ObjectError::Denied("no".into()), ObjectError::NoSuchBucket("b".into()), ObjectError::SlowDown] {
        for kind in [Kind::Put, Kind::Copy, Kind::MultipartBegin, Kind::MultipartCopy] {
            let memory = Arc::new(store(Capabilities::AWS));
            let faults = Arc::new(Faults::new(1));
            faults.add(Rule::new(Action::Refuse(error.clone())).on(kind));
            let store = layered(memory.clone(), faults);
            let failed = run(&*store, "").await.expect_err("unusable");
            assert_eq!(failed.to_string(), error.to_string());
            assert!(memory.keys().is_empty() && memory.pending().is_empty(), "{kind:?} {:?}", memory.keys());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn keys_that_may_not_delete_are_good_for_the_rest() {
    let memory = Arc::new(store(Capabilities::AWS));
    let faults = Arc::new(Faults::new(1));
    for kind in [Kind::Delete, Kind::DeleteMany] {
        faults.add(Rule::new(Action::Refuse(ObjectError::Denied("AccessDenied".into()))).on(kind));
    }
    let report = run(&*layered(memory.clone(), faults), "").await.expect("a probe");
    assert_eq!(report.capabilities, Capabilities { conditional_delete: false, ..Capabilities::AWS });
    assert!(memory.keys().iter().all(|key| key.starts_with(".tidegate/probe/")), "{:?}", memory.keys());
}

#[tokio::test(start_paused = true)]
async fn nothing_outside_of_its_own_place_is_touched() {
    let memory = Arc::new(store(Capabilities { conditional_put: false, ..Capabilities::AWS }));
    let faults = Arc::new(Faults::new(1));
    for kind in Kind::ALL {
        // Whatever is not below the place would fail, and so would the probe.
        let own = Rule::new(Action::Delay(std::time::Duration::ZERO..std::time::Duration::from_millis(1))).on(kind);
        faults.add(own.at(Keys::Below("photos/.tidegate/probe/".into())));
    }
    let store = layered(memory, faults.clone());
    let meter = Arc::new(crate::store::object::meter::Meter::new("b"));
    let store = layered(store, meter.clone());
    run(&*store, "photos/").await.expect("a probe");
    assert_eq!(faults.injected(), meter.counts().total(), "each request is about a key of the probe's own");
}
