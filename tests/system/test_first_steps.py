"""What a newcomer does with the README in hand."""

import filecmp
import os
import pathlib
import subprocess
import time

import pytest

from conftest import Gateway, PROGRAM, REPOSITORY, sh, until


def test_a_tree_goes_in_and_each_file_is_one_object(gateway):
    source = REPOSITORY / "src"
    sh(f"cp -a {source} {gateway.mount}/src")
    gateway.drain()
    files = {f"src/{path.relative_to(source)}": path for path in source.rglob("*") if path.is_file()}
    objects = {key: size for key, size in gateway.bucket().items() if not key.endswith("/")}
    assert objects == {key: path.stat().st_size for key, path in files.items()}
    client = gateway.s3()
    for key, path in files.items():
        assert client.get_object(Bucket="demo", Key=key)["Body"].read() == path.read_bytes(), key


def test_what_was_synced_is_there_after_kill_9(gateway):
    target = gateway.mount / "ledger"
    with open(target, "wb") as file:
        file.write(b"paid " * 100_000)
        os.fsync(file.fileno())
    gateway.kill()
    gateway.start()
    assert target.read_bytes() == b"paid " * 100_000
    gateway.drain()
    assert gateway.bucket() == {"ledger": 500_000}


def test_sigterm_drains_unmounts_and_ends_with_0(gateway):
    (gateway.mount / "a").write_text("a")
    gateway.stop()
    assert not os.path.ismount(gateway.mount)
    gateway.start()
    assert (gateway.mount / "a").read_text() == "a"


def test_a_restart_without_the_cache_reads_from_s3(gateway):
    (gateway.mount / "d").mkdir()
    (gateway.mount / "d/x").write_bytes(b"x" * 3_000_000)
    gateway.drain()
    other = gateway.root / "tidegate-data"
    gateway.stop()
    sh(f"rm -rf {other}/cache {other}/meta.db*")
    gateway.start()
    assert (gateway.mount / "d/x").read_bytes() == b"x" * 3_000_000


def text_of(path):
    try:
        return path.read_text()
    except FileNotFoundError:
        return None


def names_in(path):
    try:
        return os.listdir(path)
    except FileNotFoundError:
        return []


def test_what_others_write_shows_up(make_gateway):
    gateway = make_gateway(share='refresh = "1s"').start()
    assert os.listdir(gateway.mount) == []
    client, path = gateway.s3(), gateway.mount / "from/afar.txt"
    took_s = []
    for body in ["hello", "hello again", "and again", "hello for good"]:
        client.put_object(Bucket="demo", Key="from/afar.txt", Body=body.encode())
        took_s.append(until(lambda: text_of(path) == body, 60))
    # The share looks each second, and the kernel asks as often, not after its own ten seconds. A busy machine may be late, but not each time.
    assert min(took_s[1:]) < 5, took_s
    client.delete_object(Bucket="demo", Key="from/afar.txt")
    until(lambda: text_of(path) is None, 60)
    assert names_in(path.parent) == []
