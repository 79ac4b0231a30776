//! Every field of both files wrong in turn: file, line, field and reason.

use std::fs;
use std::path::Path;

use super::*;

fn gateway(text: &str) -> Result<Config, ConfigError> {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("tidegate.toml");
    fs::write(&file, text).unwrap();
    Config::load(Some(&file))
}

fn share(text: &str) -> Result<ShareConfig, ConfigError> {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("demo.toml");
    fs::write(&file, text).unwrap();
    ShareConfig::load(&file, &Config::default())
}

/// Asserts that the error names the field and the line, and says something.
fn names(error: &ConfigError, field: &str, line: usize) {
    assert_eq!((error.field.as_str(), error.line), (field, Some(line)), "{error}");
    assert!(error.reason.len() > 10, "{error}");
    assert!(error.to_string().contains(".toml:"), "{error}");
}

#[test]
fn every_field_of_the_gateway_wrong_in_turn() {
    let wrong = [
        ("data_dir = 5", "data_dir"),
        ("data_dir = \"\"", "data_dir"),
        ("shares_dir = false", "shares_dir"),
        ("[cache]\ndir = 7", "cache.dir"),
        ("[cache]\nsize = \"lots\"", "cache.size"),
        ("[cache]\nsize = \"1 MiB\"", "cache.size"),
        ("[cache]\nwait = \"soon\"", "cache.wait"),
        ("[cache]\nmemory = \"1 KiB\"", "cache.memory"),
        ("[cache]\nmemory = true", "cache.memory"),
        ("[s3]\nendpoint = \"minio:9000\"", "s3.endpoint"),
        ("[s3]\nendpoint = 9000", "s3.endpoint"),
        ("[s3]\nregion = \"\"", "s3.region"),
        ("[s3]\nprofile = 1", "s3.profile"),
        ("[s3]\ncredentials_file = 1", "s3.credentials_file"),
        ("[s3]\nconcurrency = 0", "s3.concurrency"),
        ("[s3]\nconcurrency = \"many\"", "s3.concurrency"),
        ("[s3]\nupload_limit = \"1 B\"", "s3.upload_limit"),
        ("[s3]\ndownload_limit = \"x\"", "s3.download_limit"),
        ("[embedded]\nlisten = \"nowhere\"", "embedded.listen"),
        ("[admin]\nlisten = 9080", "admin.listen"),
        ("[admin]\nlisten = \"127.0.0.1:9000\"", "admin.listen"),
        ("[nfs]\nlisten = [\"2049\"]", "nfs.listen[0]"),
        ("[nfs]\nrpcbind = 1", "nfs.rpcbind"),
        ("[volumes]\nbucket = \"\"", "volumes.bucket"),
        ("[volumes]\nprefix = \"disks\"", "volumes.prefix"),
        ("[volumes]\nupload_interval = \"1ms\"", "volumes.upload_interval"),
        ("[volumes]\ncache_maximum = \"all\"", "volumes.cache_maximum"),
        ("[volumes.s3]\nendpoint = \"minio:9000\"", "volumes.s3.endpoint"),
        ("[iscsi]\nlisten = [\"3260\"]", "iscsi.listen[0]"),
        ("[iscsi]\nname = \"Disks\"", "iscsi.name"),
        ("[smb]\nlisten = [\"445\"]", "smb.listen[0]"),
        ("[smb]\nlisten = [\"127.0.0.1:445\", \"10.0.0.1:445\"]", "smb.listen"),
        ("[smb]\nsigning = \"always\"", "smb.signing"),
        ("[smb]\nencryption = true", "smb.encryption"),
        ("[upload]\nconcurrency = 0", "upload.concurrency"),
        ("[upload]\npart_concurrency = 1000", "upload.part_concurrency"),
        ("[upload]\npart_size = \"1 MiB\"", "upload.part_size"),
        ("[upload]\nmemory = \"8 MiB\"", "upload.memory"),
    ];
    for (text, field) in wrong {
        let error = gateway(text).expect_err(text);
        names(&error, field, text.lines().count());
    }
}

