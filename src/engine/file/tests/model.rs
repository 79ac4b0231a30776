//! A tree in memory that does what POSIX says, in the simplest way: what the share is compared with.

use std::collections::BTreeMap;

use super::*;

/// A node of the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Item {
    pub(super) kind: NodeKind,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) links: u32,
    pub(super) bytes: Vec<u8>,
    pub(super) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Of what is seen: the first path of the node, so that hard links are told from copies.
    pub(super) first: String,
    entries: BTreeMap<String, usize>,
    parent: usize,
    opens: u32,
}

/// The tree: items by number, 0 the root.
#[derive(Clone, Debug, Default)]
pub(super) struct Model {
    items: BTreeMap<usize, Item>,
    next: usize,
}

/// What everybody can see of a tree, by path.
pub(super) type Seen = BTreeMap<String, Item>;

type Done<T> = Result<T, VfsError>;

fn bits(item: &Item, who: &Caller) -> u32 {
    match who.uid {
        0 => 6 | u32::from(item.kind == NodeKind::Directory || item.mode & 0o111 != 0),
        uid if uid == item.uid => item.mode >> 6 & 7,
        _ if who.in_group(item.gid) => item.mode >> 3 & 7,
        _ => item.mode & 7,
    }
}

fn need(item: &Item, who: &Caller, wanted: u32) -> Done<()> {
    if bits(item, who) & wanted == wanted { Ok(()) } else { Err(VfsError::AccessDenied) }
}

fn own(item: &Item, who: &Caller) -> Done<()> {
    if who.uid == 0 || who.uid == item.uid { Ok(()) } else { Err(VfsError::NotPermitted) }
}

impl Model {
    pub(super) fn new() -> Self {
        let root = Item {
            kind: NodeKind::Directory,
            mode: 0o755,
            uid: 0,
            gid: 0,
            links: 2,
            bytes: Vec::new(),
            xattrs: BTreeMap::new(),
            first: String::new(),
            entries: BTreeMap::new(),
            parent: 0,
            opens: 0,
        };
        Self { items: BTreeMap::from([(0, root)]), next: 1 }
    }

    pub(super) fn item(&self, id: usize) -> &Item {
        &self.items[&id]
    }

    fn at(&mut self, id: usize) -> &mut Item {
        self.items.get_mut(&id).unwrap()
    }

    fn search(&self, who: &Caller, dir: usize) -> Done<&Item> {
        let item = self.item(dir);
        if item.kind != NodeKind::Directory {
            return Err(VfsError::NotDirectory);
        }
        need(item, who, 1)?;
        Ok(item)
    }

    pub(super) fn walk(&self, who: &Caller, path: &str) -> Done<usize> {
        let mut at = 0;
        for name in path.split('/').filter(|name| !name.is_empty()) {
            at = *self.search(who, at)?.entries.get(name).ok_or(VfsError::NotFound)?;
        }
        Ok(at)
    }

    pub(super) fn place(&self, who: &Caller, path: &str) -> Done<(usize, String)> {
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
        Ok((self.walk(who, dir)?, name.to_owned()))
    }

    pub(super) fn make(&mut self, who: &Caller, path: &str, kind: NodeKind, mode: u32, bytes: &[u8]) -> Done<usize> {
        let (dir, name) = self.place(who, path)?;
        let above = self.search(who, dir)?;
        if above.entries.contains_key(&name) {
            return Err(VfsError::Exists);
        }
        need(above, who, 3)?;
        let inherits = above.mode & 0o2000 != 0;
        let gid = if inherits { above.gid } else { who.gid };
        let mut mode = mode;
        if inherits && kind == NodeKind::Directory {
            mode |= 0o2000;
        } else if inherits && mode & 0o2010 == 0o2010 && who.uid != 0 && !who.in_group(gid) {
            mode &= !0o2000;
        }
        let links = if kind == NodeKind::Directory { 2 } else { 1 };
        let item = Item { kind, mode, uid: who.uid, gid, links, bytes: bytes.to_vec(), parent: dir, ..self.item(0).bare() };
        let id = self.next;
        self.next += 1;
        self.items.insert(id, item);
        self.put(dir, &name, id);
        Ok(id)
    }

