"""Volumes of a real gateway, by other people's initiators: libiscsi's tools and QEMU's block layer."""

import json
import os
import random
import subprocess

from conftest import SOAK, until

MIB = 1 << 20
NAME = "iqn.2026-01.org.tidegate"


def url(gateway, volume, user=""):
    return f"iscsi://{user}127.0.0.1:{gateway.iscsi_port}/{NAME}:{volume}/0"


def volume(gateway, *args, check=True):
    return gateway.run("volume", *args, check=check)


def create(gateway, name, size, *args):
    return json.loads(volume(gateway, "create", name, "--size", size, "--json", *args).stdout)[0]


def image(*args, check=True):
    done = subprocess.run(["qemu-img", *map(str, args)], capture_output=True, text=True, timeout=600)
    assert not check or done.returncode == 0, done.stderr
    return done


def qemu_io(url, *commands, cache="none"):
    options = [part for command in commands for part in ("-c", command)]
    done = subprocess.run(["qemu-io", "-f", "raw", "-t", cache, *options, url], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0 and "error" not in done.stdout.lower() + done.stderr.lower(), done.stdout + done.stderr
    return done.stdout


def test_a_volume_is_a_disk(gateway, tmp_path):
    shown = create(gateway, "db", "256 MiB")
    assert shown["status"] == "AVAILABLE" and shown["target"] == f"{NAME}:db"
    listed = subprocess.run(["iscsi-ls", "-s", f"iscsi://127.0.0.1:{gateway.iscsi_port}"], capture_output=True, text=True, timeout=60)
    assert f"Target:{NAME}:db" in listed.stdout and "Size:255M" in listed.stdout or "256M" in listed.stdout, listed.stdout
    # A file system's image goes in, is read back, and is in S3.
    source = tmp_path / "source.img"
    source.write_bytes(os.urandom(24 * MIB) + bytes(200 * MIB) + os.urandom(32 * MIB))
    image("convert", "-n", "-f", "raw", "-O", "raw", source, url(gateway, "db"))
    assert "identical" in image("compare", "-f", "raw", "-F", "raw", source, url(gateway, "db")).stdout
    gateway.drain()
    stored = sum(item["Size"] for page in gateway.s3().get_paginator("list_objects_v2").paginate(Bucket="volumes") for item in page["Contents"])
    assert 56 * MIB < stored < 60 * MIB, "zeroes are not stored"
    assert json.loads(volume(gateway, "show", "db", "--json").stdout)["dirty_bytes"] == 0
    # What is discarded is gone, also in S3.
    qemu_io(url(gateway, "db"), "discard 0 24M", "write -z 224M 1M", "read -P 0 0 24M", "read -P 0 224M 1M")
    gateway.drain()
    qemu_io(url(gateway, "db"), "read -P 0 0 24M", "read -P 0 224M 1M")


def test_a_volume_survives_the_death_of_the_gateway(gateway):
    """Every acknowledged write is there after kill -9, with and without a flush."""
    create(gateway, "db", "64 MiB")
    rng = random.Random(1)
    model = {}
    for round_ in range(200 if SOAK else 20):
        client = subprocess.Popen(
            ["stdbuf", "-oL", "qemu-io", "-f", "raw", "-t", "none", url(gateway, "db")],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        writes = [(rng.randrange(64 * 256), rng.randrange(1, 32), rng.randrange(1, 255)) for _ in range(rng.randrange(5, 120))]
        writes = [(at, min(count, 64 * 256 - at), value) for at, count, value in writes]
        acknowledged = 0
        try:
            for at, count, value in writes:
                client.stdin.write(f"write -P {value} {at * 4096} {count * 4096}\n")
                client.stdin.flush()
                while "wrote" not in (line := client.stdout.readline()):
                    assert line, "the initiator ended"
                client.stdout.readline()
                acknowledged += 1
        finally:
            gateway.kill()
            client.kill()
            client.wait()
        for at, count, value in writes[:acknowledged]:
            model.update((block, value) for block in range(at, at + count))
        gateway.start()
        if round_ % 5 == 4:
            gateway.drain()
        blocks = rng.sample(sorted(model), min(len(model), 200))  # all of them at the end
        qemu_io(url(gateway, "db"), *(f"read -P {model[block]} {block * 4096} 4096" for block in blocks))
    blocks = sorted(model)
    for part in range(0, len(blocks), 500):
        qemu_io(url(gateway, "db"), *(f"read -P {model[block]} {block * 4096} 4096" for block in blocks[part:part + 500]))


def test_snapshots_clones_and_another_gateway(gateway, make_gateway, tmp_path):
    create(gateway, "db", "64 MiB")
    qemu_io(url(gateway, "db"), "write -P 1 0 8M")
    taken = json.loads(volume(gateway, "snapshot", "create", "db", "--description", "one", "--wait", "--json").stdout)[0]
    assert taken["status"] == "COMPLETED" and taken["description"] == "one"
    qemu_io(url(gateway, "db"), "write -P 2 4M 8M")
    volume(gateway, "snapshot", "restore", "db", taken["id"], "--to", "then", "--size", "128 MiB")
    qemu_io(url(gateway, "then"), "read -P 1 0 8M", "read -P 0 8M 56M", "write -P 3 100M 1M")
    qemu_io(url(gateway, "db"), "read -P 1 0 4M", "read -P 2 4M 8M")
    gateway.drain()
    volume(gateway, "create", "now", "--from", "db")
    qemu_io(url(gateway, "now"), "read -P 1 0 4M", "read -P 2 4M 8M")
    refused = volume(gateway, "delete", "db", "--yes", check=False)
    assert refused.returncode == 1 and "clones" in refused.stderr
    qemu_io(url(gateway, "db"), "read -P 2 4M 8M")
    # This gateway and its disk are gone; another one takes the volume over.
    gateway.drain()
    ids = {shown["name"]: shown["id"] for shown in json.loads(volume(gateway, "list", "--json").stdout)}
    key, secret = gateway.keys()
    (tmp_path / "credentials").write_text(f"[default]\naws_access_key_id = {key}\naws_secret_access_key = {secret}\n")
    s3 = f'[volumes.s3]\nendpoint = "http://127.0.0.1:{gateway.s3_port}"\ncredentials_file = "{tmp_path}/credentials"\n'
    other = make_gateway(config=s3, shares={}).start()
    listed = {shown["name"]: shown for shown in json.loads(volume(other, "list", "--bucket", "--json").stdout)}
    assert listed.keys() == {"db", "then", "now"} and all(shown["status"] == "ATTACHED" for shown in listed.values())
    refused = volume(other, "attach", ids["db"], check=False)
    assert refused.returncode == 1 and "detach it there first" in refused.stderr
    volume(other, "attach", ids["db"], "--force")
    qemu_io(url(other, "db"), "read -P 1 0 4M", "read -P 2 4M 8M", "write -P 5 0 1M")
    other.drain()
    # The first one is fenced: it changes nothing, and says so.
    subprocess.run(["qemu-io", "-f", "raw", "-t", "none", "-c", "write -P 9 0 1M", url(gateway, "db")], capture_output=True, timeout=60)
    until(lambda: json.loads(volume(gateway, "show", "db", "--json").stdout)["status"] == "IRRECOVERABLE")
    qemu_io(url(other, "db"), "read -P 5 0 1M", "read -P 1 1M 3M")
    volume(other, "detach", "db")
    assert volume(other, "list", "--json").stdout.strip() == "[]"
    volume(other, "attach", ids["db"], "--name", "again")
    qemu_io(url(other, "again"), "read -P 5 0 1M", "read -P 1 1M 3M")


def test_who_may_reach_a_volume(gateway, tmp_path):
    create(gateway, "db", "64 MiB")
    secret, other = tmp_path / "secret", tmp_path / "other"
    secret.write_text("password-of-16\n")
    other.write_text("secret-of-target\n")

    def inq(user="", initiator="iqn.2026-01.org.example:me"):
        done = subprocess.run(["iscsi-inq", "-i", initiator, url(gateway, "db", user)], capture_output=True, text=True, timeout=60)
        return done.returncode == 0 and "TIDEGATE" in done.stdout.upper()

    assert inq()
    volume(gateway, "chap", "db", "--user", "me", "--secret-file", str(secret))
    assert not inq() and not inq("me%wrong-password@") and inq("me%password-of-16@")
    short = tmp_path / "short"
    short.write_text("short")
    refused = volume(gateway, "chap", "db", "--user", "me", "--secret-file", str(short), check=False)
    assert refused.returncode == 1 and "12 to 16" in refused.stderr
    volume(gateway, "initiators", "db", "iqn.2026-01.org.example:you")
    assert not inq("me%password-of-16@") and inq("me%password-of-16@", "iqn.2026-01.org.example:you")
    # Both outlive the process.
    gateway.kill()
    gateway.start()
    assert not inq("me%password-of-16@") and inq("me%password-of-16@", "iqn.2026-01.org.example:you")
    volume(gateway, "chap", "db")
    volume(gateway, "initiators", "db")
    assert inq()
    assert "password-of-16" not in volume(gateway, "show", "db", "--json").stdout + gateway.log.read_text()


def test_a_volume_grows_while_it_is_in_use_and_bad_requests_say_what_to_do(gateway):
    create(gateway, "db", "64 MiB", "--write-cache", "off")
    qemu_io(url(gateway, "db"), "write -P 1 63M 1M")
    volume(gateway, "grow", "db", "--size", "1 GiB")
    qemu_io(url(gateway, "db"), "read -P 1 63M 1M", "read -P 0 64M 960M", "write -P 2 1023M 1M")
    for args, words in [
        (("grow", "db", "--size", "64 MiB"), "cannot shrink"),
        (("create", "db", "--size", "64 MiB"), "choose another name"),
        (("create", "x", "--size", "1000001"), "multiples"),
        (("create", "Große", "--size", "64 MiB"), "no name for a volume"),
        (("create", "x", "--from", "nobody"), "no volume"),
        (("show", "nobody"), "tidegate volume list"),
        (("delete", "db"), "--yes"),
        (("snapshot", "delete", "db", "0" * 32), "no snapshot"),
        (("attach", "0" * 32), "no volume"),
        (("attach", "xyz"), "32 hexadecimal digits"),
    ]:
        refused = volume(gateway, *args, check=False)
        assert refused.returncode == 1 and words in refused.stderr, (args, refused.stderr)
    volume(gateway, "delete", "db", "--yes")
    gateway.drain()
    assert gateway.s3().list_objects_v2(Bucket="volumes")["KeyCount"] == 0
    assert json.loads(volume(gateway, "list", "--json").stdout) == []


def test_what_is_written_costs_few_objects(gateway):
    create(gateway, "db", "64 MiB")
    qemu_io(url(gateway, "db"), *(f"write -P {value} {value * 128}k 64k" for value in range(1, 200)))
    gateway.drain()
    keys = [item["Key"] for item in gateway.s3().list_objects_v2(Bucket="volumes")["Contents"]]
    assert 2 <= len(keys) <= 12, keys


def stored(gateway):
    pages = gateway.s3().get_paginator("list_objects_v2").paginate(Bucket="volumes")
    return sum(item["Size"] for page in pages for item in page.get("Contents", []))


def test_a_discard_shrinks_the_bucket(gateway, tmp_path):
    create(gateway, "db", "256 MiB")
    source = tmp_path / "source.img"
    source.write_bytes(os.urandom(96 * MIB))
    image("convert", "-n", "-f", "raw", "-O", "raw", source, url(gateway, "db"))
    gateway.drain()
    assert stored(gateway) > 96 * MIB
    # Most of it goes, and of every segment a little stays: this is written anew, and the segments go too.
    qemu_io(url(gateway, "db"), *(f"discard {mib}M 960k" for mib in range(96)))
    gateway.drain()
    until(lambda: stored(gateway) < 10 * MIB)
    qemu_io(url(gateway, "db"), *(f"read -P 0 {mib}M 960k" for mib in range(96)))
    raw = tmp_path / "export.raw"
    shown = json.loads(volume(gateway, "show", "db", "--json").stdout)
    volume(gateway, "export", shown["id"], str(raw))
    with open(raw, "rb") as exported, open(source, "rb") as original:
        for mib in range(96):
            exported.seek(mib * MIB + 960 * 1024)
            original.seek(mib * MIB + 960 * 1024)
            assert exported.read(64 * 1024) == original.read(64 * 1024), mib
    found = json.loads(volume(gateway, "collect", "--dry-run", "--json").stdout)
    assert found["unreferenced"] == 0 and found["objects"] > 0, found


def test_what_nothing_names_is_found_and_waits_a_day(gateway):
    create(gateway, "db", "64 MiB")
    qemu_io(url(gateway, "db"), "write -P 1 0 8M")
    gateway.drain()
    shown = json.loads(volume(gateway, "show", "db", "--json").stdout)
    stray = f"volumes/{shown['id']}/segments/{0:016x}-{7:016x}"
    gateway.s3().put_object(Bucket="volumes", Key=stray, Body=b"stray")
    for args in [("--dry-run",), (), ()]:
        found = json.loads(volume(gateway, "collect", "--json", *args).stdout)
        assert (found["unreferenced"], found["unreferenced_bytes"], found["removed"], found["keys"]) == (1, 5, 0, [stray]), found
    assert "named by nothing   1 objects" in volume(gateway, "collect", "--dry-run").stdout
    assert gateway.s3().head_object(Bucket="volumes", Key=stray)["ContentLength"] == 5


def test_a_volume_is_inspected_verified_and_exported_from_the_bucket_alone(gateway, tmp_path):
    create(gateway, "db", "64 MiB")
    source = tmp_path / "source.img"
    source.write_bytes(os.urandom(8 * MIB) + bytes(40 * MIB) + os.urandom(16 * MIB))
    image("convert", "-n", "-f", "raw", "-O", "raw", source, url(gateway, "db"))
    taken = json.loads(volume(gateway, "snapshot", "create", "db", "--wait", "--json").stdout)[0]
    qemu_io(url(gateway, "db"), "write -P 7 0 8M")
    gateway.drain()
    id_ = json.loads(volume(gateway, "show", "db", "--json").stdout)["id"]

    def look():
        found = json.loads(volume(gateway, "inspect", id_, "--json").stdout)
        assert (found["len_bytes"], found["mapped_bytes"], found["name"]) == (64 * MIB, 24 * MIB, "db"), found
        assert 16 * MIB < found["stored_bytes"] < 17 * MIB, found
        verified = volume(gateway, "verify", id_)
        assert f"{64 * MIB} bytes are as they should be" in verified.stdout
        for args, name in [((id_,), "now"), ((id_, "--snapshot", taken["id"]), "then")]:
            raw, qcow = tmp_path / f"{name}.raw", tmp_path / f"{name}.qcow2"
            volume(gateway, "export", *args, str(raw))
            volume(gateway, "export", *args, str(qcow), "--format", "qcow2")
            assert "identical" in image("compare", "-f", "raw", "-F", "qcow2", raw, qcow).stdout
        assert (tmp_path / "then.raw").read_bytes() == source.read_bytes()
        assert (tmp_path / "now.raw").read_bytes() == bytes([7]) * 8 * MIB + source.read_bytes()[8 * MIB:]
        refused = volume(gateway, "export", id_, str(tmp_path / "now.raw"), check=False)
        assert refused.returncode == 1 and "exists" in refused.stderr
        for exported in tmp_path.glob("*.raw"):
            exported.unlink()
        for exported in tmp_path.glob("*.qcow2"):
            exported.unlink()

    look()
    # Also where no gateway runs.
    gateway.stop()
    look()
    gateway.start()
    # What is damaged is found.
    s3 = gateway.s3()
    segments = s3.list_objects_v2(Bucket="volumes", Prefix=f"volumes/{id_}/segments/")["Contents"]
    key = segments[0]["Key"]
    body = bytearray(s3.get_object(Bucket="volumes", Key=key)["Body"].read())
    body[-1000] ^= 1
    s3.put_object(Bucket="volumes", Key=key, Body=bytes(body))
    for args in [(id_,), (id_, "--snapshot", taken["id"])]:
        done = volume(gateway, "verify", *args, check=False)
        if done.returncode:
            assert "cannot be read" in done.stderr and "bytes " in done.stdout, done
            break
    else:
        raise AssertionError("the damage was not found")


def test_a_clone_into_an_empty_gateway(gateway, make_gateway, tmp_path):
    create(gateway, "db", "64 MiB")
    qemu_io(url(gateway, "db"), "write -P 1 0 8M")
    taken = json.loads(volume(gateway, "snapshot", "create", "db", "--wait", "--json").stdout)[0]
    qemu_io(url(gateway, "db"), "write -P 2 4M 8M")
    gateway.drain()
    id_ = json.loads(volume(gateway, "show", "db", "--json").stdout)["id"]
    key, secret = gateway.keys()
    (tmp_path / "credentials").write_text(f"[default]\naws_access_key_id = {key}\naws_secret_access_key = {secret}\n")
    s3 = f'[volumes.s3]\nendpoint = "http://127.0.0.1:{gateway.s3_port}"\ncredentials_file = "{tmp_path}/credentials"\n'
    other = make_gateway(config=s3, shares={}).start()
    volume(other, "create", "then", "--from", id_, "--snapshot", taken["id"], "--size", "128 MiB")
    volume(other, "create", "now", "--from", id_)
    qemu_io(url(other, "then"), "read -P 1 0 8M", "read -P 0 8M 120M", "write -P 3 100M 1M")
    qemu_io(url(other, "now"), "read -P 1 0 4M", "read -P 2 4M 8M", "read -P 0 12M 52M", "write -P 4 0 1M")
    other.drain()
    # What the source does is its own, also where it takes back what the clones have.
    qemu_io(url(gateway, "db"), "discard 0 64M", "write -P 9 0 1M")
    volume(gateway, "snapshot", "delete", "db", taken["id"])
    gateway.drain()
    other.stop()
    other.start()
    qemu_io(url(other, "then"), "read -P 1 0 8M", "read -P 3 100M 1M")
    qemu_io(url(other, "now"), "read -P 4 0 1M", "read -P 1 1M 3M", "read -P 2 4M 8M")
    refused = volume(gateway, "delete", "db", "--yes", check=False)
    assert refused.returncode == 1 and "clones" in refused.stderr
    for clone in ("then", "now"):
        volume(other, "delete", clone, "--yes")
    volume(gateway, "delete", "db", "--yes")
    assert stored(gateway) == 0


def test_a_volume_answers_scsi_as_the_standard_says(gateway):
    """iscsi-test-cu (one process per suite) against a volume, as test_iscsi.py has it against disks in memory."""
    from test_iscsi import families, suite

    create(gateway, "db", "64 MiB")
    create(gateway, "large", "64 MiB", "--block", "4096")
    failed, passed = {}, 0
    for name in families():
        # It needs a unit that is read-only.
        if name == "ReadOnly":
            continue
        # See test_iscsi.py.
        path = url(gateway, "large" if name == "GetLBAStatus" else "db")
        good, bad, _, out = suite(name, *([path, path] if name == "MultipathIO" else [path]))
        passed += good
        if bad:
            failed[name] = out[-2000:]
    assert not failed, failed
    assert passed > 190, passed
