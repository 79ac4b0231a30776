//! `tidegate check`: reads every file, says everything that is wrong, prints what is in force.

use super::{Exit, fail, out};
use crate::config::{Config, Size};
use crate::gateway::cache_bytes_default;

pub(super) fn run(config: &Config) -> Exit {
    let mut effective = config.clone();
    if effective.cache.size.is_none() {
        // As a start would choose it now.
        effective.cache.size = cache_bytes_default(&config.cache_dir()).ok().map(Size);
    }
    let shares = match effective.load_shares() {
        Ok(shares) => shares,
        Err(error) => return fail(Exit::Config, &error.to_string()),
    };
    let mut texts = match toml::to_string_pretty(&effective) {
        Ok(text) => vec![format!("# tidegate.toml\n{text}")],
        Err(error) => return fail(Exit::Failed, &error.to_string()),
    };
    let mut exit = Exit::Ok;
    for (name, share) in &shares {
        match share {
            Ok(share) => texts.push(format!("# shares/{name}.toml\n{}", toml::to_string_pretty(share).unwrap_or_default())),
            Err(error) => exit = fail(Exit::Config, &error.to_string()),
        }
    }
    match out::print(&texts) {
        Exit::Ok => exit,
        unwritten => unwritten,
    }
}
