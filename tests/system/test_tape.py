"""A tape library over iSCSI: command by command through libiscsi, and with a distribution's kernel (st, ch, sg), mtx, mt, tar, sg3_utils. They
talk to the example program `tape_library`, which serves cartridges in memory without a gateway."""
import os
import pathlib
import re
import subprocess

import pytest

import guest
from scsi_initiator import Initiator

LIBRARY = pathlib.Path(os.environ.get("TIDEGATE", pathlib.Path(__file__).parents[2] / "target/release/tidegate")).parent / "examples/tape_library"
NAME = "iqn.2026-01.org.tidegate"
DRIVE, SLOT, PORT = 0x100, 0x400, 0x4000
READY, REWIND = [0] * 6, [1, 0, 0, 0, 0, 0]


@pytest.fixture
def library():
    """The address of a library with two drives, eight slots, four import/export slots, five cartridges of 16 MiB."""
    process = subprocess.Popen([LIBRARY, "127.0.0.1:0", "mib=16"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    address = process.stdout.readline().strip()
    assert sorted(process.stdout.readline().strip() for _ in range(3)) == [
        f"{NAME}:mediachanger", f"{NAME}:tapedrive-01", f"{NAME}:tapedrive-02"
    ]
    yield address
    process.stdin.close()
    assert process.wait(timeout=30) == 0


@pytest.fixture
def connect(library):
    """Sessions that have heard of the power-on."""
    sessions = []

    def connect(target, name="iqn.2026-01.org.example:tester"):
        session = Initiator(library, f"{NAME}:{target}", name)
        sessions.append(session)
        assert session.fails(READY)[:3] == (6, 0x29, 0x00)
        if target == "mediachanger":
            # SMC-3 §6.11.5: an operator put in the tape that is written once.
            assert session.fails(READY)[:3] == (6, 0x28, 0x01)
        return session

    yield connect
    for session in sessions:
        session.close()


def six(code, flags, count):
    return [code, flags, *count.to_bytes(3, "big", signed=count < 0), 0]


def carry(source, target):
    return [0xA5, 0, 0, 0, *source.to_bytes(2, "big"), *target.to_bytes(2, "big"), 0, 0, 0, 0]


def tell(drive):
    long = drive.ok([0x34, 6, 0, 0, 0, 0, 0, 0, 0, 0], into=32)
    return int.from_bytes(long[8:16], "big"), int.from_bytes(long[16:24], "big")


def run(*command, timeout=120):
    return subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=timeout)


def test_discovery_and_names(library, connect):
    connect("mediachanger")
    out = run("iscsi-ls", "-s", f"iscsi://{library}").stdout
    assert len(re.findall(r"Type:SEQUENTIAL_ACCESS", out)) == 2 and len(re.findall(r"Type:MEDIA_CHANGER", out)) == 1, out
    out = run("iscsi-inq", f"iscsi://{library}/{NAME}:tapedrive-02/0").stdout
    assert "Vendor:IBM" in out and "Product:ULT3580-TD5" in out, out
    out = run("iscsi-inq", f"iscsi://{library}/{NAME}:mediachanger/0").stdout
    assert "Vendor:AWS" in out and "Product:Gateway-VTL" in out, out


def test_the_robot(connect):
    changer = connect("mediachanger")
    # SMC-3 §6.11: the header, the page, and a descriptor with its volume tag.
    status = changer.ok([0xB8, 0x12, *SLOT.to_bytes(2, "big"), 0, 1, 0, 0, 1, 0, 0, 0], into=256)
    assert status[:8] == bytes([4, 0, 0, 1, 0, 0, 0, 60]) and status[28:36] == b"TST001L5", status
    # §6.11.3: DVCID names the drives as their own page 83h does.
    drives = changer.ok([0xB8, 0x04, 0, 0, 0, 9, 1, 0, 1, 0, 0, 0], into=256)
    drive = connect("tapedrive-02")
    own = drive.ok([0x12, 1, 0x83, 0, 255, 0], into=255)
    assert own[8:8 + own[7]] in drives
    # §6.7: an empty source, a full destination, elements that are not there.
    assert changer.fails(carry(SLOT + 7, DRIVE))[:3] == (5, 0x3B, 0x0E)
    assert changer.fails(carry(SLOT, SLOT + 1))[:3] == (5, 0x3B, 0x0D)
    assert changer.fails(carry(SLOT, 0xFFFF))[:3] == (5, 0x21, 0x01)
    assert drive.fails(READY)[:3] == (2, 0x3A, 0x00)
    changer.ok(carry(SLOT, DRIVE + 1))
    # SSC-4 §4.2.3: the drive is ready, and all initiators hear of the medium first.
    assert drive.fails(READY)[:3] == (6, 0x28, 0x00)
    drive.ok(READY)
    # SPC-4 §6.14: what the drive holds fast, the robot does not take.
    drive.ok([0x1E, 0, 0, 0, 1, 0])
    assert changer.fails(carry(DRIVE + 1, SLOT))[:3] == (5, 0x53, 0x02)
    drive.ok([0x1E, 0, 0, 0, 0, 0])
    changer.ok(carry(DRIVE + 1, PORT + 1))


def test_records_and_residuals(connect):
    changer, drive = connect("mediachanger"), connect("tapedrive-01")
    changer.ok(carry(SLOT, DRIVE))
    assert drive.fails(READY)[:3] == (6, 0x28, 0x00)
    big = os.urandom(1 << 20)
    drive.ok(six(0x0A, 0, len(big)), out=big)
    drive.ok(six(0x0A, 0, 1000), out=b"x" * 1000)
    drive.ok(six(0x10, 0, 1))
    drive.ok(REWIND)
    # SSC-4 §7.2: a record of the right length; a shorter one, with ILI and what is missing; its bytes come all the same.
    assert drive.ok(six(0x08, 0, len(big)), into=len(big)) == big
    short = drive.send(six(0x08, 0, 1500), into=1500)
    assert (short.condition, short.data, short.residual) == ((0x20, 0, 0, 500), b"x" * 1000, 500)
    assert drive.fails(six(0x08, 0, 1500), into=1500) == (0x80, 0, 1, 1500)
    assert drive.fails(six(0x08, 0, 1500), into=1500) == (0x08, 0, 5, 1500)
    assert tell(drive) == (3, 1)
    # A longer one: its beginning, and the excess as a negative number.
    drive.ok(REWIND)
    long = drive.send(six(0x08, 0, 512), into=512)
    assert (long.condition, long.data) == ((0x20, 0, 0, 512 - len(big)), big[:512])
    # Fixed blocks, with a filemark in the way: the blocks before it, and how many are missing.
    drive.ok([0x15, 0x10, 0, 0, 12, 0], out=bytes([0, 0, 0x10, 8, 0, 0, 0, 0, 0, 0, 0x10, 0]))
    drive.ok([0x11, 3, 0, 0, 0, 0])
    drive.ok(six(0x0A, 1, 3), out=b"f" * 12288)
    drive.ok(six(0x10, 0, 1))
    drive.ok(six(0x11, 1, -1))
    drive.ok(six(0x11, 0, -3))
    part = drive.send(six(0x08, 1, 5), into=5 * 4096)
    assert (part.condition, part.data, part.residual) == ((0x80, 0, 1, 2), b"f" * 12288, 2 * 4096)


def test_the_ends_of_a_tape(connect):
    changer, drive = connect("mediachanger"), connect("tapedrive-01")
    changer.ok(carry(SLOT, DRIVE))
    assert drive.fails(READY)[:3] == (6, 0x28, 0x00)
    megabyte = bytes(1 << 20)
    warned = 0
    for number in range(20):
        done = drive.send(six(0x0A, 0, len(megabyte)), out=megabyte)
        if done.status == 0:
            assert not warned, "early warning is given once only"
        elif done.triple == (0x40, 0, 2):
            warned += 1
        else:
            break
    # SSC-4 §4.2.5, §7.3: VOLUME OVERFLOW with EOM, and all of it left.
    assert done.condition == (0x4D, 0, 2, len(megabyte)) and (number, warned) == (15, 2)
    assert tell(drive) == (15, 0)
    assert drive.fails(six(0x11, 1, 1)) == (0x08, 0, 5, 1)
    assert drive.fails(six(0x11, 0, -20)) == (0x40, 0, 4, 5)


def test_a_tape_that_is_written_once(connect):
    changer, drive = connect("mediachanger"), connect("tapedrive-01")
    changer.ok(carry(PORT, DRIVE))
    assert drive.fails(READY)[:3] == (6, 0x28, 0x00)
    drive.ok(six(0x0A, 0, 4), out=b"once")
    drive.ok(REWIND)
    assert drive.fails(six(0x0A, 0, 4), out=b"more")[:3] == (7, 0x30, 0x0C)
    assert drive.fails([0x19, 1, 0, 0, 0, 0])[:3] == (7, 0x30, 0x0C)
    drive.ok([0x11, 3, 0, 0, 0, 0])
    drive.ok(six(0x0A, 0, 4), out=b"more")


def test_two_initiators(connect):
    changer = connect("mediachanger")
    changer.ok(carry(SLOT, DRIVE))
    a, b = connect("tapedrive-01", "iqn.2026-01.org.example:a"), connect("tapedrive-01", "iqn.2026-01.org.example:b")
    a.send(READY), b.send(READY)
    a.ok([0x16, 0, 0, 0, 0, 0])
    assert b.send(REWIND).status == 0x18
    a.ok([0x17, 0, 0, 0, 0, 0])
    b.ok(REWIND)


# What all jobs begin with: sessions with the changer and one drive; $CH, $ST and $SG are the changer's and the drive's devices.
PROLOGUE = """
modprobe -a iscsi_tcp st sg ch
mkdir -p /run/lock/iscsi /etc/iscsi /var/lock
echo InitiatorName=iqn.2026-01.org.example:guest >/etc/iscsi/initiatorname.iscsi
/sbin/iscsid
for target in mediachanger tapedrive-01; do
    iscsiadm -m node -o new -T {name}:$target -p 10.0.2.2:{port} >/dev/null
    iscsiadm -m node -T {name}:$target -p 10.0.2.2:{port} -l >/dev/null
done
for try in $(seq 50); do [ -e /sys/class/scsi_tape/nst0 ] && [ -e /sys/class/scsi_changer/sch0 ] && break; sleep 0.2; done
udevd=$(command -v systemd-udevd || echo /lib/systemd/systemd-udevd); $udevd --daemon; udevadm trigger; udevadm settle
SG=/dev/$(ls /sys/class/scsi_tape/nst0/device/scsi_generic)
CH=/dev/$(ls /sys/class/scsi_changer/sch0/device/scsi_generic)
ST=/dev/nst0
"""


def job(library, text, seconds=400):
    return guest.run(PROLOGUE.format(name=NAME, port=library.rsplit(":", 1)[1]) + text, seconds)


@pytest.mark.timeout(600)
def test_a_kernel_with_mtx_mt_and_tar(library):
    out = job(library, """
say() { echo "== $*"; }
say status; mtx -f $CH status
say inquiry; mtx -f $CH inquiry
mtx -f $CH load 1 0
mtx -f $CH status | head -3
say wait; for try in $(seq 20); do mt -f $ST status >/dev/null 2>&1 && break; sleep 0.2; done
mt -f $ST rewind
say mt; mt -f $ST status
mkdir /tmp/tree; head -c 3000000 /dev/urandom >/tmp/tree/a; cp -r /etc /tmp/tree/etc; echo last >/tmp/tree/z
say tar; tar -b 128 -C /tmp -cf $ST tree
tar -b 128 -C /tmp/tree -cf $ST a
mt -f $ST tell
mt -f $ST rewind; mt -f $ST fsf 1
say file $(mt -f $ST status | grep -o 'File number=[0-9]*')
tar -b 128 -tf $ST
mt -f $ST eod
say file $(mt -f $ST status | grep -o 'File number=[0-9]*')
mt -f $ST bsf 2; mt -f $ST fsf 1
say file $(mt -f $ST status | grep -o 'File number=[0-9]*')
mt -f $ST rewind
mkdir /tmp/back; tar -b 128 -C /tmp/back -xf $ST
diff -r --no-dereference /tmp/tree /tmp/back/tree && say same
say fixed; mt -f $ST setblk 512; mt -f $ST rewind
dd if=/tmp/tree/a of=$ST bs=512 count=100 status=none
mt -f $ST status | grep -o 'block size [0-9]* bytes' || true
mt -f $ST rewind; mt -f $ST fsr 10; mt -f $ST bsr 4; mt -f $ST tell
dd if=$ST of=/tmp/part bs=512 count=2 status=none
dd if=/tmp/tree/a of=/tmp/want bs=512 skip=6 count=2 status=none; cmp /tmp/part /tmp/want && say part
mt -f $ST seek 20; mt -f $ST tell
mt -f $ST rewind; mt -f $ST weof 3; mt -f $ST tell; mt -f $ST rewind; mt -f $ST erase; mt -f $ST eod; mt -f $ST tell
mt -f $ST setblk 0; mt -f $ST compression 0; mt -f $ST compression 1
say offline; mt -f $ST offline
mtx -f $CH unload 1 0
mtx -f $CH transfer 2 8; mtx -f $CH load 8 0; mtx -f $CH exchange 3 4 || say exchanged not
mtx -f $CH unload 8 0
say status; mtx -f $CH status
say inventory; mtx -f $CH inventory
""")
    status, *_ = out.split("== status")[1:]
    assert "2 Drives, 12 Slots ( 4 Import/Export )" in status, status
    assert re.search(r"Storage Element 1:Full ?:VolumeTag=TST001L5", status), status
    assert re.search(r"Storage Element 9 IMPORT/EXPORT:Full ?:VolumeTag=WRM001LT", status), status
    assert re.search(r"Data Transfer Element 0:Full \(Storage Element 1 Loaded\):VolumeTag = TST001L5", out), out[-6000:]
    assert [line for line in re.findall(r"== file (.*)", out)] == ["File number=1", "File number=2", "File number=1"], out[-6000:]
    assert "== same" in out and "== part" in out and "Density code 0x58 (LTO-5)" in out, out[-6000:]
    assert re.findall(r"At block (\d+)\.", out)[1:] == ["6", "20", "3", "0"], out[-6000:]
    last = out.split("== status")[-1]
    assert "Data Transfer Element 0:Empty" in last and re.search(r"Storage Element 8:Full ?:VolumeTag=TST002L5", last), last


@pytest.mark.timeout(600)
def test_what_sg3_utils_read(library):
    out = job(library, """
mtx -f $CH load 1 0; sleep 1
for try in $(seq 20); do mt -f $ST status >/dev/null 2>&1 && break; sleep 0.2; done
mt -f $ST rewind; head -c 1000000 /dev/urandom >/tmp/a; dd if=/tmp/a of=$ST bs=100000 status=none
echo "== lsscsi"; lsscsi -g
echo "== inq"; sg_inq $SG; sg_inq $CH
echo "== vpd"; for page in 0x0 sn di 0xb0 0xb1 0xb2; do sg_vpd -p $page $SG; done
echo "== logs"; sg_logs -a $SG
echo "== attr"; sg_read_attr $SG
echo "== opcodes"; sg_opcodes $SG | tail -n +4
echo "== turs"; sg_turs $SG
echo "== modes"; sg_modes -a $SG
echo "== changer"; sg_modes -a $CH; sg_logs -p 0x2e $CH
mt -f $ST rewind; dd if=$ST of=/tmp/b bs=100000 status=none; cmp /tmp/a /tmp/b && echo "== same"
""")
    for words in ["ULT3580-TD5", "Gateway-VTL", "Unit serial number: TDG00001-01", "TapeAlert", "TST001L5", "Total bytes processed = 1000000", "== same"]:
        assert words in out, f"no {words}:\n{out[-8000:]}"


@pytest.mark.timeout(600)
def test_tar_over_two_tapes(library):
    """A volume that is larger than a tape: tar is told where the first ends, and goes on with the second."""
    out = job(library, """
mtx -f $CH load 1 0
for try in $(seq 20); do mt -f $ST status >/dev/null 2>&1 && break; sleep 0.2; done
mt -f $ST rewind
head -c 24000000 /dev/urandom >/tmp/big
cat >/tmp/next <<'NEXT'
#!/bin/bash
mt -f /dev/nst0 offline; mtx -f $CH unload 1 0; mtx -f $CH load 2 0
for try in $(seq 20); do mt -f /dev/nst0 status >/dev/null 2>&1 && break; sleep 0.2; done
mt -f /dev/nst0 rewind
echo "== changed" >&2
NEXT
chmod +x /tmp/next; export CH
cd /tmp; tar -b 512 -M -F /tmp/next -cf $ST big
mt -f $ST offline; mtx -f $CH unload 2 0; mtx -f $CH load 1 0
for try in $(seq 20); do mt -f $ST status >/dev/null 2>&1 && break; sleep 0.2; done
mt -f $ST rewind
mkdir /tmp/back; tar -b 512 -M -F /tmp/next -C /tmp/back -xf $ST
cmp /tmp/big /tmp/back/big && echo "== same"
""", 500)
    assert out.count("== changed") == 2 and "== same" in out, out[-6000:]
