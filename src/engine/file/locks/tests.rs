use super::*;

const NODE: NodeId = NodeId(1);

fn lock(owner: u64, range: Range<u64>, kind: LockKind) -> Lock {
    Lock { owner: LockOwner { origin: Origin(1), owner, pid: owner as u32 }, range, kind, flock: false }
}

/// Random locks against one byte at a time.
#[test]
fn ranges_agree_with_a_table_of_bytes() {
    const BYTES: u64 = 24;
    for seed in 0..40 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut locks = Locks::default();
        let mut model: Vec<HashMap<u64, LockKind>> = vec![HashMap::new(); BYTES as usize];
        for _ in 0..300 {
            let start = random.u64(0..BYTES - 1);
            let range = start..random.u64(start + 1..=BYTES);
            let kind = [LockKind::Shared, LockKind::Exclusive, LockKind::Unlock][random.usize(0..3)];
            let owner = random.u64(1..5);
            let bytes = range.start as usize..range.end as usize;
            let free = model[bytes.clone()].iter().all(|byte| {
                byte.iter().all(|(other, held)| {
                    *other == owner || kind == LockKind::Unlock || (kind == LockKind::Shared && *held == LockKind::Shared)
                })
            });
            let taken = locks.take(NODE, &lock(owner, range, kind), None);
            assert_eq!(taken == Outcome::Taken, free, "seed {seed}");
            if free {
                for byte in &mut model[bytes] {
                    if kind == LockKind::Unlock {
                        byte.remove(&owner)
                    } else {
                        byte.insert(owner, kind)
                    };
                }
            }
            for (at, byte) in model.iter().enumerate() {
                for asking in 1..5 {
                    let wanted = lock(asking, at as u64..at as u64 + 1, LockKind::Exclusive);
                    let blocked = byte.keys().any(|owner| *owner != asking);
                    assert_eq!(locks.test(NODE, &wanted).is_some(), blocked, "seed {seed} byte {at}");
                }
            }
        }
        for owner in 1..5 {
            locks.release(NODE, &lock(owner, 0..1, LockKind::Unlock).owner);
        }
        assert_eq!(locks.count(), 0, "seed {seed}");
    }
}

#[test]
fn neighbours_become_one_and_middles_split() {
    let mut locks = Locks::default();
    for range in [0..10, 20..30, 10..20] {
        assert_eq!(locks.take(NODE, &lock(1, range, LockKind::Exclusive), None), Outcome::Taken);
    }
    assert_eq!(locks.count(), 1);
    locks.take(NODE, &lock(1, 12..15, LockKind::Unlock), None);
    assert_eq!(locks.count(), 2);
    locks.take(NODE, &lock(1, 0..5, LockKind::Shared), None);
    assert_eq!(locks.count(), 3);
}

#[test]
fn crossed_requests_are_a_deadlock() {
    let (a, b) = (NodeId(1), NodeId(2));
    let mut locks = Locks::default();
    locks.take(a, &lock(1, 0..1, LockKind::Exclusive), None);
    locks.take(b, &lock(2, 0..1, LockKind::Exclusive), None);
    let first = lock(1, 0..1, LockKind::Exclusive);
    let (ticket, _) = locks.queue(b, &first);
    assert_eq!(locks.take(b, &first, Some(ticket)), Outcome::Blocked);
    let second = lock(2, 0..1, LockKind::Shared);
    let (ticket, _) = locks.queue(a, &second);
    assert_eq!(locks.take(a, &second, Some(ticket)), Outcome::Deadlock);
}

#[test]
fn who_waits_is_not_passed() {
    let mut locks = Locks::default();
    locks.take(NODE, &lock(1, 0..9, LockKind::Shared), None);
    let writer = lock(2, 0..9, LockKind::Exclusive);
    let (first, _) = locks.queue(NODE, &writer);
    let reader = lock(3, 0..9, LockKind::Shared);
    let (second, _) = locks.queue(NODE, &reader);
    assert_eq!(locks.take(NODE, &reader, Some(second)), Outcome::Blocked);
    // Who holds something already may go on.
    let holder = lock(1, 2..3, LockKind::Exclusive);
    let (third, _) = locks.queue(NODE, &holder);
    assert_eq!(locks.take(NODE, &holder, Some(third)), Outcome::Taken);
    locks.leave(NODE, third);
    locks.release(NODE, &holder.owner);
    assert_eq!(locks.take(NODE, &reader, Some(second)), Outcome::Blocked);
    assert_eq!(locks.take(NODE, &writer, Some(first)), Outcome::Taken);
    locks.leave(NODE, first);
    assert_eq!(locks.take(NODE, &reader, Some(second)), Outcome::Blocked);
    locks.release(NODE, &writer.owner);
    assert_eq!(locks.take(NODE, &reader, Some(second)), Outcome::Taken);
}

#[test]
fn whole_file_locks_are_of_their_own() {
    let whole = |owner, kind| Lock { flock: true, ..lock(owner, 0..u64::MAX, kind) };
    let mut locks = Locks::default();
    locks.take(NODE, &lock(1, 0..u64::MAX, LockKind::Exclusive), None);
    assert_eq!(locks.take(NODE, &whole(2, LockKind::Shared), None), Outcome::Taken);
    assert_eq!(locks.take(NODE, &whole(3, LockKind::Shared), None), Outcome::Taken);
    // A change gives up what was held.
    assert_eq!(locks.take(NODE, &whole(2, LockKind::Exclusive), None), Outcome::Blocked);
    assert_eq!(locks.take(NODE, &whole(3, LockKind::Exclusive), None), Outcome::Taken);
}
