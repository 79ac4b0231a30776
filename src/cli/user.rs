//! `tidegate user`: the users of SMB, in the data directory; a gateway that runs is told.
//!
//! Invariant: a password is typed, or comes through standard input; it is never an argument, and nothing prints it.

use std::io::{self, BufRead, IsTerminal, Write};

use serde::Serialize;

use super::{Exit, UserCommand, fail, out, show};
use crate::config::Config;
use crate::protocol::admin::client::Client;
use crate::protocol::smb::users::{self, User, UsersError};

/// The longest line that is taken for a password, in bytes.
const LINE_BYTES_MAX: u64 = 4096;

/// A user as it is listed.
#[derive(Serialize)]
struct Listed<'a> {
    name: &'a str,
    groups: &'a [String],
    disabled: bool,
}

pub(super) async fn run(config: &Config, command: UserCommand) -> Exit {
    let changed = match command {
        UserCommand::List(json) => return list(config, json.json),
        UserCommand::Add { name, groups } => add(config, &name, groups),
        UserCommand::Passwd { name } => passwd(config, &name),
        UserCommand::Groups { name, groups } => {
            check_groups(&groups).and_then(|()| edit(config, &name, |user| user.groups = groups))
        }
        UserCommand::Disable { name } => edit(config, &name, |user| user.disabled = true),
        UserCommand::Enable { name } => edit(config, &name, |user| user.disabled = false),
        UserCommand::Remove { name } => change(config, |users| {
            known(users, &name)?;
            users.retain(|user| user.name.to_lowercase() != name.to_lowercase());
            Ok(())
        }),
    };
    if let Err(reason) = changed {
        return fail(Exit::Failed, &reason);
    }
    match Client::new(config.admin.listen).reload_users().await {
        Ok(_) => Exit::Ok,
        Err(reason) => fail(Exit::Failed, &format!("the change is kept, and the gateway that runs does not take it: {reason}")),
    }
}

fn change(config: &Config, change: impl FnOnce(&mut Vec<User>) -> Result<(), String>) -> Result<(), String> {
    users::change(&config.users_dir(), change).map_err(|error: UsersError| error.to_string())
}

fn known<'a>(users: &'a mut [User], name: &str) -> Result<&'a mut User, String> {
    users::find(users, name).ok_or_else(|| format!("there is no user \"{name}\"; see `tidegate user list`"))
}

fn edit(config: &Config, name: &str, edit: impl FnOnce(&mut User)) -> Result<(), String> {
    change(config, |users| known(users, name).map(edit))
}

fn check_groups(groups: &[String]) -> Result<(), String> {
    groups.iter().try_for_each(|group| users::check_name(group))
}

fn add(config: &Config, name: &str, groups: Vec<String>) -> Result<(), String> {
    users::check_name(name)?;
    check_groups(&groups)?;
    let password = password(name)?;
    change(config, |users| match users::find(users, name) {
        Some(_) => Err(format!("there is a user \"{name}\" already; `tidegate user passwd {name}` changes the password")),
        None => {
            users.push(User { name: name.to_owned(), password, groups, disabled: false });
            Ok(())
        }
    })
}

fn passwd(config: &Config, name: &str) -> Result<(), String> {
    // Before it is asked for a password that nobody has.
    let mut users = users::load(&config.users_dir()).map_err(|error| error.to_string())?;
    known(&mut users, name)?;
    let password = password(name)?;
    edit(config, name, |user| user.password = password)
}

fn list(config: &Config, json: bool) -> Exit {
    let users = match users::load(&config.users_dir()) {
        Ok(users) => users,
        Err(error) => return fail(Exit::Failed, &error.to_string()),
    };
    let listed = users.iter().map(|user| Listed { name: &user.name, groups: &user.groups, disabled: user.disabled });
    if json {
        return show::json(&listed.collect::<Vec<_>>());
    }
    let mut lines = vec![format!("{:<24} {:<9} GROUPS", "USER", "STATE")];
    lines.extend(listed.map(|user| {
        format!("{:<24} {:<9} {}", user.name, if user.disabled { "disabled" } else { "enabled" }, user.groups.join(", "))
    }));
    out::print(&lines)
}

/// Asks for a password, twice and unseen on a terminal, else by the first line of standard input.
fn password(name: &str) -> Result<String, String> {
    let failed = |error: io::Error| format!("no password could be read: {error}");
    let password = if io::stdin().is_terminal() {
        let first = ask(&format!("password of {name}: ")).map_err(failed)?;
        users::check_password(&first)?;
        if ask("once more: ").map_err(failed)? != first {
            return Err("the two are not the same; nothing was changed".into());
        }
        first
    } else {
        line().map_err(failed)?
    };
    users::check_password(&password).map(|()| password)
}

fn line() -> io::Result<String> {
    let mut line = String::new();
    io::Read::take(io::stdin().lock(), LINE_BYTES_MAX).read_line(&mut line)?;
    Ok(line.trim_end_matches(['\n', '\r']).to_owned())
}

/// Asks on the terminal; what is typed is not shown.
fn ask(prompt: &str) -> io::Result<String> {
    use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
    let mut terminal = io::stderr();
    write!(terminal, "{prompt}")?;
    terminal.flush()?;
    let shown = tcgetattr(io::stdin())?;
    let mut hidden = shown.clone();
    hidden.local_modes.remove(LocalModes::ECHO);
    tcsetattr(io::stdin(), OptionalActions::Flush, &hidden)?;
    let typed = line();
    tcsetattr(io::stdin(), OptionalActions::Now, &shown)?;
    writeln!(terminal)?;
    typed
}
