"""Files on FUSE, side by side: Tidegate, s3fs, rclone, and passthrough_ll as the ceiling.

All in one run on one disk; the S3 peers use one endpoint (`tidegate s3`) through one proxy. Figures are medians over the passes (three; of reads from the local
cache three and seven times as many), which take turns, when what the row before left to upload is in S3; ratios are Tidegate's speed over the peer's, so above 1 is faster. What a row's operation survives, once it returned, differs by peer and stands beside it:
N nothing, P the process, L power loss (local disk), R it is in S3.
"""

import argparse
import configparser
import os
import pathlib
import random
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

arguments = argparse.ArgumentParser()
arguments.add_argument("--target", required=True)
arguments.add_argument("--quick", action="store_true", help="a tenth of the load, one pass: does it run at all")
arguments.add_argument("--latency-ms", type=int, default=0)
arguments.add_argument("--passes", type=int, default=3)
arguments.add_argument("--rows", default="", help="only rows whose name begins with one of these, by commas; later rows use earlier rows' files")
options = arguments.parse_args()
TARGET = pathlib.Path(options.target)
PASSES = 1 if options.quick else options.passes
SCALE = 10 if options.quick else 1
ROOT = pathlib.Path(tempfile.mkdtemp(prefix="tidegate-bench-", dir="/var/tmp"))
children = []


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(command, env=None, log="log.txt"):
    out = open(ROOT / log, "ab")
    process = subprocess.Popen(command, stdout=out, stderr=out, cwd=ROOT, env={**os.environ, **(env or {})})
    children.append(process)
    return process


