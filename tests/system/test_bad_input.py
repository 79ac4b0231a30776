"""Mistakes and missing things: one clear line each, and what can run runs."""

import os
import pathlib
import random
import shutil
import signal
import socket
import subprocess

import pytest

import nfs_client
from conftest import PROGRAM, REPOSITORY, SOAK, free_port, sh, until


def test_a_typo_is_told_with_file_line_and_field(make_gateway):
    gateway = make_gateway(config='[cache]\nsize = "big"')
    done = gateway.run("serve", check=False)
    assert done.returncode == 78
    line = gateway.config.read_text().splitlines().index('size = "big"') + 1
    assert f"tidegate.toml:{line}: cache.size:" in done.stderr, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_check_prints_what_is_in_force_and_every_mistake(make_gateway):
    gateway = make_gateway(shares={"good": 'bucket = "good"\n', "bad": 'bucket = "bad"\nuid = "x"\n'})
    done = gateway.run("check", check=False)
    assert done.returncode == 78
    assert 'bucket = "good"' in done.stdout and "[cache]" in done.stdout
    assert "bad.toml:2: uid:" in done.stderr


def test_a_bad_share_does_not_stop_a_good_one(make_gateway):
    gateway = make_gateway(shares={"demo": 'bucket = "demo"\n[fuse]\nmount = "mnt/demo"\n', "bad": "bucket = 5\n"}).start()
    (gateway.mount / "x").write_text("x")
    assert "bad.toml:1: bucket:" in gateway.log.read_text()


def test_shares_come_change_and_go_without_a_restart(gateway):
    shares = gateway.root / "shares"
    (shares / "more.toml").write_text('bucket = "more"\n[fuse]\nmount = "mnt/more"\n')
    until(lambda: os.path.ismount(gateway.root / "mnt/more"))
    (gateway.root / "mnt/more/x").write_text("x")
    (shares / "more.toml").write_text('bucket = "elsewhere"\n[fuse]\nmount = "mnt/more"\n')
    until(lambda: "cannot change" in gateway.log.read_text())
    assert (gateway.root / "mnt/more/x").read_text() == "x"
    (shares / "more.toml").write_text("bucket = \n")
    until(lambda: "more.toml:1" in gateway.log.read_text())
    assert (gateway.root / "mnt/more/x").read_text() == "x"
    (shares / "more.toml").unlink()
    until(lambda: not os.path.ismount(gateway.root / "mnt/more"))
    until(lambda: gateway.bucket("more") == {"x": 1})
    names = lambda: [share["name"] for share in gateway.status()["shares"]]
    until(lambda: names() == ["demo"])
    # The last file going is more likely a mistake than a wish.
    (shares / "demo.toml").unlink()
    until(lambda: "left alone" in gateway.log.read_text())
    assert os.path.ismount(gateway.mount)


def test_names_that_s3_or_posix_cannot_hold(gateway):
    mount = str(gateway.mount).encode()
    for name, errno in [(b"x" * 256, 36), (b"not-utf8-\xff", 84)]:
        with pytest.raises(OSError) as error:
            open(os.path.join(mount, name), "w")
        assert error.value.errno == errno, name


def test_a_port_in_use_is_one_line_and_the_rest_runs(make_gateway):
    gateway = make_gateway()
    with socket.create_server(("127.0.0.1", gateway.s3_port)):
        gateway.start()
        assert f"127.0.0.1:{gateway.s3_port}" in gateway.log.read_text()
        (gateway.mount / "x").write_text("x")
        gateway.drain()


def test_a_mount_point_in_use_is_one_line_and_the_rest_runs(make_gateway):
    gateway = make_gateway()
    gateway.mount.mkdir(parents=True)
    (gateway.mount / "precious").write_text("x")
    gateway.start()
    assert "not an empty directory" in gateway.log.read_text()
    assert gateway.status()["shares"][0]["state"] == "running"
    assert (gateway.mount / "precious").read_text() == "x"


def test_no_dev_fuse_is_one_line_and_the_rest_runs(make_gateway):
    # A mount namespace of its own, with a /dev that has no fuse.
    cover = "mount -t tmpfs none /dev && mknod -m 666 /dev/null c 1 3 && mknod -m 666 /dev/urandom c 1 9 && exec \"$@\""
    gateway = make_gateway(share='\n[nfs]\nsquash = "none"\n')
    gateway.prefix = ["unshare", "-m", "bash", "-c", cover, "bash"]
    gateway.start()
    # One line in the log; the summary of what is served says it once more.
    lines = [line for line in gateway.log.read_text().splitlines() if "/dev/fuse" in line and "ERROR" in line]
    assert len(lines) == 1 and "load the kernel's fuse module" in lines[0], gateway.log.read_text()
    share = gateway.status()["shares"][0]
    assert share["state"] == "running", share
    # The rest: the endpoint, and the share through NFS.
    client = nfs_client.Client(gateway.nfs_port)
    client.create(client.mount(), "made")
    gateway.drain()
    assert gateway.bucket() == {"made": 0}
    gateway.stop()


def test_a_dead_mount_of_a_crashed_gateway_is_cleared(gateway):
    gateway.kill()
    with pytest.raises(OSError):
        os.listdir(gateway.mount)
    gateway.start()
    assert os.listdir(gateway.mount) == []


