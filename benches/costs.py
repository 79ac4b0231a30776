"""What Tidegate costs: S3 requests and bytes per workload, memory per million names, time to serve after a crash.

No peer publishes these, so there is no ratio: each line is a figure and what it was measured on. The gateway is a real one with its
embedded endpoint; where a million objects are needed, a stand-in for S3 in this file lists them.
"""

import argparse
import http.server
import os
import pathlib
import random
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
import urllib.request

arguments = argparse.ArgumentParser()
arguments.add_argument("--target", required=True)
arguments.add_argument("--quick", action="store_true", help="a tenth of the load: does it run at all")
options = arguments.parse_args()
os.environ["TIDEGATE"] = str(pathlib.Path(options.target) / "release/tidegate")
sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "tests/system"))
from conftest import Gateway  # noqa: E402

SCALE = 10 if options.quick else 1
MIB = 1 << 20


def metric(gateway, name, **labels):
    text = urllib.request.urlopen(f"http://127.0.0.1:{gateway.admin_port}/metrics", timeout=30).read().decode()
    lines = [line for line in text.splitlines() if line.startswith(name + "{") and all(f'{k}="{v}"' in line for k, v in labels.items())]
    return sum(int(float(line.rsplit(" ", 1)[1])) for line in lines)


def memory_bytes(gateway):
    status = pathlib.Path(f"/proc/{gateway.process.pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) * 1024


class Cost:
    """Requests and bytes sent to S3 from here until the queue is empty."""

    def __init__(self, gateway, what, changed_bytes=None):
        self.gateway, self.what, self.changed_bytes = gateway, what, changed_bytes

    def __enter__(self):
        self.gateway.drain()
        self.requests, self.sent = self.gateway.requests(), metric(self.gateway, "tidegate_s3_bytes_total", direction="up")
        return self

    def __exit__(self, *failed):
        self.gateway.drain()
        after = self.gateway.requests()
        spent = {kind: after[kind] - self.requests.get(kind, 0) for kind in after if after[kind] != self.requests.get(kind, 0)}
        sent = metric(self.gateway, "tidegate_s3_bytes_total", direction="up") - self.sent
        line = f"{self.what}: " + (", ".join(f"{count} {kind}" for kind, count in sorted(spent.items())) or "no request")
        if self.changed_bytes:
            line += f"; {sent / self.changed_bytes:.2f} bytes sent per byte changed"
        print(line, flush=True)


def workloads(gateway):
    mount, count = gateway.mount, 1000 // SCALE
    with Cost(gateway, f"{count} new files of 4 KiB", count * 4096):
        (mount / "tree").mkdir()
        for number in range(count):
            (mount / f"tree/{number}").write_bytes(os.urandom(4096))
    with Cost(gateway, f"list and read the {count} again"):
        for name in os.listdir(mount / "tree"):
            (mount / "tree" / name).read_bytes()
    with Cost(gateway, f"chmod of the {count}"):
        for number in range(count):
            os.chmod(mount / f"tree/{number}", 0o600)
    with Cost(gateway, f"rename of a directory with the {count}"):
        os.rename(mount / "tree", mount / "moved")
    with Cost(gateway, f"removal of the {count}"):
        shutil.rmtree(mount / "moved")
    size = 1024 // SCALE * MIB
    with Cost(gateway, f"a file of {size // MIB} MiB", size):
        with open(mount / "large", "wb") as file:
            for _ in range(size // MIB):
                file.write(os.urandom(MIB))
    with Cost(gateway, f"4 KiB changed in it", 4096):
        with open(mount / "large", "r+b") as file:
            file.seek(size // 2)
            file.write(os.urandom(4096))
    with Cost(gateway, f"16 MiB appended to it", 16 * MIB):
        with open(mount / "large", "ab") as file:
            file.write(os.urandom(16 * MIB))
    with Cost(gateway, "100 times 4 KiB at random in it", 100 * 4096):
        with open(mount / "large", "r+b") as file:
            for _ in range(100):
                file.seek(random.randrange(size // 4096) * 4096)
                file.write(os.urandom(4096))
    with Cost(gateway, "a git clone", None):
        subprocess.run(["git", "clone", "-q", "--no-local", pathlib.Path(__file__).parents[1], mount / "clone"], check=True)


def crash(gateway, cache_mib):
    """A log full of bytes that are nowhere else, the plug pulled, and the time until the mount serves again."""
    written = 0
    shutil.rmtree(gateway.mount / "clone", ignore_errors=True)
    for number in range(cache_mib // 16 * 3 // 4):
        with open(gateway.mount / f"full-{number}", "wb", buffering=0) as file:
            file.write(os.urandom(16 * MIB))
            os.fsync(file.fileno())
        written += 16
    gateway.kill()
    begin = time.monotonic()
    gateway.start()
    while not (gateway.mount / "full-0").exists():
        time.sleep(0.005)
    print(f"to serve again after a crash with {written} MiB written and fsynced just before: {time.monotonic() - begin:.2f} s", flush=True)


class Listing(http.server.BaseHTTPRequestHandler):
    """An S3 of one bucket that lists `names` objects in directories of a thousand, and keeps what is put into it."""

    protocol_version = "HTTP/1.1"
    names, kept, lists = 1_000_000, {}, 0

    def log_message(self, *_):
        pass

    def answer(self, code, body=b"", **headers):
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if "Content_Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def key(self):
        path, _, query = self.path.partition("?")
        parts = urllib.parse.unquote(path).lstrip("/").split("/", 1)
        return parts[1] if len(parts) > 1 else "", dict(urllib.parse.parse_qsl(query, keep_blank_values=True))

    def do_PUT(self):
        key, _ = self.key()
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if key in self.kept and self.headers.get("If-None-Match"):
            return self.answer(412, b"<Error><Code>PreconditionFailed</Code></Error>")
        self.kept[key] = body
        self.answer(200, ETag='"00000000000000000000000000000000"')

    def do_DELETE(self):
        self.kept.pop(self.key()[0], None)
        self.answer(204)

    def do_POST(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.answer(501, b"<Error><Code>NotImplemented</Code></Error>")

    def do_HEAD(self):
        key, _ = self.key()
        if key == "" or key in self.kept:
            return self.answer(200, Content_Length=str(len(self.kept.get(key, b""))), ETag='"00000000000000000000000000000000"', Last_Modified="Sat, 01 Jan 2022 00:00:00 GMT")
        self.answer(404)

    def do_GET(self):
        key, query = self.key()
        if key or "list-type" not in query:
            return self.answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
        type(self).lists += 1
        prefix, after = query.get("prefix", ""), query.get("continuation-token", "")
        directories = self.names // 1000
        contents = prefixes = ""
        token = ""
        if prefix == "":
            first = int(after) if after else 0
            last = min(first + 1000, directories)
            prefixes = "".join(f"<CommonPrefixes><Prefix>{number:06}/</Prefix></CommonPrefixes>" for number in range(first, last))
            token = str(last) if last < directories else ""
        elif re.fullmatch(r"\d{6}/", prefix):
            contents = "".join(
                f"<Contents><Key>{prefix}{number:06}</Key><LastModified>2022-01-01T00:00:00.000Z</LastModified>"
                f"<ETag>&quot;{number:032x}&quot;</ETag><Size>{number}</Size><StorageClass>STANDARD</StorageClass></Contents>"
                for number in range(1000)
            )
        truncated = "true" if token else "false"
        more = f"<NextContinuationToken>{token}</NextContinuationToken>" if token else ""
        body = (
            '<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>many</Name>'
            f"<Prefix>{prefix}</Prefix><Delimiter>/</Delimiter><MaxKeys>1000</MaxKeys><IsTruncated>{truncated}</IsTruncated>{more}{contents}{prefixes}</ListBucketResult>"
        )
        self.answer(200, body.encode(), Content_Type="application/xml")


def million(root):
    Listing.names //= SCALE
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Listing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    keys = {"AWS_ACCESS_KEY_ID": "bench", "AWS_SECRET_ACCESS_KEY": "bench-secret"}
    gateway = Gateway(root / "million", config=f'[s3]\nendpoint = "http://127.0.0.1:{server.server_address[1]}"\n', share='refresh = "1h"\n')
    try:
        gateway.start(env=keys)
        empty = memory_bytes(gateway)
        begin = time.monotonic()
        # Names only: `find` without -ls, as a backup's first walk.
        found = int(subprocess.run(f"find {gateway.mount} -type f | wc -l", shell=True, capture_output=True, text=True, check=True).stdout)
        took = time.monotonic() - begin
        print(f"first walk of {found} names: {took:.1f} s, {Listing.lists} LIST, gateway's memory {empty / MIB:.0f} -> {memory_bytes(gateway) / MIB:.0f} MiB", flush=True)
        before, begin = Listing.lists, time.monotonic()
        gateway.run("share", "refresh", "demo", timeout=3600)
        print(f"refresh of the {found} unchanged: {time.monotonic() - begin:.1f} s, {Listing.lists - before} LIST, memory {memory_bytes(gateway) / MIB:.0f} MiB", flush=True)
        begin = time.monotonic()
        subprocess.run(["find", gateway.mount, "-type", "f"], stdout=subprocess.DEVNULL, check=True)
        print(f"walk again: {time.monotonic() - begin:.1f} s", flush=True)
        gateway.stop()
        begin = time.monotonic()
        gateway.start(env=keys)
        print(f"start with {found} names known: {time.monotonic() - begin:.2f} s, memory {memory_bytes(gateway) / MIB:.0f} MiB", flush=True)
    finally:
        gateway.cleanup()
        server.shutdown()


def main():
    root = pathlib.Path(tempfile.mkdtemp(prefix="tidegate-bench-", dir="/var/tmp"))
    cache_mib = 2048 // SCALE
    gateway = Gateway(root / "costs", config=f'[cache]\nsize = "{max(cache_mib, 256)} MiB"\n')
    try:
        gateway.start()
        workloads(gateway)
        crash(gateway, max(cache_mib, 256))
        gateway.cleanup()
        million(root)
    finally:
        gateway.cleanup()
        shutil.rmtree(root, ignore_errors=True)


main()
