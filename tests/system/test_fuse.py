"""What the kernel is told and what it keeps: caches next to other front ends, a share that is read-only, failures in the log."""

import collections
import errno
import os
import re
import shutil
import subprocess
import threading
import time

import nfs_client
from conftest import until
from test_limits import far_away  # noqa: F401  (a fixture)

NFS = '\n[nfs]\nsquash = "none"\n'


def test_the_mount_reads_what_nfs_wrote_as_soon_as_it_is_acknowledged(make_gateway):
    gateway = make_gateway(share=NFS).start()
    path = gateway.mount / "shared"
    path.write_bytes(b"-" * 8192)
    client = nfs_client.Client(gateway.nfs_port)
    node = client.lookup(client.mount(), "shared")
    with open(path, "rb", buffering=0) as file:
        for number in range(1000):
            # It is in the kernel's cache, size and all, also for whoever opens it again.
            assert len(os.pread(file.fileno(), 8192, 0)) == path.stat().st_size == 8192
            body = b"%08d" % number * 512
            client.write(node, 4096, body)
            assert os.pread(file.fileno(), 8192, 0)[4096:] == body, number
            assert path.read_bytes()[4096:] == body, number
        for size in range(8192, 4096, -64):
            client.truncate(node, size)
            assert path.stat().st_size == size
            assert len(path.read_bytes()) == size


def test_the_mount_has_the_names_that_nfs_made_as_soon_as_they_are_acknowledged(make_gateway):
    gateway = make_gateway(share=NFS).start()
    client = nfs_client.Client(gateway.nfs_port)
    root = client.mount()
    for number in range(100):
        one, two = f"one{number}", f"two{number}"
        paths = [gateway.mount / one, gateway.mount / two]
        # The kernel remembers that they do not exist, and a listing without them.
        assert not os.path.exists(paths[0]) and not os.path.exists(paths[1])
        assert os.listdir(gateway.mount) == []
        client.create(root, one)
        assert os.path.exists(paths[0]) and os.listdir(gateway.mount) == [one]
        client.rename(root, one, two)
        assert [os.path.exists(path) for path in paths] == [False, True]
        assert os.listdir(gateway.mount) == [two]
        client.remove(root, two)
        assert not os.path.exists(paths[1])


def test_nfs_and_the_mount_write_one_file_and_nobody_waits_for_long(make_gateway):
    """Both at once, so that requests of the mount hold the file's pages while NFS waits for them to be dropped."""
    gateway = make_gateway(share=NFS).start()
    path = gateway.mount / "shared"
    path.write_bytes(b"-" * (1 << 20))
    client = nfs_client.Client(gateway.nfs_port)
    node = client.lookup(client.mount(), "shared")
    slowest, stop, failures = 0, threading.Event(), []

    def use(offset):
        try:
            with open(path, "r+b", buffering=0) as file:
                while not stop.is_set():
                    os.pwrite(file.fileno(), b"m" * 65536, offset)
                    os.pread(file.fileno(), 1 << 20, 0)
                    os.fsync(file.fileno())
        except OSError as error:
            failures.append(error)

    threads = [threading.Thread(target=use, args=(number << 16,)) for number in range(4)]
    [thread.start() for thread in threads]
    for number in range(300):
        begun = time.monotonic()
        client.write(node, (8 << 16) + number * 4096 % (4 << 16), b"n" * 4096)
        slowest = max(slowest, time.monotonic() - begun)
    stop.set()
    [thread.join(30) for thread in threads]
    assert not failures and not any(thread.is_alive() for thread in threads)
    # An answer waits a second at most for the mount; two that wait for each other would do so for good.
    assert slowest < 10, slowest
    body = path.read_bytes()
    assert body[:4 << 16] == b"m" * (4 << 16) and body[8 << 16:12 << 16] == b"n" * (4 << 16)


def refused(call):
    try:
        call()
    except OSError as error:
        return error.errno
    return None


