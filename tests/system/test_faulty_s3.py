"""The real program, an endpoint that is a program of its own, and between them a network that fails: at the end tree and bucket agree."""

import configparser
import os
import random
import shutil
import subprocess
import tempfile
import time

import boto3
import botocore.config
import pytest

from conftest import PROGRAM, SOAK, free_port
from faulty_s3 import FaultyS3


@pytest.fixture
def endpoint():
    """`tidegate s3` with a versioned bucket `far`: its port, credentials file and client."""
    # Not /tmp, which may be in memory.
    root = tempfile.mkdtemp(prefix="tidegate-test-", dir="/var/tmp")
    port = free_port()
    process = subprocess.Popen([PROGRAM, "s3", "--dir", f"{root}/s3", "--listen", f"127.0.0.1:{port}"], stdout=subprocess.PIPE, text=True)
    assert "s3 endpoint" in process.stdout.readline()
    parser = configparser.ConfigParser()
    parser.read(f"{root}/s3/credentials")
    client = boto3.client(
        "s3", endpoint_url=f"http://127.0.0.1:{port}", region_name="us-east-1",
        aws_access_key_id=parser["default"]["aws_access_key_id"], aws_secret_access_key=parser["default"]["aws_secret_access_key"],
        config=botocore.config.Config(s3={"addressing_style": "path"}),
    )
    client.create_bucket(Bucket="far")
    client.put_bucket_versioning(Bucket="far", VersioningConfiguration={"Status": "Enabled"})
    yield port, f"{root}/s3/credentials", client
    process.terminate()
    assert process.wait(timeout=30) == 0
    shutil.rmtree(root, ignore_errors=True)


def work(mount, rng, steps):
    """Saves, changes, renames and removes files; each in one place only, so that what is to be there is known."""
    files = [path for path in mount.rglob("*") if path.is_file() and "theirs" not in path.parts]
    for _ in range(steps):
        what, path = rng.random(), mount / f"d{rng.randrange(3)}" / f"f{rng.randrange(12)}"
        path.parent.mkdir(exist_ok=True)
        if what < 0.5 or not files:
            path.write_bytes(rng.randbytes(rng.choice([0, 3, 5000, 300_000])))
            files.append(path)
        elif what < 0.6:
            # One of several parts, and then a change in its middle that copies the others.
            large = mount / "large"
            if not large.exists():
                large.write_bytes(rng.randbytes(20 << 20))
            with open(large, "r+b") as file:
                file.seek(rng.randrange(20 << 20))
                file.write(rng.randbytes(1000))
        else:
            path = rng.choice(files)
            if what < 0.7:
                os.chmod(path, rng.choice([0o600, 0o644, 0o755]))
            elif what < 0.85:
                to = path.with_name(f"r{rng.randrange(12)}")
                os.rename(path, to)
                files.append(to)
            else:
                path.unlink()
        files = [path for path in set(files) if path.exists()]
        files.sort()


def in_tree(mount):
    found = {}
    for path in mount.rglob("*"):
        mode = f"{os.lstat(path).st_mode:07o}"
        if path.is_file():
            found[str(path.relative_to(mount))] = (path.read_bytes(), mode)
    return found


def in_bucket(client):
    found = {}
    for page in client.get_paginator("list_objects_v2").paginate(Bucket="far"):
        for item in page.get("Contents", []):
            if not item["Key"].startswith(".tidegate/") and not item["Key"].endswith("/"):
                answer = client.get_object(Bucket="far", Key=item["Key"])
                found[item["Key"]] = (answer["Body"].read(), answer["Metadata"].get("file-permissions", "0100644"))
    return found


def doubled(client):
    """Writes that were done twice: versions of one key with the same bytes, metadata and mark. A file that is renamed away and back is at its key
    twice, with a delete between."""
    changes = []
    for page in client.get_paginator("list_object_versions").paginate(Bucket="far"):
        changes += [(one["Key"], one["VersionId"], one) for one in page.get("Versions", []) + page.get("DeleteMarkers", [])]
    seen, twice, deletes = {}, [], {}
    # The endpoint's version ids rise.
    for key, version, one in sorted(changes, key=lambda change: change[:2]):
        if "ETag" not in one:
            deletes[key] = deletes.get(key, 0) + 1
            continue
        head = client.head_object(Bucket="far", Key=key, VersionId=version)
        same = (key, deletes.get(key, 0), head["ETag"], tuple(sorted(head["Metadata"].items())))
        if same in seen:
            twice.append((key, one["Size"], seen[same], str(one["LastModified"]), head["Metadata"].get("tidegate-generation")))
        seen[same] = str(one["LastModified"])
    return twice


@pytest.mark.parametrize("seed", range(1, 21) if SOAK else [1, 2])
def test_tree_and_bucket_agree_over_an_endpoint_that_fails(make_gateway, endpoint, seed):
    port, credentials, client = endpoint
    theirs = {f"theirs/{number}": random.Random(f"{seed} {number}").randbytes(2_000_000) for number in range(4)}
    for key, body in theirs.items():
        client.put_object(Bucket="far", Key=key, Body=body)
    proxy = FaultyS3(port, seed, 0)
    s3 = f'[s3]\nendpoint = "http://127.0.0.1:{proxy.port}"\ncredentials_file = "{credentials}"'
    shares = {"demo": f'bucket = "far"\nupload_delay = "100ms"\n{s3}\n[fuse]\nmount = "mnt/demo"\n'}
    gateway = make_gateway(config='[cache]\nsize = "64 MiB"', shares=shares).start()
    proxy.rate = 0.25
    rng = random.Random(seed)
    for round_ in range(6 if SOAK else 2):
        work(gateway.mount, rng, 40)
        time.sleep(0.5)
        if round_ % 2:
            gateway.kill()
            # Nothing goes out before it is found out, through the same network, what the endpoint honours.
            gateway.start()
        work(gateway.mount, rng, 20)
        # What others wrote is read through the same network.
        for key, body in theirs.items():
            assert (gateway.mount / key).read_bytes() == body, key
    gateway.drain("120s")
    proxy.rate = 0
    print(sum(proxy.faults.values()), "faults in", sum(proxy.asked.values()), "requests:", dict(proxy.faults))
    tree, bucket = in_tree(gateway.mount), in_bucket(client)
    wrong = {key for key in tree.keys() | bucket.keys() if tree.get(key) != bucket.get(key)}
    short = lambda found: found and (len(found[0]), found[1])
    assert not wrong, {key: (short(tree.get(key)), short(bucket.get(key))) for key in wrong}
    assert not [key for key in bucket if ".conflict-" in key]
    twice = doubled(client)
    for key, *_ in twice[:3]:
        print(key, *[one for one in proxy.told if f"/{key}?" in one[2]], sep="\n  ")
    assert not twice, twice
    # Nor is one left whose first answer was lost.
    left = [upload["Key"] for upload in client.list_multipart_uploads(Bucket="far").get("Uploads", [])]
    assert not [key for key in left if ".tidegate/probe/" not in key], left
    assert not client.list_objects_v2(Bucket="far", Prefix=".tidegate/moving/").get("Contents")
    assert sum(proxy.faults.values()) >= 20
    proxy.close()
