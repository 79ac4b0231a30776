//! The adapter over a kernel directory, through the crate's seam: what a client asks for is what the directory then has.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use smb_server::{
    DirChange, DirChangeKind, FileTimes, Handle, OpenAction, OpenIntent, OpenOptions, ShareBackend, SmbPath, SmbResult,
};

use super::backend::Backend;
use super::rules::tests::open as everybody;
use super::tree::Tree;
use super::users::User;
use super::{Rules, Settings, Smb};
use crate::engine::file::passthrough::Passthrough;
use crate::engine::file::{Caller, Create, OpenHow, Origin, Remove, Rename, Target, Vfs};

struct World {
    directory: tempfile::TempDir,
    vfs: Arc<Passthrough>,
    backend: Backend,
}

fn world(rules: Rules) -> World {
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let vfs = Passthrough::new(directory.path()).unwrap();
    let backend = Backend(Arc::new(Tree::new("demo", rules, vfs.clone())));
    World { directory, vfs, backend }
}

impl World {
    fn put(&self, path: &str, bytes: &str) {
        let path = self.directory.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    fn get(&self, path: &str) -> String {
        fs::read_to_string(self.directory.path().join(path)).unwrap()
    }

    fn names(&self, path: &str) -> Vec<String> {
        let read = fs::read_dir(self.directory.path().join(path)).unwrap();
        let mut names: Vec<_> = read.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    async fn open(&self, path: &str, options: OpenOptions) -> SmbResult<(Box<dyn Handle>, OpenAction)> {
        self.backend.open(&path.parse().unwrap(), options).await
    }

    async fn reads(&self, path: &str) -> String {
        let (handle, _) = self.open(path, OpenOptions::default()).await.unwrap();
        String::from_utf8(handle.read(0, 1 << 20).await.unwrap().to_vec()).unwrap()
    }

    async fn lists(&self, path: &str, pattern: Option<&str>) -> Vec<String> {
        let (handle, _) = self.open(path, OpenOptions::default()).await.unwrap();
        let mut names: Vec<_> = handle.list_dir(pattern).await.unwrap().into_iter().map(|entry| entry.info.name).collect();
        names.sort();
        names
    }

    async fn rename(&self, from: &str, to: &str, replace: bool) -> SmbResult<()> {
        self.backend.rename(&from.parse().unwrap(), &to.parse().unwrap(), replace).await
    }
}

fn writing(intent: OpenIntent) -> OpenOptions {
    OpenOptions { write: true, intent, ..OpenOptions::default() }
}

fn path(text: &str) -> SmbPath {
    text.parse().unwrap()
}

/// The status that a client gets.
fn told<T>(result: SmbResult<T>) -> String {
    result.err().map_or_else(|| "ok".to_owned(), |error| format!("{error:?}"))
}

#[tokio::test]
async fn every_disposition_does_what_it_says() {
    let world = world(everybody());
    for (intent, missing, there, bytes) in [
        (OpenIntent::Open, "NotFound", "Opened", "old"),
        (OpenIntent::Create, "Created", "Exists", "old"),
        (OpenIntent::OpenOrCreate, "Created", "Opened", "old"),
        (OpenIntent::OverwriteOrCreate, "Created", "Overwritten", ""),
        (OpenIntent::Truncate, "NotFound", "Overwritten", ""),
    ] {
        world.put("There", "old");
        let action = |result: SmbResult<(Box<dyn Handle>, OpenAction)>| match result {
            Ok((_, action)) => format!("{action:?}"),
            Err(error) => format!("{error:?}"),
        };
        assert_eq!(action(world.open("missing", writing(intent)).await), missing, "{intent:?}");
        // Spelled otherwise, it is the same file.
        assert_eq!(action(world.open("tHERE", writing(intent)).await), there, "{intent:?}");
        assert_eq!(world.get("There"), bytes, "{intent:?}");
        assert_eq!(world.names("."), if missing == "Created" { vec!["There", "missing"] } else { vec!["There"] });
        let _ = fs::remove_file(world.directory.path().join("missing"));
    }
}

#[tokio::test]
async fn kinds_that_are_not_asked_for_are_refused() {
    let world = world(everybody());
    world.put("dir/file", "x");
    let directory = OpenOptions { directory: true, ..OpenOptions::default() };
    let file = OpenOptions { non_directory: true, ..OpenOptions::default() };
    assert_eq!(told(world.open("dir/file", directory).await), "NotADirectory");
    assert_eq!(told(world.open("dir", file).await), "IsDirectory");
    assert_eq!(told(world.open("", file).await), "IsDirectory");
    assert_eq!(told(world.open("no/file", OpenOptions::default()).await), "PathNotFound");
    assert_eq!(told(world.open("dir/file/x", OpenOptions::default()).await), "PathNotFound");
    let create = OpenOptions { directory: true, intent: OpenIntent::Create, ..OpenOptions::default() };
    assert_eq!(told(world.open("DIR", create).await), "Exists");
    assert_eq!(told(world.open("dir/sub", create).await), "ok");
    assert!(world.directory.path().join("dir/sub").is_dir());
    assert_eq!(told(world.backend.unlink(&path("dir")).await), "NotEmpty");
    assert_eq!(told(world.backend.unlink(&path("DIR/SUB")).await), "ok");
    assert_eq!(world.names("dir"), ["file"]);
}

#[tokio::test]
async fn bytes_times_and_lengths_are_what_was_set() {
    let world = world(everybody());
    let (handle, _) = world.open("f", writing(OpenIntent::Create)).await.unwrap();
    assert_eq!(handle.write_owned(3, b"bytes".to_vec()).await.unwrap(), 5);
    assert_eq!(handle.write(0, b"abc").await.unwrap(), 3);
    handle.flush().await.unwrap();
    assert_eq!(world.get("f"), "abcbytes");
    assert_eq!(handle.read(6, 100).await.unwrap(), "es");
    assert!(handle.read(100, 1).await.unwrap().is_empty());
    handle.truncate(4).await.unwrap();
    assert_eq!(world.get("f"), "abcb");
    let write = 133_444_736_001_234_567;
    handle.set_times(FileTimes { last_write_time: Some(write), ..FileTimes::default() }).await.unwrap();
    let info = handle.stat().await.unwrap();
    assert_eq!((info.end_of_file, info.last_write_time, info.name.as_str()), (4, write, "f"));
    // A name that is gone, and a new one, are the open's all the same.
    fs::rename(world.directory.path().join("f"), world.directory.path().join("g")).unwrap();
    handle.write(4, b"!").await.unwrap();
    assert_eq!(world.get("g"), "abcb!");
    assert_eq!(handle.link_count().await.unwrap(), 1);
    handle.close().await.unwrap();
}

#[tokio::test]
async fn read_only_is_the_write_bits_and_binds_root_too() {
    let world = world(everybody());
    world.put("f", "x");
    let (handle, _) = world.open("f", OpenOptions { write_attributes: true, ..OpenOptions::default() }).await.unwrap();
    handle.set_attributes(0x21).await.unwrap();
    assert!(handle.stat().await.unwrap().read_only);
    let mode = || fs::metadata(world.directory.path().join("f")).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(), 0o444);
    assert_eq!(told(world.open("f", writing(OpenIntent::Open)).await), "AccessDenied");
    assert_eq!(
        told(world.open("f", OpenOptions { intent: OpenIntent::Truncate, ..OpenOptions::default() }).await),
        "AccessDenied"
    );
    handle.set_attributes(0x20).await.unwrap();
    assert_eq!(mode(), 0o644);
    // What the crate cannot report is taken and dropped.
    handle.set_attributes(0x26).await.unwrap();
    assert_eq!((mode(), handle.stat().await.unwrap().attributes()), (0o644, 0x80));
}

#[tokio::test]
async fn everybody_acts_as_the_share_says() {
    let rules = Rules { uid: 1000, gid: 100, file_mode: 0o640, directory_mode: 0o750, ..everybody() };
    let world = world(rules);
    world.put("secret", "x");
    fs::set_permissions(world.directory.path().join("secret"), fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(told(world.open("new", writing(OpenIntent::Create)).await), "AccessDenied");
    fs::set_permissions(world.directory.path(), fs::Permissions::from_mode(0o777)).unwrap();
    assert_eq!(told(world.open("new", writing(OpenIntent::Create)).await), "ok");
    use std::os::unix::fs::MetadataExt;
    let made = fs::metadata(world.directory.path().join("new")).unwrap();
    assert_eq!((made.uid(), made.gid(), made.mode() & 0o777), (1000, 100, 0o640));
    // It may be looked at, and not read.
    let (handle, _) = world.open("secret", OpenOptions::default()).await.unwrap();
    assert_eq!(handle.stat().await.unwrap().end_of_file, 1);
    assert_eq!(told(handle.read(0, 1).await), "AccessDenied");
    let hiding = Rules { hide_unreadable: true, ..world.backend.0.rules.clone() };
    let hiding = Backend(Arc::new(Tree::new("demo", hiding, world.vfs.clone())));
    let (root, _) = hiding.open(&SmbPath::root(), OpenOptions::default()).await.unwrap();
    let listed: Vec<_> = root.list_dir(None).await.unwrap().into_iter().map(|entry| entry.info.name).collect();
    assert_eq!(listed, ["new"]);
}

#[tokio::test]
async fn names_are_found_however_they_are_spelled() {
    let world = world(everybody());
    world.put("Größe/ReadMe.TXT", "a");
    world.put("cafe\u{301}", "composed");
    world.put("what: a \"name\"?", "special");
    world.put("aux.c", "device");
    world.put("au\u{f078}x", "private");
    assert_eq!(told(world.open("groesse/x", OpenOptions::default()).await), "PathNotFound");
    assert_eq!(world.reads("GRÖßE\\readme.txt").await, "a");
    assert_eq!(world.reads("CAFÉ").await, "composed");
    let shown = world.lists("", None).await;
    assert_eq!(shown, ["Größe", "au\u{f078}.c", "au\u{f078}x", "cafe\u{301}", "what\u{f022} a \u{f020}name\u{f020}\u{f025}"]);
    for (name, bytes) in [(&shown[1], "device"), (&shown[2], "private"), (&shown[4], "special")] {
        assert_eq!(world.reads(name).await, bytes);
    }
    // What a client makes by such a name is the real one.
    assert_eq!(told(world.open("a\u{f022}b", writing(OpenIntent::Create)).await), "ok");
    assert_eq!(world.get("a:b"), "");
    assert_eq!(world.lists("größe", Some("*.txt")).await, ["ReadMe.TXT"]);
    assert_eq!(world.lists("größe", Some("README.TXT")).await, ["ReadMe.TXT"]);
    assert_eq!(world.lists("größe", Some("nothing")).await, [""; 0]);
}

#[tokio::test]
async fn a_sensitive_share_tells_case_apart() {
    let world = world(Rules { case_sensitive: true, ..everybody() });
    world.put("a", "small");
    world.put("A", "large");
    assert_eq!((world.reads("a").await, world.reads("A").await), ("small".into(), "large".into()));
    world.put("b", "");
    assert_eq!(told(world.open("B", OpenOptions::default()).await), "NotFound");
    assert!(world.backend.capabilities().case_sensitive);
}

/// What other front ends do between two look-ups is seen by the second, also where the directory is known by heart.
#[tokio::test]
async fn the_names_that_are_known_stay_true() {
    let world = world(everybody());
    world.vfs.is_alone.store(true, Ordering::Relaxed);
    let who = Caller::root(Origin(9));
    let root = world.vfs.root();
    let make = async |name: &str| {
        let how = OpenHow { write: true, create: Some(Create { mode: 0o644 }), ..OpenHow::default() };
        let opened = world.vfs.open(&who, Target::Child(root, name.as_bytes()), &how).await.unwrap();
        world.vfs.close(opened.handle).await.unwrap();
    };
    let finds = async |name: &str| world.open(name, OpenOptions::default()).await.is_ok();
    make("One").await;
    assert!(finds("oNE").await && !finds("TWO").await);
    make("two").await;
    assert!(finds("TWO").await);
    world.vfs.rename(&who, (root, b"two"), (root, b"Three"), Rename::Replace).await.unwrap();
    assert!(!finds("TWO").await && finds("THREE").await);
    world.vfs.remove(&who, root, b"Three", Remove::File).await.unwrap();
    assert!(!finds("THREE").await && finds("ONE").await);
    // It was by what was told: what nobody told is not known.
    world.put("Untold", "");
    assert!(finds("Untold").await && !finds("UNTOLD").await);
    world.vfs.is_alone.store(false, Ordering::Relaxed);
    assert!(finds("UNTOLD").await);
}

#[tokio::test]
async fn renames_replace_and_respell() {
    let world = world(everybody());
    world.put("d/a", "a");
    world.put("d/b", "b");
    assert_eq!(told(world.rename("d/a", "d/B", false).await), "Exists");
    assert_eq!(told(world.rename("d/a", "d/B", true).await), "ok");
    assert_eq!((world.names("d"), world.get("d/B").as_str()), (vec!["B".to_owned()], "a"));
    assert_eq!(told(world.rename("D/b", "d/b", false).await), "ok");
    assert_eq!(world.names("d"), ["b"]);
    assert_eq!(told(world.rename("d/b", "d/b", false).await), "ok");
    world.put("e/x", "x");
    assert_eq!(told(world.rename("d/b", "E/new", false).await), "ok");
    assert_eq!((world.names("d"), world.names("e")), (vec![], vec!["new".to_owned(), "x".to_owned()]));
    // A directory is never replaced; a directory moves with all that is in it.
    assert_eq!(told(world.rename("e/x", "d", true).await), "AccessDenied");
    assert_eq!(told(world.rename("e", "d/deep", false).await), "ok");
    assert_eq!(world.names("d/deep"), ["new", "x"]);
    assert_eq!(told(world.rename("gone", "x", false).await), "NotFound");
    assert_eq!(told(world.rename("d/deep/x", "no/x", false).await), "PathNotFound");
    // Two names of one file become one.
    fs::hard_link(world.directory.path().join("d/deep/x"), world.directory.path().join("d/deep/y")).unwrap();
    assert_eq!(told(world.rename("d/deep/x", "d/deep/y", false).await), "Exists");
    assert_eq!(told(world.rename("d/deep/x", "d/deep/y", true).await), "ok");
    assert_eq!(world.names("d/deep"), ["new", "y"]);
}

#[tokio::test]
async fn links_are_followed_within_the_share_only() {
    let world = world(everybody());
    world.put("dir/file", "bytes");
    for (target, link) in [
        ("dir/file", "good"),
        ("./dir", "to-dir"),
        ("../good", "dir/up"),
        ("../../etc/passwd", "out"),
        ("/etc/passwd", "absolute"),
        ("nothing", "dangling"),
        ("loop", "loop"),
    ] {
        symlink(target, world.directory.path().join(link)).unwrap();
    }
    for name in ["good", "to-dir/file", "dir/up", "to-dir\\up"] {
        assert_eq!(world.reads(name).await, "bytes", "{name}");
    }
    for name in ["out", "absolute", "dangling", "loop"] {
        let (handle, _) = world.open(name, OpenOptions::default()).await.unwrap();
        assert_eq!(told(handle.read(0, 10).await), "AccessDenied", "{name}");
        assert_eq!(told(world.open(name, writing(OpenIntent::OverwriteOrCreate)).await), "AccessDenied", "{name}");
        assert_eq!(told(world.backend.unlink(&path(name)).await), "ok", "{name}");
    }
    // Removing a link leaves what it led to.
    assert_eq!(told(world.backend.unlink(&path("good")).await), "ok");
    assert_eq!(world.names("dir"), ["file", "up"]);
}

#[tokio::test]
async fn others_changes_are_told_to_who_watches() {
    let world = world(everybody());
    world.put("d/old", "x");
    let (handle, _) = world.open("d", OpenOptions::default()).await.unwrap();
    let mut watch = handle.watch().await.unwrap().unwrap();
    let who = Caller::root(Origin(9));
    let dir = world.vfs.lookup(&who, world.vfs.root(), b"d").await.unwrap().node;
    assert!(tokio::time::timeout(Duration::from_millis(10), watch.next()).await.is_err(), "nothing happened");
    world.vfs.mkdir(&who, dir, b"new:", Create { mode: 0o755 }).await.unwrap();
    world.vfs.rename(&who, (dir, b"old"), (dir, b"renamed"), Rename::NoReplace).await.unwrap();
    let told = watch.next().await.unwrap();
    assert_eq!(
        told,
        [
            DirChange::new("new\u{f022}", DirChangeKind::Added, true),
            DirChange::new("renamed", DirChangeKind::Renamed { from: "old".into() }, false),
        ]
    );
    world.vfs.remove(&who, dir, b"renamed", Remove::File).await.unwrap();
    assert_eq!(watch.next().await.unwrap(), [DirChange::new("renamed", DirChangeKind::Removed, false)]);
    world.vfs.remove(&who, dir, b"new:", Remove::Directory).await.unwrap();
    world.vfs.remove(&who, world.vfs.root(), b"d", Remove::Directory).await.unwrap();
    let mut kinds = Vec::new();
    while kinds.len() < 2 {
        kinds.extend(watch.next().await.unwrap().into_iter().map(|change| change.kind));
    }
    assert_eq!(kinds, [DirChangeKind::Removed, DirChangeKind::Deleted]);
}

/// An open that is dropped and not closed, as where a connection's task ends, is closed in the share.
#[tokio::test]
async fn what_is_dropped_is_closed() {
    let world = world(everybody());
    let (handle, _) = world.open("f", writing(OpenIntent::Create)).await.unwrap();
    assert_eq!(world.vfs.open_count(), 1);
    drop(handle);
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!(world.vfs.open_count(), 0);
    assert_eq!(world.backend.0.counts.snapshot("demo").open_files, 0);
}

#[tokio::test]
async fn shares_and_users_come_and_go() {
    let world = world(everybody());
    let smb = Smb::new(&Settings { listen: ([127, 0, 0, 1], 0).into(), must_sign: false }).unwrap();
    let user = |name: &str| User { name: name.into(), password: "secret".into(), groups: Vec::new(), disabled: false };
    let vfs = || Some(world.vfs.clone() as Arc<dyn Vfs>);
    let granted = async |share: &str| {
        let known = smb.known.lock().await;
        known.shares.get(share).map(|offered| offered.granted.keys().cloned().collect::<Vec<_>>())
    };
    smb.offer("demo", everybody(), vfs()).await;
    assert_eq!(granted("demo").await, Some(vec![]));
    smb.set_users(vec![user("ana"), user("bob"), User { disabled: true, ..user("eve") }]).await;
    assert_eq!(granted("demo").await, Some(vec!["ana".into(), "bob".into()]));
    let tree = smb.trees.lock()["demo"].clone();
    smb.offer("demo", Rules { deny: vec!["bob".into()], ..everybody() }, vfs()).await;
    assert_eq!(granted("demo").await, Some(vec!["ana".into()]));
    assert!(Arc::ptr_eq(&tree, &smb.trees.lock()["demo"]), "who stays need not connect again");
    smb.set_users(vec![user("bob"), user("ana")]).await;
    assert_eq!(granted("demo").await, Some(vec!["ana".into()]), "the lists are those that were given last");
    smb.offer("demo", Rules { uid: 5, ..everybody() }, vfs()).await;
    assert!(!Arc::ptr_eq(&tree, &smb.trees.lock()["demo"]));
    assert!(smb.end_sessions("ANA").await && !smb.end_sessions("eve").await);
    assert_eq!(granted("demo").await, Some(vec!["ana".into(), "bob".into()]));
    smb.offer("demo", everybody(), None).await;
    assert_eq!(granted("demo").await, None);
    smb.offer("demo", everybody(), vfs()).await;
    smb.unoffer("demo").await;
    assert_eq!((granted("demo").await, smb.shares()), (None, vec![]));
}
