//! CDBs and parameters that were changed at random: every one of them comes to a status, and none moves more than it may.

use super::*;

#[tokio::test]
async fn garbage_is_answered() {
    let world = World::new().await;
    let initiators = [world.initiator("a"), world.initiator("b")];
    let table: Vec<_> = opcode::PRIMARY.iter().chain(opcode::DISK).collect();
    let mut random = fastrand::Rng::with_seed(7);
    for round in 0..40_000 {
        let opcode = table[random.usize(..table.len())];
        let mut cdb: Vec<u8> = opcode.usage.iter().map(|usage| usage & random.u8(..)).collect();
        cdb[..2].copy_from_slice(&opcode.usage[..2]);
        if !opcode.has_action {
            cdb[1] &= random.u8(..);
        }
        // Small numbers reach further than large ones.
        for byte in cdb.iter_mut().skip(2) {
            if random.u8(..4) > 0 {
                *byte &= if random.bool() { 0 } else { 31 };
            }
        }
        if random.u8(..8) == 0 {
            let at = random.usize(..cdb.len());
            cdb[at] = random.u8(..);
            cdb.truncate(random.usize(1..=cdb.len()));
        }
        let initiator = &initiators[random.usize(..2)];
        let task = initiator.task(if round % 7 == 0 { Attribute::Ordered } else { Attribute::Simple }, &cdb);
        let (most_in, out) = match task.moves() {
            Moves::Nothing => (0, 0),
            Moves::In(bytes) => (bytes, 0),
            Moves::Out(bytes) => (0, bytes),
        };
        let len = if random.u8(..4) == 0 { random.u64(..2048) } else { out };
        let mut data = vec![0; len.min(1 << 17) as usize];
        let noisy = data.len().min(random.usize(..4096));
        random.fill(&mut data[..noisy]);
        let announced = data.len() as u64;
        let completion = task.execute(data.into(), announced).await.unwrap();
        let sent: usize = completion.data.iter().map(Bytes::len).sum();
        assert!(sent as u64 <= most_in && sent <= 9 << 20, "round {round}: {cdb:02x?}");
        assert_eq!(completion.sense.is_empty(), completion.status != Status::CheckCondition, "round {round}");
    }
    assert_eq!(world.lun.tasks(), 0);
}
