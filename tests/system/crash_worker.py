"""Works in a tree of its own until the mount is gone, and tells (to a file that outlives it) each system call before and after it.

    crash_worker.py ROOT SEED      writes lines of JSON: ["begin", OPERATION...], ["done"]; ["bad", ...] for an error that nothing explains

One call is one operation, so that what a crash may leave is exact: the last one was done or was not (a long write: a part of it, from
its beginning). The operations and what they mean are `Tree` of test_crash.py; contents are named by seed, not sent.
"""

import errno
import json
import os
import random
import sys

# What a call answers whose gateway was killed.
GONE = {errno.ENOTCONN, errno.ECONNABORTED, errno.EIO, errno.ENODEV}
SIZES = [1, 10, 4096, 5000, 70_000, 300_000]


def main(root, seed):
    os.umask(0)
    rng = random.Random(seed)

    def at(path):
        return os.path.join(root, path) if path else root

    def do(name, *args):
        """One operation, begun, made and told."""
        sys.stdout.write(json.dumps(["begin", name, *args]) + "\n")
        sys.stdout.flush()
        CALLS[name](at, *args)
        sys.stdout.write('["done"]\n')
        sys.stdout.flush()

    def new(parents):
        return os.path.join(rng.choice(parents), f"n{rng.randrange(30)}")

    if not os.path.isdir(root):
        do("mkdir", "", 0o755)
    # What exists is kept by name and kind, since its own answers are what is tested.
    dirs, files, links = [""], [], []
    for place, below, names in os.walk(root):
        inside = os.path.relpath(place, root)
        inside = "" if inside == "." else inside
        for name in below + names:
            path = os.path.join(inside, name)
            kind = links if os.path.islink(at(path)) else dirs if os.path.isdir(at(path)) else files
            kind.append(path)

    def move(lists, old, to):
        for paths in lists:
            paths[:] = [to + path[len(old):] if path == old or path.startswith(old + "/") else path for path in paths]

    while True:
        free = new(dirs)
        taken = free in dirs or free in files or free in links
        what = rng.random()
        if what < 0.07:
            if not taken and free.count("/") < 4:
                do("mkdir", free, rng.choice([0o755, 0o700, 0o1777]))
                dirs.append(free)
        elif what < 0.10:
            path = rng.choice(dirs)
            if path and not any(other.startswith(path + "/") for other in dirs + files + links):
                do("rmdir", path)
                dirs.remove(path)
        elif what < 0.15:
            old = rng.choice(dirs)
            inside = free == old or free.startswith(old + "/")
            if old and not inside and not taken:
                do("rename", old, free)
                move((dirs, files, links), old, free)
        elif what < 0.32 or not files:
            # As editors save: a new file beside it, complete, then renamed over it.
            if free not in dirs:
                draft = free + ".draft"
                if draft not in files:
                    do("create", draft, rng.choice([0o644, 0o600, 0o4755]))
                    files.append(draft)
                do("write", draft, 0, rng.randrange(1 << 40), rng.choice(SIZES))
                if rng.random() < 0.5:
                    do("fsync", draft)
                do("rename", draft, free)
                files.remove(draft)
                links[:] = [path for path in links if path != free]
                if free not in files:
                    files.append(free)
        elif what < 0.36:
            if not taken:
                do("symlink", rng.choice(files), free)
                links.append(free)
        elif what < 0.42:
            if not taken:
                do("link", rng.choice(files), free)
                files.append(free)
        elif what < 0.46:
            # Two names of one file do not replace each other: then both stay.
            old, to = rng.choice(files), rng.choice(files)
            if old != to and os.stat(at(old)).st_ino != os.stat(at(to)).st_ino:
                do("rename", old, to)
                files.remove(old)
        elif what < 0.53:
            pick = rng.choice(files + links)
            do("unlink", pick)
            (files if pick in files else links).remove(pick)
        elif what < 0.56:
            if not taken:
                # An open file without a name: nothing of it may come back.
                do("orphan", free, rng.randrange(1 << 40), rng.choice(SIZES))
        elif what < 0.66:
            do("write", rng.choice(files), rng.randrange(200_000), rng.randrange(1 << 40), rng.choice(SIZES))
        elif what < 0.76:
            do("append", rng.choice(files), rng.randrange(1 << 40), rng.choice(SIZES))
        elif what < 0.82:
            do("truncate", rng.choice(files), rng.choice([0, 1, 4096, 100_000, 250_001]))
        elif what < 0.87:
            do("chmod", rng.choice(files + dirs[1:]), rng.choice([0o644, 0o600, 0o755, 0o711]))
        elif what < 0.92:
            do("setxattr", rng.choice(files), f"user.n{rng.randrange(3)}", f"{rng.random()}")
        elif what < 0.96:
            do("utime", rng.choice(files), rng.randrange(1 << 30) * 1_000_000_000 + rng.randrange(1_000_000_000))
        else:
            do("fsync", rng.choice(files + dirs))


def content(seed, size):
    """The bytes that a seed stands for."""
    return random.Random(seed).randbytes(size)


def write(path, flags, offset, body):
    file = os.open(path, os.O_WRONLY | flags)
    try:
        sent = os.write(file, body) if flags & os.O_APPEND else os.pwrite(file, body, offset)
        # A short answer would be an error of its own.
        if sent != len(body):
            raise OSError(0, f"{sent} of {len(body)} bytes")
    finally:
        os.close(file)


def create(path, mode):
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode))


def sync(path):
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def orphan(path, body):
    file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
    try:
        os.unlink(path)
        os.write(file, body)
        if os.pread(file, len(body), 0) != body:
            raise OSError(0, "an open file without a name has other bytes")
    finally:
        os.close(file)


CALLS = {
    "mkdir": lambda at, path, mode: os.mkdir(at(path), mode),
    "rmdir": lambda at, path: os.rmdir(at(path)),
    "create": lambda at, path, mode: create(at(path), mode),
    "write": lambda at, path, offset, seed, size: write(at(path), 0, offset, content(seed, size)),
    "append": lambda at, path, seed, size: write(at(path), os.O_APPEND, 0, content(seed, size)),
    "truncate": lambda at, path, size: os.truncate(at(path), size),
    "rename": lambda at, old, new: os.rename(at(old), at(new)),
    "link": lambda at, old, new: os.link(at(old), at(new)),
    "symlink": lambda at, target, path: os.symlink(target, at(path)),
    "unlink": lambda at, path: os.unlink(at(path)),
    "orphan": lambda at, path, seed, size: orphan(at(path), content(seed, size)),
    "chmod": lambda at, path, mode: os.chmod(at(path), mode),
    "setxattr": lambda at, path, name, value: os.setxattr(at(path), name, value.encode()),
    "utime": lambda at, path, mtime: os.utime(at(path), ns=(mtime, mtime)),
    "fsync": lambda at, path: sync(at(path)),
}


if __name__ == "__main__":
    try:
        main(sys.argv[1], int(sys.argv[2]))
    except OSError as error:
        if error.errno not in GONE:
            sys.stdout.write(json.dumps(["bad", str(error)]) + "\n")