    fn put(&mut self, dir: usize, name: &str, id: usize) {
        self.at(dir).entries.insert(name.to_owned(), id);
        if self.item(id).kind == NodeKind::Directory {
            self.at(dir).links += 1;
            self.at(id).parent = dir;
        }
    }

    fn take(&mut self, dir: usize, name: &str) {
        let id = self.at(dir).entries.remove(name).unwrap();
        if self.item(id).kind == NodeKind::Directory {
            self.at(dir).links -= 1;
        }
    }

    fn lose(&mut self, id: usize) {
        let item = self.at(id);
        item.links = if item.kind == NodeKind::Directory { 0 } else { item.links - 1 };
        if item.links == 0 && item.opens == 0 {
            self.items.remove(&id);
        }
    }

    fn may_unlink(&self, who: &Caller, dir: usize, id: usize) -> Done<()> {
        let above = self.item(dir);
        need(above, who, 3)?;
        if above.mode & 0o1000 != 0 && who.uid != 0 && who.uid != above.uid && who.uid != self.item(id).uid {
            return Err(VfsError::NotPermitted);
        }
        Ok(())
    }

    pub(super) fn remove(&mut self, who: &Caller, path: &str, what: Remove) -> Done<()> {
        let (dir, name) = self.place(who, path)?;
        let id = *self.search(who, dir)?.entries.get(&name).ok_or(VfsError::NotFound)?;
        self.may_unlink(who, dir, id)?;
        let item = self.item(id);
        match (what, item.kind == NodeKind::Directory) {
            (Remove::File, true) => return Err(VfsError::IsDirectory),
            (Remove::Directory, false) => return Err(VfsError::NotDirectory),
            (Remove::Directory, true) if !item.entries.is_empty() => return Err(VfsError::NotEmpty),
            _ => {}
        }
        self.take(dir, &name);
        self.lose(id);
        Ok(())
    }

    pub(super) fn link(&mut self, who: &Caller, from: &str, to: &str) -> Done<()> {
        let id = self.walk(who, from)?;
        let (dir, name) = self.place(who, to)?;
        if self.search(who, dir)?.entries.contains_key(&name) {
            return Err(VfsError::Exists);
        }
        if self.item(id).kind == NodeKind::Directory {
            return Err(VfsError::NotPermitted);
        }
        need(self.item(dir), who, 3)?;
        self.at(id).links += 1;
        self.put(dir, &name, id);
        Ok(())
    }

    fn within(&self, mut at: usize, above: usize) -> bool {
        loop {
            if at == above {
                return true;
            }
            if at == 0 {
                return false;
            }
            at = self.item(at).parent;
        }
    }

    pub(super) fn rename(&mut self, who: &Caller, from: &str, to: &str, how: Rename) -> Done<()> {
        let (from_dir, from) = self.place(who, from)?;
        let (to_dir, to) = self.place(who, to)?;
        self.search(who, from_dir)?;
        self.search(who, to_dir)?;
        let moved = *self.item(from_dir).entries.get(&from).ok_or(VfsError::NotFound)?;
        let target = self.item(to_dir).entries.get(&to).copied();
        match (how, target) {
            (Rename::NoReplace, Some(_)) => return Err(VfsError::Exists),
            (Rename::Exchange, None) => return Err(VfsError::NotFound),
            (_, Some(target)) if target == moved => return Ok(()),
            _ => {}
        }
        let is_dir = |id: usize| self.item(id).kind == NodeKind::Directory;
        if is_dir(moved) && self.within(to_dir, moved) {
            return Err(VfsError::Invalid);
        }
        if target.is_some_and(|target| is_dir(target) && self.within(from_dir, target)) {
            return Err(if how == Rename::Exchange { VfsError::Invalid } else { VfsError::NotEmpty });
        }
        self.may_unlink(who, from_dir, moved)?;
        match target {
            Some(target) => self.may_unlink(who, to_dir, target)?,
            None => need(self.item(to_dir), who, 3)?,
        }
        match target.filter(|_| how != Rename::Exchange).map(|target| (is_dir(moved), is_dir(target))) {
            Some((true, false)) => return Err(VfsError::NotDirectory),
            Some((false, true)) => return Err(VfsError::IsDirectory),
            _ => {}
        }
        if from_dir != to_dir {
            for id in [Some(moved), target.filter(|_| how == Rename::Exchange)].into_iter().flatten() {
                if is_dir(id) {
                    need(self.item(id), who, 2)?;
                }
            }
        }
        if let Some(target) = target {
            if how == Rename::Exchange {
                self.take(from_dir, &from);
                self.take(to_dir, &to);
                self.put(from_dir, &from, target);
                self.put(to_dir, &to, moved);
                return Ok(());
            }
            if is_dir(target) && !self.item(target).entries.is_empty() {
                return Err(VfsError::NotEmpty);
            }
            self.take(to_dir, &to);
            self.lose(target);
        }
        self.take(from_dir, &from);
        self.put(to_dir, &to, moved);
        Ok(())
    }

