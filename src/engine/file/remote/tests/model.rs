//! Random verbs against a store that delays, reorders and loses answers, with and without others who write the same names: once
//! everything is drained, the bucket is the tree, and a gateway that knows nothing sees the same.

use std::ops::Range;

use super::*;
use crate::base::seeds;
use crate::engine::file::share::ConflictPolicy;

const STEPS: usize = 60;

/// Each seed is a world of its own.
fn worlds(run: impl AsyncFn(u64)) {
    seeds::worlds(24, 2_000, async |seed| {
        tokio::time::timeout(Duration::from_secs(40_000), run(seed)).await.unwrap();
    });
}

/// What is to be there: paths with the file that each names (`None`: a directory), and files with their content.
#[derive(Default)]
struct Model {
    names: BTreeMap<String, Option<usize>>,
    files: Vec<String>,
}

impl Model {
    fn is_dir(&self, path: &str) -> bool {
        path.is_empty() || self.names.get(path) == Some(&None)
    }

    fn children(&self, path: &str) -> Vec<String> {
        let prefix = format!("{path}/");
        self.names.keys().filter(|name| name.starts_with(&prefix)).cloned().collect()
    }

    fn parent_is_dir(&self, path: &str) -> bool {
        path.rsplit_once('/').is_none_or(|(parent, _)| self.is_dir(parent))
    }

    fn move_tree(&mut self, from: &str, to: &str) {
        for path in std::iter::once(from.to_owned()).chain(self.children(from)) {
            if let Some(what) = self.names.remove(&path) {
                self.names.insert(format!("{to}{}", &path[from.len()..]), what);
            }
        }
    }

    /// Whether `rename(2)` allows it.
    fn may_rename(&self, from: &str, to: &str) -> bool {
        let Some(what) = self.names.get(from) else { return false };
        let inside = to.starts_with(&format!("{from}/")) || from.starts_with(&format!("{to}/"));
        if from == to || inside || !self.parent_is_dir(to) {
            return false;
        }
        match self.names.get(to) {
            None => true,
            Some(there) => there.is_some() == what.is_some() && self.children(to).is_empty(),
        }
    }

    fn files(&self) -> BTreeMap<String, String> {
        let file = |(path, what): (&String, &Option<usize>)| Some((path.clone(), self.files[(*what)?].clone()));
        self.names.iter().filter_map(file).collect()
    }
}

fn any_path(random: &mut fastrand::Rng) -> String {
    let name = |random: &mut fastrand::Rng| ["a", "b", "c"][random.usize(..3)].to_owned();
    let mut path = name(random);
    for _ in 0..random.usize(..3) {
        path = format!("{path}/{}", name(random));
    }
    path
}

/// One verb, on both. Names whose objects others may have changed are only tried.
async fn step(gateway: &Gateway, model: &mut Model, random: &mut fastrand::Rng, number: usize) {
    let (path, other) = (any_path(random), any_path(random));
    match random.u8(..12) {
        0..=3 => {
            let body = format!("{number}").repeat(1 + random.usize(..2000));
            if model.parent_is_dir(&path) && !model.is_dir(&path) {
                gateway.write(&path, &body).await.unwrap();
                match model.names.get(&path) {
                    Some(Some(file)) => model.files[*file] = body,
                    _ => {
                        model.files.push(body);
                        model.names.insert(path, Some(model.files.len() - 1));
                    }
                }
            }
        }
        4 => {
            if model.parent_is_dir(&path) && !model.names.contains_key(&path) {
                gateway.mkdir(&path).await.unwrap();
                model.names.insert(path, None);
            }
        }
        5 | 6 => {
            let same = model.names.get(&path).is_some_and(|what| what.is_some() && model.names.get(&other) == Some(what));
            if !same && model.may_rename(&path, &other) {
                gateway.rename(&path, &other).await.unwrap();
                model.names.remove(&other);
                model.move_tree(&path, &other);
            }
        }
        7 => {
            let nested = path.starts_with(&format!("{other}/")) || other.starts_with(&format!("{path}/"));
            if path != other && !nested && model.names.contains_key(&path) && model.names.contains_key(&other) {
                gateway.rename_how(&path, &other, Rename::Exchange).await.unwrap();
                model.move_tree(&path, "swap");
                model.move_tree(&other, &path);
                model.move_tree("swap", &other);
            }
        }
        8 => match model.names.get(&path) {
            Some(Some(_)) => {
                gateway.remove(&path).await.unwrap();
                model.names.remove(&path);
            }
            Some(None) if model.children(&path).is_empty() => {
                gateway.rmdir(&path).await.unwrap();
                model.names.remove(&path);
            }
            _ => {}
        },
        9 => {
            if let Some(Some(file)) = model.names.get(&path).copied()
                && model.parent_is_dir(&other)
                && !model.names.contains_key(&other)
            {
                gateway.link(&path, &other).await.unwrap();
                model.names.insert(other, Some(file));
            }
        }
        10 if random.u8(..3) == 0 => {
            // What is clean is not here any more.
            if !model.is_dir(&path) && model.names.contains_key(&path) {
                gateway.evict(&path).await;
            }
        }
        10 if random.bool() => {
            // The same bytes again.
            if let Some(Some(file)) = model.names.get(&path).copied() {
                let body = model.files[file].clone();
                gateway.write(&path, &body).await.unwrap();
            }
        }
        10 => {
            if model.names.contains_key(&path) {
                gateway.chmod(&path, [0o600, 0o640, 0o755][random.usize(..3)]).await.unwrap();
            }
        }
        _ => tokio::time::sleep(Duration::from_millis(random.u64(..6000))).await,
    }
}

