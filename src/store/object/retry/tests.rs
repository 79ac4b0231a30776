use std::sync::Arc;

use super::*;
use crate::store::object::fault::{Action, Death, Faults, Rule};
use crate::store::object::layer::{Kind, Stack, layered, stack};
use crate::store::object::memory::MemoryStore;
use crate::store::object::{Attributes, Body, CopySource, ETag, ListRequest, Part, Precondition, SharedStore, UploadId, layer};

struct World {
    memory: Arc<MemoryStore>,
    faults: Arc<Faults>,
    stack: Stack,
}

fn world() -> World {
    let memory = Arc::new(MemoryStore::versioned());
    let faults = Arc::new(Faults::new(7));
    let stack = stack(memory.clone(), "b", &layer::Settings::default(), Some(faults.clone()));
    World { memory, faults, stack }
}

impl World {
    async fn put(&self, key: &str, precondition: Precondition) -> Result<ETag, ObjectError> {
        let body = Body::from(bytes::Bytes::from_static(b"x"));
        self.stack.store.put(key, body, &Attributes::default(), &precondition).await.map(|written| written.etag)
    }

    fn sent(&self, kind: Kind) -> u64 {
        self.stack.meter.counts().of(kind)
    }
}

fn refused() -> ObjectError {
    ObjectError::Unavailable { reason: "refused".into(), outcome: Outcome::Refused }
}

#[tokio::test(start_paused = true)]
async fn what_passes_by_itself_is_tried_again() {
    for error in [ObjectError::SlowDown, refused(), ObjectError::Conflict, ObjectError::Corrupt("md5".into())] {
        let world = world();
        world.faults.add(Rule::new(Action::Refuse(error)).times(3));
        world.put("k", Precondition::None).await.expect("the fourth attempt");
        assert_eq!((world.sent(Kind::Put), world.memory.versions("k").len()), (4, 1));
    }
}

