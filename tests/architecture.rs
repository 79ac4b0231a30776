//! The arrows of the architecture page, as a test: who may import whom, and a few *only*s.

use std::fs;
use std::path::{Path, PathBuf};

/// Who may name whom, by the longest matching module path. Everybody may name itself and what is below it in its own folder.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("base", &[]),
    ("store::log", &["base"]),
    ("store::meta", &["base"]),
    ("store::object", &["base"]),
    ("store::blob", &["base", "store::log", "store::meta", "store::object"]),
    ("store::upload", &["base", "store::blob", "store::log", "store::meta", "store::object"]),
    ("engine::file", &["base", "store"]),
    ("engine::volume", &["base", "store"]),
    ("engine::tape", &["base", "store"]),
    ("protocol::fuse", &["base", "engine::file"]),
    ("protocol::nfs", &["base", "engine::file"]),
    ("protocol::smb", &["base", "engine::file"]),
    ("protocol::iscsi", &["base", "protocol::scsi"]),
    ("protocol::scsi", &["base", "engine::tape", "engine::volume"]),
    ("protocol::s3", &["base", "store::object"]),
    ("protocol::admin", &["base", "engine", "store"]),
    ("config", &["base", "engine", "protocol", "store"]),
    ("gateway", &["base", "config", "engine", "protocol", "store"]),
    ("cli", &["base", "config", "engine", "gateway", "protocol", "store"]),
    ("main", &["cli"]),
    ("lib", &["base", "cli", "config", "engine", "gateway", "protocol", "store"]),
    ("store", &["store"]),
    ("engine", &["engine"]),
    ("protocol", &["protocol"]),
];

/// Text that only these files may have, with the reason.
const ONLY: &[(&str, &[&str], &str)] = &[
    ("sqlx::", &["src/store/meta", "src/store/object/local"], "SQL only in store/meta and the embedded endpoint's index"),
    ("aws_sdk_s3", &["src/store/object"], "requests to S3 only in store/object"),
    ("SystemTime::now", &["src/base/clock.rs"], "the wall clock only in base/clock"),
    ("fuser::", &["src/protocol/fuse"], "FUSE's wire only in protocol/fuse"),
    ("nfs3_types::", &["src/protocol/nfs"], "NFS's wire only in protocol/nfs"),
    ("smb_server::", &["src/protocol/smb"], "SMB's wire only in protocol/smb"),
    ("s3s::", &["src/protocol/s3"], "S3's wire only in protocol/s3"),
];

fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found.sort();
}

fn all_sources() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    sources(&root.join("src"), &mut found);
    found
        .iter()
        .map(|path| (path.strip_prefix(root).unwrap().to_string_lossy().into_owned(), fs::read_to_string(path).unwrap()))
        .collect()
}

/// `src/store/log/format.rs` → `store::log::format`.
fn module(file: &str) -> String {
    file.trim_start_matches("src/").trim_end_matches(".rs").replace('/', "::")
}

/// The code of a file without its tests, comments and doc comments.
fn code(text: &str) -> String {
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or(text);
    text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// Every `crate::a::b…` and `super::b…` that the code of `module` names, as `a::b::…`, brace groups opened.
fn imports(module: &str, code: &str) -> Vec<String> {
    let mut found = Vec::new();
    let begins = |at: usize| !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':');
    let paths = code.match_indices("crate::").chain(code.match_indices("super::"));
    for (at, word) in paths.filter(|(at, _)| begins(*at)) {
        let mut rest = &code[at..];
        let mut base: Vec<&str> = if word == "crate::" { Vec::new() } else { module.split("::").collect() };
        while let Some(above) = rest.strip_prefix("super::") {
            base.pop();
            rest = above;
        }
        rest = rest.strip_prefix("crate::").unwrap_or(rest);
        let end = rest.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':')).unwrap_or(rest.len());
        base.extend(rest[..end].split("::").filter(|part| !part.is_empty()));
        let path = base.join("::");
        if rest[end..].starts_with('{') {
            let group = &rest[end + 1..rest.find('}').unwrap_or(rest.len())];
            found.extend(group.split(',').map(|part| {
                let part = part.trim();
                let part = part.split(&[' ', '{'][..]).next().unwrap_or(part).trim_end_matches(':');
                if path.is_empty() { part.to_owned() } else { format!("{path}::{part}") }
            }));
        } else {
            found.push(path);
        }
    }
    found.retain(|path| !path.is_empty());
    found
}

fn is_within(path: &str, module: &str) -> bool {
    path == module || path.strip_prefix(module).is_some_and(|rest| rest.starts_with("::"))
}

#[test]
fn imports_only_go_down() {
    let mut wrong = Vec::new();
    for (file, text) in all_sources() {
        if file.ends_with("/tests.rs") || file.contains("/tests/") || file.ends_with("conformance.rs") {
            continue;
        }
        let module = module(&file);
        let rule = MAY_IMPORT.iter().filter(|(name, _)| is_within(&module, name)).max_by_key(|(name, _)| name.len());
        let Some((own, allowed)) = rule else {
            wrong.push(format!("{file}: no rule says what it may import"));
            continue;
        };
        for import in imports(&module, &code(&text)) {
            if !is_within(&import, own) && !allowed.iter().any(|allowed| is_within(&import, allowed)) {
                wrong.push(format!("{file}: {own} may not import {import}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn some_things_are_in_one_place_only() {
    let mut wrong = Vec::new();
    for (file, text) in all_sources() {
        for (words, places, reason) in ONLY {
            if code(&text).contains(words) && !places.iter().any(|place| file.starts_with(place)) {
                wrong.push(format!("{file}: has {words}, but {reason}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_file_says_what_lives_there() {
    let sources = all_sources().into_iter().filter(|(file, text)| !file.ends_with("/tests.rs") && !text.starts_with("//!"));
    let silent: Vec<_> = sources.map(|(file, _)| file).collect();
    assert!(silent.is_empty(), "no //! header: {}", silent.join(", "));
}

#[test]
fn front_pages_stand_beside_their_folders() {
    let modules: Vec<_> = all_sources().into_iter().filter(|(file, _)| file.ends_with("/mod.rs")).map(|(file, _)| file).collect();
    assert!(modules.is_empty(), "x.rs beside x/, not x/mod.rs: {}", modules.join(", "));
}

#[test]
fn the_reader_of_imports_sees_them() {
    let code = "use crate::base::{id, clock::Clock};\nfn f() -> crate::engine::file::Attr { crate::gateway::x() }";
    assert_eq!(imports("cli", code), ["base::id", "base::clock::Clock", "engine::file::Attr", "gateway::x"]);
    let code = "use super::super::log::Position;\nuse super::{codec, rows::Row};\npub(super) fn f() { super::g() }";
    let found = imports("store::meta::sqlite", code);
    assert_eq!(found, ["store::log::Position", "store::meta::codec", "store::meta::rows::Row", "store::meta::g"]);
}
