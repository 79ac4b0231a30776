"""Real programs in the mount: git, SQLite, rsync, cargo."""

import concurrent.futures
import os
import sqlite3

import pytest

from conftest import REPOSITORY, SOAK, sh


def test_git_clone_status_and_gc(gateway, tmp_path):
    origin = tmp_path / "origin"
    # A repository with history of its own, so that the test needs nothing from outside.
    sh(f"git init -q -b main {origin}")
    sh(
        "git config user.email t@example.net && git config user.name t && "
        f"for i in $(seq 1 {300 if SOAK else 40}); do mkdir -p d$((i % 9)); for j in 1 2 3 4 5; do head -c $((i * 331)) /dev/urandom "
        "| base64 > d$((i % 9))/f$i-$j; done; git add -A; git commit -qm c$i; done",
        cwd=origin,
    )
    work = gateway.mount / "work"
    sh(f"git clone -q {origin} {work}")
    assert sh("git status --porcelain", cwd=work).stdout == ""
    sh("git config user.email t@example.net && git config user.name t && echo x >> d1/f1-1 && git commit -qam more", cwd=work)
    sh("git gc -q --aggressive --prune=now && git fsck --strict", cwd=work, timeout=1200)
    gateway.drain()
    gateway.kill()
    gateway.start()
    sh("git fsck --strict", cwd=work)
    assert sh("git status --porcelain", cwd=work).stdout == ""


@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_sqlite_with_concurrent_writers(gateway, mode):
    path = gateway.mount / "ledger.db"
    with sqlite3.connect(path) as setup:
        assert setup.execute(f"PRAGMA journal_mode={mode}").fetchone()[0] == mode
        setup.execute("CREATE TABLE entry (writer INTEGER, number INTEGER, PRIMARY KEY (writer, number))")
    setup.close()
    count = 1000 if SOAK else 100

    def write(writer):
        connection = sqlite3.connect(path, timeout=120)
        for number in range(count):
            with connection:
                connection.execute("INSERT INTO entry VALUES (?, ?)", (writer, number))
        connection.close()

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
    assert connection.execute("SELECT count(*) FROM entry").fetchone()[0] == 4 * count
    connection.close()
    gateway.kill()
    gateway.start()
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
    assert connection.execute("SELECT count(*) FROM entry").fetchone()[0] == 4 * count
    connection.close()


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
