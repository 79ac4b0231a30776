//! What disks are for: blocks, and their limits.

use super::*;

#[tokio::test]
async fn blocks_are_written_and_read_in_every_size() {
    let world = World::new().await;
    let a = world.initiator("a");
    let twelve = |code: u8| [code, 0, 0, 0, 0, 3, 0, 0, 0, 2, 0, 0];
    for (number, (write, read)) in [
        (vec![0x0a, 0, 0, 3, 2, 0], vec![0x08, 0, 0, 3, 2, 0]),
        (ten(0x2a, 0, 3, 2), ten(0x28, 0, 3, 2)),
        (twelve(0xaa).to_vec(), twelve(0xa8).to_vec()),
        (sixteen(0x8a, 0, 3, 2), sixteen(0x88, 0, 3, 2)),
        (ten(0x2e, 2, 3, 2), ten(0x28, 8, 3, 2)),
        (sixteen(0x8a, 8, 3, 2), sixteen(0x88, 0x18, 3, 2)),
    ]
    .into_iter()
    .enumerate()
    {
        let data = vec![number as u8 + 1; 1024];
        a.ok(&write, &data).await;
        assert_eq!(a.ok(&read, &[]).await, data, "{write:02x?}");
    }
    assert_eq!(a.ok(&ten(0x28, 0, 2, 1), &[]).await, [0; 512]);
    assert_eq!(a.ok(&[0x08, 0, 0, 0, 0, 0], &[]).await.len(), 256 * 512);
}

#[tokio::test]
async fn what_is_beyond_the_end_is_out_of_range() {
    let world = World::new().await;
    let a = world.initiator("a");
    let out = triple(Condition::LOGICAL_BLOCK_ADDRESS_OUT_OF_RANGE);
    let end = BLOCKS as u32;
    for code in [0x28, 0x2a, 0x2e, 0x2f, 0x34, 0x35, 0x41] {
        assert_eq!(a.fails(&ten(code, 0, end, 1), &[0; 512]).await, out, "{code:#x}");
        assert_eq!(a.fails(&ten(code, 0, end - 1, 2), &[0; 1024]).await, out, "{code:#x}");
    }
    for code in [0x88, 0x89, 0x8a, 0x8b, 0x8e, 0x8f, 0x90, 0x91, 0x93] {
        assert_eq!(a.fails(&sixteen(code, 0, u64::MAX, 1), &[0; 512]).await, out, "{code:#x}");
    }
    a.ok(&ten(0x28, 0, end, 0), &[]).await;
    assert_eq!(a.fails(&ten(0x28, 0, end + 1, 0), &[]).await, out);
    assert_eq!(a.fails(&sixteen(0x9e, 0x12, u64::from(end), 24), &[]).await, out);
}

#[tokio::test]
async fn transfers_are_limited_as_page_b0_says() {
    let world = World::new().await;
    world.ram.grow(1 << 30);
    let a = world.initiator("a");
    a.send(&READY, &[]).await;
    let limits = a.ok(&[0x12, 1, 0xb0, 0, 64, 0], &[]).await;
    let most = u32::from_be_bytes([limits[8], limits[9], limits[10], limits[11]]);
    let invalid = triple(Condition::INVALID_FIELD_IN_CDB);
    assert_eq!(a.ok(&sixteen(0x88, 0, 0, most), &[]).await.len(), most as usize * 512);
    assert_eq!(a.fails(&sixteen(0x88, 0, 0, most + 1), &[]).await, invalid);
    assert_eq!(a.fails(&sixteen(0x8a, 0, 0, 1 << 29), &[]).await, invalid);
    assert_eq!(a.fails(&sixteen(0x93, 0, 0, 1 << 29), &[0; 512]).await, invalid);
}

#[tokio::test]
async fn a_short_write_changes_what_came() {
    let world = World::new().await;
    let a = world.initiator("a");
    a.ok(&ten(0x2a, 0, 0, 3), &[5; 1000]).await;
    assert_eq!(a.ok(&ten(0x28, 0, 0, 2), &[]).await, [vec![5; 512], vec![0; 512]].concat());
}

