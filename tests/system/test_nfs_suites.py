"""Other people's suites through the NFSv3 mount of a guest. Their programs come to the guest through the share."""
import pathlib
import re
import shutil

import guest
import pytest
from conftest import SOAK
from test_nfs import OPEN, mount
from test_posix import FSX, PJDFSTEST

KNOWN = pathlib.Path(__file__).with_name("nfs-pjdfstest.txt")


def served(make_gateway, *tools, **files):
    gateway = make_gateway(share=OPEN).start()
    for tool in tools:
        shutil.copy(shutil.which(tool), gateway.mount / tool)
    for name, text in files.items():
        (gateway.mount / name).write_text(text)
    return gateway


# The guest is emulated: minutes on two cores.
@pytest.mark.timeout(1800)
def test_pjdfstest_fails_only_what_the_protocol_cannot(make_gateway):
    gateway = served(make_gateway, "pjdfstest", config=PJDFSTEST)
    # A path of some length: the suite computes paths of the longest length wrongly below very short ones, also on a local disk.
    out = guest.run(mount(gateway) + """
cp /nfs/pjdfstest /tmp/; cp /nfs/config /tmp/config.toml; mkdir -p /nfs/below/a/longer/path
/tmp/pjdfstest -c /tmp/config.toml -p /nfs/below/a/longer/path -s /dev/shm >/tmp/out 2>&1 || true; cat /tmp/out
""", 1500)
    cases = re.findall(r"^(\S+)\s+(ok|FAILED|skipped)$", out, re.M)
    known = {line.split()[0] for line in KNOWN.read_text().splitlines() if line and not line.startswith("#")}
    failed = {name for name, result in cases if result == "FAILED"}
    assert sum(result == "ok" for _, result in cases) > 350, out[-4000:]
    assert failed <= known, "\n".join(sorted(failed - known)) + out[-4000:]


@pytest.mark.timeout(1800)
def test_fsx_and_dbench(make_gateway):
    # NFSv3 has no call that reserves bytes or makes holes.
    config = FSX.format(flen=8 << 20).replace("posix_fallocate = 1", "posix_fallocate = 0").replace("punch_hole = 2", "punch_hole = 0")
    gateway = served(make_gateway, "fsx", config=config)
    operations = 50_000 if SOAK else 3_000
    guest.run(mount(gateway) + f"""
cp /nfs/fsx /tmp/; cp /nfs/config /tmp/fsx.toml
/tmp/fsx -q -f /tmp/fsx.toml -N {operations} -S 3 -P /tmp /nfs/file
mkdir /nfs/dbench; dbench -D /nfs/dbench -t {120 if SOAK else 20} 4 | tail -3
cd /; umount /nfs
""", 1500)
    gateway.drain()
    assert gateway.bucket()["file"] == (gateway.mount / "file").stat().st_size
