//! Random verbs by several callers, against the model; with uploads going on, and a process that dies at the end. (`power.rs` has the rest.)

use super::model::{Model, Seen, seen};
use super::*;
use crate::base::seeds;

/// An open file, here and in the model.
struct Open {
    handle: HandleId,
    item: usize,
    wanted: u32,
}

/// Both trees, and who works on them.
pub(super) struct Run {
    pub(super) world: World,
    pub(super) model: Model,
    pub(super) random: fastrand::Rng,
    opens: Vec<Open>,
    callers: Vec<Caller>,
    /// Everything that could be found after a crash: the last committed state and all since.
    pub(super) since_commit: Vec<Seen>,
}

impl Run {
    async fn new(seed: u64, callers: Vec<Caller>) -> Self {
        Self::on(World::with(settings()).await, seed, callers).await
    }

    /// In a world where nothing is yet.
    pub(super) async fn on(world: World, seed: u64, callers: Vec<Caller>) -> Self {
        world.chmod(&root(), "", 0o777).await.unwrap();
        let mut model = Model::new();
        model.chmod(&root(), 0, 0o777).unwrap();
        let since_commit = vec![Model::new().seen(), model.seen()];
        Self { world, model, random: fastrand::Rng::with_seed(seed), opens: Vec::new(), callers, since_commit }
    }

    fn who(&mut self) -> Caller {
        let index = self.random.usize(..self.callers.len());
        self.callers[index].clone()
    }

    fn path(&mut self) -> String {
        let depth = self.random.usize(1..4);
        let names: Vec<&str> = (0..depth).map(|_| ["a", "b", "c"][self.random.usize(0..3)]).collect();
        names.join("/")
    }

    fn mode(&mut self) -> u32 {
        [0o755, 0o777, 0o700, 0o644, 0o2775, 0o1777, 0o4755, 0o000, 0o070][self.random.usize(0..9)]
    }

    /// A few bytes somewhere.
    fn data(&mut self) -> (usize, Vec<u8>) {
        let offset = self.random.usize(0..40_000);
        let len = self.random.usize(1..5_000);
        let fill = self.random.u8(1..);
        (offset, vec![fill; len])
    }

    /// One verb on both; the answers are the same.
    ///
    /// # Errors
    /// The disk failed; the model has the verb, the share may have it.
    pub(super) async fn step(&mut self) -> Step {
        let (who, path) = (self.who(), self.path());
        let (world, model) = (&self.world, &mut self.model);
        match self.random.usize(0..24) {
            0..3 => {
                let mode = self.mode();
                let (here, there) =
                    (self.world.mkdir(&who, &path, mode).await, self.model.make(&who, &path, NodeKind::Directory, mode, b""));
                same("mkdir", &path, here, there)
            }
            3..6 => {
                let mode = self.mode();
                let (here, there) =
                    (self.world.create(&who, &path, mode).await, self.model.make(&who, &path, NodeKind::File, mode, b""));
                same("create", &path, here, there)
            }
            6 => {
                let here = world.symlink(&who, &path, "to/where").await;
                same("symlink", &path, here, model.make(&who, &path, NodeKind::Symlink, 0o777, b"to/where"))
            }
            7 | 8 => {
                let to = self.path();
                let here = self.world.link(&who, &path, &to).await;
                same("link", &format!("{path} {to}"), here, self.model.link(&who, &path, &to))
            }
            9..12 => {
                let to = self.path();
                let how = [Rename::Replace, Rename::Replace, Rename::NoReplace, Rename::Exchange][self.random.usize(0..4)];
                let here = self.world.rename(&who, &path, &to, how).await;
                same("rename", &format!("{path} {to} {how:?}"), here, self.model.rename(&who, &path, &to, how))
            }
            12 | 13 => same("unlink", &path, world.unlink(&who, &path).await, model.remove(&who, &path, Remove::File)),
            14 => same("rmdir", &path, world.rmdir(&who, &path).await, model.remove(&who, &path, Remove::Directory)),
            15 => {
                let mode = self.mode();
                let there = self.model.walk(&who, &path).and_then(|id| self.model.chmod(&who, id, mode));
                same("chmod", &path, self.world.chmod(&who, &path, mode).await, there)
            }
            16 => {
                let uid = [None, Some(0), Some(1001), Some(1002)][self.random.usize(0..4)];
                let gid = [Some(50), Some(60), Some(1001)][self.random.usize(0..3)];
                let there = self.model.walk(&who, &path).and_then(|id| self.model.chown(&who, id, uid, gid));
                same("chown", &path, self.world.chown(&who, &path, uid, gid).await, there)
            }
            17 | 18 => {
                let (offset, data) = self.data();
                let here = match self.world.walk(&who, &path).await {
                    Ok(attr) => {
                        self.world.share.write(&who, Io::Node(attr.node), offset as u64, data.clone().into()).await.map(|_| ())
                    }
                    Err(error) => Err(error),
                };
                let there = self.model.walk(&who, &path).and_then(|id| self.model.write(&who, id, false, offset, &data));
                same("write", &format!("{path} {offset}+{}", data.len()), here, there)
            }
            19 => {
                let len = self.random.usize(0..50_000);
                let set = SetAttr { size_bytes: Some(len as u64), ..SetAttr::default() };
                let there = self.model.walk(&who, &path).and_then(|id| self.model.truncate(&who, id, len));
                same("truncate", &format!("{path} {len}"), self.world.set(&who, &path, set).await, there)
            }
            20 => {
                let (offset, data) = self.data();
                let here = match self.world.walk(&who, &path).await {
                    Ok(attr) => {
                        let io = Io::Node(attr.node);
                        self.world.share.allocate(&who, io, offset as u64, data.len() as u64, Allocate::Punch).await
                    }
                    Err(error) => Err(error),
                };
                let there = self.model.walk(&who, &path).and_then(|id| self.model.punch(&who, id, offset, data.len()));
                same("punch", &format!("{path} {offset}+{}", data.len()), here, there)
            }
            21 => {
                let value = vec![7; self.random.usize(0..100)];
                let here = match self.world.walk(&who, &path).await {
                    Ok(attr) => self.world.share.setxattr(&who, attr.node, b"user.x", &value, SetXattr::Any).await,
                    Err(error) => Err(error),
                };
                let there = self.model.walk(&who, &path).and_then(|id| self.model.set_xattr(&who, id, b"user.x", &value));
                same("setxattr", &path, here, there)
            }
            22 => self.open_or_close(&who, &path).await,
            _ => self.use_handle(&who).await,
        }
    }