#[tokio::test]
async fn blocks_are_compared() {
    let world = World::new().await;
    let a = world.initiator("a");
    a.ok(&ten(0x2a, 0, 8, 2), &[3; 1024]).await;
    a.ok(&ten(0x2f, 2, 8, 2), &[3; 1024]).await;
    a.ok(&ten(0x2f, 6, 8, 2), &[3; 512]).await;
    a.ok(&ten(0x2f, 0, 8, 2), &[]).await;
    let mut wrong = [3; 1024];
    wrong[600] = 4;
    let completion = a.send(&ten(0x2f, 2, 8, 2), &wrong).await;
    assert_eq!((completion.sense[2], &completion.sense[3..7]), (0x0e, &600_u32.to_be_bytes()[..]));
    assert_eq!(a.fails(&ten(0x2f, 4, 8, 2), &[3; 1024]).await, triple(Condition::INVALID_FIELD_IN_CDB));

    let mut swap = sixteen(0x89, 0, 8, 0);
    swap[13] = 1;
    let pair = [[3; 512], [9; 512]].concat();
    a.ok(&swap, &pair).await;
    assert_eq!(a.fails(&swap, &pair).await, triple(Condition::MISCOMPARE_DURING_VERIFY_OPERATION));
    assert_eq!(a.fails(&swap, &pair[..512]).await, triple(Condition::INVALID_FIELD_IN_CDB));
    assert_eq!(a.ok(&ten(0x28, 0, 8, 1), &[]).await, [9; 512]);
    a.ok(&sixteen(0x8b, 0, 8, 1), &[6; 512]).await;
    assert_eq!(a.ok(&ten(0x28, 0, 8, 1), &[]).await, [15; 512]);
}

#[tokio::test]
async fn a_disk_is_thin() {
    let world = World::new().await;
    let a = world.initiator("a");
    let capacity = a.ok(&sixteen(0x9e, 0x10, 0, 32), &[]).await;
    assert_eq!((&capacity[..8], capacity[13], capacity[14]), (&(BLOCKS - 1).to_be_bytes()[..], 3, 0xc0));
    a.ok(&ten(0x2a, 0, 0, 32), &[1; 32 * 512]).await;
    let descriptor = |lba: u64, blocks: u32| [&lba.to_be_bytes()[..], &blocks.to_be_bytes(), &[0; 4]].concat();
    let list = |descriptors: &[Vec<u8>]| {
        let bytes = descriptors.concat();
        [&(bytes.len() as u16 + 6).to_be_bytes()[..], &(bytes.len() as u16).to_be_bytes(), &[0; 4], &bytes].concat()
    };
    let unmap = |len: usize| ten(0x42, 0, 0, len as u16);
    let two = list(&[descriptor(8, 8), descriptor(24, 8)]);
    a.ok(&unmap(two.len()), &two).await;
    let status = a.ok(&sixteen(0x9e, 0x12, 0, 8 + 16 * 5), &[]).await;
    let extents: Vec<_> = status[8..].chunks(16).map(|extent| (extent[7], extent[11], extent[12])).collect();
    assert_eq!(extents[..4], [(0, 8, 0), (8, 8, 1), (16, 8, 0), (24, 2024_u32.to_be_bytes()[3], 1)]);
    assert_eq!(a.ok(&ten(0x28, 0, 8, 8), &[]).await, [0; 4096]);
    let beyond = list(&[descriptor(BLOCKS, 1)]);
    assert_eq!(a.fails(&unmap(beyond.len()), &beyond).await, triple(Condition::LOGICAL_BLOCK_ADDRESS_OUT_OF_RANGE));
    let length = triple(Condition::PARAMETER_LIST_LENGTH_ERROR);
    assert_eq!(a.fails(&unmap(7), &two[..7]).await, length);
    assert_eq!(a.fails(&unmap(two.len()), &two[..20]).await, length);

    a.ok(&sixteen(0x93, 0, 100, 8), &[7; 512]).await;
    assert_eq!(a.ok(&ten(0x28, 0, 100, 8), &[]).await, [7; 4096]);
    a.ok(&sixteen(0x93, 1, 104, 8), &[]).await;
    a.ok(&ten(0x41, 8, 0, 8), &[0; 512]).await;
    assert_eq!(a.ok(&ten(0x28, 0, 100, 8), &[]).await, [[7; 2048], [0; 2048]].concat());
    assert_eq!(a.fails(&sixteen(0x93, 0, 0, 0), &[7; 512]).await, triple(Condition::INVALID_FIELD_IN_CDB));
}

