"""NFS servers, side by side, with a pipelined client: Tidegate, and any that is already served (--server NAME HOST PORT MOUNTPORT EXPORT).

    python benches/nfs.py --tidegate target/release/tidegate [--seconds 5] [--server ganesha 127.0.0.1 2050 2050 /export]

The client sends calls that were made before the clock starts, so many at a time as the row says, and counts answers. Each row says what its
operation survives: N nothing, L power loss of the server.
"""

import argparse
import os
import pathlib
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time

arguments = argparse.ArgumentParser()
arguments.add_argument("--tidegate", required=True)
arguments.add_argument("--seconds", type=float, default=5)
arguments.add_argument("--server", nargs=5, action="append", default=[], metavar=("NAME", "HOST", "PORT", "MOUNTPORT", "EXPORT"))
options = arguments.parse_args()

NFS, MOUNT = (100_003, 3), (100_005, 3)
MIB = 1 << 20


def opaque(data):
    return struct.pack(">I", len(data)) + data + b"\0" * (-len(data) % 4)


CREDENTIAL = struct.pack(">I", 1) + opaque(struct.pack(">I", 0) + opaque(b"bench") + struct.pack(">III", 0, 0, 0)) + b"\0" * 8


class Client:
    """One connection."""

    def __init__(self, host, port):
        self.socket = socket.create_connection((host, port), 60)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.xid = int.from_bytes(os.urandom(4), "big")
        self.input = bytearray()

    def record(self, program, procedure, args):
        self.xid = (self.xid + 1) & 0xFFFFFFFF
        call = struct.pack(">6I", self.xid, 0, 2, *program, procedure) + CREDENTIAL + args
        return struct.pack(">I", 0x80000000 | len(call)) + call

    def answers(self):
        """Whole answers that are here, after waiting for some bytes: results of each."""
        data = self.socket.recv(4 * MIB)
        assert data, "the server closed the connection"
        self.input += data
        found, at = [], 0
        while len(self.input) - at >= 4:
            length = struct.unpack_from(">I", self.input, at)[0] & 0x7FFFFFFF
            if len(self.input) - at < 4 + length:
                break
            found.append(bytes(self.input[at + 28:at + 4 + min(length, 400)]))
            at += 4 + length
        del self.input[:at]
        return found

    def call(self, program, procedure, args):
        self.socket.sendall(self.record(program, procedure, args))
        while True:
            found = self.answers()
            if found:
                return found[0]

    def pump(self, records, depth, seconds):
        """Sends records, at most `depth` unanswered, for so long or until there are no more; answers per second."""
        begin = time.perf_counter()
        sent = answered = 0
        total = len(records)
        while answered < sent or (sent < total and time.perf_counter() - begin < seconds):
            room = depth - (sent - answered)
            if room > 0 and sent < total and time.perf_counter() - begin < seconds:
                self.socket.sendall(b"".join(records[sent:sent + room]))
                sent += len(records[sent:sent + room])
            for results in self.answers():
                assert results[:4] == b"\0\0\0\0", f"status {struct.unpack('>I', results[:4])[0]}"
                answered += 1
        return answered / (time.perf_counter() - begin)


class Server:
    """A server with an export whose root is writable."""

    def __init__(self, name, host, port, mount_port, export):
        self.name, self.host, self.port = name, host, int(port)
        mount = Client(host, int(mount_port))
        results = mount.call(MOUNT, 1, opaque(export.encode()))
        assert results[:4] == b"\0\0\0\0", results
        self.root = results[8:8 + struct.unpack(">I", results[4:8])[0]]
        self.client = Client(host, self.port)

    def create(self, name, client=None):
        args = opaque(self.root) + opaque(name) + struct.pack(">IIIIIIII", 0, 1, 0o644, 0, 0, 0, 0, 0)
        results = (client or self.client).call(NFS, 8, args)
        assert results[:8] == b"\0\0\0\0\0\0\0\1", results[:8]
        return results[12:12 + struct.unpack(">I", results[8:12])[0]]


def rate(server, procedure, args, depth):
    client = Client(server.host, server.port)
    # The same call again and again: only its xid changes, which need not be unique for these.
    records = [client.record(NFS, procedure, args) for _ in range(4096)] * 1000
    return client.pump(records, depth, options.seconds)