#[tokio::test(start_paused = true)]
async fn what_does_not_pass_by_itself_is_not() {
    use ObjectError::*;
    let lasting = [NotFound, NoSuchUpload, PreconditionFailed, Archived, Denied(String::new()), Invalid(String::new())];
    for error in lasting {
        let world = world();
        world.faults.add(Rule::new(Action::Refuse(error.clone())));
        let failed = world.put("k", Precondition::None).await.expect_err("refused");
        assert_eq!(failed.to_string(), error.to_string());
        assert_eq!(world.sent(Kind::Put), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_guarded_write_is_repeated_only_where_it_did_not_happen() {
    let world = world();
    world.faults.add(Rule::new(Action::Refuse(ObjectError::SlowDown)).times(1));
    world.faults.add(Rule::new(Action::Refuse(refused())).times(1));
    world.put("k", Precondition::Absent).await.expect("the third attempt");
    assert_eq!(world.sent(Kind::Put), 3);

    world.faults.add(Rule::new(Action::LoseAnswer).times(1));
    let lost = world.put("other", Precondition::Absent).await.expect_err("lost");
    assert!(matches!(lost, ObjectError::Unavailable { outcome: Outcome::Unknown, .. }), "{lost:?}");
    assert_eq!((world.sent(Kind::Put), world.memory.versions("other").len()), (4, 1));

    world.faults.add(Rule::new(Action::Refuse(ObjectError::Conflict)).times(1));
    let conflict = world.put("third", Precondition::Absent).await.expect_err("409");
    assert!(matches!(conflict, ObjectError::Conflict));
}

/// Every kind of write, its answer lost once: what may be repeated succeeds; what may not says `Unknown`, and is applied once.
#[tokio::test(start_paused = true)]
async fn the_answer_lost_after_every_kind_of_write() {
    let guarded = Precondition::Matches(ETag("9dd4e461268c8034f5c8564e155c67a6".into()));
    for kind in Kind::ALL {
        let world = world();
        let bare: SharedStore = world.memory.clone();
        let store = &world.stack.store;
        let none = Attributes::default();
        let body = || Body::from(bytes::Bytes::from_static(b"x"));
        let written = bare.put("k", body(), &none, &Precondition::None).await.expect("put");
        let upload = bare.multipart_begin("m", &none).await.expect("begin");
        let part = bare.multipart_part("m", &upload, 1, body()).await.expect("part");
        let source = CopySource { key: "k".into(), etag: Some(written.etag.clone()), version: None };
        world.faults.add(Rule::new(Action::LoseAnswer).on(kind).times(1));
        let repeated = match kind {
            Kind::Head => store.head("k").await.map(drop),
            Kind::Get => store.get("k", None, None).await.map(drop),
            Kind::Put => store.put("k", body(), &none, &guarded).await.map(drop),
            Kind::Copy => store.copy(&source, "k", Some(&none), &Precondition::None).await.map(drop),
            Kind::Delete => store.delete("k", Some(&written.etag)).await,
            Kind::DeleteMany => store.delete_many(&[("k".into(), Some(written.etag.clone()))]).await.map(drop),
            Kind::List => store.list(&ListRequest::default()).await.map(drop),
            Kind::MultipartBegin => store.multipart_begin("n", &none).await.map(drop),
            Kind::MultipartPart => store.multipart_part("m", &upload, 2, body()).await.map(drop),
            Kind::MultipartCopy => store.multipart_copy("m", &upload, 2, &source, 0..1).await.map(drop),
            Kind::MultipartCommit => commit(store, &upload, &part).await,
            Kind::MultipartAbort => store.multipart_abort("m", &upload).await,
            Kind::MultipartList => store.multipart_list("").await.map(drop),
        };
        let writes = matches!(kind, Kind::Put | Kind::Copy | Kind::Delete | Kind::DeleteMany | Kind::MultipartCommit);
        // Who began an upload has to know that there may be another.
        let once = writes || kind == Kind::MultipartBegin;
        assert_eq!(world.sent(kind), if once { 1 } else { 2 }, "{kind:?}");
        assert_eq!(repeated.is_err(), once, "{kind:?}: {repeated:?}");
        if let Err(error) = repeated {
            assert_eq!(error.outcome(), Outcome::Unknown, "{kind:?}");
        }
        let versions = world.memory.versions("k").len() + world.memory.versions("m").len();
        assert_eq!(versions, if writes { 2 } else { 1 }, "{kind:?} was applied once");
    }
}

async fn commit(store: &SharedStore, upload: &UploadId, part: &Part) -> Result<(), ObjectError> {
    store.multipart_commit("m", upload, std::slice::from_ref(part), &Precondition::None).await.map(drop)
}

#[tokio::test(start_paused = true)]
async fn a_dead_bucket_is_given_up_at_the_deadline() {
    for death in [Death::Refusing, Death::Silent] {
        let world = world();
        world.faults.kill(death);
        let begun = Instant::now();
        let failed = world.stack.store.get("k", None, None).await.expect_err("dead");
        assert!(matches!(failed, ObjectError::Unavailable { outcome: Outcome::Refused, .. }), "{failed:?}");
        assert!(begun.elapsed() <= Duration::from_secs(60), "{death:?}: a read ends at the deadline");
        assert!(begun.elapsed() >= Duration::from_secs(30), "{death:?}: and not long before");

        let begun = Instant::now();
        world.put("k", Precondition::None).await.expect_err("dead");
        assert!(begun.elapsed() <= Duration::from_secs(60) + Faults::PATIENCE, "{death:?}: a write's last attempt ends");
        assert!(world.stack.meter.counts().total() < 200, "{death:?}: no storm: {:?}", world.stack.meter.counts());
        world.faults.heal();
        world.put("k", Precondition::None).await.expect("alive again");
    }
}

#[tokio::test(start_paused = true)]
async fn waits_are_jittered_bounded_and_longer_for_slow_down() {
    let retry = Retry::seeded(Settings::default(), 3);
    let mut seen = Vec::new();
    for attempt in 0..40 {
        let bound = Duration::from_millis(100).saturating_mul(1 << attempt.min(20)).min(Duration::from_secs(5));
        let wait = retry.wait(attempt, &refused());
        assert!(wait <= bound);
        assert!(retry.wait(attempt, &ObjectError::SlowDown) >= bound / 2);
        seen.push(wait);
    }
    seen.sort();
    seen.dedup();
    assert!(seen.len() > 35, "jitter spreads");
}

#[tokio::test(start_paused = true)]
async fn a_read_is_cut_off_while_it_waits_for_its_turn() {
    let store: SharedStore = Arc::new(MemoryStore::default());
    let faults = Arc::new(Faults::new(1));
    faults.add(Rule::new(Action::Delay(Duration::from_secs(600)..Duration::from_secs(601))));
    let settings = Settings { deadline: Duration::from_secs(10), ..Settings::default() };
    let store = layered(layered(store, faults), Arc::new(Retry::seeded(settings, 1)));
    let begun = Instant::now();
    store.head("k").await.expect_err("late");
    assert_eq!(begun.elapsed().as_secs(), 10);
}

#[tokio::test(start_paused = true)]
async fn nobody_holds_a_slot_while_a_retry_waits() {
    let faults = Arc::new(Faults::new(1));
    faults.add(Rule::new(Action::Refuse(ObjectError::SlowDown)).on(Kind::List));
    let mut settings = layer::Settings::default();
    settings.limit.concurrency = 1;
    let stack = stack(Arc::new(MemoryStore::default()), "b", &settings, Some(faults));
    let (store, other) = (stack.store.clone(), stack.store);
    let waits = tokio::spawn(async move { store.list(&ListRequest::default()).await });
    let begun = Instant::now();
    for _ in 0..100 {
        other.head("k").await.expect_err("missing");
    }
    assert!(begun.elapsed() < Duration::from_secs(1));
    waits.await.expect("a task").expect_err("never");
    assert!(begun.elapsed() > Duration::from_secs(30), "it did wait");
}
