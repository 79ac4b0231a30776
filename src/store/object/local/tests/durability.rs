//! What is on the disk: references, readers, crashes, damage.

use super::*;

const LARGE: usize = 2 * INLINE_BYTES_MAX;

#[tokio::test]
async fn small_objects_make_no_file_and_large_ones_one() {
    let world = world().await;
    world.put("small", noise(1, INLINE_BYTES_MAX)).await;
    world.files_become(0).await;
    world.put("large", noise(2, INLINE_BYTES_MAX + 1)).await;
    world.files_become(1).await;
    world.put("large", noise(3, 3 << 20)).await;
    world.files_become(1).await; // the old bytes are gone
    assert_eq!(world.get("small", None).await.expect("small"), noise(1, INLINE_BYTES_MAX));
    assert_eq!(world.get("large", None).await.expect("large"), noise(3, 3 << 20));
}

fn copy_of(source: &str, key: &str) -> Copy {
    Copy {
        source: Source { bucket: "bucket".into(), key: source.into(), ..Source::default() },
        bucket: "bucket".into(),
        key: key.into(),
        directive: MetadataDirective::Copy,
        storage_class: None,
        tags: None,
        requirement: Requirement::default(),
        algorithm: None,
    }
}

#[tokio::test]
async fn a_copy_shares_bytes_until_the_last_is_deleted() {
    let world = world().await;
    let etag = world.put("a", noise(1, LARGE)).await.etag;
    world.local.copy(&copy_of("a", "b")).await.expect("copy");
    world.local.copy(&copy_of("b", "c")).await.expect("copy");
    world.files_become(1).await;
    for key in ["a", "b"] {
        world.local.delete("bucket", key, None, Some(&etag)).await.expect("delete");
    }
    world.files_become(1).await;
    assert_eq!(world.get("c", None).await.expect("the copy"), noise(1, LARGE));
    world.local.delete("bucket", "c", None, None).await.expect("delete");
    world.files_become(0).await;
}

#[tokio::test]
async fn an_upload_becomes_an_object_without_a_byte_written_again() {
    let world = world().await;
    let old = noise(1, 12 << 20);
    world.put("k", old.clone()).await;
    let upload = world.begin("k").await;
    let source = Source { bucket: "bucket".into(), key: "k".into(), ..Source::default() };
    let target = ("bucket", "k", upload.as_str());
    let mut parts = Vec::new();
    for (number, range) in [(1, 0..6 << 20), (3, (11 << 20)..(12 << 20))] {
        let (part, _) = world.local.copy_part(target, number, &source, Some(range)).await.expect("part copy");
        parts.push(NamedPart { number, etag: part.etag, checksums: Vec::new() });
    }
    world.part("k", &upload, 2, noise(2, 5 << 20)).await;
    parts.insert(1, world.part("k", &upload, 2, noise(3, 5 << 20)).await);
    world.part("k", &upload, 9, noise(4, LARGE)).await;
    world.files_become(3).await; // the old object, one part sent twice, one that is not used
    world.complete("k", &upload, parts).await.expect("complete");
    world.files_become(2).await; // the old object's bytes, and the part
    let want = [&old[..6 << 20], &noise(3, 5 << 20), &old[11 << 20..]].concat();
    assert_eq!(world.get("k", None).await.expect("the object"), want);
    world.local.delete("bucket", "k", None, None).await.expect("delete");
    world.files_become(0).await;
}

#[tokio::test]
async fn an_aborted_upload_and_a_refused_put_leave_nothing() {
    let world = world().await;
    let upload = world.begin("k").await;
    world.part("k", &upload, 1, noise(1, LARGE)).await;
    world.local.abort("bucket", "k", &upload).await.expect("abort");
    world.put("taken", noise(2, 5)).await;
    let requirement = Requirement { absent: true, matches: None };
    let put = Put { bucket: "bucket".into(), key: "taken".into(), requirement, ..Put::default() };
    assert_eq!(world.local.put_bytes(put, [noise(3, LARGE)]).await, Err(LocalError::PreconditionFailed));
    let missing = Put { bucket: "nowhere".into(), key: "k".into(), ..Put::default() };
    assert!(matches!(world.local.put_bytes(missing, [noise(3, LARGE)]).await, Err(LocalError::NoSuchBucket(_))));
    world.files_become(0).await;
    assert_eq!(world.local.delete_bucket("bucket").await, Err(LocalError::BucketNotEmpty));
    world.local.delete("bucket", "taken", None, None).await.expect("delete");
    world.local.delete_bucket("bucket").await.expect("an empty bucket");
}