fn files_of(tree: &BTreeMap<String, String>) -> Vec<String> {
    tree.iter().filter(|(_, what)| what.starts_with("File")).map(|(path, _)| path.clone()).collect()
}

/// The bucket has exactly the files of the gateway, with their bytes, and an end of its own for every directory.
async fn agree(world: &World, gateway: &Gateway) -> BTreeMap<String, String> {
    let tree = gateway.tree().await;
    let keys = world.keys();
    let files: Vec<String> = keys.iter().filter(|key| !key.ends_with('/')).cloned().collect();
    assert_eq!(files_of(&tree), files);
    for path in files {
        assert_eq!(world.body(&path).unwrap(), gateway.read(&path).await.unwrap(), "{path}");
        gateway.evict(&path).await;
        assert_eq!(world.body(&path).unwrap(), gateway.read(&path).await.unwrap(), "{path}, out of the bucket");
        gateway.evict(&path).await;
    }
    for path in tree.iter().filter(|(_, what)| what.starts_with("Directory")).map(|(path, _)| format!("{path}/")) {
        assert!(keys.iter().any(|key| key.starts_with(&path)), "{path} is not in the bucket: {keys:?}");
    }
    for marker in keys.iter().filter(|key| key.ends_with('/')) {
        assert!(tree.contains_key(marker.trim_end_matches('/')), "{marker} is left over");
    }
    assert!(world.hidden_keys().iter().all(|key| key.starts_with(".tidegate/links/")), "{:?}", world.hidden_keys());
    tree
}

async fn a_fresh_gateway_agrees(world: &World, tree: &BTreeMap<String, String>) {
    let second = world.gateway("two").await;
    assert_eq!(second.tree().await, *tree);
    second.stop().await;
}

fn weather(world: &World, seed: u64, chaos: Range<u32>) {
    world.faults.chaos(f64::from(fastrand::Rng::with_seed(seed).u32(chaos)) / 100.0);
}

#[test]
fn the_bucket_becomes_the_tree() {
    worlds(async |seed| {
        let mut random = fastrand::Rng::with_seed(seed);
        let world = World::with(Settings { refresh: Duration::from_secs(7), ..Settings::default() });
        let gateway = world.gateway("gw").await;
        gateway.names("").await.unwrap();
        weather(&world, seed, 0..30);
        let mut model = Model::default();
        for number in 0..STEPS {
            step(&gateway, &mut model, &mut random, number).await;
        }
        world.faults.heal();
        gateway.drain().await;
        let tree = agree(&world, &gateway).await;
        let bodies: BTreeMap<String, String> =
            files_of(&tree).into_iter().map(|key| (key.clone(), world.body(&key).unwrap())).collect();
        assert_eq!(bodies, model.files());
        world.let_listings_age().await;
        assert_eq!(agree(&world, &gateway).await, tree);
        gateway.stop().await;
        a_fresh_gateway_agrees(&world, &tree).await;
    });
}

