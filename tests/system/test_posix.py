"""Other people's suites for local file systems, on the mount."""

import os
import pathlib
import re
import shutil
import subprocess
import tempfile
import threading
import time

import pytest

from conftest import SOAK, sh

PJDFSTEST = """
[features]
posix_fallocate = {}
rename_ctime = {}
stat_st_birthtime = {}
utime_now = {}
utimensat = {}
[settings]
naptime = 0.01
allow_remount = false
[dummy_auth]
entries = [["nobody", "nogroup"], ["games", "games"]]
"""


def pjdfstest(path):
    """Names of passed and failed cases of the whole suite, nothing left out."""
    with tempfile.NamedTemporaryFile("w", suffix=".toml") as config:
        config.write(PJDFSTEST)
        config.flush()
        # The other file system is for EXDEV.
        done = sh(f"pjdfstest -c {config.name} -p {path} -s /dev/shm", check=False, timeout=1800)
    cases = re.findall(r"^(\S+)\s+(ok|FAILED|skipped)$", done.stdout, re.M)
    assert len(cases) > 350, done.stdout[-2000:] + done.stderr[-2000:]
    return {name for name, result in cases if result == "ok"}, {name for name, result in cases if result == "FAILED"}, done.stdout


def test_pjdfstest_passes_what_the_local_disk_passes(gateway):
    local = tempfile.mkdtemp(dir="/var/tmp")
    os.chmod(local, 0o755)
    try:
        expected, _, _ = pjdfstest(local)
    finally:
        shutil.rmtree(local)
    passed, failed, output = pjdfstest(gateway.mount)
    print(f"local {len(expected)} passed; mount {len(passed)} passed, {len(failed)} failed")
    assert not failed, "\n".join(sorted(failed)) + output[-4000:]
    # glibc answers pathconf(_PC_LINK_MAX) from a table of file system types that has no FUSE, so the suite skips this one by itself.
    assert passed >= expected - {"link::link_count_max"}, sorted(expected - passed)


FSX = """
flen = {flen}
[opsize]
max = 262144
[weights]
close_open = 2
read = 10
write = 10
mapread = 5
mapwrite = 5
truncate = 1
invalidate = 1
fsync = 0.5
fdatasync = 0.5
posix_fallocate = 1
punch_hole = 2
sendfile = 2
copy_file_range = 1
"""


@pytest.mark.parametrize("seed", range(1, 9) if SOAK else [1])
def test_fsx_on_a_file_larger_than_the_cache(make_gateway, seed, tmp_path):
    """While the file is uploaded again and again: frozen generations, part copies and reclaim beside all that fsx does."""
    gateway = make_gateway(config='[cache]\nsize = "64 MiB"', share='upload_delay = "100ms"').start()
    config = tmp_path / "fsx.toml"
    config.write_text(FSX.format(flen=96 << 20))
    operations = 100_000 if SOAK else 10_000
    running = subprocess.Popen(
        ["fsx", "-q", "-f", config, "-N", str(operations), "-S", str(seed), "-P", tmp_path, gateway.mount / "fsx"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )
    told = []
    reader = threading.Thread(target=lambda: told.extend(running.stdout))
    reader.start()
    # It never rests nor closes the file for long: somebody who waits for the upload has it sent as it is, while it goes on.
    begin = time.monotonic()
    while running.poll() is None and time.monotonic() < begin + (7_000 if SOAK else 500):
        gateway.run("upload", "wait", "--timeout", "5s", check=False)
        # In full: now and then, since each sends some 50 MiB.
        time.sleep(4 if SOAK else 0.2)
    took_s = time.monotonic() - begin
    if running.poll() is None:
        running.kill()
    reader.join()
    text = "".join(told)
    assert running.wait() == 0, f"{text[:3000]}\n...\n{text[-3000:]}\n{gateway.log.read_text()[-3000:]}"
    requests = gateway.requests()
    uploads = requests.get("put", 0) + requests.get("multipart_commit", 0)
    print(f"{operations} operations in {took_s:.0f} s, beside {uploads} uploads: {requests}")
    assert uploads >= (50 if SOAK else 5), requests
    assert requests.get("get", 0) > 0, "all of it stayed in the cache"
    gateway.drain()
    assert gateway.bucket()["fsx"] == (gateway.mount / "fsx").stat().st_size
    body = gateway.s3().get_object(Bucket="demo", Key="fsx")["Body"].read()
    assert body == (gateway.mount / "fsx").read_bytes()


def test_fio_verifies_what_it_wrote(gateway):
    size = "1g" if SOAK else "128m"
    sh(
        f"fio --name=verify --directory={gateway.mount} --size={size} --bs=4k-256k --rw=randwrite --verify=crc32c"
        " --do_verify=1 --verify_fatal=1 --verify_state_save=0 --fsync=64 --numjobs=2 --ioengine=psync --randrepeat=1",
        timeout=3000,
    )


STRESSORS = "dentry dir rename link symlink xattr hdd lockf flock fallocate seek copy-file chmod utime".split()


@pytest.mark.parametrize("stressor", STRESSORS)
def test_stress_ng(gateway, stressor):
    seconds = 60 if SOAK else 5
    done = sh(
        f"stress-ng --{stressor} 2 --timeout {seconds} --verify --temp-path {gateway.mount} --hdd-bytes 32m --fallocate-bytes 32m"
        " --copy-file-bytes 128m --seek-size 16m",
        check=False, timeout=seconds + 300,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert gateway.process.poll() is None
