//! CDBs and parameters that were changed at random: every one of them comes to a status, and none moves more than it may.

use super::tape::{Deck, MIB, PORT, SLOT, reel};
use super::*;
use crate::base::seeds;

/// Bytes of Data-In that no answer is longer than.
const IN_BYTES_MAX: usize = 17 << 20;

fn garbled(opcode: &Opcode, random: &mut fastrand::Rng) -> Vec<u8> {
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
    cdb
}

/// Two initiators send garbage of all commands of a unit; `between` happens now and then.
async fn garbage(target: &Arc<Target>, lun: &Arc<Lun>, seed: u64, rounds: usize, between: impl AsyncFn()) {
    let initiators = ["a", "b"].map(|name| Initiator::new(target, lun, name));
    let mut random = fastrand::Rng::with_seed(seed);
    for round in 0..rounds {
        let opcode = lun.opcodes()[random.usize(..lun.opcodes().len())];
        let cdb = garbled(opcode, &mut random);
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
        assert!(sent as u64 <= most_in && sent <= IN_BYTES_MAX, "round {round}: {cdb:02x?}");
        assert_eq!(completion.sense.is_empty(), completion.status != Status::CheckCondition, "round {round}");
        if random.u8(..50) == 0 {
            between().await;
        }
    }
    assert_eq!(lun.tasks(), 0);
}

#[tokio::test]
async fn a_disk_answers_garbage() {
    let world = World::new().await;
    garbage(&world.target, &world.lun, 7, 40_000, async || {}).await;
}

#[test]
fn a_tape_drive_answers_garbage() {
    seeds::worlds(6, 300, async |seed| {
        let deck = Deck::of(3 * MIB, seed % 3 == 2).await;
        garbage(&deck.target, &deck.lun, seed, 3000, async || {
            // The robot and the power come between.
            if deck.library.carry(0x100, SLOT).await.is_ok() {
                deck.reel.lose_power(true);
            }
            let _ = deck.library.carry(SLOT, 0x100).await;
        })
        .await;
        let bytes = deck.reel.bytes();
        let (_, _, _, damage) = crate::engine::tape::reel::ReelMap::walk(&bytes).unwrap();
        assert_eq!(damage, None);
    });
}

#[test]
fn a_changer_answers_garbage() {
    use crate::engine::tape::{Forgetful, Layout, Library};
    seeds::worlds(6, 300, async |seed| {
        let library = Library::new(Layout::new(2, 8, 4).unwrap(), "lib", Arc::new(Forgetful));
        for number in 0..5 {
            library.resume(SLOT + u16::from(number), reel(number, MIB, false).1).await.unwrap();
        }
        let drives: Vec<_> = library.drives().iter().map(|drive| Tape::identity_of(drive, &DriveModel::ALL[0])).collect();
        let changer = Changer::new(library.clone(), &ChangerModel::ALL[0], "lib-00", &drives);
        let (target, lun) = serve(Arc::new(changer), Keeper::forgetful()).await;
        garbage(&target, &lun, seed, 5000, async || {
            let _ = library.carry(SLOT, 0x100).await;
            let _ = library.carry(0x100, PORT).await;
            let _ = library.carry(PORT, SLOT + 7).await;
        })
        .await;
        let there = library.elements(None, 0, usize::MAX).iter().filter(|element| element.barcode.is_some()).count();
        assert_eq!(there, 5, "a cartridge is lost, or there twice");
    });
}