/// What the uploader did since the last sync is forgotten again and again, though the bucket has it.
#[test]
fn the_bucket_becomes_the_tree_though_the_power_fails() {
    worlds(async |seed| {
        let mut random = fastrand::Rng::with_seed(seed ^ 0x0ff);
        let mut world = World::with(Settings { refresh: Duration::from_secs(7), ..Settings::default() });
        let mut gateway = world.gateway("gw").await;
        gateway.names("").await.unwrap();
        let mut model = Model::default();
        for round in 0..5 {
            weather(&world, seed + round, 0..15);
            for number in 0..12 {
                step(&gateway, &mut model, &mut random, 100 * round as usize + number).await;
            }
            gateway.blobs.sync().await.unwrap();
            tokio::time::sleep(Duration::from_millis(random.u64(..4000))).await;
            world.faults.kill(crate::store::object::fault::Death::Refusing);
            let (disk, database) = (gateway.disk.power_loss(seed + round), Arc::new((*gateway.database).clone()));
            database.power_loss(seed + round);
            gateway.die().await;
            world = World::on(world.store.clone(), world.clock.clone(), world.settings.clone());
            gateway = world.gateway_on("gw", disk, database).await;
        }
        gateway.drain().await;
        let tree = agree(&world, &gateway).await;
        let bodies: BTreeMap<String, String> =
            files_of(&tree).into_iter().map(|key| (key.clone(), world.body(&key).unwrap())).collect();
        assert_eq!(bodies, model.files());
        gateway.stop().await;
        a_fresh_gateway_agrees(&world, &tree).await;
    });
}

/// Somebody else does something to a name.
async fn meddle(world: &World, random: &mut fastrand::Rng, number: usize) {
    let path = any_path(random);
    match random.u8(..5) {
        0 | 1 => world.put(&path, &format!("foreign {number}"), &[]).await,
        2 if world.body(&path).is_some() => world.put_alike(&path, &format!("foreign {number}")).await,
        _ => world.delete(&path).await,
    }
}

#[test]
fn whatever_others_write_the_bucket_becomes_the_tree() {
    worlds(foreign_world);
}

async fn foreign_world(seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed ^ 0xf0f0);
    let conflict = [ConflictPolicy::KeepBoth, ConflictPolicy::LocalWins, ConflictPolicy::RemoteWins][(seed % 3) as usize];
    let world = World::with(Settings { refresh: Duration::from_secs(7), conflict, ..Settings::default() });
    let gateway = world.gateway("gw").await;
    gateway.names("").await.unwrap();
    weather(&world, seed, 0..15);
    for number in 0..STEPS {
        try_step(&gateway, &mut random, number).await;
        // Files that are directories to others are strange keys: not what this is about.
        if random.u8(..4) == 0 && !is_shape_of_both(&world).await {
            meddle(&world, &mut random, number).await;
        }
    }
    world.faults.heal();
    gateway.drain().await;
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_secs(120)).await;
        gateway.tree().await;
        gateway.drain().await;
    }
    if has_both_shapes(&world.keys()) {
        return;
    }
    let tree = agree(&world, &gateway).await;
    gateway.stop().await;
    a_fresh_gateway_agrees(&world, &tree).await;
}

/// `remote-wins`, for one of two names of a node: the other keeps its bytes.
#[test]
fn a_name_that_somebody_else_took_is_a_node_of_its_own() {
    seeds::world(31_430, foreign_world);
}

async fn is_shape_of_both(world: &World) -> bool {
    has_both_shapes(&world.keys())
}

/// Whether a key is a prefix of another as a directory would be.
fn has_both_shapes(keys: &[String]) -> bool {
    keys.iter().any(|key| !key.ends_with('/') && keys.iter().any(|other| other.starts_with(&format!("{key}/"))))
}

/// One verb; what is there decides whether it can be done.
async fn try_step(gateway: &Gateway, random: &mut fastrand::Rng, number: usize) {
    let (path, other) = (any_path(random), any_path(random));
    let _ = match random.u8(..14) {
        0..=2 => gateway.write(&path, &format!("ours {number}")).await,
        3 => gateway.mkdir(&path).await.map(|_| ()),
        4 | 5 => gateway.rename(&path, &other).await,
        6 => gateway.rename_how(&path, &other, Rename::Exchange).await,
        7 => gateway.remove(&path).await,
        8 => gateway.rmdir(&path).await,
        9 => gateway.link(&path, &other).await,
        10 => gateway.chmod(&path, [0o600, 0o640, 0o755][random.usize(..3)]).await,
        11 => match gateway.read(&path).await {
            Ok(body) => gateway.write(&path, &body).await,
            failed => failed.map(|_| ()),
        },
        12 => {
            if gateway.walk(&path).await.is_ok() {
                gateway.evict(&path).await;
            }
            Ok(())
        }
        _ => {
            tokio::time::sleep(Duration::from_millis(random.u64(..9000))).await;
            Ok(())
        }
    };
}
