//! The suite of the [`Vfs`] seam over this front end: the same random verbs by several callers through the server over TCP and on a kernel
//! directory; the same answers, as far as NFSv3 can say them, and the same trees, also after the gateway was restarted.

use super::remote::{Remote, canonical};
use super::*;
use crate::base::seeds::seeds;
use crate::engine::file::passthrough::Passthrough;
use crate::engine::file::passthrough::tests::{Told, Verb, any_verb, protects_links, run, tree};
use crate::engine::file::tests::{root, user};
use crate::engine::file::{NodeKind, Rename, SetAttr, VfsError};

/// Whether NFSv3 has a word for it.
fn is_spoken(verb: &Verb) -> bool {
    let only_here = matches!(verb, Verb::Punch(..) | Verb::Xattr(..) | Verb::Unxattr(..));
    let is_special = matches!(verb, Verb::Rename(_, _, how) if *how != Rename::Replace);
    !only_here && !is_special
}

type Answer = Result<(Option<Told>, Vec<u8>), VfsError>;

/// An answer as it is after it went over the wire.
fn on_wire(verb: &Verb, answer: Answer) -> Answer {
    let (told, mut bytes) = answer.map_err(canonical)?;
    // Writing to a directory without searching it is nothing that ACCESS could say (RFC 1813 §3.3.4: "modify, extend, delete").
    let is_directory = told.as_ref().is_some_and(|told| told.0 == NodeKind::Directory);
    if matches!(verb, Verb::Look(_)) && is_directory && bytes[0] & 1 == 0 {
        bytes[0] &= !2;
    }
    Ok((told, bytes))
}

/// Runs verbs on both; returns where they differed.
async fn work(seed: u64, steps: usize, here: &dyn Vfs, there: &dyn Vfs) -> Vec<String> {
    let callers = if rustix::process::getuid().is_root() {
        vec![root(), user(1001, &[1001, 50]), user(1002, &[1002, 50, 60])]
    } else {
        vec![root()]
    };
    let open = SetAttr { mode: Some(0o777), ..SetAttr::default() };
    for vfs in [here, there] {
        vfs.setattr(&root(), vfs.root(), None, &open).await.unwrap();
    }
    let mut random = fastrand::Rng::with_seed(seed);
    let mut differ = Vec::new();
    for step in 0..steps {
        let verb = any_verb(&mut random);
        let mut who = callers[random.usize(..callers.len())].clone();
        if !is_spoken(&verb) {
            continue;
        }
        if matches!(verb, Verb::Link(..)) && protects_links() {
            who = root();
        }
        let told = on_wire(&verb, run(here, &who, &verb).await);
        let expected = on_wire(&verb, run(there, &who, &verb).await);
        if told != expected {
            differ.push(format!("step {step}: {verb:?} by {}: over NFS {told:?}, kernel {expected:?}", who.uid));
        }
        if told.is_ok() != expected.is_ok() {
            break;
        }
    }
    differ
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_share_over_nfs_answers_as_the_kernel_does() {
    rustix::process::umask(rustix::fs::Mode::empty());
    for seed in seeds(8, 200) {
        let directory = tempfile::tempdir().unwrap();
        let kernel = Passthrough::new(directory.path()).unwrap();
        let served = Served::new().await;
        let remote = Remote::mount(served.address, "/demo").await;
        let differ = work(seed, 500, &*remote, &*kernel).await;
        assert!(differ.is_empty(), "seed {seed}: {differ:#?}");
        let expected = tree(&*kernel).await;
        assert_eq!(tree(&*remote).await, expected, "seed {seed}");
        assert_eq!(tree(&*served.world.share).await, expected, "seed {seed}, without NFS");
        // The process dies; a handle of before means the same, and so does everything below it.
        let handle = remote.root_handle();
        served.nfs.drain().await;
        let world = served.world.process_death().await;
        let again = Served::over(world, open_rules()).await;
        let remote = Remote::with(again.client().await, handle).await;
        assert_eq!(tree(&*remote).await, expected, "seed {seed}, after a restart");
    }
}

/// The front end alone: a kernel directory behind the server, and another one without it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kernel_directory_over_nfs_answers_as_it_does_itself() {
    rustix::process::umask(rustix::fs::Mode::empty());
    for seed in seeds(8, 200).map(|seed| 1000 + seed) {
        let directories = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let [behind, kernel] = directories.each_ref().map(|directory| Passthrough::new(directory.path()).unwrap());
        let nfs = Nfs::new(&KEY, None).unwrap();
        // Flushing a disk of the machine at each change is nobody's gain here.
        let rules = Rules { namespace: Namespace::Async, ..open_rules() };
        nfs.export("demo", rules, Some(behind));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(nfs.clone().serve(listener));
        let remote = Remote::mount(address, "/demo").await;
        let differ = work(seed, 500, &*remote, &*kernel).await;
        assert!(differ.is_empty(), "seed {seed}: {differ:#?}");
        assert_eq!(tree(&*remote).await, tree(&*kernel).await, "seed {seed}");
    }
}
