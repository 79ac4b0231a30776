//! Each procedure, as RFC 1813 has it.

use nfs3_types::nfs3::*;
use nfs3_types::xdr_codec::Opaque;

use super::client::{Client, mode, name, place};
use super::{Served, error, open_rules};
use crate::engine::file::tests::World;
use crate::engine::file::{NodeKind, Vfs};
use crate::protocol::nfs::{Rules, Squash};

#[tokio::test]
async fn files_are_made_written_read_and_removed() {
    let served = Served::new().await;
    let (mut client, root) = served.mounted().await;
    let file = client.file(&root, "a").await;
    let Nfs3Result::Ok(written) = client.write(&file, 0, b"hello, world", stable_how::UNSTABLE).await else { panic!() };
    assert_eq!((written.count, written.committed), (12, stable_how::UNSTABLE));
    let (before, after) = (written.file_wcc.before.unwrap(), written.file_wcc.after.unwrap());
    assert_eq!((before.size, after.size), (0, 12));
    let commit: COMMIT3res = client.call(21, &COMMIT3args { file: file.clone(), offset: 0, count: 0 }).await;
    let committed = commit.unwrap();
    assert_eq!(committed.verf, written.verf);
    assert_eq!(committed.file_wcc.after.unwrap().size, 12);
    let Nfs3Result::Ok(synced) = client.write(&file, 12, b"!", stable_how::DATA_SYNC).await else { panic!() };
    assert_eq!(synced.committed, stable_how::FILE_SYNC);
    assert_eq!(client.read(&file, 0, 100).await, Ok((b"hello, world!".to_vec(), true)));
    assert_eq!(client.read(&file, 0, 5).await, Ok((b"hello".to_vec(), false)));
    assert_eq!(client.read(&file, 5, 8).await, Ok((b", world!".to_vec(), true)));
    assert_eq!(client.read(&file, 99, 5).await, Ok((vec![], true)));
    assert_eq!(client.lookup(&root, "a").await, Ok(file.clone()));
    let attr = client.getattr(&file).await.unwrap();
    assert_eq!((attr.type_, attr.mode, attr.nlink, attr.size, attr.uid), (ftype3::NF3REG, 0o644, 1, 13, 0));
    assert_eq!(client.remove(&root, "a").await, nfsstat3::NFS3_OK);
    assert_eq!(client.lookup(&root, "a").await, Err(nfsstat3::NFS3ERR_NOENT));
    assert_eq!(client.getattr(&file).await.unwrap_err(), nfsstat3::NFS3ERR_STALE);
    assert_eq!(client.read(&file, 0, 5).await, Err(nfsstat3::NFS3ERR_STALE));
    assert_eq!(client.remove(&root, "a").await, nfsstat3::NFS3ERR_NOENT);
}

#[tokio::test]
async fn creation_is_guarded_exclusive_or_neither() {
    let served = Served::new().await;
    let (mut client, root) = served.mounted().await;
    let file = client.file(&root, "f").await;
    client.write(&file, 0, b"data", stable_how::FILE_SYNC).await.unwrap();
    let guarded = client.create(&root, "f", createhow3::GUARDED(mode(0o600))).await;
    assert_eq!(guarded, Err(nfsstat3::NFS3ERR_EXIST));
    assert_eq!(client.create(&root, "f", createhow3::UNCHECKED(mode(0o600))).await, Ok(file.clone()));
    let attr = client.getattr(&file).await.unwrap();
    assert_eq!((attr.size, attr.mode), (4, 0o644), "an existing file keeps its bytes and mode");
    let cut = sattr3 { size: Nfs3Option::Some(0), ..sattr3::default() };
    assert_eq!(client.create(&root, "f", createhow3::UNCHECKED(cut)).await, Ok(file.clone()));
    assert_eq!(client.getattr(&file).await.unwrap().size, 0);

    let first = client.create(&root, "x", createhow3::EXCLUSIVE(createverf3(*b"verifier"))).await.unwrap();
    let again = client.create(&root, "x", createhow3::EXCLUSIVE(createverf3(*b"verifier"))).await;
    assert_eq!(again, Ok(first.clone()), "a call that is sent again");
    let other = client.create(&root, "x", createhow3::EXCLUSIVE(createverf3(*b"another!"))).await;
    assert_eq!(other, Err(nfsstat3::NFS3ERR_EXIST));
    let dressed = sattr3 { mode: Nfs3Option::Some(0o640), uid: Nfs3Option::Some(7), ..sattr3::default() };
    let full = client.create(&root, "g", createhow3::GUARDED(dressed)).await.unwrap();
    let attr = client.getattr(&full).await.unwrap();
    assert_eq!((attr.mode, attr.uid), (0o640, 7));
}