#[tokio::test]
async fn a_reader_keeps_what_is_overwritten_meanwhile() {
    use futures_util::StreamExt;
    let world = world().await;
    let old = noise(1, 3 << 20);
    world.put("k", old.clone()).await;
    let opened = world.local.open_object("bucket", "k", None, &Conditions::default()).await.expect("open");
    let mut stream = opened.stream(0..3 << 20);
    let first = stream.next().await.expect("bytes").expect("bytes");
    world.put("k", noise(2, LARGE)).await;
    world.files_become(2).await;
    let mut all = first.to_vec();
    while let Some(bytes) = stream.next().await {
        all.extend_from_slice(&bytes.expect("bytes"));
    }
    assert_eq!(all, old);
    drop(stream);
    world.files_become(1).await;
}

#[tokio::test]
async fn a_crash_leaves_nothing_but_what_was_acknowledged() {
    let world = world().await;
    world.put("small", noise(1, 100)).await;
    world.put("large", noise(2, LARGE)).await;
    let upload = world.begin("m").await;
    let part = world.part("m", &upload, 1, noise(3, LARGE)).await;
    // A body that is on the disk and has no name yet.
    let mut intake = world.local.intake(&[]);
    intake.push(noise(4, LARGE)).await.expect("push");
    let nameless = intake.finish(&Expected::default()).await.expect("finish");
    // A file that a reader kept from being removed.
    world.put("read", noise(5, LARGE)).await;
    let reading = world.local.open_object("bucket", "read", None, &Conditions::default()).await.expect("open");
    world.local.delete("bucket", "read", None, None).await.expect("delete");
    assert_eq!(count_files(world.dir.path()), 4);

    let image = crash_image(world.dir.path());
    let after = World { local: open(image.path()).await, dir: image };
    assert_eq!(count_files(after.dir.path()), 2);
    assert_eq!(after.get("small", None).await.expect("small"), noise(1, 100));
    assert_eq!(after.get("large", None).await.expect("large"), noise(2, LARGE));
    assert!(after.get("read", None).await.is_err());
    after.complete("m", &upload, vec![part]).await.expect("the upload goes on");
    assert_eq!(after.get("m", None).await.expect("m"), noise(3, LARGE));
    // Ids are not used again: nothing of the first run is overwritten.
    after.put("new", noise(6, LARGE)).await;
    assert_eq!(after.get("large", None).await.expect("large"), noise(2, LARGE));
    drop((nameless, reading));
}

#[tokio::test]
async fn a_store_has_one_process_and_outlives_it() {
    let world = world().await;
    world.put("k", noise(1, LARGE)).await;
    let second = Local::open(world.dir.path(), Arc::new(SimulatedClock::new(0))).await;
    assert!(matches!(second.err(), Some(LocalError::Disk(why)) if why.contains("another process")));
    world.local.close().await;
    assert_eq!(world.local.create_bucket("late").await, Err(LocalError::Closed));
    let World { local, dir } = world;
    drop(local);
    let again = World { local: open(dir.path()).await, dir };
    assert_eq!(again.get("k", None).await.expect("k"), noise(1, LARGE));
    assert_eq!(again.local.buckets().len(), 1);
}

#[tokio::test]
async fn a_damaged_index_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().expect("a directory");
    let junk = noise(9, 16_384);
    fs::write(dir.path().join("index.db"), &junk).expect("junk");
    let opened = Local::open(dir.path(), Arc::new(SimulatedClock::new(0))).await;
    assert!(matches!(opened.err(), Some(LocalError::Damaged(_))));
    assert_eq!(fs::read(dir.path().join("index.db")).expect("the junk"), junk);
}

