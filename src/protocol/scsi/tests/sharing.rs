//! Several initiators at one unit: attentions, reservations, order, abort.

use super::*;

fn reserve_out(action: u8, kind: u8) -> Vec<u8> {
    vec![0x5f, action, kind, 0, 0, 0, 0, 0, 24, 0]
}

fn keys(key: u64, service_key: u64, aptpl: bool) -> Vec<u8> {
    [&key.to_be_bytes()[..], &service_key.to_be_bytes(), &[0, 0, 0, 0, u8::from(aptpl), 0, 0, 0]].concat()
}

const CONFLICT: Status = Status::ReservationConflict;

#[tokio::test]
async fn each_initiator_hears_of_the_power_on_and_of_losses() {
    let world = World::new().await;
    let power_on = triple(Condition::POWER_ON_RESET_OR_BUS_DEVICE_RESET_OCCURRED);
    let connect = || Initiator { target: world.target.clone(), nexus: world.target.connect("iqn.x,i,0x1") };
    let first = connect();
    first.ok(&[0x12, 0, 0, 0, 36, 0], &[]).await;
    assert_eq!(first.fails(&READY, &[]).await, power_on);
    first.ok(&READY, &[]).await;
    world.target.disconnect(&first.nexus);
    let again = connect();
    assert_eq!(again.ok(&[0x03, 0, 0, 0, 18, 0], &[]).await[12..14], [0x29, 0x07]);
    again.ok(&READY, &[]).await;
    world.lun.reset().await;
    assert_eq!(again.fails(&READY, &[]).await, triple(Condition::BUS_DEVICE_RESET_FUNCTION_OCCURRED));
}

#[tokio::test]
async fn a_reserved_unit_is_its_holders_until_it_is_gone() {
    let world = World::new().await;
    let (a, b) = (world.initiator("a"), world.initiator("b"));
    let (reserve, release) = ([0x16, 0, 0, 0, 0, 0], [0x17, 0, 0, 0, 0, 0]);
    a.ok(&reserve, &[]).await;
    for cdb in [&reserve[..], &READY, &ten(0x28, 0, 0, 1)] {
        assert_eq!(b.send(cdb, &[]).await.status, CONFLICT);
    }
    b.ok(&release, &[]).await;
    b.ok(&[0x12, 0, 0, 0, 36, 0], &[]).await;
    assert_eq!(b.send(&READY, &[]).await.status, CONFLICT);
    world.target.disconnect(&a.nexus);
    b.ok(&reserve, &[]).await;
    world.lun.reset().await;
    let c = world.initiator("c");
    c.ok(&reserve, &[]).await;
}

#[tokio::test]
async fn persistent_reservations_keep_others_out() {
    let world = World::new().await;
    let (a, b) = (world.initiator("a"), world.initiator("b"));
    a.ok(&reserve_out(0, 0), &keys(0, 0xa, false)).await;
    a.ok(&reserve_out(1, 1), &keys(0xa, 0, false)).await;
    b.ok(&ten(0x28, 0, 0, 1), &[]).await;
    assert_eq!(b.send(&ten(0x2a, 0, 0, 1), &[0; 512]).await.status, CONFLICT);
    assert_eq!(b.send(&[0x16, 0, 0, 0, 0, 0], &[]).await.status, CONFLICT);
    b.ok(&reserve_out(6, 0), &keys(0, 0xb, false)).await;
    assert_eq!(b.send(&ten(0x2a, 0, 0, 1), &[0; 512]).await.status, CONFLICT);
    let read_in = |action: u8| vec![0x5e, action, 0, 0, 0, 0, 0, 0, 255, 0];
    let list = b.ok(&read_in(0), &[]).await;
    assert_eq!(list, [&[0, 0, 0, 2, 0, 0, 0, 16][..], &0xa_u64.to_be_bytes(), &0xb_u64.to_be_bytes()].concat());
    assert_eq!(b.ok(&read_in(1), &[]).await[8..22], [0, 0, 0, 0, 0, 0, 0, 0xa, 0, 0, 0, 0, 0, 1]);
    assert_eq!(b.ok(&read_in(2), &[]).await.len(), 8);
    let full = b.ok(&read_in(3), &[]).await;
    assert!(full.windows(4).any(|window| window == *b"iqn."));
    // B takes it over; A hears that its registration is gone, once.
    b.ok(&reserve_out(4, 3), &keys(0xb, 0xa, false)).await;
    assert_eq!(a.fails(&READY, &[]).await, triple(Condition::REGISTRATIONS_PREEMPTED));
    assert_eq!(a.send(&ten(0x28, 0, 0, 1), &[]).await.status, CONFLICT);
    b.ok(&ten(0x2a, 0, 0, 1), &[0; 512]).await;
    b.ok(&reserve_out(3, 0), &keys(0xb, 0, false)).await;
    a.ok(&ten(0x2a, 0, 0, 1), &[0; 512]).await;
}