#[tokio::test]
async fn attributes_are_set_where_the_guard_holds() {
    let served = Served::new().await;
    let (mut client, root) = served.mounted().await;
    let file = client.file(&root, "f").await;
    let ctime = client.getattr(&file).await.unwrap().ctime;
    let set = async |client: &mut Client, attributes: sattr3, guard| {
        let args = SETATTR3args { object: file.clone(), new_attributes: attributes, guard };
        let result: SETATTR3res = client.call(2, &args).await;
        error(result)
    };
    let time = nfstime3 { seconds: 1_000_000, nseconds: 5 };
    let attributes = sattr3 {
        mode: Nfs3Option::Some(0o4711),
        uid: Nfs3Option::Some(10),
        gid: Nfs3Option::Some(20),
        size: Nfs3Option::Some(100),
        atime: set_atime::SET_TO_CLIENT_TIME(time),
        mtime: set_mtime::SET_TO_CLIENT_TIME(time),
    };
    assert_eq!(set(&mut client, attributes.clone(), Nfs3Option::Some(ctime)).await, nfsstat3::NFS3_OK);
    let attr = client.getattr(&file).await.unwrap();
    assert_eq!((attr.mode, attr.uid, attr.gid, attr.size), (0o4711, 10, 20, 100));
    assert_eq!((attr.atime, attr.mtime), (time, time));
    assert_eq!(set(&mut client, attributes, Nfs3Option::Some(ctime)).await, nfsstat3::NFS3ERR_NOT_SYNC);
    let now = sattr3 { mtime: set_mtime::SET_TO_SERVER_TIME, ..sattr3::default() };
    assert_eq!(set(&mut client, now, Nfs3Option::None).await, nfsstat3::NFS3_OK);
    assert!(client.getattr(&file).await.unwrap().mtime.seconds > 1_000_000_000);
    client.uid = 11;
    assert_eq!(set(&mut client, mode(0o777), Nfs3Option::None).await, nfsstat3::NFS3ERR_PERM);
}

