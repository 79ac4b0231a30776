"""NFS under loads of its own: idle and slow connections by the thousands, and files that grow for a long time without ever being closed."""
import os
import pathlib
import resource
import struct
import time

import pytest
from conftest import SOAK, sh
from nfs_client import Client

SHARE = '\n[nfs]\nsquash = "none"\n'
IDLE = 10_000
MIB = 1 << 20


@pytest.fixture
def many_files():
    """This process, and those that it starts, may have many files open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = IDLE + 2000
    assert hard == resource.RLIM_INFINITY or hard >= wanted, f"at most {hard} open files are allowed here"
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def resident_bytes(pid):
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS:")).split()[1]) * 1024


def test_ten_thousand_idle_and_slow_connections(many_files, make_gateway):
    gateway = make_gateway(share=SHARE).start()
    good = Client(gateway.nfs_port)
    root = good.mount()
    file = good.create(root, "f")
    before = resident_bytes(gateway.process.pid)
    idle, slowest = [], 0
    for number in range(IDLE):
        # From fifty machines, as far as the server can tell.
        client = Client(gateway.nfs_port, source=f"127.0.0.{2 + number % 50}")
        if number % 2:
            # The beginning of a record of a megabyte; its end never comes.
            try:
                client.socket.sendall(struct.pack(">I", 0x80000000 | MIB) + b"\0" * 100)
            except ConnectionError:
                pass
        idle.append(client)
        if number % 200 == 0:
            begin = time.monotonic()
            assert good.getattr(root)[0] == 2
            good.write(file, number, b"x")
            slowest = max(slowest, time.monotonic() - begin)
    status = gateway.status()["nfs"]
    assert 1000 < status["connections"] <= 4096 + 1
    # A server that serves them one after the other would need for ever; the figure leaves room for a busy machine.
    assert slowest < 15, f"others waited for {slowest:.1f} s"
    grown = resident_bytes(gateway.process.pid) - before
    assert grown < 200 * MIB, f"{grown / MIB:.0f} MiB for connections that do nothing"
    # And a machine that comes now is served.
    late = Client(gateway.nfs_port)
    assert late.getattr(root)[0] == 2
    good.commit(file)
    for client in idle:
        client.close()
    deadline = time.monotonic() + 60
    while gateway.status()["nfs"]["connections"] > 2:
        assert time.monotonic() < deadline, "connections that were closed are still counted"
        time.sleep(0.2)
    gateway.stop()


def uploads(gateway, key):
    """How often an object was written."""
    versions = gateway.s3().list_object_versions(Bucket="demo", Prefix=key).get("Versions", [])
    return len([version for version in versions if version["Key"] == key])


def versioned(make_gateway, upload_delay):
    gateway = make_gateway(share=SHARE + f'upload_delay = "{upload_delay}"\n').start()
    gateway.s3().put_bucket_versioning(Bucket="demo", VersioningConfiguration={"Status": "Enabled"})
    return gateway


@pytest.mark.timeout(1200)
def test_bursts_are_one_upload(make_gateway):
    """200 MiB in bursts with pauses of 10 s and the usual delay of 15 s; in short, a tenth of it, and time for a busy machine."""
    size, bursts, pause, delay = (200 * MIB, 20, 10, "15s") if SOAK else (20 * MIB, 10, 1, "6s")
    gateway = versioned(make_gateway, delay)
    client = Client(gateway.nfs_port)
    file = client.create(client.mount(), "video")
    data, step, offset = os.urandom(size // bursts), MIB, 0
    for _ in range(bursts):
        for at in range(0, len(data), step):
            client.write(file, offset, data[at:at + step])
            offset += len(data[at:at + step])
        client.commit(file)
        assert uploads(gateway, "video") == 0
        time.sleep(pause)
    gateway.drain()
    assert uploads(gateway, "video") == 1
    assert gateway.bucket()["video"] == size


@pytest.mark.timeout(1200)
def test_a_line_a_second_is_few_uploads(make_gateway):
    """Ten minutes of a line a second; in short, twelve seconds of ten lines a second."""
    lines, pause, delay, most = (600, 1, "15s", 8) if SOAK else (120, 0.1, "6s", 1)
    gateway = versioned(make_gateway, delay)
    client = Client(gateway.nfs_port)
    file = client.create(client.mount(), "log")
    late, before = 0, time.monotonic()
    for number in range(lines):
        client.write(file, number * 5, b"line\n")
        client.commit(file)
        # Where the machine held up the writer for nearly the delay, the file did rest.
        now = time.monotonic()
        late, before = late + (now - before > 4), now
        time.sleep(pause)
    gateway.drain()
    assert 1 <= uploads(gateway, "log") <= most + late
    assert gateway.s3().get_object(Bucket="demo", Key="log")["Body"].read() == b"line\n" * lines
    assert sh("wc -l <log", cwd=gateway.mount).stdout.strip() == str(lines)