    async fn open_or_close(&mut self, who: &Caller, path: &str) -> Step {
        if self.opens.len() > 3 {
            let open = self.opens.swap_remove(self.random.usize(0..4));
            let here = self.world.share.close(open.handle).await;
            self.model.close(open.item);
            return same("close", &open.item.to_string(), here, Ok(()));
        }
        let wanted = [4, 2, 6][self.random.usize(0..3)];
        let how = OpenHow { read: wanted & 4 != 0, write: wanted & 2 != 0, ..OpenHow::default() };
        let here = match self.world.walk(who, path).await {
            Ok(attr) => self.world.share.open(who, Target::Node(attr.node), &how).await,
            Err(error) => Err(error),
        };
        let item = self.model.walk(who, path);
        let there = item.clone().and_then(|id| self.model.open(who, id, wanted));
        if let (Ok(opened), Ok(item)) = (&here, item) {
            self.opens.push(Open { handle: opened.handle, item, wanted });
        }
        same("open", path, here, there)
    }

    async fn use_handle(&mut self, who: &Caller) -> Step {
        if self.opens.is_empty() {
            return Ok("nothing".into());
        }
        let index = self.random.usize(..self.opens.len());
        let (offset, data) = self.data();
        let Open { handle, item, wanted } = self.opens[index];
        let io = Io::Handle(handle);
        if self.random.bool() || wanted & 2 == 0 {
            let here = self.world.share.read(who, io, offset as u64, 10_000).await.map(|slices| slices.concat());
            let there = self.model.item(item);
            match here {
                Ok(bytes) => {
                    let start = offset.min(there.bytes.len());
                    assert_eq!(bytes, there.bytes[start..there.bytes.len().min(offset + 10_000)]);
                }
                Err(VfsError::BadHandle) => assert_eq!(wanted & 4, 0),
                Err(VfsError::IsDirectory) => assert_eq!(there.kind, NodeKind::Directory),
                Err(error @ VfsError::Io(_)) => return Err(error),
                Err(error) => panic!("{error}"),
            }
            return Ok(format!("read {item} at {offset}"));
        }
        let here = self.world.share.write(who, io, offset as u64, data.clone().into()).await;
        let there = self.model.write(who, item, true, offset, &data);
        same("write open", &format!("{item} {offset}+{}", data.len()), here, there)
    }

    /// Runs verbs, with time for uploads between some of them.
    async fn run(&mut self, steps: usize) {
        for _ in 0..steps {
            let pause = self.random.u64(0..100);
            if pause < 5 {
                tokio::time::sleep(Duration::from_secs(pause)).await;
            }
            self.step().await.unwrap();
            if self.random.usize(0..40) == 0 {
                self.world.share.commit(&root(), self.world.share.root()).await.unwrap();
            }
        }
    }

    /// Nobody has anything open any more.
    pub(super) fn close_all(&mut self) {
        for open in self.opens.drain(..) {
            self.model.close(open.item);
        }
    }
}

/// What a verb answered, in words.
type Step = Result<String, VfsError>;

/// Asserts that both answered the same, unless the disk failed.
fn same<A, B>(verb: &str, what: &str, here: Result<A, VfsError>, there: Result<B, VfsError>) -> Step {
    let (here, there) = (here.map(|_| ()), there.map(|_| ()));
    if let Err(error @ VfsError::Io(_)) = here {
        return Err(error);
    }
    assert_eq!(here, there, "{verb} {what}");
    let told = format!("{verb} {what}: {here:?}");
    if seeds::is_one() {
        println!("{told}");
    }
    Ok(told)
}

fn everybody() -> Vec<Caller> {
    vec![root(), user(1001, &[1001, 50]), user(1002, &[1002, 50, 60])]
}

fn compare(seed: u64, here: &Seen, there: &Seen) {
    for (path, item) in there {
        assert_eq!(here.get(path), Some(item), "seed {seed}: {path:?}");
    }
    assert_eq!(here.keys().collect::<Vec<_>>(), there.keys().collect::<Vec<_>>(), "seed {seed}");
}

#[test]
fn the_share_is_the_model() {
    seeds::worlds(12, 2_000, async |seed| {
        let mut run = Run::new(seed, everybody()).await;
        run.run(400).await;
        compare(seed, &seen(&run.world).await, &run.model.seen());
        // And still is, after the process died: open files without names are gone.
        run.close_all();
        let world = run.world.process_death().await;
        compare(seed, &seen(&world).await, &run.model.seen());
    });
}