#[tokio::test]
async fn names_of_every_kind() {
    let served = Served::new().await;
    let (mut client, root) = served.mounted().await;
    let dir = client.mkdir(&root, "d", 0o750).await.unwrap();
    assert_eq!(client.mkdir(&root, "d", 0o750).await, Err(nfsstat3::NFS3ERR_EXIST));
    let attr = client.getattr(&dir).await.unwrap();
    assert_eq!((attr.type_, attr.mode, attr.nlink), (ftype3::NF3DIR, 0o750, 2));
    assert_eq!(client.lookup(&dir, "..").await, Ok(root.clone()));

    let link = SYMLINK3args {
        where_: place(&dir, "s"),
        symlink: symlinkdata3 { symlink_attributes: mode(0o777), symlink_data: b"../f".to_vec().into() },
    };
    let link: SYMLINK3res = client.call(10, &link).await;
    let link = link.unwrap().obj.unwrap();
    let target: READLINK3res<'static> = client.call(5, &READLINK3args { symlink: link.clone() }).await;
    assert_eq!(target.unwrap().data.as_ref(), b"../f");
    let wrong: READLINK3res<'static> = client.call(5, &READLINK3args { symlink: dir.clone() }).await;
    assert_eq!(error(wrong), nfsstat3::NFS3ERR_INVAL);

    let device = devicedata3 { dev_attributes: mode(0o600), spec: specdata3 { specdata1: 8, specdata2: 17 } };
    for (text, what, kind) in [
        ("fifo", mknoddata3::NF3FIFO(mode(0o644)), ftype3::NF3FIFO),
        ("sock", mknoddata3::NF3SOCK(mode(0o644)), ftype3::NF3SOCK),
        ("disk", mknoddata3::NF3BLK(device), ftype3::NF3BLK),
    ] {
        let made: MKNOD3res = client.call(11, &MKNOD3args { where_: place(&dir, text), what }).await;
        let attr = made.unwrap().obj_attributes.unwrap();
        assert_eq!(attr.type_, kind);
        let rdev = if kind == ftype3::NF3BLK { (8, 17) } else { (0, 0) };
        assert_eq!((attr.rdev.specdata1, attr.rdev.specdata2), rdev);
    }

    let file = client.file(&root, "f").await;
    let linked: LINK3res = client.call(15, &LINK3args { file: file.clone(), link: place(&dir, "l") }).await;
    assert_eq!(linked.unwrap().file_attributes.unwrap().nlink, 2);
    assert_eq!(client.lookup(&dir, "l").await, Ok(file.clone()));
    let again: LINK3res = client.call(15, &LINK3args { file: file.clone(), link: place(&dir, "l") }).await;
    assert_eq!(error(again), nfsstat3::NFS3ERR_EXIST);

    assert_eq!(client.rename((&root, "f"), (&dir, "l2")).await, nfsstat3::NFS3_OK);
    assert_eq!(client.lookup(&dir, "l2").await, Ok(file.clone()));
    assert_eq!(client.rename((&root, "f"), (&dir, "l3")).await, nfsstat3::NFS3ERR_NOENT);
    assert_eq!(client.rename((&root, "d"), (&dir, "in")).await, nfsstat3::NFS3ERR_INVAL);
    let busy: RMDIR3res = client.call(13, &RMDIR3args { object: place(&root, "d") }).await;
    assert_eq!(error(busy), nfsstat3::NFS3ERR_NOTEMPTY);
    assert_eq!(client.remove(&root, "d").await, nfsstat3::NFS3ERR_ISDIR);
    for text in ["s", "fifo", "sock", "disk", "l", "l2"] {
        assert_eq!(client.remove(&dir, text).await, nfsstat3::NFS3_OK, "{text}");
    }
    let gone: RMDIR3res = client.call(13, &RMDIR3args { object: place(&root, "d") }).await;
    assert_eq!(error(gone), nfsstat3::NFS3_OK);
    assert_eq!(client.lookup(&root, &"n".repeat(256)).await, Err(nfsstat3::NFS3ERR_NAMETOOLONG));
    assert_eq!(client.mkdir(&root, "", 0o755).await, Err(nfsstat3::NFS3ERR_INVAL));
}

#[tokio::test]
async fn a_listing_goes_on_where_it_stopped_while_names_come_and_go() {
    let served = Served::new().await;
    let (mut client, root) = served.mounted().await;
    for number in 0..300 {
        client.file(&root, &format!("file-{number:04}")).await;
    }
    let (mut seen, mut cookie, mut removed) = (Vec::new(), 0, 0);
    loop {
        let (page, eof) = client.page(&root, cookie, 1024).await.unwrap();
        cookie = page.last().map_or(cookie, |(_, cookie)| *cookie);
        seen.extend(page.into_iter().map(|(name, _)| name));
        // One that was seen and one that was not, and a new one.
        assert_eq!(client.remove(&root, &format!("file-{removed:04}")).await, nfsstat3::NFS3_OK);
        let _ = client.remove(&root, &format!("file-{:04}", 299 - removed)).await;
        removed += 1;
        client.file(&root, &format!("new-{removed}")).await;
        if eof {
            break;
        }
    }
    let count = seen.len();
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), count, "an entry came twice");
    for number in removed..300 - removed {
        assert!(seen.contains(&format!("file-{number:04}")), "{number} was lost");
    }
    assert!(seen.contains(&".".to_owned()) && seen.contains(&"..".to_owned()));
    assert_eq!(client.page(&root, 0, 20).await, Err(nfsstat3::NFS3ERR_TOOSMALL));
    let file = client.lookup(&root, "new-1").await.unwrap();
    assert_eq!(client.page(&file, 0, 4096).await, Err(nfsstat3::NFS3ERR_NOTDIR));
}