def test_two_gateways_on_one_directory(gateway):
    done = gateway.run("serve", check=False)
    assert done.returncode == 1 and "another gateway" in done.stderr


@pytest.mark.parametrize("trouble", ["no endpoint", "no such bucket", "wrong keys"])
def test_trouble_with_s3_is_one_line_and_the_share_runs(make_gateway, trouble):
    endpoint = make_gateway().start()
    key, secret = endpoint.keys()
    port = free_port() if trouble == "no endpoint" else endpoint.s3_port
    if trouble != "no such bucket":
        endpoint.s3().create_bucket(Bucket="far")
    gateway = make_gateway(share="", shares={"demo": f'bucket = "far"\n[s3]\nendpoint = "http://127.0.0.1:{port}"\n[fuse]\nmount = "mnt/demo"\n'})
    gateway.start(env={"AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": "wrong" if trouble == "wrong keys" else secret})
    lines = [line for line in gateway.log.read_text().splitlines() if 'bucket "far"' in line]
    assert len(lines) == 1, gateway.log.read_text()
    assert os.path.ismount(gateway.mount)
    assert any("far" in notice for notice in gateway.status()["notices"])


def test_a_damaged_database_is_refused_and_left_alone(gateway):
    (gateway.mount / "x").write_text("x")
    gateway.stop()
    database = gateway.root / "tidegate-data/meta.db"
    garbage = os.urandom(20_000)
    database.write_bytes(garbage)
    done = gateway.run("serve", check=False)
    assert done.returncode == 1 and "meta.db" in done.stderr, done.stderr
    assert database.read_bytes() == garbage


@pytest.mark.parametrize("damage", ["page", "cut"])
def test_a_database_with_damage_inside_is_refused_and_left_alone(make_gateway, damage):
    """A page of zeros or of noise in its middle, or its end gone: never served from as if it were whole, nor changed."""
    gateway = make_gateway(share='upload_delay = "1h"').start()
    for number in range(300):
        path = gateway.mount / f"d{number % 7}/some file {number}"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"%d" % number)
    gateway.stop()
    data, pristine = gateway.root / "tidegate-data", gateway.root / "pristine"
    shutil.copytree(data, pristine)
    database = data / "meta.db"
    size = database.stat().st_size
    assert size > 20 * 4096 and not list(data.glob("meta.db-wal"))
    rng = random.Random(damage)
    refused = 0
    for round_ in range(40 if SOAK else 8):
        page = rng.randrange(1, size // 4096)
        with open(database, "r+b") as file:
            if damage == "cut":
                file.truncate(page * 4096 + rng.choice([0, 1, 2048]))
            else:
                file.seek(page * 4096)
                file.write(rng.choice([bytes(4096), rng.randbytes(4096)]))
        before, log = database.read_bytes(), sh("sha256sum cache/*", cwd=data).stdout
        gateway.log_offset = gateway.log.stat().st_size if gateway.log.exists() else 0
        gateway.start(wait=False)
        try:
            gateway.wait_until_ready()
        except AssertionError:
            said = gateway.log.read_text()[gateway.seen():]
            assert gateway.process.poll() == 1 and "meta.db" in said and len(said.strip().splitlines()) <= 3, said
            assert "--salvage" in said or "move it away" in said or "restore" in said, said
            assert database.read_bytes() == before and sh("sha256sum cache/*", cwd=data).stdout == log
            refused += 1
        else:
            # It was a page that nothing is in: then all is there.
            for number in range(300):
                assert (gateway.mount / f"d{number % 7}/some file {number}").read_bytes() == b"%d" % number, f"round {round_}, page {page}"
            gateway.kill()
            sh(f"umount -l {gateway.mount}", check=False)
        shutil.rmtree(data)
        shutil.copytree(pristine, data)
    print(f"{refused} refused")
    assert refused >= 4


def test_a_log_of_another_gateway_is_refused_and_left_alone(make_gateway):
    one, two = make_gateway().start(), make_gateway().start()
    for gateway in (one, two):
        (gateway.mount / "x").write_text("x")
        gateway.stop()
    sh(f"rm -r {one.root}/tidegate-data/cache && cp -r {two.root}/tidegate-data/cache {one.root}/tidegate-data/cache")
    before = sh(f"cd {one.root}/tidegate-data/cache && sha256sum *").stdout
    done = one.run("serve", check=False)
    assert done.returncode == 1, done.stderr
    assert f"{one.root}/tidegate-data/cache" in done.stderr and f"{one.root}/tidegate-data/meta.db" in done.stderr, done.stderr
    assert "another gateway" in done.stderr, done.stderr
    assert sh(f"cd {one.root}/tidegate-data/cache && sha256sum *").stdout == before


def test_the_compose_file_is_valid():
    sh("docker-compose -f compose.yaml config -q && docker-compose -f compose.yaml --profile external config -q", cwd=REPOSITORY)


def test_no_machine_specific_path_in_the_repository():
    done = sh("git grep -nE '/(home|root)/[a-z]' -- . ':!tests/system/test_bad_input.py' || true", cwd=REPOSITORY)
    assert done.stdout == ""