#[tokio::test]
async fn a_store_of_a_later_format_is_refused() {
    let world = world().await;
    world.put("k", noise(1, 10)).await;
    world.local.close().await;
    let World { local, dir } = world;
    drop(local);
    {
        use sqlx::Connection;
        let url = format!("sqlite://{}", dir.path().join("index.db").display());
        let mut conn = sqlx::SqliteConnection::connect(&url).await.expect("the index");
        sqlx::query("UPDATE counters SET value = 2 WHERE name = 'format'").execute(&mut conn).await.expect("a later format");
        conn.close().await.expect("close");
    }
    let opened = Local::open(dir.path(), Arc::new(SimulatedClock::new(0))).await;
    assert!(matches!(opened.err(), Some(LocalError::Damaged(why)) if why.contains("format 2")));
}

#[tokio::test]
async fn a_missing_file_is_damage_and_not_silence() {
    let world = world().await;
    world.put("k", noise(1, LARGE)).await;
    for block in fs::read_dir(world.dir.path().join("data")).expect("data") {
        for file in fs::read_dir(block.expect("a block").path()).expect("a block") {
            fs::remove_file(file.expect("a file").path()).expect("remove");
        }
    }
    assert!(matches!(world.get("k", None).await, Err(LocalError::Damaged(_))));
}

#[tokio::test]
async fn a_body_is_what_its_sender_says_or_refused() {
    let world = world().await;
    for len in [10, LARGE] {
        for expected in [
            Expected { len_bytes: Some(11), ..Expected::default() },
            Expected { md5: Some("AAAAAAAAAAAAAAAAAAAAAA==".into()), ..Expected::default() },
            Expected { checksums: vec![(Algorithm::Crc32c, "AAAAAA==".into())], ..Expected::default() },
        ] {
            let mut intake = world.local.intake(&[Algorithm::Crc32c]);
            intake.push(noise(1, len)).await.expect("push");
            let refused = intake.finish(&expected).await.err();
            assert!(matches!(refused, Some(LocalError::IncompleteBody | LocalError::BadDigest(_))), "{refused:?}");
        }
    }
    world.files_become(0).await;
}

/// Bytes that say what they are: the ETag is that of a seed, and the length depends on it.
fn seeded(seed: u64) -> Bytes {
    noise(seed, 1000 + (seed as usize % 7) * 3000)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_readers_copies_and_deletes_at_once_lose_nothing() {
    let world = Arc::new(world().await);
    let tasks = (0..8u64).map(|task| {
        let world = world.clone();
        tokio::spawn(async move {
            let mut random = fastrand::Rng::with_seed(task);
            for step in 0..60 {
                let key = format!("k{}", random.u32(..6));
                match random.u32(..8) {
                    0..=2 => drop(world.put(&key, seeded(task * 1000 + step)).await),
                    3 => drop(world.local.delete("bucket", &key, None, None).await.expect("delete")),
                    4 | 5 => match world.local.copy(&copy_of(&key, &format!("k{}", random.u32(..6)))).await {
                        Ok(_) | Err(LocalError::NoSuchKey { .. } | LocalError::CopyToItself | LocalError::SourceChanged) => {}
                        Err(error) => panic!("copy: {error}"),
                    },
                    _ => check_whole(&world, &key).await,
                }
            }
        })
    });
    for task in futures_util::future::join_all(tasks).await {
        task.expect("a task");
    }
    let mut files = std::collections::BTreeSet::new();
    for key in (0..6).map(|n| format!("k{n}")) {
        check_whole(&world, &key).await;
        if let Ok((_, row)) = world.local.find("bucket", &key, None, &Conditions::default()).await
            && let index::Held::Files(extents) = row.held
        {
            files.extend(extents.references().into_iter().map(|(file, _)| file));
        }
    }
    world.files_become(files.len()).await;
}

/// Reads a key in pieces and checks that all of them are of one object.
async fn check_whole(world: &World, key: &str) {
    use md5::Digest;
    let opened = match world.local.open_object("bucket", key, None, &Conditions::default()).await {
        Err(LocalError::NoSuchKey { .. }) => return,
        opened => opened.expect("open"),
    };
    let (etag, size) = (opened.info.etag.clone(), opened.info.size_bytes);
    tokio::task::yield_now().await;
    let bytes = opened.bytes(0..size).await.expect("bytes");
    assert_eq!(hex::encode(md5::Md5::digest(&bytes)), etag);
}
