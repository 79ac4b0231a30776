"""What an operator sees and types: shares, status, health, readiness, the endpoint alone, the examples; and what mends itself."""

import configparser
import errno
import json
import os
import pty
import select
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request

import boto3
import botocore.config
import pytest

from conftest import PROGRAM, REPOSITORY, free_port, sh, until


def listens(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def share_of(gateway, name="demo"):
    return next((share for share in gateway.status()["shares"] if share["name"] == name), None)


class Alone:
    """`tidegate s3`: the embedded endpoint as a program."""

    def __init__(self, directory, port):
        self.directory, self.port = directory, port
        command = [PROGRAM, "s3", "--dir", str(directory), "--listen", f"127.0.0.1:{port}"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.line = self.process.stdout.readline()

    def client(self):
        parser = configparser.ConfigParser()
        parser.read(self.directory / "credentials")
        keys = parser["default"]
        return boto3.client(
            "s3", endpoint_url=f"http://127.0.0.1:{self.port}", region_name="us-east-1",
            aws_access_key_id=keys["aws_access_key_id"], aws_secret_access_key=keys["aws_secret_access_key"],
            config=botocore.config.Config(retries={"max_attempts": 1}, s3={"addressing_style": "path"}),
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.code = self.process.wait(timeout=60)
        self.process.stdout.close()


def test_share_list_show_and_refresh(make_gateway):
    gateway = make_gateway(share='refresh = "1h"').start()
    (gateway.mount / "x").write_text("x" * 1000)
    gateway.drain()
    lines = gateway.run("share", "list").stdout.splitlines()
    assert lines[0].split()[:3] == ["SHARE", "STATE", "BUCKET"]
    assert lines[1].split()[:3] == ["demo", "running", "demo/"] and lines[1].endswith(str(gateway.mount)), lines
    [listed] = json.loads(gateway.run("share", "list", "--json").stdout)
    shown = json.loads(gateway.run("share", "show", "demo", "--json").stdout)
    assert shown == listed and shown["nodes"] == 2 and shown["dirty_bytes"] == 0 and shown["reason"] == ""
    text = gateway.run("share", "show", "demo").stdout
    assert "state        running" in text and "nodes        2" in text and "queue        0 (0 failing)" in text, text
    # Refresh looks now; without it the listing would be believed for an hour.
    gateway.s3().put_object(Bucket="demo", Key="from-afar", Body=b"1")
    assert os.listdir(gateway.mount) == ["x"]
    gateway.run("share", "refresh", "demo")
    until(lambda: sorted(os.listdir(gateway.mount)) == ["from-afar", "x"])
    for words in (["share", "show", "nobody"], ["share", "refresh", "nobody"]):
        done = gateway.run(*words, check=False)
        assert done.returncode == 1 and 'no share "nobody"' in done.stderr, done.stderr
    gateway.stop()
    done = gateway.run("share", "list", check=False)
    assert done.returncode == 1 and "is `tidegate serve` running" in done.stderr, done.stderr


@pytest.fixture
def failing_gateway(make_gateway, tmp_path):
    """A gateway whose keys were taken back, with a file to upload and a bad file of a share."""
    directory, port = tmp_path / "s3", free_port()
    share = f'bucket = "far"\nupload_delay = "0s"\n[s3]\nendpoint = "http://127.0.0.1:{port}"\n[fuse]\nmount = "mnt/demo"\n'
    gateway = make_gateway(shares={"demo": share, "bad": "bucket = 5\n"})
    with Alone(directory, port) as alone:
        alone.client().create_bucket(Bucket="far")
        keys = configparser.ConfigParser()
        keys.read(directory / "credentials")
        keys = keys["default"]
        gateway.start(env={"AWS_ACCESS_KEY_ID": keys["aws_access_key_id"], "AWS_SECRET_ACCESS_KEY": keys["aws_secret_access_key"]})
        assert os.listdir(gateway.mount) == []
    (directory / "credentials").unlink()
    with Alone(directory, port):
        (gateway.mount / "x").write_text("x" * 5000)
        until(lambda: share_of(gateway)["failing"] > 0, 60)
        yield gateway


def test_status_says_what_fails_and_why(failing_gateway):
    text = failing_gateway.run("status").stdout
    for words in ("segments free", "demo", "uploads: ", "failed", "notice: ", "bad.toml:1: bucket:"):
        assert words in text, (words, text)


def read_for(stream, seconds, enough):
    """What comes out of a stream until it is enough."""
    text, deadline = b"", time.monotonic() + seconds
    while not enough(text) and time.monotonic() < deadline:
        if select.select([stream], [], [], 0.1)[0]:
            try:
                text += os.read(stream.fileno() if hasattr(stream, "fileno") else stream, 65536)
            except OSError:
                break
    return text.decode(errors="replace")


def test_watching_without_a_terminal_is_plain_lines(failing_gateway):
    gateway = failing_gateway
    command = [PROGRAM, "--config", str(gateway.config), "status", "--watch"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as watching:
        text = read_for(watching.stdout, 20, lambda text: text.count(b"demo  ") >= 3 and text.count(b"failed") >= 2)
        assert text.count("demo  ") >= 3 and "\x1b" not in text, text
        assert "failed" in text and "notice: " in text and "bad.toml:1" in text, text
        watching.kill()
    # Who reads no more ends it, without a word.
    done = sh(f"{' '.join(command)} | head -1; echo ${{PIPESTATUS[0]}}", timeout=30)
    assert done.stdout.splitlines()[-1] == "0" and "panicked" not in done.stderr, done.stdout + done.stderr


def into_a_closed_pipe(run):
    """What `run` makes of a standard output that nobody reads any more."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        return run(writer)
    finally:
        os.close(writer)


TELLING = [
    "status", "status --json", "status --watch", "status --watch --json", "share list", "share list --json", "share show demo",
    "share show demo --json", "check",
]


def test_what_only_tells_ends_quietly_when_nobody_reads(gateway):
    for words in TELLING:
        command = [PROGRAM, "--config", str(gateway.config), *words.split()]
        # The watch writes again each second, and learns of it then.
        done = into_a_closed_pipe(lambda out: subprocess.run(command, stdout=out, stderr=subprocess.PIPE, text=True, timeout=60))
        assert (done.returncode, done.stderr) == (0, ""), (words, done)
        piped = sh(f"{' '.join(command)} | head -1 | wc -l; echo ${{PIPESTATUS[0]}}")
        assert (piped.stdout.split(), piped.stderr) == (["1", "0"], ""), (words, piped)
        # That there is no room is another thing than that nobody reads.
        with open("/dev/full", "w") as full:
            if "--watch" not in words:
                done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
                assert done.returncode == 1 and "standard output: No space left" in done.stderr, (words, done)


def test_a_gateway_works_and_ends_well_when_nobody_reads_what_it_says(make_gateway):
    """`tidegate serve 2>&1 | tee log`, and the terminal's interrupt ends the tee first."""
    gateway = make_gateway()
    command = [PROGRAM, "--config", str(gateway.config), "serve"]
    gateway.process = into_a_closed_pipe(lambda out: subprocess.Popen(command, stdout=out, stderr=out, cwd=gateway.root))
    until(lambda: os.path.ismount(gateway.mount))
    (gateway.mount / "x").write_text("x")
    gateway.drain()
    assert gateway.bucket() == {"x": 1}
    gateway.log.touch()
    gateway.stop()


def test_watching_as_json_is_a_document_a_line(failing_gateway):
    command = [PROGRAM, "--config", str(failing_gateway.config), "status", "--watch", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as watching:
        text = read_for(watching.stdout, 20, lambda text: text.count(b"\n") >= 2)
        watching.kill()
    documents = [json.loads(line) for line in text.splitlines()[:2]]
    for document in documents:
        assert document["shares"][0]["name"] == "demo" and document["shares"][0]["failing"] >= 1
        assert any("bad.toml" in notice for notice in document["notices"])


def test_watching_on_a_terminal_shows_errors_and_notices(failing_gateway):
    ours, theirs = pty.openpty()
    sh(f"stty -F {os.ttyname(theirs)} cols 300 rows 50")
    command = [PROGRAM, "--config", str(failing_gateway.config), "status", "--watch"]
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env={**os.environ, "TERM": "xterm"}) as watching:
        wanted = (b"demo", b"failed", b"bad.toml:1")
        text = read_for(ours, 20, lambda text: all(words in text for words in wanted))
        watching.kill()
    os.close(theirs)
    os.close(ours)
    assert all(words.decode() in text for words in wanted), text


def test_healthz_names_what_failed(make_gateway):
    gateway = make_gateway().start()
    ask = lambda: urllib.request.urlopen(f"http://127.0.0.1:{gateway.admin_port}/healthz", timeout=30)
    with ask() as answer:
        assert (answer.status, answer.read()) == (200, b"ok\n")
    gateway.stop()
    file = gateway.root / "shares/demo.toml"
    file.write_text(file.read_text().replace('"demo"', '"elsewhere"', 1))
    gateway.start()
    with pytest.raises(urllib.error.HTTPError) as error:
        ask()
    assert error.value.code == 503
    body = error.value.read().decode()
    assert body.startswith("demo: ") and "demo.toml:1: bucket:" in body, body


def test_systemd_is_told_of_readiness_and_of_the_end(make_gateway):
    gateway = make_gateway()
    path = gateway.root / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(path))
        manager.settimeout(60)
        gateway.start(wait=False, env={"NOTIFY_SOCKET": str(path)})
        assert b"READY=1" in manager.recv(4096)
        # Ready means ready: the share is there.
        assert os.path.ismount(gateway.mount)
        gateway.process.send_signal(signal.SIGTERM)
        assert b"STOPPING=1" in manager.recv(4096)
        assert gateway.process.wait(timeout=60) == 0


def test_the_endpoint_alone(tmp_path):
    directory, port = tmp_path / "s3", free_port()
    with Alone(directory, port) as alone:
        assert f"http://127.0.0.1:{port}" in alone.line and str(directory / "credentials") in alone.line
        assert os.stat(directory / "credentials").st_mode & 0o777 == 0o600
        client = alone.client()
        client.create_bucket(Bucket="alone")
        client.put_object(Bucket="alone", Key="a/b", Body=b"kept")
        taken = subprocess.run(
            [PROGRAM, "s3", "--dir", str(tmp_path / "other"), "--listen", f"127.0.0.1:{port}"], capture_output=True, text=True, timeout=60
        )
        assert taken.returncode == 1 and "choose another --listen" in taken.stderr, taken.stderr
        twice = subprocess.run(
            [PROGRAM, "s3", "--dir", str(directory), "--listen", f"127.0.0.1:{free_port()}"], capture_output=True, text=True, timeout=60
        )
        assert twice.returncode == 1 and "another process" in twice.stderr, twice.stderr
    assert alone.code == 0
    with Alone(directory, port) as alone:
        assert alone.client().get_object(Bucket="alone", Key="a/b")["Body"].read() == b"kept"


def test_every_example_passes_check(tmp_path):
    shutil.copy(REPOSITORY / "examples/external.toml", tmp_path / "tidegate.toml")
    (tmp_path / "shares").mkdir()
    examples = sorted(path for path in (REPOSITORY / "examples").glob("*.toml") if path.name != "external.toml")
    assert examples
    for path in [*examples, REPOSITORY / "shares/demo.toml"]:
        shutil.copy(path, tmp_path / "shares" / path.name)
    done = subprocess.run([PROGRAM, "--config", str(tmp_path / "tidegate.toml"), "check"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    for path in examples:
        assert f"# shares/{path.name}" in done.stdout
    # What is in force, also where nobody said it.
    cache = done.stdout.split("[cache]", 1)[1].split("[s3]", 1)[0]
    assert "\nsize = " in cache, cache


def test_a_mount_is_tried_again_until_it_works(make_gateway):
    gateway = make_gateway()
    gateway.mount.mkdir(parents=True)
    (gateway.mount / "precious").write_text("x")
    gateway.start()
    until(lambda: "not an empty directory" in share_of(gateway)["reason"] and "tried again" in share_of(gateway)["reason"])
    (gateway.mount / "precious").unlink()
    until(lambda: os.path.ismount(gateway.mount), 60)
    until(lambda: share_of(gateway)["reason"] == "")
    (gateway.mount / "x").write_text("x")
    # Somebody takes it away.
    sh(f"umount {gateway.mount}")
    assert not os.path.ismount(gateway.mount)
    until(lambda: os.path.ismount(gateway.mount), 60)
    assert (gateway.mount / "x").read_text() == "x"
    until(lambda: share_of(gateway)["reason"] == "" and share_of(gateway)["mount"] == str(gateway.mount))


def test_an_address_is_tried_again_until_it_is_free(make_gateway):
    gateway = make_gateway()
    with socket.create_server(("127.0.0.1", gateway.s3_port)), socket.create_server(("127.0.0.1", gateway.nfs_port)):
        gateway.start()
        notices = gateway.status()["notices"]
        for port in (gateway.s3_port, gateway.nfs_port):
            assert any(f"127.0.0.1:{port}" in notice and "cannot listen" in notice for notice in notices), notices
        (gateway.mount / "x").write_text("x")
    until(lambda: gateway.status()["notices"] == [], 60)
    assert listens(gateway.s3_port)
    gateway.drain()
    assert gateway.bucket() == {"x": 1}
    assert listens(gateway.nfs_port)


def test_the_first_share_on_the_embedded_endpoint_needs_no_restart(make_gateway):
    gateway = make_gateway(config=f'[s3]\nendpoint = "http://127.0.0.1:{free_port()}"\n', shares={}).start()
    assert not listens(gateway.s3_port)
    share = 'bucket = "demo"\n[s3]\nendpoint = "embedded"\n[fuse]\nmount = "mnt/demo"\n'
    (gateway.root / "shares/demo.toml").write_text(share)
    until(lambda: os.path.ismount(gateway.mount) and listens(gateway.s3_port))
    (gateway.mount / "x").write_text("x")
    gateway.drain()
    assert gateway.bucket() == {"x": 1}


def test_notices_are_replaced_and_go_when_they_are_mended(make_gateway, tmp_path):
    port = free_port()
    with Alone(tmp_path / "s3", port):
        pass
    share = (
        f'bucket = "far"\n[s3]\nendpoint = "http://127.0.0.1:{port}"\ncredentials_file = "{tmp_path}/s3/credentials"\n'
        '[fuse]\nmount = "mnt/demo"\n'
    )
    gateway = make_gateway(shares={"demo": share, "bad": "bucket = 5\n"}).start()
    notices = lambda: gateway.status()["notices"]
    until(lambda: len(notices()) == 2)
    bad = gateway.root / "shares/bad.toml"
    for number in range(1, 6):
        bad.write_text("\n" * number + "bucket = 5\n")
        until(lambda: any(f"bad.toml:{number + 1}:" in notice for notice in notices()))
        assert len([notice for notice in notices() if "bad.toml" in notice]) == 1
    bad.write_text('bucket = "good"\n')
    until(lambda: not any("bad.toml" in notice for notice in notices()))
    assert any('bucket "far"' in notice for notice in notices()), notices()
    with Alone(tmp_path / "s3", port) as alone:
        alone.client().create_bucket(Bucket="far")
        until(lambda: not any('bucket "far"' in notice for notice in notices()), 90)
        (gateway.mount / "x").write_text("x")
        gateway.drain()
        assert alone.client().get_object(Bucket="far", Key="x")["Body"].read() == b"x"


@pytest.fixture
def small_disk(make_gateway):
    """A gateway whose data directory, with cache and buckets, is on a disk of 200 MiB."""
    gateway = make_gateway(config='[cache]\nsize = "64 MiB"\nwait = "1s"\n', share='upload_delay = "0s"')
    data = gateway.root / "tidegate-data"
    data.mkdir()
    sh(f"mount -t tmpfs -o size=200m tmpfs {data}")
    yield gateway, data
    if gateway.process and gateway.process.poll() is None:
        gateway.process.terminate()
        gateway.process.wait(timeout=60)


def free_bytes(path):
    disk = os.statvfs(path)
    return disk.f_bavail * disk.f_frsize


def test_below_the_floor_shares_are_read_only_say_so_and_heal(small_disk):
    gateway, data = small_disk
    gateway.start()
    (gateway.mount / "before").write_text("kept")
    (gateway.mount / "cut").write_text("12345")
    (gateway.mount / "goes").write_bytes(os.urandom(4 << 20))
    (gateway.mount / "empty").mkdir()
    gateway.drain()
    open(data / "filler", "w").close()
    fill = lambda: os.posix_fallocate(filler, 0, os.fstat(filler).st_size + free_bytes(data) - (1 << 20))
    filler = os.open(data / "filler", os.O_WRONLY)
    fill()
    until(lambda: share_of(gateway)["state"] == "read-only")
    for act in (
        lambda: (gateway.mount / "new").write_text("x"),
        lambda: (gateway.mount / "before").write_text("x"),
        lambda: os.truncate(gateway.mount / "cut", 10),
        lambda: os.rename(gateway.mount / "before", gateway.mount / "after"),
        lambda: (gateway.mount / "directory").mkdir(),
    ):
        with pytest.raises(OSError) as error:
            act()
        assert error.value.errno == errno.EROFS
    assert (gateway.mount / "before").read_text() == "kept"
    # What gives room back is done.
    (gateway.mount / "goes").unlink()
    (gateway.mount / "empty").rmdir()
    os.truncate(gateway.mount / "cut", 2)
    assert sorted(os.listdir(gateway.mount)) == ["before", "cut"]
    text = gateway.run("status").stdout
    for words in ("read-only", str(data), "are free there", "delete something"):
        assert words in text, text
    # A start on the full disk is no other.
    gateway.kill()
    gateway.start()
    until(lambda: share_of(gateway)["state"] == "read-only")
    assert (gateway.mount / "before").read_text() == "kept"
    os.close(filler)
    (data / "filler").unlink()
    until(lambda: share_of(gateway)["state"] == "running")
    assert gateway.status()["notices"] == []
    (gateway.mount / "after").write_text("healed")
    gateway.drain()
    assert gateway.bucket() == {"before": 4, "after": 6, "cut": 2}


def test_a_disk_that_fills_up_loses_nothing_that_was_acknowledged(small_disk):
    gateway, data = small_disk
    gateway.start()
    block = os.urandom(1 << 20)
    kept, refused = [], None
    for number in range(400):
        name = f"{number:04}"
        try:
            with open(gateway.mount / name, "wb") as file:
                file.write(name.encode() + block)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            refused = error.errno
            break
        kept.append(name)
    assert refused in (errno.ENOSPC, errno.EROFS), refused
    assert len(kept) > 80
    # A request to S3 is tried for a minute before it counts as failed.
    until(lambda: "nearly full" in gateway.run("status").stdout, 120)
    whole = lambda: [name for name in kept if (gateway.mount / name).read_bytes() != name.encode() + block]
    assert whole() == []
    gateway.kill()
    gateway.start()
    assert whole() == []
    sh(f"mount -o remount,size=600m {data}")
    until(lambda: share_of(gateway)["state"] == "running")
    gateway.drain()
    objects = gateway.bucket()
    assert {name: objects.get(name) for name in kept} == {name: 4 + len(block) for name in kept}
    (gateway.mount / "after").write_text("healed")