#[tokio::test]
async fn a_disk_grows_and_tells_everybody_once() {
    let world = World::new().await;
    let (a, b) = (world.initiator("a"), world.initiator("b"));
    world.ram.grow(BLOCKS * 2);
    for initiator in [&a, &b] {
        assert_eq!(initiator.fails(&READY, &[]).await, triple(Condition::CAPACITY_DATA_HAS_CHANGED));
        initiator.ok(&READY, &[]).await;
    }
    assert_eq!(a.ok(&[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[]).await[..4], (BLOCKS as u32 * 2 - 1).to_be_bytes());
    world.ram.set_read_only(true);
    assert_eq!(a.fails(&ten(0x2a, 0, 0, 1), &[0; 512]).await, triple(Condition::WRITE_PROTECTED));
}

#[tokio::test]
async fn extended_copy_copies_within_the_disk() {
    let world = World::new().await;
    let a = world.initiator("a");
    a.ok(&ten(0x2a, 0, 0, 4), &[6; 2048]).await;
    let names = a.ok(&[0x12, 1, 0x83, 1, 0, 0], &[]).await;
    let at = names.windows(4).position(|header| header == [1, 3, 0, 8]).unwrap();
    let mut target = vec![0; 32];
    target[0] = 0xe4;
    target[4..8].copy_from_slice(&[1, 3, 0, 8]);
    target[8..16].copy_from_slice(&names[at + 4..at + 12]);
    let list = |target: &[u8], to: u64, index: u8| {
        let mut list = vec![9, 0, 0, 32, 0, 0, 0, 0, 0, 0, 0, 28, 0, 0, 0, 0];
        list.extend(target);
        list.extend([2, 0, 0, 0x18, 0, 0, 0, index, 0, 0, 0, 4]);
        list.extend([0_u64.to_be_bytes(), to.to_be_bytes()].concat());
        list
    };
    let copy = |len: usize| sixteen(0x83, 0, 0, len as u32);
    let good = list(&target, 100, 0);
    a.ok(&copy(good.len()), &good).await;
    assert_eq!(a.ok(&ten(0x28, 0, 100, 4), &[]).await, [6; 2048]);
    let mut status = sixteen(0x84, 0, 0, 64);
    status[2] = 9;
    assert_eq!(a.ok(&status, &[]).await[4..7], [1, 0, 1]);
    assert_eq!(a.fails(&status, &[]).await, triple(Condition::INVALID_FIELD_IN_CDB));
    for (list, condition) in [
        (list(&target, BLOCKS - 1, 0), Condition::COPY_TARGET_DEVICE_NOT_REACHABLE),
        (list(&target, 100, 1), Condition::UNREACHABLE_COPY_TARGET),
        (list(&[0xe4; 32], 100, 0), Condition::INVALID_FIELD_IN_PARAMETER_LIST),
        (list(&[0xe0; 32], 100, 0), Condition::UNSUPPORTED_TARGET_DESCRIPTOR_TYPE_CODE),
    ] {
        assert_eq!(a.fails(&copy(list.len()), &list).await, triple(condition));
    }
    assert_eq!(a.ok(&sixteen(0x84, 3, 0, 64), &[]).await.len(), 46);
}
