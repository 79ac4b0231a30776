"""SIGKILL of the real program under mixed load, again and again: what was acknowledged is there, nothing is invented."""

import copy
import hashlib
import json
import os
import pathlib
import random
import stat
import subprocess
import sys
import time

from conftest import SOAK
from crash_worker import content

WORKER = pathlib.Path(__file__).with_name("crash_worker.py")
WORKERS = 3


class Node:
    """A file (bytes), a directory (None) or a symlink (its target), as the operations of crash_worker.py left it."""

    def __init__(self, mode, data):
        self.mode, self.data, self.xattrs, self.mtime = mode, data, {}, None


class Tree:
    """What one worker's tree has to look like: the plain meaning of each operation, over names and nodes in memory."""

    def __init__(self):
        self.names = {}

    def apply(self, name, *args):
        getattr(self, name)(*args)

    def mkdir(self, path, mode):
        self.names[path] = Node(mode, None)

    def rmdir(self, path):
        del self.names[path]

    def create(self, path, mode):
        self.names[path] = Node(mode, b"")

    def write(self, path, offset, seed, size):
        self.put(path, offset, content(seed, size))

    def put(self, path, offset, body):
        node = self.names[path]
        old = node.data.ljust(offset, b"\0")
        node.data, node.mtime = old[:offset] + body + old[offset + len(body):], None
        # Root's writes keep set-id bits: the workers are root.

    def append(self, path, seed, size):
        self.put(path, len(self.names[path].data), content(seed, size))

    def truncate(self, path, size):
        node = self.names[path]
        node.data, node.mtime = node.data[:size].ljust(size, b"\0"), None

    def rename(self, old, new):
        self.names = {
            new + path[len(old):] if path == old or path.startswith(old + "/") else path: node
            for path, node in self.names.items()
            if path != new
        }

    def link(self, old, new):
        self.names[new] = self.names[old]

    def symlink(self, target, path):
        self.names[path] = Node(0o777, target)

    def unlink(self, path):
        del self.names[path]

    def orphan(self, path, seed, size):
        pass

    def chmod(self, path, mode):
        self.names[path].mode = mode

    def setxattr(self, path, name, value):
        self.names[path].xattrs[name] = value.encode()

    def utime(self, path, mtime):
        self.names[path].mtime = mtime

    def fsync(self, path):
        pass

    def look(self):
        """As `look` of a directory: (kind, mode, bytes or target, xattrs, names of the same file), and the times that are known."""
        groups = {}
        for path, node in self.names.items():
            groups.setdefault(id(node), []).append(path)
        seen, times = {}, {}
        for path, node in self.names.items():
            if node.data is None:
                seen[path] = ("directory", node.mode, None, {}, None)
            elif isinstance(node.data, str):
                seen[path] = ("symlink", node.mode, node.data, {}, None)
            else:
                seen[path] = ("file", node.mode, digest(node.data), node.xattrs, sorted(groups[id(node)]))
                if node.mtime is not None:
                    times[path] = node.mtime
        return seen, times


def digest(data):
    return len(data), hashlib.sha256(data).hexdigest()


def look(root):
    """Everything below `root`, and `root` itself as ""."""
    paths = [""] if root.is_dir() else []
    paths += [str(path.relative_to(root)) for path in root.rglob("*")]
    inodes, seen, times = {}, {}, {}
    for path in paths:
        found = os.lstat(root / path)
        mode = stat.S_IMODE(found.st_mode)
        if stat.S_ISDIR(found.st_mode):
            seen[path] = ("directory", mode, None, {}, None)
        elif stat.S_ISLNK(found.st_mode):
            seen[path] = ("symlink", mode, os.readlink(root / path), {}, None)
        else:
            group = inodes.setdefault(found.st_ino, [])
            group.append(path)
            try:
                xattrs = {name: os.getxattr(root / path, name) for name in os.listxattr(root / path)}
                seen[path] = ("file", mode, digest((root / path).read_bytes()), xattrs, group)
            except OSError as error:
                seen[path] = ("file", mode, str(error), None, group)
            times[path] = found.st_mtime_ns
    for group in inodes.values():
        group.sort()
    return seen, times


def difference(found, tree):
    """What is not as `tree` says, in words; empty where all is."""
    (seen, times), (expected, known) = found, tree.look()
    wrong = [f"{path!r} is {seen.get(path)}, not {expected.get(path)}" for path in sorted(seen.keys() | expected.keys()) if seen.get(path) != expected.get(path)]
    return wrong or [f"{path!r} is of {times[path]}, not of {time_}" for path, time_ in known.items() if times[path] != time_]


