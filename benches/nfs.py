"""NFS servers, side by side: Tidegate, NFS-Ganesha's VFS back end and the crate nfsserve, with the pipelined client of examples/nfs_load.rs.

    benches/run --nfs [--seconds 5] [--passes 3] [--rows getattr,small]

One machine, one disk, in turns: each pass measures a row on every server before it goes on, so that a disk whose speed drifts does so for all.
What is printed is the median of the passes and, in brackets, its ratio to Ganesha. Each row says what its operation survives: N nothing,
L power loss of the server. Ganesha's VFS back end does not sync names, so the column to compare is "async names"; nfsserve is in memory.
Everything runs in a network namespace of its own, since Ganesha insists on a portmapper.
"""

import argparse
import os
import pathlib
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
arguments.add_argument("--seconds", type=int, default=5)
arguments.add_argument("--passes", type=int, default=3)
arguments.add_argument("--rows", default="getattr,lookup,readdirplus,read,write,small,minute")
options = arguments.parse_args()
TARGET = pathlib.Path(options.target).resolve()
REPOSITORY = pathlib.Path(__file__).resolve().parents[1]
ROWS = {
    "getattr": ("GETATTR/s", "N"),
    "lookup": ("LOOKUP/s", "N"),
    "readdirplus": ("READDIRPLUS entries/s", "N"),
    "read": ("READ 1 MiB, MiB/s", "N"),
    "write": ("WRITE 1 MiB, COMMIT a 64 MiB file, MiB/s", "L"),
    "small": ("create + write 4 KiB + COMMIT, files/s", "L"),
}
GANESHA = """
NFS_CORE_PARAM {{ Protocols = 3; mount_path_pseudo = false; Enable_NLM = false; Enable_RQUOTA = false; Enable_UDP = false;
  NFS_Port = 22049; MNT_Port = 22050; }}
EXPORT {{ Export_Id = 1; Path = {0}; Pseudo = /bench; Access_Type = RW; Squash = No_Root_Squash; Protocols = 3; Transports = TCP;
  SecType = sys; FSAL {{ Name = VFS; }} }}
"""


class Server:
    def __init__(self, name, command, port, mount_port, export, cwd):
        self.name, self.address = name, (f"127.0.0.1:{port}", str(mount_port), export)
        self.process = subprocess.Popen(list(map(str, command)), cwd=cwd, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(600):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", mount_port)) == 0:
                    return
            time.sleep(0.1)
        sys.exit(f"{name}: not there after a minute")

    def rates(self, row, in_flight, seconds):
        """The rate over all, and second by second; none where the server can't do it."""
        load = [TARGET / "release/examples/nfs_load", *self.address, row, str(in_flight), str(seconds)]
        ran = subprocess.run(load, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=60 + 4 * seconds)
        if ran.returncode:
            print(f"{self.name}: {row}, {in_flight} in flight: {ran.stderr.strip()[:200]}", file=sys.stderr)
            return None
        return [float(number) for number in ran.stdout.split()]


def tidegate(root, namespace, port):
    (root / "shares").mkdir(parents=True)
    (root / "shares/bench.toml").write_text(
        f'bucket = "bench"\n[nfs]\nsquash = "none"\nnamespace = "{namespace}"\nupload_delay = "10m"\n')
    (root / "tidegate.toml").write_text(
        f'[cache]\nsize = "8 GiB"\n[embedded]\nlisten = "127.0.0.1:{port + 1}"\n[admin]\nlisten = "127.0.0.1:{port + 2}"\n'
        f'[nfs]\nlisten = ["127.0.0.1:{port}"]\nrpcbind = false\n')
    command = [TARGET / "release/tidegate", "--config", root / "tidegate.toml", "serve"]
    return Server(f"{namespace} names", command, port, port, "/bench", root)


def servers(root):
    (root / "ganesha/export").mkdir(parents=True)
    (root / "ganesha/ganesha.conf").write_text(GANESHA.format(root / "ganesha/export"))
    yield Server(
        "Ganesha", ["ganesha.nfsd", "-F", "-N", "NIV_FATAL", "-f", "ganesha.conf", "-L", "log", "-p", "pid"],
        22049, 22050, root / "ganesha/export", root / "ganesha")
    yield tidegate(root / "async", "async", 23000)
    yield tidegate(root / "sync", "sync", 23100)
    yield Server("nfsserve", [TARGET / "nfsserve/release/nfsserve-yardstick", "127.0.0.1:23200"], 23200, 23200, "/", root)


def table(running, rows):
    print(f"{'':<52}" + "".join(f"{server.name:>21}" for server in running))
    for row in rows:
        for in_flight in (1, 16):
            found = {server: [] for server in running}
            for turn in range(options.passes):
                for server in running[turn % len(running):] + running[:turn % len(running)]:
                    rates = server.rates(row, in_flight, options.seconds)
                    found[server] += rates[:1] if rates else []
            medians = [statistics.median(found[server]) if found[server] else None for server in running]
            text, survives = ROWS[row]
            cells = "".join(
                f"{'-':>21}" if median is None else f"{median:>13,.0f} ({median / medians[0]:5.2f})" if medians[0] else f"{median:>21,.0f}"
                for median in medians)
            print(f"{f'{text}, {in_flight} in flight':<49} {survives} {cells}", flush=True)


def minute(running):
    """GETATTR for a minute: is it as fast at the end as at the begin?"""
    for server in running:
        rates = server.rates("getattr", 32, 60)
        seconds = rates[2:60] if rates else []
        if seconds:
            first, last = statistics.mean(seconds[:5]), statistics.mean(seconds[-5:])
            print(f"GETATTR/s for 60 s, 32 in flight: {server.name}: {first:,.0f} at first, {last:,.0f} at the end ({last / first:.2f})", flush=True)


def main():
    if os.environ.get("TIDEGATE_BENCH_NAMESPACE") != "1":
        os.environ["TIDEGATE_BENCH_NAMESPACE"] = "1"
        inside = 'ip link set lo up && mount -t tmpfs tmpfs /run && rpcbind && exec "$@"'
        os.execvp("unshare", ["unshare", "--net", "--mount", "--pid", "--fork", "--mount-proc", "sh", "-c", inside, "sh", sys.executable, *sys.argv])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    root = pathlib.Path(tempfile.mkdtemp(prefix="tidegate-bench-", dir="/var/tmp"))
    running = []
    try:
        for server in servers(root):
            running.append(server)
        rows = options.rows.split(",")
        table(running, [row for row in rows if row in ROWS])
        if "minute" in rows:
            minute(running)
    finally:
        for server in running:
            server.process.send_signal(signal.SIGTERM)
        for server in running:
            try:
                server.process.wait(60)
            except subprocess.TimeoutExpired:
                server.process.kill()
        shutil.rmtree(root, ignore_errors=True)


main()