    fn file(&self, id: usize) -> Done<()> {
        match self.item(id).kind {
            NodeKind::File => Ok(()),
            NodeKind::Directory => Err(VfsError::IsDirectory),
            _ => Err(VfsError::Invalid),
        }
    }

    fn drop_privileges(&mut self, who: &Caller, id: usize) {
        let item = self.at(id);
        if who.uid != 0 {
            item.mode &= if item.mode & 0o010 != 0 { !0o6000 } else { !0o4000 };
        }
    }

    pub(super) fn write(&mut self, who: &Caller, id: usize, checked: bool, offset: usize, data: &[u8]) -> Done<()> {
        self.file(id)?;
        if !checked && own(self.item(id), who).is_err() {
            need(self.item(id), who, 2)?;
        }
        self.drop_privileges(who, id);
        let bytes = &mut self.at(id).bytes;
        bytes.resize(bytes.len().max(offset + data.len()), 0);
        bytes[offset..offset + data.len()].copy_from_slice(data);
        Ok(())
    }

    pub(super) fn truncate(&mut self, who: &Caller, id: usize, len: usize) -> Done<()> {
        self.file(id)?;
        need(self.item(id), who, 2)?;
        self.drop_privileges(who, id);
        self.at(id).bytes.resize(len, 0);
        Ok(())
    }

    pub(super) fn punch(&mut self, who: &Caller, id: usize, offset: usize, len: usize) -> Done<()> {
        self.write(who, id, false, 0, &[])?;
        let bytes = &mut self.at(id).bytes;
        let end = (offset + len).min(bytes.len());
        if offset < end {
            bytes[offset..end].fill(0);
        }
        Ok(())
    }

    pub(super) fn chmod(&mut self, who: &Caller, id: usize, mode: u32) -> Done<()> {
        own(self.item(id), who)?;
        let outside = who.uid != 0 && !who.in_group(self.item(id).gid);
        self.at(id).mode = if outside { mode & !0o2000 } else { mode };
        Ok(())
    }

    pub(super) fn chown(&mut self, who: &Caller, id: usize, uid: Option<u32>, gid: Option<u32>) -> Done<()> {
        let item = self.at(id);
        if who.uid != 0 {
            let alien = uid.is_some_and(|uid| uid != item.uid) || gid.is_some_and(|gid| gid != item.gid && !who.in_group(gid));
            if who.uid != item.uid || alien {
                return Err(VfsError::NotPermitted);
            }
        }
        if item.kind != NodeKind::Directory {
            item.mode &= if item.mode & 0o010 != 0 { !0o6000 } else { !0o4000 };
        }
        item.uid = uid.unwrap_or(item.uid);
        item.gid = gid.unwrap_or(item.gid);
        Ok(())
    }

    pub(super) fn set_xattr(&mut self, who: &Caller, id: usize, name: &[u8], value: &[u8]) -> Done<()> {
        let item = self.item(id);
        match item.kind {
            NodeKind::Directory if item.mode & 0o1000 != 0 => own(item, who)?,
            NodeKind::File | NodeKind::Directory => need(item, who, 2)?,
            _ => return Err(VfsError::NotPermitted),
        }
        self.at(id).xattrs.insert(name.to_vec(), value.to_vec());
        Ok(())
    }