#[tokio::test]
async fn readdirplus_tells_handles_and_attributes_within_its_limits() {
    let served = Served::new().await;
    let (mut client, root) = served.mounted().await;
    for number in 0..100 {
        client.file(&root, &format!("{number}")).await;
    }
    let (mut cookie, mut names) = (0, 0);
    loop {
        let args =
            READDIRPLUS3args { dir: root.clone(), cookie, cookieverf: cookieverf3::default(), dircount: 512, maxcount: 4096 };
        let page: READDIRPLUS3res<'static> = client.call(17, &args).await;
        let page = page.unwrap();
        assert!(page.dir_attributes.is_some());
        let entries = page.reply.entries.into_inner();
        assert!(!entries.is_empty() && entries.len() <= 512 / 24);
        for entry in entries {
            cookie = entry.cookie;
            let attr = entry.name_attributes.unwrap();
            assert_eq!(attr.fileid, entry.fileid);
            let text = String::from_utf8(entry.name.as_ref().to_vec()).unwrap();
            assert_eq!(client.lookup(&root, &text).await, Ok(entry.name_handle.unwrap()));
            names += 1;
        }
        if page.reply.eof {
            break;
        }
    }
    assert_eq!(names, 102);
}

#[tokio::test]
async fn permission_is_the_callers() {
    let served = Served::new().await;
    let (mut client, root) = served.mounted().await;
    let file = client.create(&root, "f", createhow3::GUARDED(mode(0o640))).await.unwrap();
    let attributes = sattr3 { uid: Nfs3Option::Some(1000), gid: Nfs3Option::Some(100), ..sattr3::default() };
    let set = SETATTR3args { object: file.clone(), new_attributes: attributes, guard: Nfs3Option::None };
    assert_eq!(error(client.call::<SETATTR3res>(2, &set).await), nfsstat3::NFS3_OK);
    let access = async |client: &mut Client| {
        let result: ACCESS3res = client.call(4, &ACCESS3args { object: file.clone(), access: 0x3f }).await;
        result.unwrap().access
    };
    let (r, w) = (ACCESS3_READ, ACCESS3_MODIFY | ACCESS3_EXTEND);
    (client.uid, client.gid) = (1000, 5);
    assert_eq!(access(&mut client).await, r | w);
    assert!(client.read(&file, 0, 1).await.is_ok());
    (client.uid, client.groups) = (1001, vec![7, 100]);
    assert_eq!(access(&mut client).await, r);
    assert!(client.read(&file, 0, 1).await.is_ok());
    assert_eq!(error(client.write(&file, 0, b"x", stable_how::UNSTABLE).await), nfsstat3::NFS3ERR_ACCES);
    client.groups = vec![];
    assert_eq!(access(&mut client).await, 0);
    assert_eq!(client.read(&file, 0, 1).await, Err(nfsstat3::NFS3ERR_ACCES));
    assert_eq!(client.create(&root, "g", createhow3::GUARDED(mode(0o644))).await, Err(nfsstat3::NFS3ERR_ACCES));
}

#[tokio::test]
async fn root_is_squashed_and_a_read_only_export_stays_as_it_is() {
    let world = World::new().await;
    let mut served = Served::over(world, Rules::default()).await;
    let (mut client, root) = served.mounted().await;
    assert_eq!(client.create(&root, "f", createhow3::GUARDED(mode(0o644))).await, Err(nfsstat3::NFS3ERR_ACCES));
    served.world.put("f", b"bytes").await.unwrap();
    let file = client.lookup(&root, "f").await.unwrap();
    assert_eq!(client.read(&file, 0, 9).await, Ok((b"bytes".to_vec(), true)));

    let rules = Rules { read_only: true, squash: Squash::None, ..Rules::default() };
    served.nfs.export("demo", rules, Some(served.world.share.clone()));
    assert_eq!(client.create(&root, "g", createhow3::GUARDED(mode(0o644))).await, Err(nfsstat3::NFS3ERR_ROFS));
    assert_eq!(error(client.write(&file, 0, b"x", stable_how::UNSTABLE).await), nfsstat3::NFS3ERR_ROFS);
    assert_eq!(client.rename((&root, "f"), (&root, "h")).await, nfsstat3::NFS3ERR_ROFS);
    let access: ACCESS3res = client.call(4, &ACCESS3args { object: file.clone(), access: 0x3f }).await;
    assert_eq!(access.unwrap().access, ACCESS3_READ);
    served.nfs.export("demo", open_rules(), Some(served.world.share.clone()));
    assert_eq!(error(client.write(&file, 0, b"x", stable_how::UNSTABLE).await), nfsstat3::NFS3_OK);
    served.world = World::new().await;
}