def outcomes(tree, pending):
    """The trees that a crash in the middle of an operation may leave: without it, with it, and with the begin of a write."""
    yield tree
    if not pending:
        return
    name, *args = pending
    if name in ("write", "append"):
        path = args[0]
        offset = args[1] if name == "write" else len(tree.names[path].data)
        body = content(*args[-2:])
        # The kernel cuts a long write at the borders of pages.
        for end in [*range(4096 - offset % 4096, len(body), 4096), len(body)]:
            other = copy.deepcopy(tree)
            other.put(path, offset, body[:end])
            yield other
        return
    other = copy.deepcopy(tree)
    if name == "orphan":
        # Made, and not yet without a name.
        other.create(args[0], 0o600)
    else:
        other.apply(name, *args)
    yield other


def settle(tree, lines, root):
    """The tree after a crash: `tree` changed by everything that was acknowledged, and by the operation under way, or not."""
    pending = None
    for line in lines:
        if not line.endswith("\n"):
            break
        step = json.loads(line)
        if step[0] == "begin":
            pending = step[1:]
        elif step[0] == "done":
            tree.apply(*pending)
            pending = None
        else:
            raise AssertionError(f"{pending}: {step}")
    found, wrong = look(root), []
    for outcome in outcomes(tree, pending):
        wrong.append(difference(found, outcome))
        if not wrong[-1]:
            return outcome
    raise AssertionError(f"{root.name}, killed in {pending}:\n" + "\n".join(min(wrong, key=len)))


def in_bucket(gateway, trees):
    """The bucket has every file and link of the trees at its own key, with bytes and mode, and nothing else."""
    client = gateway.s3()
    expected = {}
    for worker, tree in enumerate(trees):
        for path, node in tree.names.items():
            key = f"w{worker}/{path}" if path else f"w{worker}"
            if node.data is not None:
                body = node.data.encode() if isinstance(node.data, str) else node.data
                kind = 0o120000 if isinstance(node.data, str) else 0o100000
                expected[key] = (digest(body), f"{kind | node.mode:07o}")
            else:
                expected[key + "/"] = (digest(b""), f"{0o040000 | node.mode:07o}")
    found = {}
    for key in gateway.bucket():
        answer = client.get_object(Bucket="demo", Key=key)
        found[key] = (digest(answer["Body"].read()), answer["Metadata"].get("file-permissions"))
    # A directory with nothing of its own to say is implied by what is in it.
    for key in [key for key in expected if key.endswith("/") and key not in found]:
        assert any(other.startswith(key) and other != key for other in found), f"{key} is not in the bucket"
        assert expected.pop(key)[1] == "0040755", f"the mode of {key} is not in the bucket"
    wrong = {key for key in found.keys() | expected.keys() if found.get(key) != expected.get(key)}
    assert not wrong, {key: (found.get(key), expected.get(key)) for key in wrong}


def in_another_gateway(gateway, make_gateway, trees):
    """A gateway with nothing but the bucket shows the trees: links, extended attributes and times too."""
    credentials = gateway.root / "tidegate-data/s3/credentials"
    other = make_gateway(share=f'[s3]\nendpoint = "http://127.0.0.1:{gateway.s3_port}"\ncredentials_file = "{credentials}"').start()
    for worker, tree in enumerate(trees):
        assert not difference(look(other.mount / f"w{worker}"), tree)
    other.cleanup()


def test_kill_9_under_mixed_load(make_gateway):
    gateway = make_gateway(config='[cache]\nsize = "64 MiB"', share='upload_delay = "200ms"').start()
    trees = [Tree() for _ in range(WORKERS)]
    rng = random.Random(7)
    rounds = 100 if SOAK else 20
    done = 0
    for round_ in range(rounds):
        logs = [gateway.root / f"worker{w}-{round_}" for w in range(WORKERS)]
        running = [
            subprocess.Popen([sys.executable, WORKER, gateway.mount / f"w{w}", f"{round_}{w}"], stdout=open(logs[w], "wb"))
            for w in range(WORKERS)
        ]
        time.sleep(rng.uniform(0.2, 1.0))
        gateway.kill()
        for process in running:
            assert process.wait(timeout=30) == 0
        gateway.start()
        for w in range(WORKERS):
            lines = logs[w].read_text().splitlines(keepends=True)
            done += len(lines) // 2
            try:
                trees[w] = settle(trees[w], lines, gateway.mount / f"w{w}")
            except AssertionError as error:
                raise AssertionError(f"round {round_}: {error}") from None
        if round_ % 5 == 4:
            gateway.drain("100s")
            in_bucket(gateway, trees)
        if round_ % 20 == 19:
            in_another_gateway(gateway, make_gateway, trees)
    print(f"{done} operations, {sum(len(tree.names) for tree in trees)} names at the end")
    assert done > rounds * 10
