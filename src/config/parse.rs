//! From text to a configuration, and from a mistake to file, line, field and reason.

use std::path::Path;

use serde::de::DeserializeOwned;

use super::ConfigError;

/// Reads a file as text.
pub(super) fn read(file: &Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(file).map_err(|error| ConfigError {
        file: file.to_path_buf(),
        line: None,
        field: String::new(),
        reason: format!("cannot be read: {error}"),
    })
}

/// Parses TOML; a mistake is told with its line and its field.
pub(super) fn parse<T: DeserializeOwned>(file: &Path, text: &str) -> Result<T, ConfigError> {
    let broken = |error: &toml::de::Error, field: String| ConfigError {
        file: file.to_path_buf(),
        line: error.span().map(|span| line_at(text, span.start)),
        field,
        reason: error.message().trim().replace('\n', " "),
    };
    let deserializer = toml::Deserializer::parse(text).map_err(|error| broken(&error, String::new()))?;
    serde_path_to_error::deserialize(deserializer).map_err(|error| {
        let path = error.path().to_string();
        let mut told = broken(error.inner(), if path == "." { String::new() } else { path });
        if told.line.is_none() {
            told.line = line_of_field(text, &told.field);
        }
        told
    })
}

/// An error about a field that parsed but may not have this value.
pub(super) fn at_field(file: &Path, text: &str, field: String, reason: String) -> ConfigError {
    ConfigError { file: file.to_path_buf(), line: line_of_field(text, &field), field, reason }
}

fn line_at(text: &str, offset: usize) -> usize {
    text.as_bytes().iter().take(offset).filter(|byte| **byte == b'\n').count() + 1
}

/// The line of a dotted field: the key in its table, or the table's header, or nothing where the default is meant.
fn line_of_field(text: &str, field: &str) -> Option<usize> {
    let (table, key) = field.rsplit_once('.').unwrap_or(("", field));
    let mut current = String::new();
    let mut header = None;
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.split(']').next()) {
            current = name.trim().to_owned();
            if current == table {
                header = Some(index + 1);
            }
        } else if current == table && line.split('=').next().is_some_and(|name| name.trim() == key) {
            return Some(index + 1);
        }
    }
    header
}
