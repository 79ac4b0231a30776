//! Power losses and deaths at any moment: what comes back is a state between the last flush and the loss, in the order of the writes; what S3 has is such a
//! state at every moment, and never an older one than before.

use super::*;
use crate::base::disk::Disk;
use crate::base::seeds;
use crate::engine::volume::DeviceError;
use crate::store::object::fault::{Action, Rule};
use crate::store::object::layer::Kind;

const QUICK: u64 = 40;
const FULL: u64 = 2_000;
const LIVES: usize = 5;
const BLOCKS: u64 = 512;
const BLOCK_BYTES: u64 = 4096;

/// A disk of blocks, each of which has the number of the write that it is of; and the writes in their order.
#[derive(Default)]
struct History {
    writes: Vec<(u64, u64, u32)>,
    /// So many of them are certain.
    flushed: usize,
    /// S3 had so many of them.
    in_s3: usize,
    next: u32,
}

impl History {
    fn state(&self, count: usize) -> Vec<u32> {
        let mut blocks = vec![0; BLOCKS as usize];
        for (from, to, value) in &self.writes[..count] {
            blocks[*from as usize..*to as usize].fill(*value);
        }
        blocks
    }

    /// After how many writes the disk was so; the latest such number.
    fn find(&self, bytes: &[u8]) -> Option<usize> {
        let value = |block: &[u8]| {
            let value = u32::from_le_bytes(block[..4].try_into().unwrap());
            assert!(block.chunks(4).all(|word| word == value.to_le_bytes()), "a block is of one write");
            value
        };
        let found: Vec<u32> = bytes.chunks(BLOCK_BYTES as usize).map(value).collect();
        let of = (0..=self.writes.len()).rev().find(|count| self.state(*count) == found);
        if of.is_none() {
            let off = |count: usize| self.state(count).iter().zip(&found).filter(|(a, b)| a != b).count();
            let nearest = (0..=self.writes.len()).min_by_key(|count| off(*count)).unwrap_or(0);
            let state = self.state(nearest);
            let differ: Vec<_> =
                (0..state.len()).filter(|at| state[*at] != found[*at]).map(|at| (at, state[at], found[at])).collect();
            println!(
                "nearest after {nearest} of {} writes, {} flushed; differ (block, then, found): {differ:?}",
                self.writes.len(),
                self.flushed
            );
            println!("writes around: {:?}", &self.writes[nearest.saturating_sub(3)..self.writes.len().min(nearest + 3)]);
        }
        of
    }
}

/// # Errors
/// The power is gone.
async fn live(
    world: &World,
    volume: &CachedVolume,
    history: &mut History,
    random: &mut fastrand::Rng,
) -> Result<(), DeviceError> {
    for _ in 0..random.usize(10..120) {
        let from = random.u64(..BLOCKS);
        let bytes = |from: u64, to: u64| from * BLOCK_BYTES..to * BLOCK_BYTES;
        match random.u8(..20) {
            0..=9 => {
                let to = random.u64(from + 1..=BLOCKS.min(from + 32));
                history.next += 1;
                // It may be there also if it fails.
                history.writes.push((from, to, history.next));
                let data = history.next.to_le_bytes().repeat(((to - from) * BLOCK_BYTES / 4) as usize);
                volume.write(from * BLOCK_BYTES, data.into(), Stability::Cached).await?;
            }
            10 => {
                // One block: a longer range may be several changes.
                history.writes.push((from, from + 1, 0));
                volume.unmap(std::slice::from_ref(&bytes(from, from + 1)), Stability::Cached).await?;
            }
            11..=13 => {
                let count = history.writes.len();
                volume.flush().await?;
                history.flushed = count;
            }
            14 => world.blobs.evict(volume.blob()).await.map_err(|_| DeviceError::Gone)?,
            15 => volume.hurry().await,
            16 => {
                let read = volume.read(bytes(from, from + 1)).await;
                if let (Ok(read), Ok(_)) = (read, world.disk.list()) {
                    let expected = history.state(history.writes.len())[from as usize];
                    assert_eq!(read.concat()[..4], expected.to_le_bytes());
                }
            }
            _ => tokio::time::sleep(Duration::from_millis(random.u64(..8_000))).await,
        }
        world.disk.list().map_err(|_| DeviceError::Gone)?;
    }
    Ok(())
}

async fn check_s3(world: &World, id: VolumeId, history: &mut History) {
    let found = history.find(&content_in_s3(world, id).await).expect("S3 has a state that the disk had");
    assert!(found >= history.in_s3 || history.state(found) == history.state(history.in_s3), "S3 goes back");
    history.in_s3 = found;
}

fn weather(world: &World) {
    for kind in [Kind::Put, Kind::Delete, Kind::DeleteMany] {
        world.faults.add(Rule::new(Action::LoseAnswer).on(kind).with_probability(0.1));
        world.faults.add(Rule::new(Action::LoseRequest).on(kind).with_probability(0.1));
    }
}

#[test]
fn power_losses_leave_a_prefix_here_and_in_s3() {
    seeds::worlds(QUICK, FULL, async |seed| {
        let mut random = fastrand::Rng::with_seed(seed);
        let (mut world, mut history) = (World::new().await, History::default());
        let mut volume = world.create("db", BLOCKS * BLOCK_BYTES).await;
        let id = volume.id();
        for life in 0..LIVES {
            println!("life {life}");
            weather(&world);
            let is_loss = random.bool();
            if is_loss {
                world.disk.stop_after(random.u64(1..400));
            }
            let lived = live(&world, &volume, &mut history, &mut random).await;
            check_s3(&world, id, &mut history).await;
            let is_loss = is_loss || lived.is_err();
            let survives = if is_loss { history.flushed } else { history.writes.len() };
            drop(volume);
            world = world.again(is_loss.then(|| random.u64(..))).await.unwrap();
            volume = world.volume().await;
            let found = history.find(&content(&volume).await).expect("a state that the disk had");
            assert!(
                found >= survives || history.state(found) == history.state(survives),
                "{found} of {survives} writes survived"
            );
            assert!(found >= history.in_s3 || history.state(found) == history.state(history.in_s3), "S3 is ahead of the disk");
            history.writes.truncate(found);
            history.flushed = found;
            history.in_s3 = history.in_s3.min(found);
        }
        drain(&volume).await;
        assert!(content_in_s3(&world, id).await == content(&volume).await);
    });
}
