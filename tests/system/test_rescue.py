"""The database or the log lost, old, cut or damaged: recovered, or refused with what to do and left alone; and rescue without a database."""

import os
import random
import shutil
import time

import pytest

from conftest import SOAK, sh

LAZY = 'upload_delay = "1h"'


def cache_sums(gateway):
    return sh(f"cd {gateway.root}/tidegate-data/cache && sha256sum *").stdout


def drop_database(gateway):
    for path in (gateway.root / "tidegate-data").glob("meta.db*"):
        path.unlink()


def fill(gateway, seed, count=20):
    """Writes files of many sizes; returns their bytes by path."""
    rng = random.Random(seed)
    written = {}
    for index in range(count):
        path = f"d{index % 3}/s{index % 2}/file {seed}-{index}" if index % 4 else f"file {seed}-{index}"
        body = rng.randbytes(rng.choice([0, 1, 700, 5000, 300_000]))
        target = gateway.mount / path
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(target, "wb") as file:
            file.write(body)
            os.fsync(file.fileno())
        written[path] = body
    return written


def tree(root):
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_salvage_rescues_files_without_the_database(make_gateway):
    endpoint = make_gateway().start()
    endpoint.s3().create_bucket(Bucket="far")
    key, secret = endpoint.keys()
    env = {"AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": secret}
    shares = {"far": f'bucket = "far"\n[s3]\nendpoint = "http://127.0.0.1:{endpoint.s3_port}"\n[fuse]\nmount = "mnt/demo"\n'}
    gateway = make_gateway(config='[cache]\nsize = "64 MiB"', shares=shares).start(env=env)
    (gateway.mount / "uploaded").write_bytes(b"S3 has it")
    gateway.drain()
    os.listdir(gateway.mount)
    endpoint.kill()
    written = fill(gateway, 1, 40)
    # More than one segment of the log, so that some have a footer.
    written["big"] = random.Random(2).randbytes(9 << 20)
    (gateway.mount / "big").write_bytes(written["big"])
    (gateway.mount / "gone").write_bytes(b"removed again")
    os.unlink(gateway.mount / "gone")
    os.rename(gateway.mount / "big", gateway.mount / "renamed")
    written["renamed"] = written.pop("big")

    target = gateway.root / "rescued"
    running = gateway.run("check", "--salvage", str(target), check=False)
    assert running.returncode == 1 and "another gateway" in running.stderr, running.stderr
    gateway.kill()
    drop_database(gateway)
    before = cache_sums(gateway)
    report = gateway.run("check", "--salvage", str(target)).stdout
    assert cache_sums(gateway) == before and not list((gateway.root / "tidegate-data").glob("meta.db*"))
    assert (target / "REPORT.txt").read_text() == report
    found = tree(target / "far")
    assert found == written, set(found) ^ set(written)
    assert all(f"far/{path}: {len(body)} bytes, whole\n" in report for path, body in written.items()), report
    again = gateway.run("check", "--salvage", str(target), check=False)
    assert again.returncode == 1 and "not empty" in again.stderr, again.stderr


def test_a_lost_database_is_made_anew_from_a_whole_log(make_gateway):
    gateway = make_gateway(share=LAZY).start()
    written = fill(gateway, 1)
    gateway.stop()
    gateway.start()
    written |= fill(gateway, 2)
    gateway.kill()
    drop_database(gateway)
    gateway.start()
    assert tree(gateway.mount) == written
    gateway.kill()
    gateway.start()
    assert tree(gateway.mount) == written


def test_an_old_database_catches_up_with_the_log(make_gateway):
    gateway = make_gateway(share=LAZY).start()
    written = fill(gateway, 1)
    gateway.stop()
    shutil.copy(gateway.root / "tidegate-data/meta.db", gateway.root / "old.db")
    gateway.start()
    written |= fill(gateway, 2)
    os.unlink(gateway.mount / "file 1-0")
    del written["file 1-0"]
    gateway.kill()
    drop_database(gateway)
    shutil.copy(gateway.root / "old.db", gateway.root / "tidegate-data/meta.db")
    gateway.start()
    assert tree(gateway.mount) == written


def test_a_database_that_the_log_does_not_reach_back_to_is_refused_and_both_are_left_alone(make_gateway):
    gateway = make_gateway(config='[cache]\nsize = "64 MiB"').start()
    for round_ in range(8):
        (gateway.mount / "f").write_bytes(os.urandom(24 << 20))
        gateway.drain()
    kept = fill(gateway, 1, 4)
    gateway.kill()
    drop_database(gateway)
    before = cache_sums(gateway)
    done = gateway.run("serve", check=False)
    assert done.returncode == 1 and "--salvage" in done.stderr, done.stderr
    assert cache_sums(gateway) == before
    drop_database(gateway)
    gateway.run("check", "--salvage", "rescued", check=False)
    found = tree(gateway.root / "rescued")
    assert all(body in found.values() for body in kept.values())


def used_bytes(path):
    data = path.read_bytes()
    return len(data.rstrip(b"\0"))


@pytest.mark.parametrize("kind", ["flip", "cut"])
def test_a_damaged_log_recovers_or_is_refused(make_gateway, kind):
    gateway = make_gateway(config='[cache]\nsize = "64 MiB"', share=LAZY).start()
    early = fill(gateway, 1)
    # The database knows by now that all of it was durable.
    time.sleep(2.5)
    late = fill(gateway, 2)
    gateway.kill()
    data, pristine = gateway.root / "tidegate-data", gateway.root / "pristine"
    shutil.copytree(data, pristine)
    segments = [path.name for path in sorted((pristine / "cache").glob("*.seg")) if used_bytes(path) > 8192]
    rng = random.Random(kind)
    for round_ in range(20 if SOAK else 5):
        name = rng.choice(segments)
        path = data / "cache" / name
        at = rng.randrange(8192 if round_ else 0, used_bytes(path))
        with open(path, "r+b") as file:
            file.seek(at)
            if kind == "flip":
                byte = file.read(1)[0]
                file.seek(at)
                file.write(bytes([byte ^ (1 << rng.randrange(8))]))
            else:
                file.write(bytes(path.stat().st_size - at))
        what = f"{kind} of {name} at {at}"
        before = cache_sums(gateway)
        gateway.start(wait=False)
        try:
            gateway.wait_until_ready()
        except AssertionError:
            assert gateway.process.poll() == 1, what
            said = gateway.log.read_text()[gateway.seen():]
            assert "database" in said or "log" in said, said
            assert cache_sums(gateway) == before, what
        else:
            told = bool(gateway.status()["notices"])
            for path, body in (early | late).items():
                try:
                    found = (gateway.mount / path).read_bytes()
                except OSError:
                    # Gone with the end of the log, or damaged; of what was durable long ago it has to be told.
                    assert told or path in late or "damaged" in gateway.log.read_text(), f"{what}: {path} is missing and nothing was said"
                else:
                    assert found == body or (len(found) <= len(body) and (told or path in late)), f"{what}: {path} has other bytes"
                    assert found == body or found in (b"", body[: len(found)]), f"{what}: {path} has invented bytes"
            gateway.kill()
        gateway.log_offset = gateway.log.stat().st_size
        sh(f"umount -l {gateway.mount} 2>/dev/null; true")
        shutil.rmtree(data)
        shutil.copytree(pristine, data)
    gateway.start()
    assert tree(gateway.mount) == early | late