#[test]
fn every_field_of_a_share_wrong_in_turn() {
    let wrong = [
        ("prefix = \"2026\"", "prefix"),
        ("prefix = \"a//b/\"", "prefix"),
        ("prefix = 5", "prefix"),
        ("upload_delay = \"later\"", "upload_delay"),
        ("upload_max_age = \"-1s\"", "upload_max_age"),
        ("refresh = []", "refresh"),
        ("durability = \"lunar\"", "durability"),
        ("conflict = \"shout\"", "conflict"),
        ("storage_class = \"standard\"", "storage_class"),
        ("acl = 1", "acl"),
        ("encryption = \"rot13\"", "encryption"),
        ("kms_key = \"k\"", "kms_key"),
        ("requester_pays = \"yes\"", "requester_pays"),
        ("read_only = 1", "read_only"),
        ("file_mode = \"rw\"", "file_mode"),
        ("directory_mode = \"99\"", "directory_mode"),
        ("uid = -1", "uid"),
        ("gid = \"staff\"", "gid"),
        ("guess_content_type = 1", "guess_content_type"),
        ("remote_timeout = \"x\"", "remote_timeout"),
        ("cache_guaranteed = \"x\"", "cache_guaranteed"),
        ("cache_maximum = \"x\"", "cache_maximum"),
        ("[s3]\nendpoint = \"ftp://x\"", "s3.endpoint"),
        ("[s3]\nendpoint = 9000", "s3.endpoint"),
        ("[s3]\nregion = \"\"", "s3.region"),
        ("[s3]\nregion = 1", "s3.region"),
        ("[s3]\nprofile = 1", "s3.profile"),
        ("[s3]\ncredentials_file = 1", "s3.credentials_file"),
        ("[s3]\nconcurrency = 0", "s3.concurrency"),
        ("[s3]\nconcurrency = \"many\"", "s3.concurrency"),
        ("[s3]\nupload_limit = \"1 B\"", "s3.upload_limit"),
        ("[s3]\nupload_limit = []", "s3.upload_limit"),
        ("[s3]\ndownload_limit = \"1 KiB\"", "s3.download_limit"),
        ("[s3]\ndownload_limit = \"x\"", "s3.download_limit"),
        ("[nfs]\nclients = \"10.0.0.0/8\"", "nfs.clients"),
        ("[nfs]\nclients = [\"10.0.0.0/99\"]", "nfs.clients"),
        ("[nfs]\nread_only = \"no\"", "nfs.read_only"),
        ("[nfs]\nsquash = \"some\"", "nfs.squash"),
        ("[nfs]\nanonuid = -1", "nfs.anonuid"),
        ("[nfs]\nanongid = \"nobody\"", "nfs.anongid"),
        ("[nfs]\nprivileged_ports = 1024", "nfs.privileged_ports"),
        ("[nfs]\nnamespace = \"sometimes\"", "nfs.namespace"),
        ("[nfs]\nupload_delay = \"later\"", "nfs.upload_delay"),
        ("[smb]\nusers = \"ana\"", "smb.users"),
        ("[smb]\nusers = [\"DOMAIN\\\\ana\"]", "smb.users"),
        ("[smb]\nusers = [\"smbguest\"]", "smb.users"),
        ("[smb]\ndeny = [\"@\"]", "smb.deny"),
        ("[smb]\nread_only_users = [\"guest\"]", "smb.read_only_users"),
        ("[smb]\nread_only = 1", "smb.read_only"),
        ("[smb]\nguest = \"yes\"", "smb.guest"),
        ("[smb]\nuid = -1", "smb.uid"),
        ("[smb]\ngid = \"staff\"", "smb.gid"),
        ("[smb]\ncase = \"upper\"", "smb.case"),
        ("[smb]\nencryption = \"rot13\"", "smb.encryption"),
        ("[smb]\nleases = \"all\"", "smb.leases"),
        ("[smb]\nhidden = 1", "smb.hidden"),
        ("[smb]\nhide_unreadable = 1", "smb.hide_unreadable"),
        ("[smb]\ncomment = \"a\\nb\"", "smb.comment"),
        ("[fuse]\nmount = \"\"", "fuse.mount"),
        ("[fuse]\nmount = \"m\"\ncache = \"x\"", "fuse.cache"),
    ];
    for (text, field) in wrong {
        let text = format!("bucket = \"demo\"\n{text}");
        let error = share(&text).expect_err(&text);
        names(&error, field, text.lines().count());
    }
    for bucket in ["", "Ab", "ab", "a_b_c", "-abc", "a..b", &"x".repeat(64)] {
        names(&share(&format!("bucket = \"{bucket}\"")).expect_err(bucket), "bucket", 1);
    }
}

#[test]
fn unknown_and_missing_fields_are_named() {
    let error = gateway("[cache]\nsizes = 1").unwrap_err();
    assert!(error.reason.contains("sizes"), "{error}");
    assert_eq!(error.line, Some(2));
    let error = share("prefix = \"a/\"").unwrap_err();
    assert!(error.reason.contains("bucket"), "{error}");
    let error = gateway("data_dir = ").unwrap_err();
    assert_eq!(error.line, Some(1), "{error}");
}

#[test]
fn no_file_is_a_whole_gateway_on_loopback() {
    let config = gateway("").unwrap();
    assert!(config.embedded.listen.ip().is_loopback() && config.admin.listen.ip().is_loopback());
    assert!(config.cache_dir().ends_with("tidegate-data/cache"));
}

#[test]
fn shares_that_would_write_the_same_keys_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let shares = directory.path().join("shares");
    fs::create_dir(&shares).unwrap();
    fs::write(shares.join("a.toml"), "bucket = \"photos\"\n").unwrap();
    fs::write(shares.join("b.toml"), "bucket = \"photos\"\nprefix = \"2026/\"\n").unwrap();
    fs::write(shares.join("c.toml"), "bucket = \"other\"\nprefix = \"2026/\"\n").unwrap();
    fs::write(shares.join("d d.toml"), "bucket = \"third\"\n").unwrap();
    let config = Config { shares_dir: shares, ..Config::default() };
    let loaded = config.load_shares().unwrap();
    let good: Vec<_> = loaded.iter().filter(|(_, share)| share.is_ok()).map(|(name, _)| name.as_str()).collect();
    assert_eq!(good, ["a", "c"]);
    let error = loaded[1].1.as_ref().unwrap_err();
    assert_eq!((error.line, error.field.as_str()), (Some(2), "prefix"), "{error}");
}

