//! `tidegate check`: reads every file, says everything that is wrong, prints what is in force.

use super::{Exit, fail};
use crate::config::Config;

pub(super) fn run(config: &Config) -> Exit {
    let shares = match config.load_shares() {
        Ok(shares) => shares,
        Err(error) => return fail(Exit::Config, &error.to_string()),
    };
    match toml::to_string_pretty(config) {
        Ok(text) => println!("# tidegate.toml\n{text}"),
        Err(error) => return fail(Exit::Failed, &error.to_string()),
    }
    let mut exit = Exit::Ok;
    for (name, share) in &shares {
        match share {
            Ok(share) => println!("# shares/{name}.toml\n{}", toml::to_string_pretty(share).unwrap_or_default()),
            Err(error) => exit = fail(Exit::Config, &error.to_string()),
        }
    }
    exit
}