#[tokio::test]
async fn what_shall_survive_power_loss_does() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("unit");
    for aptpl in [true, false] {
        {
            let world = World::with(Keeper::file(path.clone())).await;
            let a = world.initiator("a");
            a.ok(&reserve_out(6, 0), &keys(0, 0xa, aptpl)).await;
            a.ok(&reserve_out(1, 5), &keys(0xa, 0, false)).await;
        }
        let world = World::with(Keeper::file(path.clone())).await;
        let (a, b) = (world.initiator("a"), world.initiator("b"));
        let status = b.send(&ten(0x2a, 0, 0, 1), &[0; 512]).await.status;
        assert_eq!(status, if aptpl { CONFLICT } else { Status::Good });
        assert_eq!(a.send(&reserve_out(1, 5), &keys(0xa, 0, false)).await.status == Status::Good, aptpl);
    }
    std::fs::write(&path, b"{}").unwrap();
    let disk = Arc::new(Disk::new(Arc::new(RamDisk::new(8, 512)), "DISK", "x"));
    assert!(Lun::open(disk, Keeper::file(path)).await.is_err());
}

#[tokio::test]
async fn ordered_tasks_wait_and_are_waited_for() {
    let world = World::new().await;
    let a = world.initiator("a");
    let first = a.task(Attribute::Simple, &READY);
    let ordered = a.task(Attribute::Ordered, &READY);
    let behind = a.task(Attribute::Simple, &READY);
    let head = a.task(Attribute::Head, &READY);
    let ordered = tokio::spawn(ordered.execute(Bytes::new(), 0));
    let behind = tokio::spawn(behind.execute(Bytes::new(), 0));
    assert!(head.execute(Bytes::new(), 0).await.is_some());
    tokio::task::yield_now().await;
    assert!(!ordered.is_finished() && !behind.is_finished());
    assert!(first.execute(Bytes::new(), 0).await.is_some());
    assert!(ordered.await.unwrap().is_some() && behind.await.unwrap().is_some());
    assert_eq!(world.lun.tasks(), 0);
}

#[tokio::test]
async fn an_abort_returns_when_nothing_of_it_is_under_way() {
    let world = World::new().await;
    let (a, b) = (world.initiator("a"), world.initiator("b"));
    let waiting = a.task(Attribute::Simple, &ten(0x2a, 0, 0, 1));
    let queued = a.task(Attribute::Ordered, &READY);
    let queued = tokio::spawn(queued.execute(Bytes::new(), 0));
    let lun = world.lun.clone();
    let nexus = b.nexus.clone();
    let clear = tokio::spawn(async move { lun.clear(&nexus).await });
    tokio::task::yield_now().await;
    assert_eq!(queued.await.unwrap(), None);
    assert!(waiting.is_cancelled() && !clear.is_finished(), "a transport still holds a task");
    drop(waiting);
    clear.await.unwrap();
    assert_eq!(world.lun.tasks(), 0);
    assert_eq!(a.fails(&READY, &[]).await, triple(Condition::COMMANDS_CLEARED_BY_ANOTHER_INITIATOR));
    b.ok(&READY, &[]).await;
}

#[tokio::test]
async fn preempt_and_abort_ends_the_tasks_of_who_is_preempted() {
    let world = World::new().await;
    let (a, b) = (world.initiator("a"), world.initiator("b"));
    a.ok(&reserve_out(0, 0), &keys(0, 0xa, false)).await;
    b.ok(&reserve_out(0, 0), &keys(0, 0xb, false)).await;
    let victim = a.task(Attribute::Simple, &ten(0x2a, 0, 0, 1));
    let nexus = a.nexus.clone();
    let holder = tokio::spawn(async move {
        nexus.wake.notified().await;
        assert!(victim.is_cancelled());
    });
    b.ok(&reserve_out(5, 3), &keys(0xb, 0xa, false)).await;
    holder.await.unwrap();
    assert_eq!(world.lun.tasks(), 0);
}