def small_files(server, depth, prefix):
    """create + write 4 KiB + COMMIT, `depth` files at a time."""
    count, done = 400 if depth == 1 else 3200, 0
    begin = time.perf_counter()
    client = Client(server.host, server.port)
    for first in range(0, count, depth):
        names = [b"%s-%d-%d" % (prefix, depth, first + number) for number in range(depth)]
        args = [opaque(server.root) + opaque(name) + struct.pack(">IIIIIIII", 1, 1, 0o644, 0, 0, 0, 0, 0) for name in names]
        handles = stage(client, 8, args, lambda results: results[12:12 + struct.unpack(">I", results[8:12])[0]])
        data = struct.pack(">QII", 0, 4096, 0) + opaque(b"x" * 4096)
        stage(client, 7, [opaque(handle) + data for handle in handles], len)
        stage(client, 21, [opaque(handle) + struct.pack(">QI", 0, 0) for handle in handles], len)
        done += depth
        if time.perf_counter() - begin > 2 * options.seconds:
            break
    return done / (time.perf_counter() - begin)


def stage(client, procedure, args, take):
    client.socket.sendall(b"".join(client.record(NFS, procedure, one) for one in args))
    taken = []
    while len(taken) < len(args):
        for results in client.answers():
            assert results[:4] == b"\0\0\0\0", f"procedure {procedure}: status {struct.unpack('>I', results[:4])[0]}"
            taken.append(take(results))
    return taken


def throughput(server, depth, is_write, prefix):
    name = b"%s-big-%d" % (prefix, depth)
    file = server.create(name)
    client = Client(server.host, server.port)
    size = 64
    blocks = [opaque(file) + struct.pack(">QII", n * MIB, MIB, 0) + opaque(b"w" * MIB) for n in range(size)]
    begin = time.perf_counter()
    client.pump([client.record(NFS, 7, args) for args in blocks], depth, 1000)
    client.call(NFS, 21, opaque(file) + struct.pack(">QI", 0, 0))
    if is_write:
        return size / (time.perf_counter() - begin)
    reads = [client.record(NFS, 6, opaque(file) + struct.pack(">QI", n * MIB, MIB)) for n in range(size)] * 4
    return client.pump(reads, depth, 1000)


def rows(server, prefix):
    file = server.create(prefix + b"-file")
    getattr, lookup = opaque(file), opaque(server.root) + opaque(prefix + b"-file")
    for depth in (1, 16):
        yield f"GETATTR/s, {depth} in flight", "N", rate(server, 1, getattr, depth)
        yield f"LOOKUP/s, {depth} in flight", "N", rate(server, 3, lookup, depth)
        yield f"create + write 4 KiB + COMMIT files/s, {depth} in flight", "L", small_files(server, depth, prefix)
        yield f"WRITE + COMMIT MiB/s, {depth} in flight", "L", throughput(server, depth, True, prefix + b"w")
        yield f"READ MiB/s, {depth} in flight", "N", throughput(server, depth, False, prefix + b"r")


def tidegate(root, namespace):
    """A gateway of its own: its process, and its server."""
    ports = []
    for _ in range(3):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            ports.append(probe.getsockname()[1])
    (root / "shares").mkdir(parents=True)
    (root / "shares/bench.toml").write_text(f'bucket = "bench"\n[nfs]\nsquash = "none"\nnamespace = "{namespace}"\nupload_delay = "10m"\n')
    (root / "tidegate.toml").write_text(
        f'[cache]\nsize = "2 GiB"\n[embedded]\nlisten = "127.0.0.1:{ports[0]}"\n[admin]\nlisten = "127.0.0.1:{ports[1]}"\n'
        f'[nfs]\nlisten = ["127.0.0.1:{ports[2]}"]\nrpcbind = false\n')
    program = os.path.abspath(options.tidegate)
    process = subprocess.Popen([program, "--config", str(root / "tidegate.toml"), "serve"], cwd=root, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for _ in range(600):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", ports[2])) == 0:
                break
        time.sleep(0.1)
    return process, Server(f"tidegate ({namespace} names)", "127.0.0.1", ports[2], ports[2], "/bench")


def main():
    root = pathlib.Path(tempfile.mkdtemp(prefix="tidegate-bench-", dir="/var/tmp"))
    processes, columns = [], {}
    try:
        servers = [Server(*words) for words in options.server]
        for namespace in ("sync", "async"):
            process, server = tidegate(root / namespace, namespace)
            processes.append(process)
            servers.append(server)
        for server in servers:
            prefix = b"bench-%d" % os.getpid()
            for row, survives, figure in rows(server, prefix):
                columns.setdefault((row, survives), {})[server.name] = figure
    finally:
        for process in processes:
            process.send_signal(signal.SIGTERM)
            process.wait(60)
        shutil.rmtree(root, ignore_errors=True)
    names = [server.name for server in servers]
    print(f"{'':<56} " + " ".join(f"{name:>24}" for name in names))
    for (row, survives), figures in columns.items():
        print(f"{row:<54} {survives} " + " ".join(f"{figures[name]:>24,.0f}" for name in names))


main()
