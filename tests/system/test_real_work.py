"""Real programs in the mount: git, SQLite, rsync, cargo."""

import os
import sqlite3
import subprocess
import sys
import time

import pytest

from conftest import REPOSITORY, SOAK, sh


def test_git_clone_status_and_gc(gateway, tmp_path):
    """Of a real repository: this one, with its history."""
    origin = tmp_path / "origin"
    sh(f"git clone -q --no-hardlinks {REPOSITORY} {origin}")
    commits = int(sh("git rev-list --count HEAD", cwd=origin).stdout)
    assert commits > 50
    work = gateway.mount / "work"
    # Over git's own protocol: otherwise a clone of a local repository is a copy of files.
    sh(f"git clone -q --no-local {origin} {work}")
    assert sh("git status --porcelain", cwd=work).stdout == ""
    assert int(sh("git rev-list --count HEAD", cwd=work).stdout) == commits
    assert sh(f"diff -r --exclude .git {origin} {work}").stdout == ""
    kept = int(sh("git rev-list --count HEAD~40", cwd=origin).stdout)
    sh("git checkout -q HEAD~40 && git checkout -q -b other && git config user.email t@example.net && git config user.name t", cwd=work)
    sh("for i in $(seq 20); do echo $i >> README.md; git commit -qam more-$i; done && git repack -q && git rebase -q HEAD~10 --exec true", cwd=work)
    sh(f"git gc -q {'--aggressive' if SOAK else ''} --prune=now && git fsck --strict", cwd=work, timeout=1200)
    gateway.drain()
    gateway.kill()
    gateway.start()
    sh("git fsck --strict", cwd=work)
    assert sh("git status --porcelain", cwd=work).stdout == ""
    assert int(sh("git rev-list --count HEAD", cwd=work).stdout) == kept + 20
    # And what is in the bucket is a repository too.
    bare = tmp_path / "from-the-bucket"
    client = gateway.s3()
    for key in gateway.bucket():
        if key.startswith("work/.git/") and not key.endswith("/"):
            (bare / key).parent.mkdir(parents=True, exist_ok=True)
            client.download_file("demo", key, str(bare / key))
    sh(f"mkdir -p {bare}/work/.git/refs {bare}/work/.git/objects && git --git-dir {bare}/work/.git fsck --strict")


# One process: each row is told after its commit, and half of the transactions read what they count on first.
LEDGER_WRITER = """
import sqlite3, sys
path, writer, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
connection = sqlite3.connect(path, timeout=120, isolation_level=None)
for number in range(count):
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("UPDATE total SET entries = entries + 1")
    connection.execute("INSERT INTO entry VALUES (?, ?, randomblob(300))", (writer, number))
    connection.execute("COMMIT")
    print(number, flush=True)
"""


@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_sqlite_with_concurrent_writers(gateway, mode):
    path = gateway.mount / "ledger.db"
    with sqlite3.connect(path) as setup:
        assert setup.execute(f"PRAGMA journal_mode={mode}").fetchone()[0] == mode
        setup.execute("CREATE TABLE entry (writer INTEGER, number INTEGER, body BLOB, PRIMARY KEY (writer, number))")
        setup.execute("CREATE TABLE total (entries INTEGER)")
        setup.execute("INSERT INTO total VALUES (0)")
    setup.close()
    writers, count = 4, 1000 if SOAK else 100

    def check(at_least):
        connection = sqlite3.connect(path)
        assert connection.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
        entries = connection.execute("SELECT count(*) FROM entry").fetchone()[0]
        # No update of another process was lost.
        assert connection.execute("SELECT entries FROM total").fetchone()[0] == entries
        found = dict(connection.execute("SELECT writer, count(*) FROM entry GROUP BY writer"))
        connection.close()
        assert all(found.get(writer, 0) >= least for writer, least in enumerate(at_least)), (found, at_least)
        return entries

    def start(first):
        return [
            subprocess.Popen([sys.executable, "-c", LEDGER_WRITER, path, str(first + writer), str(count)], stdout=subprocess.PIPE)
            for writer in range(writers)
        ]

    for process in start(0):
        out, _ = process.communicate(timeout=300)
        assert process.returncode == 0 and len(out.split()) == count
    assert check([count] * writers) == writers * count
    # Again, and the gateway is killed while they write: every commit that was told is there.
    running = start(writers)
    time.sleep(1)
    gateway.kill()
    told = [len(process.communicate(timeout=300)[0].split()) for process in running]
    assert sum(told) > 0
    gateway.start()
    assert check([count] * writers + told) <= writers * count + sum(told) + writers


def test_rsync_there_and_back(gateway, tmp_path):
    source, back = tmp_path / "source", tmp_path / "back"
    source.mkdir()
    sh(
        "mkdir -p a/b c && cp -a /usr/include/linux a/b/ && ln -s ../a/b c/link && ln a/b/linux/fuse.h hard.h && mkfifo c/pipe && "
        "truncate -s 5M c/sparse && printf x >> c/sparse && chmod 4711 hard.h && touch -d '2001-02-03 04:05:06.789' c/sparse && "
        "chown nobody:nogroup c/sparse && setfattr -n user.colour -v blue hard.h && mkdir empty && chmod 1777 empty && "
        # rsync does not mend a time that is off by less than a second, on any file system, but for files.
        "find . ! -type f -exec touch -h -d '2011-01-02 03:04:05.5' {} +",
        cwd=source,
    )
    sh(f"rsync -aHAX --no-acls {source}/ {gateway.mount}/tree/")
    gateway.drain()
    sh(f"rsync -aHX {gateway.mount}/tree/ {back}/")
    # Without directories' sizes, which are their file system's own business.
    listing = "find . -type d -printf '%P %y %m %U:%G %T@\\n' -o -printf '%P %y %m %U:%G %s %T@ %n %l\\n'"
    found, expected = set(sh(listing, cwd=back).stdout.splitlines()), set(sh(listing, cwd=source).stdout.splitlines())
    assert found == expected, sorted(found ^ expected)
    assert sh(f"rsync -aHXnci --delete {source}/ {back}/").stdout == ""
    assert sh(f"getfattr --only-values -n user.colour {back}/hard.h").stdout == "blue"


def test_cargo_check_with_its_target_in_the_mount(gateway, tmp_path):
    crate = tmp_path / "small"
    (crate / "src").mkdir(parents=True)
    (crate / "Cargo.toml").write_text('[package]\nname = "small"\nversion = "0.1.0"\nedition = "2021"\n')
    (crate / "src/main.rs").write_text('mod a;\nfn main() { println!("{}", a::two()); }\n')
    (crate / "src/a.rs").write_text("pub fn two() -> u32 { 2 }\n")
    target = gateway.mount / "target"
    sh("cargo check -q --offline", cwd=crate, env={"CARGO_TARGET_DIR": str(target)})
    sh("cargo build -q --offline", cwd=crate, env={"CARGO_TARGET_DIR": str(target)})
    assert sh(f"{target}/debug/small").stdout == "2\n"