def test_a_read_only_share_gives_erofs_to_whatever_would_change_it(make_gateway):
    text = 'bucket = "demo"\n{more}\n[fuse]\nmount = "mnt/demo"\n'
    gateway = make_gateway(shares={"demo": text.format(more="")}).start()
    mount = gateway.mount
    (mount / "file").write_text("content")
    (mount / "dir").mkdir()
    (mount / "full").mkdir()
    (mount / "full/file").write_text("deep")
    os.symlink("file", mount / "link")
    os.mkfifo(mount / "pipe")
    os.setxattr(mount / "file", "user.a", b"b")
    held = os.open(mount / "file", os.O_RDWR)
    device = os.stat(mount).st_dev
    changes = {
        "create": lambda: os.close(os.open(mount / "new", os.O_CREAT | os.O_WRONLY)),
        "create to read": lambda: os.close(os.open(mount / "new", os.O_CREAT | os.O_RDONLY)),
        "open to write": lambda: os.close(os.open(mount / "file", os.O_WRONLY)),
        "open to read and write": lambda: os.close(os.open(mount / "file", os.O_RDWR)),
        "open to truncate": lambda: os.close(os.open(mount / "file", os.O_RDONLY | os.O_TRUNC)),
        "write": lambda: os.write(held, b"content"),
        "ftruncate": lambda: os.ftruncate(held, 3),
        "fchmod": lambda: os.fchmod(held, 0o600),
        "fallocate": lambda: os.posix_fallocate(held, 0, 100),
        "truncate": lambda: os.truncate(mount / "file", 3),
        "chmod": lambda: os.chmod(mount / "file", 0o600),
        "chmod of a directory": lambda: os.chmod(mount / "dir", 0o700),
        "chown": lambda: os.chown(mount / "file", 1, 1),
        "lchown": lambda: os.lchown(mount / "link", 1, 1),
        "utime": lambda: os.utime(mount / "file", (1, 1)),
        "utime now": lambda: os.utime(mount / "file"),
        "mkdir": lambda: os.mkdir(mount / "new"),
        "mkfifo": lambda: os.mkfifo(mount / "new"),
        "mknod": lambda: os.mknod(mount / "new", 0o020644, os.makedev(1, 3)),
        "symlink": lambda: os.symlink("file", mount / "new"),
        "link": lambda: os.link(mount / "file", mount / "new"),
        "rename": lambda: os.rename(mount / "file", mount / "new"),
        "rename over": lambda: os.rename(mount / "file", mount / "link"),
        "rename of a directory": lambda: os.rename(mount / "dir", mount / "new"),
        "unlink": lambda: os.unlink(mount / "file"),
        "unlink of a fifo": lambda: os.unlink(mount / "pipe"),
        "rmdir": lambda: os.rmdir(mount / "dir"),
        "setxattr": lambda: os.setxattr(mount / "file", "user.new", b"c"),
        "removexattr": lambda: os.removexattr(mount / "file", "user.a"),
    }
    share = gateway.root / "shares/demo.toml"
    share.write_text(text.format(more="read_only = true"))
    until(lambda: refused(changes["chmod"]) == errno.EROFS)
    assert {name: refused(call) for name, call in changes.items()} == dict.fromkeys(changes, errno.EROFS)
    # What is no change is answered as ever.
    assert (mount / "file").read_text() == "content" and os.pread(held, 100, 0) == b"content"
    assert sorted(os.listdir(mount)) == ["dir", "file", "full", "link", "pipe"]
    assert os.readlink(mount / "link") == "file" and os.getxattr(mount / "file", "user.a") == b"b"
    assert os.listxattr(mount / "file") == ["user.a"] and os.statvfs(mount).f_bfree > 0
    os.fsync(held)
    assert refused(lambda: os.mkdir(mount / "dir")) == errno.EEXIST
    assert refused(lambda: os.unlink(mount / "none")) == errno.ENOENT
    # It ends as it began: without a new mount, also for what is open.
    share.write_text(text.format(more=""))
    until(lambda: refused(changes["chmod"]) is None)
    assert os.write(held, b"CONTENT") == 7 and (mount / "file").read_text() == "CONTENT"
    os.close(held)
    assert os.stat(mount).st_dev == device
    gateway.drain()
    assert set(gateway.bucket()) - {"full/"} == {"dir/", "file", "full/file", "link", "pipe"}


def test_a_program_that_runs_is_not_cut(gateway):
    program = gateway.mount / "program"
    shutil.copy2(shutil.which("sleep"), program)
    size = program.stat().st_size
    running = subprocess.Popen([program, "60"])
    try:
        for flags in (os.O_WRONLY, os.O_RDWR, os.O_RDONLY | os.O_TRUNC, os.O_WRONLY | os.O_TRUNC):
            assert refused(lambda: os.open(program, flags)) == errno.ETXTBSY, flags
            assert program.stat().st_size == size and running.poll() is None
    finally:
        running.kill()
        running.wait()
    os.close(os.open(program, os.O_RDONLY | os.O_TRUNC))
    assert program.stat().st_size == 0


def test_a_failed_operation_is_one_line_with_share_node_and_caller(far_away):  # noqa: F811
    gateway, proxy, endpoint = far_away(share='remote_timeout = "1s"\nfile_mode = "0644"')
    for number in range(40):
        endpoint.s3().put_object(Bucket="far", Key=f"f{number}", Body=b"in S3 only")
    paths = [gateway.mount / f"f{number}" for number in range(40)]
    nodes = [path.stat().st_ino for path in paths]
    lines = lambda: [line for line in re.sub(r"\x1b\[[0-9;]*m", "", gateway.log.read_text()).splitlines() if "operation failed" in line]
    # No failures of the gateway.
    assert refused(lambda: os.stat(gateway.mount / "none")) == errno.ENOENT
    assert refused(lambda: os.mkdir(paths[0])) == errno.EEXIST
    assert refused(lambda: os.rmdir(paths[0])) == errno.ENOTDIR
    assert refused(lambda: os.getxattr(paths[0], "user.none")) == errno.ENODATA
    assert lines() == []
    proxy.cut()
    cat = subprocess.run(["cat", str(paths[0])], user=1234, capture_output=True, text=True)
    assert cat.returncode == 1 and "Input/output error" in cat.stderr
    found = lines()
    assert found and all("WARN" in line and "demo" in line and "S3 does not answer" in line for line in found), found
    assert all(re.search(rf'operation="?read"? node={nodes[0]} uid=1234 pid=\d+', line) for line in found), found
    # Many at once are a few lines a second, however many reads the kernel makes of each; ten may be at a second's end and ten at its begin.
    threads = [threading.Thread(target=refused, args=(path.read_bytes,)) for path in paths[1:]]
    [thread.start() for thread in threads]
    [thread.join(60) for thread in threads]
    each_second = collections.Counter(line.split(".")[0] for line in lines())
    assert max(each_second.values()) <= 20, each_second
