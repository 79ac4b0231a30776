//! Rescue of what is only here, from the log alone.

use std::sync::Arc;

use bytes::Bytes;

use super::world::{OWNER, World, bytes};
use crate::base::disk::Disk;
use crate::base::id::BlobId;
use crate::store::blob::salvage::{Missing, Salvage};
use crate::store::blob::{BlobChange, Patience};

const NOW: Patience = Patience::Default;

/// The bytes that salvage gives, and what it lacks.
fn rescue(salvage: &Salvage, blob: BlobId, len: usize) -> (Vec<u8>, Vec<(std::ops::Range<u64>, Missing)>) {
    let mut found = vec![0; len];
    let missing = salvage.read(blob, &mut |at, bytes| {
        found[at as usize..at as usize + bytes.len()].copy_from_slice(bytes);
        Ok(())
    });
    (found, missing.unwrap())
}

#[tokio::test(start_paused = true)]
async fn what_is_only_in_the_log_is_found_without_the_database() {
    let world = World::new(12, 1);
    let store = world.open().await;
    let (clean, removed, partly) = (store.test_create().await, store.test_create().await, store.new_blob_id().await.unwrap());
    for id in [clean, removed] {
        store.write(id, 0, bytes(1, 200_000), NOW).await.unwrap();
    }
    store.test_apply(BlobChange::Remove { id: removed }).await;
    let change = store.freeze(clean).await.unwrap().test_upload(clean, &world.remote).await.unwrap();
    store.test_apply(change).await;
    let source = world.remote.put(bytes(2, 200_000));
    store.test_apply(BlobChange::Create { id: partly, owner: OWNER, len_bytes: 200_000, source }).await;
    store.set_hint(partly, b"dir/file");
    store.write(partly, 50_000, bytes(7, 100_000), NOW).await.unwrap();
    store.test_apply(BlobChange::Discard { id: partly, range: 60_000..70_000 }).await;
    store.test_seal();
    let small = store.test_create().await;
    store.write(small, 10, Bytes::from_static(b"small"), NOW).await.unwrap();
    store.sync().await.unwrap();
    drop(store);

    let disk = world.disk.process_death();
    let operations = disk.counts().operations;
    let seam: Arc<dyn Disk> = Arc::new(disk.clone());
    let salvage = Salvage::open(&seam).unwrap();
    let rescued = salvage.rescued();
    assert_eq!(rescued.iter().map(|file| (file.blob, file.owner)).collect::<Vec<_>>(), [(partly, OWNER), (small, OWNER)]);
    assert_eq!((rescued[0].path.as_deref(), rescued[0].len_bytes), (Some(&b"dir/file"[..]), 200_000));
    assert_eq!((rescued[1].path.as_deref(), rescued[1].len_bytes), (None, 15));
    let mut expected = vec![0; 200_000];
    expected[50_000..150_000].copy_from_slice(&bytes(7, 100_000));
    expected[60_000..70_000].fill(0);
    let lacks = vec![(0..50_000, Missing::Remote), (150_000..200_000, Missing::Remote)];
    let (found, missing) = rescue(&salvage, partly, 200_000);
    assert_eq!(missing, lacks);
    assert!(found == expected);
    assert_eq!(rescue(&salvage, small, 15).0[10..], *b"small");
    assert_eq!(disk.counts().operations, operations, "nothing was written");
}

#[tokio::test(start_paused = true)]
async fn of_a_damaged_record_only_the_damaged_block_is_lost() {
    let world = World::new(12, 1);
    let store = world.open().await;
    let id = store.test_create().await;
    store.write(id, 0, bytes(1, 100_000), NOW).await.unwrap();
    store.sync().await.unwrap();
    let at = store.blob(id).await.unwrap().state.lock().extents_in(0..1).next().unwrap().location().unwrap();
    drop(store);
    let disk = world.disk.process_death();
    disk.flip(&format!("{:06}.seg", at.slot), u64::from(at.offset_bytes) + 50_000, 1);
    let seam: Arc<dyn Disk> = Arc::new(disk);
    let salvage = Salvage::open(&seam).unwrap();
    let (found, missing) = rescue(&salvage, id, 100_000);
    let [(range, Missing::Damaged)] = &missing[..] else { panic!("{missing:?}") };
    assert_eq!(range.end - range.start, 4096);
    let whole = |range: std::ops::Range<usize>| found[range.clone()] == bytes(1, 100_000)[range];
    assert!(whole(0..range.start as usize) && whole(range.end as usize..100_000));
}