/// However an endpoint is said, or not said, it is the one that is used that counts.
#[test]
fn one_endpoint_said_in_two_ways_is_one() {
    let directory = tempfile::tempdir().unwrap();
    let shares = directory.path().join("shares");
    fs::create_dir(&shares).unwrap();
    let good = |inherited: &str, first: &str, second: &str| {
        let write = |name: &str, endpoint: &str| {
            let own = if endpoint.is_empty() { String::new() } else { format!("[s3]\nendpoint = \"{endpoint}\"\n") };
            fs::write(shares.join(name), format!("bucket = \"photos\"\n{own}")).unwrap();
        };
        write("a.toml", first);
        write("b.toml", second);
        let s3 = S3Config { endpoint: inherited.to_owned(), ..S3Config::default() };
        let config = Config { shares_dir: shares.clone(), s3, ..Config::default() };
        let loaded = config.load_shares().unwrap();
        assert!(loaded[0].1.is_ok());
        loaded[1].1.is_ok()
    };
    for (inherited, first, second) in [
        ("embedded", "", "embedded"),
        ("embedded", "", "http://127.0.0.1:9000"),
        ("embedded", "http://localhost:9000/", ""),
        ("https://s3.example.net", "", "https://S3.example.net:443/"),
        ("aws", "", "https://s3.eu-central-1.amazonaws.com"),
    ] {
        assert!(!good(inherited, first, second), "{inherited} {first} {second}");
    }
    for (inherited, first, second) in [
        ("embedded", "", "aws"),
        ("https://s3.example.net", "", "embedded"),
        ("aws", "http://a.example:9000", "http://a.example:9001"),
    ] {
        assert!(good(inherited, first, second), "{inherited} {first} {second}");
    }
}

/// What is refused is told where it is said: in the share's file, or in the gateway's where the share inherits it.
#[test]
fn a_share_that_moved_is_told_with_file_and_field() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("tidegate.toml");
    fs::write(&file, "[s3]\nendpoint = \"https://new.example\"\n").unwrap();
    fs::create_dir(directory.path().join("shares")).unwrap();
    fs::write(directory.path().join("shares/demo.toml"), "bucket = \"photos\"\n").unwrap();
    let config = Config::load(Some(&file)).unwrap();
    let share = config.load_shares().unwrap().remove(0).1.unwrap();
    let own =
        |endpoint: &str| ShareConfig { s3: Some(S3Config { endpoint: endpoint.into(), ..S3Config::default() }), ..share.clone() };
    assert_eq!(share.moved_from(&own("https://NEW.example/"), "demo", &config), None);
    let error = share.moved_from(&own("embedded"), "demo", &config).unwrap();
    assert_eq!((error.file.as_path(), error.line, error.field.as_str()), (file.as_path(), Some(2), "s3.endpoint"), "{error}");
    assert!(error.reason.contains("put \"embedded\" back"), "{error}");
    let elsewhere = ShareConfig { bucket: "other".into(), ..share.clone() };
    let error = share.moved_from(&elsewhere, "demo", &config).unwrap();
    assert!(error.file.ends_with("shares/demo.toml"), "{error}");
    assert_eq!((error.line, error.field.as_str()), (Some(1), "bucket"), "{error}");
}

#[test]
fn no_more_is_guaranteed_than_there_is() {
    let directory = tempfile::tempdir().unwrap();
    for (name, guaranteed) in [("a", "3 GiB"), ("b", "2 GiB"), ("c", "3 GiB"), ("d", "100 GiB")] {
        let text = format!("bucket = \"{name}-bucket\"\nread_only = true\ncache_guaranteed = \"{guaranteed}\"\n");
        fs::write(directory.path().join(format!("{name}.toml")), text).unwrap();
    }
    let cache = super::CacheConfig { size: Some(super::Size(10 << 30)), ..super::CacheConfig::default() };
    let config = Config { shares_dir: directory.path().into(), cache, ..Config::default() };
    let loaded = config.load_shares().unwrap();
    let good: Vec<_> = loaded.iter().filter(|(_, share)| share.is_ok()).map(|(name, _)| name.as_str()).collect();
    assert_eq!(good, ["a", "b"]);
    let error = loaded[2].1.as_ref().unwrap_err();
    names(error, "cache_guaranteed", 3);
    assert!(error.reason.contains("5 GiB") && error.reason.contains("10 GiB"), "{error}");
}

#[test]
fn an_unreadable_directory_is_not_an_empty_one() {
    let config = Config { shares_dir: Path::new("no/such/place").into(), ..Config::default() };
    assert!(config.load_shares().is_err());
}
