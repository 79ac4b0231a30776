//! One suite for every device: what the seam promises.

use std::sync::Arc;

use super::*;

const BLOCKS: u64 = 4096;

async fn bytes(device: &dyn BlockDevice, range: Range<u64>) -> Vec<u8> {
    device.read(range).await.unwrap().concat()
}

async fn behaves(device: Arc<dyn BlockDevice>) {
    let end = device.geometry().len_bytes();
    assert_eq!(end, BLOCKS * 512);
    assert_eq!(bytes(&*device, 0..8192).await, [0; 8192]);
    device.write(512, vec![7; 6144].into(), Stability::Cached).await.unwrap();
    assert_eq!(bytes(&*device, 512..6656).await, [7; 6144]);
    assert_eq!(bytes(&*device, 0..512).await, [0; 512]);

    let swap = |expected: u8, new: u8| {
        let device = device.clone();
        async move { device.compare_and_write(1024, vec![expected; 1024].into(), vec![new; 1024].into(), Stability::Durable).await }
    };
    assert_eq!(swap(8, 9).await, Ok(Some(0)));
    assert_eq!(swap(7, 9).await, Ok(None));
    let mut nearly = vec![9; 1024];
    nearly[700] = 1;
    let different = device.compare_and_write(1024, nearly.into(), vec![1; 1024].into(), Stability::Cached).await;
    assert_eq!((different, bytes(&*device, 1024..2048).await), (Ok(Some(700)), vec![9; 1024]));

    device.unmap(&[4096..8192, 0..512], Stability::Durable).await.unwrap();
    assert_eq!(bytes(&*device, 4096..8192).await, [0; 4096]);
    device.flush().await.unwrap();
    let extents = device.extents(0..end, 16).await.unwrap();
    assert_eq!(extents[0], Extent { range: 0..4096, is_mapped: true });
    assert!(!extents[1].is_mapped && extents[1].range == (4096..end));
    assert_eq!(device.extents(0..end, 1).await.unwrap().len(), 1);

    for error in [
        device.read(end - 512..end + 512).await.map(drop),
        device.write(end, vec![0; 512].into(), Stability::Cached).await,
        device.write(u64::MAX - 100, vec![0; 512].into(), Stability::Cached).await,
        device.unmap(&[0..512, end..end + 1], Stability::Cached).await,
    ] {
        assert!(matches!(error, Err(DeviceError::OutOfRange(_))), "{error:?}");
    }
    device.set_write_cache(false).await.unwrap();
    assert!(!device.has_write_cache());
}

#[tokio::test]
async fn memory_behaves_as_a_disk() {
    behaves(Arc::new(RamDisk::new(BLOCKS, 512))).await;
}

#[tokio::test]
async fn an_image_file_behaves_as_a_disk() {
    let directory = tempfile::tempdir().unwrap();
    behaves(Arc::new(FileDisk::open(&directory.path().join("image"), BLOCKS, 512).unwrap())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compare_and_write_is_one_step() {
    let directory = tempfile::tempdir().unwrap();
    let devices: [Arc<dyn BlockDevice>; 2] =
        [Arc::new(RamDisk::new(BLOCKS, 512)), Arc::new(FileDisk::open(&directory.path().join("image"), BLOCKS, 512).unwrap())];
    for device in devices {
        let count = |device: Arc<dyn BlockDevice>| async move {
            for _ in 0..25 {
                loop {
                    let old = device.read(0..512).await.unwrap().concat();
                    let mut new = old.clone();
                    new[0] += 1;
                    if device.compare_and_write(0, old.into(), new.into(), Stability::Cached).await.unwrap().is_none() {
                        break;
                    }
                }
            }
        };
        let counters: Vec<_> = (0..4).map(|_| tokio::spawn(count(device.clone()))).collect();
        for counter in counters {
            counter.await.unwrap();
        }
        assert_eq!(bytes(&*device, 0..1).await, [100]);
    }
}

#[tokio::test]
async fn disks_grow() {
    let directory = tempfile::tempdir().unwrap();
    let ram = RamDisk::new(8, 512);
    let file = FileDisk::open(&directory.path().join("image"), 8, 512).unwrap();
    ram.grow(16);
    file.grow(16).unwrap();
    ram.grow(4);
    file.grow(4).unwrap();
    for device in [&ram as &dyn BlockDevice, &file] {
        assert_eq!(device.geometry().blocks, 16);
        assert_eq!(bytes(device, 0..8192).await, [0; 8192]);
    }
}
