//! MOUNT, and exports that come, change and go.

use std::io::Cursor;

use nfs3_types::mount;
use nfs3_types::nfs3::nfsstat3;
use nfs3_types::xdr_codec::{List, Opaque, Unpack};

use super::client::{pack, results};
use super::{Served, open_rules};
use crate::protocol::nfs::Rules;

const NOENT: u32 = 2;
const ACCES: u32 = 13;

#[tokio::test]
async fn exports_are_mounted_listed_and_refused() {
    let served = Served::new().await;
    let mut client = served.client().await;
    let root = client.mount("/demo").await.unwrap();
    assert_eq!(client.mount("/demo/").await, Ok(root.clone()));
    let dir = client.mkdir(&root, "sub", 0o755).await.unwrap();
    client.file(&root, "file").await;
    assert_eq!(client.mount("/demo/sub").await, Ok(dir));
    assert_eq!(client.mount("/demo/none").await, Err(NOENT));
    assert_eq!(client.mount("/demo/file").await, Err(20));
    assert_eq!(client.mount("/demofoo").await, Err(NOENT));
    assert_eq!(client.mount("/").await, Err(NOENT));
    assert_eq!(client.mount("/demo/../demo").await, Err(NOENT));

    let answer = client.raw(mount::PROGRAM, 3, 5, &[]).await;
    let exports: List<mount::export_node<'static, 'static>> = results(&answer);
    let exports = exports.into_inner();
    assert_eq!(exports.len(), 1);
    assert_eq!(exports[0].ex_dir.0.as_ref(), b"/demo");
    assert_eq!(exports[0].ex_groups.0.len(), 2);

    let answer = client.raw(mount::PROGRAM, 3, 2, &[]).await;
    let mounts: List<mount::mountbody<'static, 'static>> = results(&answer);
    assert!(mounts.into_inner().iter().any(|mount| mount.ml_directory.0.as_ref() == b"/demo/sub"));
    assert_eq!(served.nfs.status().mounts.len(), 3);
    client.raw(mount::PROGRAM, 3, 3, &pack(&Opaque::borrowed(b"/demo"))).await;
    assert_eq!(served.nfs.status().mounts.len(), 2);
    client.raw(mount::PROGRAM, 3, 4, &[]).await;
    assert_eq!(served.nfs.status().mounts.len(), 0);
    assert!(u32::unpack(&mut Cursor::new(&[0; 4])).is_ok());
}

#[tokio::test]
async fn exports_change_while_clients_are_there() {
    let served = Served::new().await;
    let (mut client, root) = served.mounted().await;
    let elsewhere = Rules { clients: vec!["10.0.0.0/8".parse().unwrap()], ..open_rules() };
    served.nfs.export("demo", elsewhere, Some(served.world.share.clone()));
    assert_eq!(client.getattr(&root).await.unwrap_err(), nfsstat3::NFS3ERR_ACCES);
    assert_eq!(client.mount("/demo").await, Err(ACCES));
    let privileged = Rules { privileged_ports: true, ..open_rules() };
    served.nfs.export("demo", privileged, Some(served.world.share.clone()));
    assert_eq!(client.mount("/demo").await, Err(ACCES), "a test's port is not privileged");
    served.nfs.export("demo", open_rules(), None);
    assert_eq!(client.getattr(&root).await.unwrap_err(), nfsstat3::NFS3ERR_JUKEBOX, "it comes back");
    served.nfs.export("demo", open_rules(), Some(served.world.share.clone()));
    assert!(client.getattr(&root).await.is_ok());
    served.nfs.unexport("demo");
    assert_eq!(client.getattr(&root).await.unwrap_err(), nfsstat3::NFS3ERR_STALE);
    assert_eq!(client.mount("/demo").await, Err(NOENT));
    served.nfs.export("other", open_rules(), Some(served.world.share.clone()));
    assert_eq!(client.getattr(&root).await.unwrap_err(), nfsstat3::NFS3ERR_STALE);
    let other = client.mount("/other").await.unwrap();
    assert_ne!(other, root);
}