#[tokio::test]
async fn what_a_share_can_do_is_told() {
    let served = Served::new().await;
    let (mut client, root) = served.mounted().await;
    served.world.put("f", &[1; 5000]).await.unwrap();
    let info: FSINFO3res = client.call(19, &FSINFO3args { fsroot: root.clone() }).await;
    let info = info.unwrap();
    assert_eq!((info.rtmax, info.wtmax, info.rtmult), (1 << 20, 1 << 20, 4096));
    assert!(info.maxfilesize >= 5 << 40 && info.obj_attributes.is_some());
    let space: FSSTAT3res = client.call(18, &FSSTAT3args { fsroot: root.clone() }).await;
    let space = space.unwrap();
    assert!(space.fbytes < space.tbytes && space.tbytes - space.fbytes >= 5000);
    assert_eq!(space.tfiles - space.ffiles, 2);
    let limits: PATHCONF3res = client.call(20, &PATHCONF3args { object: root.clone() }).await;
    let limits = limits.unwrap();
    assert_eq!((limits.name_max, limits.no_trunc, limits.case_insensitive), (255, true, false));
}

#[tokio::test]
async fn handles_survive_a_restart_and_cannot_be_made_up() {
    let served = Served::new().await;
    let (mut client, root) = served.mounted().await;
    let file = client.file(&root, "f").await;
    let Nfs3Result::Ok(written) = client.write(&file, 0, b"synced", stable_how::FILE_SYNC).await else { panic!() };
    let mut forged = file.clone();
    let mut bytes = forged.data.to_vec();
    bytes[19] ^= 1;
    forged.data = Opaque::from_vec(bytes);
    assert_eq!(client.getattr(&forged).await.unwrap_err(), nfsstat3::NFS3ERR_BADHANDLE);
    let empty = nfs_fh3 { data: Opaque::from_vec(vec![]) };
    assert_eq!(client.getattr(&empty).await.unwrap_err(), nfsstat3::NFS3ERR_BADHANDLE);

    served.nfs.drain().await;
    let served = Served::over(served.world.power_loss(7).await, open_rules()).await;
    let mut client = served.client().await;
    assert_eq!(client.read(&file, 0, 100).await, Ok((b"synced".to_vec(), true)));
    assert_eq!(client.lookup(&root, "f").await, Ok(file.clone()));
    let Nfs3Result::Ok(after) = client.write(&file, 0, b"x", stable_how::UNSTABLE).await else { panic!() };
    assert_ne!(after.verf, written.verf, "what was not committed may be lost");
}

#[tokio::test]
async fn what_was_answered_is_durable() {
    let served = Served::new().await;
    let (mut client, root) = served.mounted().await;
    let dir = client.mkdir(&root, "d", 0o755).await.unwrap();
    let file = client.file(&dir, "f").await;
    client.write(&file, 0, b"kept", stable_how::UNSTABLE).await.unwrap();
    let commit: COMMIT3res = client.call(21, &COMMIT3args { file: file.clone(), offset: 0, count: 0 }).await;
    assert_eq!(error(commit), nfsstat3::NFS3_OK);
    client.file(&dir, "old").await;
    assert_eq!(client.rename((&dir, "old"), (&root, "new")).await, nfsstat3::NFS3_OK);
    let set = SETATTR3args { object: file.clone(), new_attributes: mode(0o600), guard: Nfs3Option::None };
    assert_eq!(error(client.call::<SETATTR3res>(2, &set).await), nfsstat3::NFS3_OK);
    client.file(&root, "gone").await;
    assert_eq!(client.remove(&root, "gone").await, nfsstat3::NFS3_OK);
    served.nfs.drain().await;
    let world = served.world.power_loss(3).await;
    assert_eq!(world.bytes("d/f").await.unwrap(), b"kept");
    let attr = world.stat("d/f").await.unwrap();
    assert_eq!((attr.kind, attr.mode), (NodeKind::File, 0o600));
    assert_eq!(world.list("").await, ["d", "new"]);
    let _ = name("x");
    assert_eq!(world.share.root(), world.stat("").await.unwrap().node);
}
