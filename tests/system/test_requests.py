"""One upload per change: exact counts of requests, from the meter."""

import os
import time

import pytest

from conftest import sh


def spent(gateway, before):
    after = gateway.requests()
    return {kind: after[kind] - before.get(kind, 0) for kind in after if after[kind] != before.get(kind, 0)}


def test_a_thousand_new_files_are_a_thousand_puts(gateway):
    (gateway.mount / "d").mkdir()
    gateway.drain()
    before = gateway.requests()
    for number in range(1000):
        (gateway.mount / f"d/{number}").write_bytes(b"%d" % number)
    gateway.drain()
    requests = spent(gateway, before)
    objects = [key for key in gateway.bucket() if not key.endswith("/")]
    assert len(objects) == 1000
    # One of the PUTs may be the directory's own marker.
    assert requests.pop("put") in (1000, 1001), requests
    assert sum(requests.values()) <= 10, requests


def test_write_chmod_rename_is_one_put_at_the_final_key(gateway):
    # The names that are in the directory are asked for once.
    os.listdir(gateway.mount)
    before = gateway.requests()
    (gateway.mount / "draft").write_text("text")
    os.chmod(gateway.mount / "draft", 0o600)
    os.rename(gateway.mount / "draft", gateway.mount / "final")
    gateway.drain()
    assert spent(gateway, before) == {"put": 1}
    assert gateway.bucket() == {"final": 4}
    head = gateway.s3().head_object(Bucket="demo", Key="final")
    assert head["Metadata"]["file-permissions"] == "0100600"


def test_one_version_per_save(gateway):
    gateway.s3().put_bucket_versioning(Bucket="demo", VersioningConfiguration={"Status": "Enabled"})
    for text in ("one", "two", "three"):
        (gateway.mount / "letter").write_text(text)
        gateway.drain()
    versions = gateway.s3().list_object_versions(Bucket="demo", Prefix="letter")
    assert len(versions["Versions"]) == 3 and "DeleteMarkers" not in versions


def test_renaming_a_directory_of_a_thousand_uploaded_files(gateway):
    (gateway.mount / "old").mkdir()
    for number in range(1000):
        (gateway.mount / f"old/{number}").write_bytes(b"x")
    gateway.drain()
    before = gateway.requests()
    begin = time.monotonic()
    os.rename(gateway.mount / "old", gateway.mount / "new")
    assert len(os.listdir(gateway.mount / "new")) == 1000
    seen_s = time.monotonic() - begin
    gateway.drain()
    # At once: the clients do not wait for the copies, whatever the machine's pace.
    drained_s = time.monotonic() - begin
    assert seen_s < max(2, drained_s / 4), (seen_s, drained_s)
    requests = spent(gateway, before)
    assert requests.get("copy") in (1000, 1001), requests
    assert requests.get("delete_many", 0) + requests.get("delete", 0) <= 10, requests
    keys = {key for key in gateway.bucket() if not key.endswith("/")}
    assert keys == {f"new/{number}" for number in range(1000)}


def test_touch_is_one_copy_in_place_and_no_body(gateway):
    (gateway.mount / "f").write_bytes(b"y" * 1000)
    gateway.drain()
    before = gateway.requests()
    os.utime(gateway.mount / "f", (1, 1_000_000_000))
    gateway.drain()
    assert spent(gateway, before) == {"copy": 1}
    assert gateway.s3().head_object(Bucket="demo", Key="f")["Metadata"]["file-mtime"] == "1000000000000000000ns"


def test_the_same_bytes_again_send_no_bytes(gateway):
    """A copy in place, under the condition that the object is still ours: else the bytes would have to be sent after all."""
    (gateway.mount / "f").write_bytes(b"y" * 100_000)
    gateway.drain()
    stamp = os.stat(gateway.mount / "f")
    before = gateway.requests()
    (gateway.mount / "f").write_bytes(b"y" * 100_000)
    os.utime(gateway.mount / "f", ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    gateway.drain()
    assert spent(gateway, before) == {"copy": 1}
    # Large ones too, that were sent in parts.
    body = os.urandom(20 << 20)
    (gateway.mount / "large").write_bytes(body)
    gateway.drain()
    stamp = os.stat(gateway.mount / "large")
    before = gateway.requests()
    with open(gateway.mount / "large", "r+b") as file:
        file.write(body)
    os.utime(gateway.mount / "large", ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    gateway.drain()
    assert spent(gateway, before) == {"copy": 1}


def test_reading_and_listing_send_nothing_that_is_not_needed(make_gateway):
    gateway = make_gateway(share='refresh = "1h"').start()
    (gateway.mount / "d").mkdir()
    for number in range(100):
        (gateway.mount / f"d/{number}").write_bytes(b"x")
    gateway.drain()
    before = gateway.requests()
    for _ in range(3):
        sh(f"ls -lR {gateway.mount} && cat {gateway.mount}/d/*")
    time.sleep(3)
    assert spent(gateway, before) == {}


def test_four_kilobytes_in_a_large_object_upload_little(gateway):
    size = 1 << 30
    sh(f"dd if=/dev/urandom of={gateway.mount}/big bs=1M count=1024 status=none && sync -f {gateway.mount}/big")
    gateway.drain("900s")
    import urllib.request

    def sent():
        text = urllib.request.urlopen(f"http://127.0.0.1:{gateway.admin_port}/metrics", timeout=30).read().decode()
        return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith("tidegate_s3_bytes_total") and 'direction="up"' in line)

    before = sent()
    with open(gateway.mount / "big", "r+b") as file:
        file.seek(size // 2)
        file.write(b"z" * 4096)
    gateway.drain("900s")
    assert sent() - before <= 16 << 20
    body = gateway.s3().get_object(Bucket="demo", Key="big", Range=f"bytes={size // 2}-{size // 2 + 4095}")["Body"].read()
    assert body == b"z" * 4096
