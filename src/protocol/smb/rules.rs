//! How a share is offered, and to whom.
//!
//! Invariant: who is denied is denied, whatever else is said of him; the guest gets in where a share says so, and nowhere by a list.

use smb_server::Access;

use super::users::{GUEST, User};

/// Plain values of an offered share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// As whom everybody acts.
    pub uid: u32,
    /// See `uid`.
    pub gid: u32,
    /// Permission bits of new files.
    pub file_mode: u32,
    /// Permission bits of new directories.
    pub directory_mode: u32,
    /// Whether names that differ in case are different.
    pub case_sensitive: bool,
    /// Clients that cannot encrypt are refused.
    pub must_encrypt: bool,
    /// Clients may cache; what other front ends change they do not see then.
    pub leases: bool,
    /// Not shown in lists of shares.
    pub hidden: bool,
    /// Shown beside the name.
    pub comment: String,
    /// Entries that may not be read are not listed.
    pub hide_unreadable: bool,
    /// Users and `@groups` that may; an empty list is every user but the guest.
    pub users: Vec<String>,
    /// Users and `@groups` that may not.
    pub deny: Vec<String>,
    /// Users and `@groups` that may only read.
    pub read_only_users: Vec<String>,
    /// Nobody changes anything through SMB.
    pub read_only: bool,
    /// Whether the guest, who has a password of his own, may.
    pub guest: bool,
}

impl Rules {
    /// What a user may; `None`: nothing.
    pub(super) fn access(&self, user: &User) -> Option<Access> {
        let is_guest = same(&user.name, GUEST);
        let may = match is_guest {
            true => self.guest,
            false => self.users.is_empty() || lists(&self.users, user),
        };
        if !may || user.disabled || lists(&self.deny, user) {
            return None;
        }
        Some(if self.read_only || lists(&self.read_only_users, user) { Access::Read } else { Access::ReadWrite })
    }

    /// Whether only who may differs: clients that stay need not connect again.
    pub(super) fn serves_alike(&self, other: &Self) -> bool {
        let without = |rules: &Self| Self {
            users: Vec::new(),
            deny: Vec::new(),
            read_only_users: Vec::new(),
            read_only: false,
            guest: false,
            ..rules.clone()
        };
        without(self) == without(other)
    }
}

fn same(one: &str, other: &str) -> bool {
    one.to_lowercase() == other.to_lowercase()
}

fn lists(list: &[String], user: &User) -> bool {
    list.iter().any(|item| match item.strip_prefix('@') {
        Some(group) => user.groups.iter().any(|of| same(of, group)),
        None => same(item, &user.name),
    })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A share for everybody, as root.
    pub(in crate::protocol::smb) fn open() -> Rules {
        Rules {
            uid: 0,
            gid: 0,
            file_mode: 0o644,
            directory_mode: 0o755,
            case_sensitive: false,
            must_encrypt: false,
            leases: false,
            hidden: false,
            comment: String::new(),
            hide_unreadable: false,
            users: Vec::new(),
            deny: Vec::new(),
            read_only_users: Vec::new(),
            read_only: false,
            guest: false,
        }
    }

    fn user(name: &str, groups: &[&str]) -> User {
        User {
            name: name.into(),
            password: "secret".into(),
            groups: groups.iter().map(ToString::to_string).collect(),
            disabled: false,
        }
    }

    #[test]
    fn lists_say_who_may_and_how() {
        let list = |items: &[&str]| items.iter().map(ToString::to_string).collect::<Vec<_>>();
        let (ana, bob, guest) = (user("Ana", &["staff"]), user("bob", &[]), user("smbguest", &[]));
        let who = |rules: &Rules| [&ana, &bob, &guest].map(|user| rules.access(user));
        let (all, read) = (Some(Access::ReadWrite), Some(Access::Read));
        for (rules, expected) in [
            (open(), [all, all, None]),
            (Rules { guest: true, ..open() }, [all, all, all]),
            (Rules { users: list(&["ana"]), ..open() }, [all, None, None]),
            (Rules { users: list(&["@Staff", "smbguest"]), ..open() }, [all, None, None]),
            (Rules { deny: list(&["@staff"]), guest: true, ..open() }, [None, all, all]),
            (Rules { users: list(&["bob"]), deny: list(&["BOB"]), ..open() }, [None, None, None]),
            (Rules { read_only_users: list(&["bob", "smbguest"]), guest: true, ..open() }, [all, read, read]),
            (Rules { read_only: true, ..open() }, [read, read, None]),
        ] {
            assert_eq!(who(&rules), expected, "{rules:?}");
        }
        assert_eq!(open().access(&User { disabled: true, ..bob }), None);
        assert!(open().serves_alike(&Rules { guest: true, users: list(&["x"]), ..open() }));
        assert!(!open().serves_alike(&Rules { uid: 1, ..open() }));
    }
}