def until(condition, what, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def answers(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Endpoint:
    """`tidegate s3` behind the latency proxy."""

    def __init__(self):
        port, self.port = free_port(), free_port()
        start([TARGET / "release/tidegate", "s3", "--dir", ROOT / "s3", "--listen", f"127.0.0.1:{port}"])
        until(lambda: answers(port), "the endpoint")
        start([TARGET / "release/examples/latency_proxy", f"127.0.0.1:{self.port}", f"127.0.0.1:{port}", str(options.latency_ms)])
        until(lambda: answers(self.port), "the proxy")
        parser = configparser.ConfigParser()
        parser.read(ROOT / "s3/credentials")
        self.key, self.secret = parser["default"]["aws_access_key_id"], parser["default"]["aws_secret_access_key"]
        self.url = f"http://127.0.0.1:{self.port}"
        self.env = {"AWS_ACCESS_KEY_ID": self.key, "AWS_SECRET_ACCESS_KEY": self.secret, "AWS_DEFAULT_REGION": "us-east-1"}
        import boto3

        self.client = boto3.client("s3", endpoint_url=self.url, region_name="us-east-1", aws_access_key_id=self.key, aws_secret_access_key=self.secret)

    def count(self, bucket):
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
        return sum(1 for page in pages for item in page.get("Contents", []) if not item["Key"].endswith("/") and ".tidegate/" not in item["Key"])


class Peer:
    s3 = True

    def __init__(self, endpoint):
        self.endpoint, self.mount = endpoint, ROOT / self.name / "mnt"
        self.mount.mkdir(parents=True)
        self.bucket = f"bench-{self.name}"
        if self.s3:
            endpoint.client.create_bucket(Bucket=self.bucket)
        self.open()

    def mounted(self):
        return os.path.ismount(self.mount)

    def settle(self):
        """Until nothing of the rows before is being uploaded: a row is not to pay for another."""
        self.drain()

    def close(self):
        subprocess.run(["umount", "-l", self.mount], check=False, stderr=subprocess.DEVNULL)
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(timeout=60)


class Tidegate(Peer):
    name, durability = "tidegate", {"": "P", "fsync": "L"}

    def open(self):
        home = ROOT / self.name
        (home / "shares").mkdir(exist_ok=True)
        admin = free_port()
        (home / "tidegate.toml").write_text(f'[admin]\nlisten = "127.0.0.1:{admin}"\n[s3]\nendpoint = "{self.endpoint.url}"\n[cache]\nsize = "4 GiB"\n')
        (home / "shares/bench.toml").write_text(f'bucket = "{self.bucket}"\n[fuse]\nmount = "mnt"\n')
        self.process = start([TARGET / "release/tidegate", "--config", home / "tidegate.toml", "serve"], self.endpoint.env)
        until(self.mounted, "tidegate's mount")

    def drain(self):
        subprocess.run([TARGET / "release/tidegate", "--config", ROOT / self.name / "tidegate.toml", "upload", "wait"], check=True)

    def forget(self):
        """An empty cache, as after a new start on another machine."""
        self.drain()
        self.close()
        shutil.rmtree(ROOT / self.name / "tidegate-data")
        self.open()


class S3fs(Peer):
    name, durability = "s3fs", {"": "R", "fsync": "R"}

    def open(self):
        password = ROOT / "s3fs.password"
        password.write_text(f"{self.endpoint.key}:{self.endpoint.secret}")
        password.chmod(0o600)
        self.process = start(["s3fs", self.bucket, self.mount, "-f", "-o", f"passwd_file={password},url={self.endpoint.url},use_path_request_style,use_cache={ROOT}/s3fs/cache,use_xattr"])
        until(self.mounted, "s3fs's mount")

    def drain(self):
        pass

    def forget(self):
        self.close()
        shutil.rmtree(ROOT / "s3fs/cache", ignore_errors=True)
        self.open()


class Rclone(Peer):
    name, durability = "rclone", {"": "N", "fsync": "N"}

    def open(self):
        # AWS_CA_BUNDLE with a plain endpoint makes rclone fail.
        env = {**self.endpoint.env, "AWS_CA_BUNDLE": ""}
        self.process = start(
            ["env", "-u", "AWS_CA_BUNDLE", "rclone", "mount", f":s3,provider=Other,env_auth=true,force_path_style=true,endpoint='{self.endpoint.url}':{self.bucket}", self.mount,
             "--vfs-cache-mode", "full", "--cache-dir", ROOT / "rclone/cache", "--config", ROOT / "rclone/none", "--vfs-write-back", "1s"], env,
        )
        until(self.mounted, "rclone's mount")

    def drain(self):
        until(lambda: self.endpoint.count(self.bucket) >= self.expected, "rclone's uploads", 600)

    def settle(self):
        files = sum(len(names) for _, _, names in os.walk(self.mount))
        until(lambda: self.endpoint.count(self.bucket) >= files, "rclone's uploads", 600)

    def forget(self):
        time.sleep(8)
        self.close()
        shutil.rmtree(ROOT / "rclone/cache", ignore_errors=True)
        self.open()


class Passthrough(Peer):
    name, durability, s3 = "passthrough", {"": "P", "fsync": "L"}, False

    def open(self):
        source = ROOT / "passthrough/source"
        source.mkdir(exist_ok=True)
        self.process = start(["passthrough_ll", "-f", "-o", f"source={source}", self.mount])
        until(self.mounted, "passthrough_ll's mount")

    def drain(self):
        pass

    def forget(self):
        pass


def drop_kernel_caches():
    os.sync()
    pathlib.Path("/proc/sys/vm/drop_caches").write_text("3")


def forget_pages(where):
    """The mount's pages of a file go; what its server keeps on the disk is in the kernel's cache: no disk, only the way through the server."""
    for wanted in (lambda file: file.read(), lambda file: os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)):
        with open(where, "rb") as file:
            wanted(file)


BLOCK = os.urandom(1 << 20)
# Small writes of a slow peer end after so long: what is printed is a rate.
LIMIT_S = 20


def create(peer, where, fsync):
    count = 500 // SCALE
    where.mkdir()
    begin = time.monotonic()
    for number in range(count):
        with open(where / str(number), "wb") as file:
            file.write(BLOCK[:4096])
            if fsync:
                file.flush()
                os.fsync(file.fileno())
    return count / (time.monotonic() - begin)


def write(peer, where, fsync=True):
    size = 256 // SCALE
    begin = time.monotonic()
    with open(where, "wb", buffering=0) as file:
        for _ in range(size):
            file.write(BLOCK)
        os.fsync(file.fileno())
    return size / (time.monotonic() - begin)


def read(peer, where):
    begin, size = time.monotonic(), 0
    with open(where, "rb", buffering=0) as file:
        while data := file.read(1 << 20):
            size += len(data)
    return size / (1 << 20) / (time.monotonic() - begin)


def small(peer, where, writing):
    """Each block once. A thousand reads would be over before the server's code is in the processor's caches: twenty times as many."""
    blocks = os.stat(where).st_size // 4096
    blocks = random.Random(1).sample(range(blocks), min(blocks, (1000 if writing else 20000) // SCALE))
    begin, done = time.monotonic(), 0
    with open(where, "r+b" if writing else "rb", buffering=0) as file:
        while done < len(blocks) and time.monotonic() < begin + LIMIT_S:
            file.seek(blocks[done] * 4096)
            done += 1
            if writing:
                file.write(BLOCK[:4096])
                os.fsync(file.fileno())
            else:
                file.read(4096)
    return done / (time.monotonic() - begin)


def listing(peer, where):
    begin = time.monotonic()
    count = sum(1 for entry in os.scandir(where) if entry.stat())
    return count / (time.monotonic() - begin)


def to_s3(peer, where):
    """Files a second until the last is in the bucket."""
    count = 500 // SCALE
    before = peer.endpoint.count(peer.bucket)
    peer.expected = before + count
    where.mkdir()
    begin = time.monotonic()
    for number in range(count):
        (where / str(number)).write_bytes(BLOCK[: 4096 + number])
    peer.drain()
    assert peer.endpoint.count(peer.bucket) >= before + count, (peer.name, before, peer.endpoint.count(peer.bucket))
    return count / (time.monotonic() - begin)


def rename(peer, where):
    begin = time.monotonic()
    os.rename(where, where.with_name(where.name + "-renamed"))
    os.listdir(where.with_name(where.name + "-renamed"))
    return 1 / (time.monotonic() - begin)


def rows():
    """Name, unit, durability key, turns in each pass (short rows that wait for the disk need many: its speed varies by half), and what
    to do; rows share files, so the order matters."""
    yield "create 4 KiB files", "files/s", "", 1, lambda peer, n: create(peer, peer.mount / f"create-{n}", False)
    yield "create 4 KiB files, fsync", "files/s", "fsync", 1, lambda peer, n: create(peer, peer.mount / f"synced-{n}", True)
    yield "write 256 MiB, fsync", "MiB/s", "fsync", 1, lambda peer, n: write(peer, peer.mount / f"large-{n}")
    yield "read 256 MiB, local cache", "MiB/s", None, 3, lambda peer, n: (drop_kernel_caches(), read(peer, peer.mount / f"large-{n}"))[1]
    yield "read 4 KiB at random, local cache", "reads/s", None, 7, lambda peer, n: (drop_kernel_caches(), small(peer, peer.mount / f"large-{n}", False))[1]
    yield "read 256 MiB, in memory below", "MiB/s", None, 7, lambda peer, n: (forget_pages(peer.mount / f"large-{n}"), read(peer, peer.mount / f"large-{n}"))[1]
    yield "read 4 KiB at random, in memory below", "reads/s", None, 7, lambda peer, n: (forget_pages(peer.mount / f"large-{n}"), small(peer, peer.mount / f"large-{n}", False))[1]
    yield "write 4 KiB at random, fsync each", "writes/s", "fsync", 1, lambda peer, n: small(peer, peer.mount / f"large-{n}", True)
    yield "list and stat, again", "entries/s", None, 3, lambda peer, n: (listing(peer, peer.mount / f"create-{n}"), listing(peer, peer.mount / f"create-{n}"))[1]
    yield "rename a directory of files", "1/s", "", 1, lambda peer, n: rename(peer, peer.mount / f"create-{n}")
    yield "4 KiB files until in S3", "files/s", "remote", 1, lambda peer, n: to_s3(peer, peer.mount / f"remote-{n}") if peer.s3 else None
    yield "read 256 MiB, empty cache", "MiB/s", None, 1, lambda peer, n: (peer.forget(), drop_kernel_caches(), read(peer, peer.mount / f"large-{n}"))[2] if peer.s3 else None


def main():
    endpoint = Endpoint()
    peers = [kind(endpoint) for kind in (Tidegate, S3fs, Rclone, Passthrough)]
    print(f"S3 latency {options.latency_ms} ms; median of {PASSES} in turns (local reads 3 and 7 times as many); ratio = tidegate / peer; durability N nothing, P process, L power loss, R in S3")
    header = f"{'':36} {'tidegate':>16}"
    for peer in peers[1:]:
        header += f" {peer.name:>16} {'ratio':>7}"
    print(header)
    slower = []
    for name, unit, key, turns, run in rows():
        if not name.startswith(tuple(options.rows.split(","))):
            continue
        figures = {peer.name: [] for peer in peers}
        for peer in peers:
            peer.settle()
        # Turn by turn, each beginning with another, so that the disk's moods meet all alike.
        for turn in range(PASSES if options.quick else PASSES * turns):
            first = turn % len(peers)
            for peer in peers[first:] + peers[:first]:
                try:
                    if figure := run(peer, turn % PASSES):
                        figures[peer.name].append(figure)
                except (OSError, AssertionError, subprocess.CalledProcessError) as error:
                    print(f"  {peer.name}: {name}: {error}")
        results = {peer: statistics.median(passes) if passes else None for peer, passes in figures.items()}
        level = lambda peer: "R" if key == "remote" else "" if key is None else peer.durability[key]
        ours = results["tidegate"]
        line = f"{name + ', ' + unit:36} {ours or 0:>14.0f} {level(peers[0]):1}"
        for peer in peers[1:]:
            theirs = results[peer.name]
            ratio = ours / theirs if ours and theirs else None
            line += f" {theirs or 0:>14.0f} {level(peer):1} {f'{ratio:.2f}' if ratio else '-':>7}"
            if ratio and ratio < 1 and peer.s3 and level(peer) == level(peers[0]):
                slower.append(f"{name}: {ratio:.2f} of {peer.name}")
        print(line, flush=True)
    print("slower than a peer of equal durability: " + ("; ".join(slower) or "none"))
    for peer in peers:
        peer.close()


signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
try:
    main()
finally:
    for child in children:
        if child.poll() is None:
            child.terminate()
            try:
                child.wait(timeout=20)
            except subprocess.TimeoutExpired:
                child.kill()
    for line in pathlib.Path("/proc/self/mountinfo").read_text().splitlines():
        if line.split()[4].startswith(str(ROOT)):
            subprocess.run(["umount", "-l", line.split()[4]], check=False)
    shutil.rmtree(ROOT, ignore_errors=True)