    pub(super) fn open(&mut self, who: &Caller, id: usize, wanted: u32) -> Done<()> {
        match self.item(id).kind {
            NodeKind::File => {}
            NodeKind::Directory if wanted & 2 != 0 => return Err(VfsError::IsDirectory),
            NodeKind::Directory => {}
            NodeKind::Symlink => return Err(VfsError::Invalid),
            _ => return Err(VfsError::NoSuchAddress),
        }
        need(self.item(id), who, wanted)?;
        self.at(id).opens += 1;
        Ok(())
    }

    pub(super) fn close(&mut self, id: usize) {
        let item = self.at(id);
        item.opens -= 1;
        if item.opens == 0 && item.links == 0 {
            self.items.remove(&id);
        }
    }

    /// All that has a path.
    pub(super) fn seen(&self) -> Seen {
        let mut paths = BTreeMap::new();
        self.collect(0, "", &mut paths);
        named(paths.iter().map(|(path, id)| (path.clone(), *id as u64, self.item(*id).clone())))
    }

    fn collect(&self, id: usize, path: &str, paths: &mut BTreeMap<String, usize>) {
        for (name, child) in &self.item(id).entries {
            self.collect(*child, &format!("{path}/{name}"), paths);
        }
        paths.insert(path.to_owned(), id);
    }

    /// A model of what was seen.
    pub(super) fn from_seen(seen: &Seen) -> Self {
        let ids: BTreeMap<&String, usize> = seen.keys().enumerate().map(|(id, path)| (path, id)).collect();
        let mut model = Self { items: BTreeMap::new(), next: seen.len() };
        for (path, item) in seen {
            let id = ids[&item.first];
            model.items.entry(id).or_insert_with(|| item.clone());
            if let Some((dir, name)) = path.rsplit_once('/') {
                let dir = ids[&dir.to_owned()];
                model.at(dir).entries.insert(name.to_owned(), id);
                if item.kind == NodeKind::Directory {
                    model.at(id).parent = dir;
                }
            }
        }
        model
    }
}

impl Item {
    /// Without what is not seen.
    fn bare(&self) -> Self {
        Self { entries: BTreeMap::new(), xattrs: BTreeMap::new(), parent: 0, opens: 0, ..self.clone() }
    }
}

/// Items by path, each with the first path of its node.
fn named(items: impl Iterator<Item = (String, u64, Item)>) -> Seen {
    let mut first = BTreeMap::new();
    let mut seen = Seen::new();
    for (path, node, item) in items {
        let first = first.entry(node).or_insert_with(|| path.clone()).clone();
        seen.insert(path, Item { first, xattrs: item.xattrs.clone(), ..item.bare() });
    }
    seen
}

/// All that a share shows.
pub(super) async fn seen(world: &World) -> Seen {
    let mut all = BTreeMap::new();
    let mut todo = vec![String::new()];
    while let Some(path) = todo.pop() {
        let attr = world.stat(&path).await.unwrap();
        let view = world.share.view(attr.node).await.unwrap();
        assert!(!view.is_dirty() || world.share.has_job(attr.node).await.unwrap(), "{path}: dirty bytes without a job");
        if attr.kind == NodeKind::Directory {
            todo.extend(world.list(&path).await.into_iter().map(|name| format!("{path}/{name}")));
        }
        let bytes = match attr.kind {
            NodeKind::File => world.bytes(&path).await.unwrap(),
            NodeKind::Symlink => world.share.readlink(&root(), attr.node).await.unwrap(),
            _ => Vec::new(),
        };
        assert!(attr.kind == NodeKind::Directory || attr.size_bytes == bytes.len() as u64, "{path}: {attr:?}");
        let mut xattrs = BTreeMap::new();
        for name in world.share.listxattr(&root(), attr.node).await.unwrap() {
            let value = world.share.getxattr(&root(), attr.node, &name).await.unwrap();
            xattrs.insert(name, value);
        }
        let Attr { node, kind, mode, uid, gid, nlink: links, .. } = attr;
        let (first, entries) = (String::new(), BTreeMap::new());
        all.insert(path, (node.0, Item { kind, mode, uid, gid, links, bytes, xattrs, first, entries, parent: 0, opens: 0 }));
    }
    named(all.into_iter().map(|(path, (node, item))| (path, node, item)))
}
