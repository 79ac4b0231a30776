"""A real gateway per test: its own directory, ports and mount point; stopped by its own pid.

The program is $TIDEGATE (tests/run builds it). Tests here drive it as its users do: through the mount, the command line and S3.
"""

import configparser
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import tempfile
import time

import boto3
import botocore.config
import pytest

PROGRAM = os.environ.get("TIDEGATE", str(pathlib.Path(__file__).parents[2] / "target/release/tidegate"))
SOAK = os.environ.get("TIDEGATE_SOAK") == "1"
REPOSITORY = pathlib.Path(__file__).parents[2]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Gateway:
    """One gateway in a directory of its own."""

    def __init__(self, root, config="", share="", shares=None, nfs=None, smb='encryption = "client"', prefix=(), view=""):
        """`nfs`: [nfs] of the gateway; `smb`: what its [smb] says besides the address; `prefix`: words before the program's, as of nsenter; `view`: where its mounts are seen, if not from here."""
        self.root = pathlib.Path(root)
        self.s3_port, self.admin_port, self.nfs_port, self.smb_port, self.iscsi_port = (free_port() for _ in range(5))
        self.process = None
        self.prefix, self.view = list(prefix), view
        self.nfs = nfs or f'listen = ["127.0.0.1:{self.nfs_port}"]\nrpcbind = false'
        self.smb = f'listen = ["127.0.0.1:{self.smb_port}"]\n{smb}'
        (self.root / "shares").mkdir(parents=True, exist_ok=True)
        self.write_config(config)
        shares = shares if shares is not None else {"demo": 'bucket = "demo"\n' + share + '\n[fuse]\nmount = "mnt/demo"\n'}
        for name, text in shares.items():
            (self.root / "shares" / f"{name}.toml").write_text(text)

    def write_config(self, extra=""):
        self.config = self.root / "tidegate.toml"
        self.config.write_text(
            f'[embedded]\nlisten = "127.0.0.1:{self.s3_port}"\n[admin]\nlisten = "127.0.0.1:{self.admin_port}"\n'
            f'[nfs]\n{self.nfs}\n[smb]\n{self.smb}\n[iscsi]\nlisten = ["127.0.0.1:{self.iscsi_port}"]\n{extra}\n'
        )

    @property
    def mount(self):
        return pathlib.Path(f"{self.view}{self.root}/mnt/demo")

    @property
    def log(self):
        return self.root / "log.txt"

    def start(self, wait=True, env=None):
        self.out = open(self.log, "ab")
        self.process = subprocess.Popen(
            [*self.prefix, PROGRAM, "--config", str(self.config), "serve"],
            stdout=self.out, stderr=self.out, cwd=self.root, env={**os.environ, **(env or {})},
        )
        if wait:
            self.wait_until_ready()
        return self

    def wait_until_ready(self, seconds=60):
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise AssertionError(f"the gateway ended with {self.process.returncode}:\n{self.log.read_text()}")
            if b"is running" in self.log.read_bytes()[self.seen():]:
                return
            time.sleep(0.02)
        raise AssertionError(f"not ready after {seconds} s:\n{self.log.read_text()}")

    def seen(self):
        return getattr(self, "log_offset", 0)

    def stop(self, expect=0):
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(timeout=60)
        self.log_offset = self.log.stat().st_size
        assert code == expect, f"exit code {code}:\n{self.log.read_text()[-4000:]}"

    def kill(self):
        """SIGKILL: what a crash of the process leaves."""
        self.process.kill()
        self.process.wait(timeout=60)
        self.log_offset = self.log.stat().st_size

    def cleanup(self):
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(timeout=30)
        for line in pathlib.Path("/proc/self/mountinfo").read_text().splitlines():
            point = line.split()[4]
            if point.startswith(str(self.root)):
                subprocess.run(["umount", "-l", point], check=False)
        # TIDEGATE_KEEP=1 leaves the directory of every gateway, to look into after a failure.
        if os.environ.get("TIDEGATE_KEEP") != "1":
            shutil.rmtree(self.root, ignore_errors=True)

    def run(self, *args, check=True, timeout=300, **options):
        done = subprocess.run(
            [*self.prefix, PROGRAM, "--config", str(self.config), *args], capture_output=True, text=True, timeout=timeout, cwd=self.root, **options
        )
        if check:
            assert done.returncode == 0, f"{args}: {done.returncode}: {done.stderr}"
        return done

    def status(self):
        return json.loads(self.run("status", "--json").stdout)

    def drain(self, timeout="300s"):
        self.run("upload", "wait", "--timeout", timeout, timeout=600)

    def keys(self):
        parser = configparser.ConfigParser()
        parser.read(self.root / "tidegate-data/s3/credentials")
        return parser["default"]["aws_access_key_id"], parser["default"]["aws_secret_access_key"]

    def s3(self):
        key, secret = self.keys()
        return boto3.client(
            "s3", endpoint_url=f"http://127.0.0.1:{self.s3_port}", region_name="us-east-1",
            aws_access_key_id=key, aws_secret_access_key=secret,
            config=botocore.config.Config(retries={"max_attempts": 1}, s3={"addressing_style": "path"}),
        )

    def bucket(self, name="demo"):
        """Every key of a bucket that is not Tidegate's own, with its size."""
        found = {}
        for page in self.s3().get_paginator("list_objects_v2").paginate(Bucket=name):
            for item in page.get("Contents", []):
                if not item["Key"].startswith(".tidegate/"):
                    found[item["Key"]] = item["Size"]
        return found

    def requests(self):
        """Requests to S3 by kind, as the meter counted them."""
        import urllib.request

        text = urllib.request.urlopen(f"http://127.0.0.1:{self.admin_port}/metrics", timeout=30).read().decode()
        counts = {}
        for line in text.splitlines():
            if line.startswith("tidegate_s3_requests_total{"):
                labels, value = line.rsplit(" ", 1)
                kind = labels.split('kind="', 1)[1].split('"', 1)[0]
                counts[kind] = counts.get(kind, 0) + int(float(value))
        return counts


@pytest.fixture
def make_gateway():
    made = []

    def make(**options):
        # Not /tmp, which may be in memory: flushes must mean something.
        root = tempfile.mkdtemp(prefix="tidegate-test-", dir="/var/tmp")
        # Tests act as other users too.
        os.chmod(root, 0o755)
        gateway = Gateway(root, **options)
        made.append(gateway)
        return gateway

    yield make
    for gateway in made:
        gateway.cleanup()


@pytest.fixture
def gateway(make_gateway):
    return make_gateway().start()


def until(condition, seconds=90):
    """Waits for it: longer than the gateway's own intervals. How many seconds it took."""
    begin = time.monotonic()
    while not condition():
        assert time.monotonic() < begin + seconds, "did not happen in time"
        time.sleep(0.1)
    return time.monotonic() - begin


def sh(command, cwd=None, timeout=600, check=True, env=None):
    done = subprocess.run(
        ["bash", "-c", command], cwd=cwd, capture_output=True, text=True, timeout=timeout, env={**os.environ, **(env or {})}
    )
    if check:
        assert done.returncode == 0, f"{command}: exit {done.returncode}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done
