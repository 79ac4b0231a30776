"""NFS with the real Linux client, in a guest."""
import os
import time

import guest
import pytest
from conftest import SOAK, sh

OPEN = '\n[nfs]\nsquash = "none"\n'
# How often the gateway is killed, how many names a large directory has.
KILLS = 40 if SOAK else 3
NAMES = 100_000 if SOAK else 20_000


def mount(gateway, share="demo", options="hard", port=None):
    port = port or gateway.nfs_port
    options = f"vers=3,tcp,nolock,port={port},mountport={port},mountproto=tcp,{options}"
    return f"mkdir -p /nfs; mount -t nfs -o {options} 10.0.2.2:/{share} /nfs\n"


def served(make_gateway, **options):
    return make_gateway(**{"share": OPEN, **options}).start()


def test_a_linux_client_works_on_a_share(make_gateway):
    gateway = served(make_gateway)
    guest.run(mount(gateway) + """
cd /nfs; df . | tail -1
# a repository
git init -q /tmp/origin; cd /tmp/origin; git config user.email a@b; git config user.name n
for i in $(seq 60); do mkdir -p d$((i % 7)); seq $i 2000 >d$((i % 7))/f$i; done; ln -s d1/f1 link
git add .; git commit -qm one; cd /nfs; git clone -q /tmp/origin clone; cd clone
git config user.email a@b; git config user.name n; git fsck --strict; git mv d1 moved; git commit -qm two; git gc -q; git status --porcelain
diff -r /tmp/origin/d2 d2; test "$(readlink link)" = d1/f1
# bytes that are checked
cd /nfs; fio --name=v --filename=v --rw=randrw --bsrange=512-64k --size=8m --verify=crc32c --do_verify=1 --fsync=16 --ioengine=psync \
    --time_based=0 --output=/dev/null
# open files lose their names and keep their bytes
exec 3<>open; echo held >&3; mv open renamed; rm renamed; echo more >&3; sync; exec 3>&-
echo a >x; exec 4<x; mv x y; cat <&4 | grep -q a; exec 4<&-
# times, modes, links of every kind
touch -d '2001-02-03 04:05:06.789' y; chmod 4711 y; ln y hard; mkfifo pipe; mknod null c 1 3
test "$(stat -c '%a %h %Y' y)" = "4711 2 981173106"; test -p pipe; test -c null
mkdir full; touch full/f; ! rmdir full; ! mkdir full; rm -r full
truncate -s 5g sparse; test $(stat -c %s sparse) = 5368709120; rm sparse
# O_EXCL and O_APPEND
set -o noclobber; ! { echo b >y; } 2>/dev/null; set +o noclobber
for i in 1 2 3 4; do (for j in $(seq 50); do echo "$i $j" >>log; done) & done; wait; ls -la /nfs
cd /; umount /nfs
""", 600)
    # What was written through NFS is there through FUSE, and in the bucket.
    sh("test -p pipe && test -c null && git -C clone -c safe.directory='*' fsck --strict", cwd=gateway.mount)
    assert (gateway.mount / "y").read_bytes() == b"a\n"
    gateway.drain()
    assert gateway.bucket()["y"] == 2
    procedures = {p["name"]: p for p in gateway.status()["nfs"]["procedures"]}
    assert procedures["write"]["calls"] > 0 and procedures["commit"]["calls"] > 0


def test_users_see_what_their_modes_allow_and_root_is_squashed(make_gateway):
    gateway = served(make_gateway, share="\n[nfs]\n")
    os.chmod(gateway.mount, 0o777)
    guest.run(mount(gateway) + """
as() { setpriv --reuid $1 --regid $2 --groups $3 -- bash -c "$4"; }
cd /nfs
as 1000 1000 1000 'echo secret >f; chmod 640 f; mkdir d; chmod 700 d; echo x >d/x'
test "$(stat -c %u:%g f)" = 1000:1000
! as 1001 1001 1001 'cat f' 2>/dev/null
as 1001 1001 1000,1001 'cat f'
! as 1001 1001 1000,1001 'echo y >>f' 2>/dev/null
! as 1001 1001 1001 'ls d' 2>/dev/null
! cat f 2>/dev/null
touch mine; test "$(stat -c %u:%g mine)" = 65534:65534
! chown 1000 mine 2>/dev/null
""")
    assert (gateway.mount / "f").stat().st_uid == 1000


@pytest.mark.timeout(7200 if SOAK else 600)
def test_a_hard_mount_goes_on_over_kill_9(make_gateway):
    gateway = served(make_gateway)
    job = guest.Guest(mount(gateway, options="hard,timeo=50,retrans=2") + """
head -c 40000000 /dev/urandom >/tmp/data
echo COPYING
for round in $(seq ROUNDS); do for i in 1 2 3; do cp /tmp/data /nfs/data$i; sync /nfs/data$i; echo "synced $i"; done; done
for i in $(seq 200); do echo "$i" >/nfs/small$i; done; sync
for i in 1 2 3; do cmp /tmp/data /nfs/data$i; done
umount /nfs
""".replace("ROUNDS", str(KILLS // 3)) + mount(gateway) + """
for i in 1 2 3; do cmp /tmp/data /nfs/data$i; done
for i in $(seq 200); do test "$(cat /nfs/small$i)" = $i; done
sha256sum /tmp/data | sed 's/^/SUM /'
""", 7000 if SOAK else 600)
    try:
        job.wait_for("COPYING")
        for _ in range(KILLS):
            time.sleep(2)
            gateway.kill()
            time.sleep(1)
            gateway.start()
        digest = next(line.split()[1] for line in job.end().splitlines() if line.startswith("SUM "))
    finally:
        job.close()
    for number in (1, 2, 3):
        assert sh(f"sha256sum data{number}", cwd=gateway.mount).stdout.split()[0] == digest


@pytest.mark.timeout(7200 if SOAK else 600)
def test_a_listing_while_names_go(make_gateway):
    gateway = served(make_gateway)
    big = gateway.mount / "big"
    big.mkdir()
    for number in range(NAMES):
        (big / f"file-{number:06}").touch()
    job = guest.Guest(mount(gateway) + """
ls /nfs/big | wc -l; echo LISTING
for i in 1 2 3; do ls -U /nfs/big >/tmp/list$i; sort /tmp/list$i | uniq -d | head -3 | grep . && exit 1; done
for i in 1 2 3; do grep -c 'file-.*[02468]$' /tmp/list$i | sed 's/^/KEPT /'; done
""", 7000 if SOAK else 600)
    try:
        job.wait_for("LISTING")
        for number in range(1, NAMES, 2):
            (big / f"file-{number:06}").unlink()
        kept = [line.split()[1] for line in job.end().splitlines() if line.startswith("KEPT ")]
    finally:
        job.close()
    assert kept == [str(NAMES // 2)] * 3


def test_fuse_and_nfs_see_each_other(make_gateway):
    gateway = served(make_gateway)
    (gateway.mount / "from-fuse").write_text("one")
    job = guest.Guest(mount(gateway) + """
test "$(cat /nfs/from-fuse)" = one; echo hello >/nfs/from-nfs; echo WRITTEN
until test -e /nfs/go; do sleep 0.2; done
until test "$(cat /nfs/from-fuse)" = two; do sleep 0.2; done
""")
    try:
        job.wait_for("WRITTEN")
        assert (gateway.mount / "from-nfs").read_text() == "hello\n"
        (gateway.mount / "from-fuse").write_text("two")
        (gateway.mount / "go").touch()
        job.end()
    finally:
        job.close()


def test_who_is_not_listed_is_told_so(make_gateway):
    share = 'bucket = "demo"\n[nfs]\nclients = ["10.9.0.0/16"]\n'
    gateway = make_gateway(shares={"demo": share, "open": 'bucket = "other"\n'}).start()
    out = guest.run(mount(gateway, "open") + "umount /nfs\n" + f"""
! ({mount(gateway)}) 2>/tmp/denied; cat /tmp/denied; grep -qi denied /tmp/denied
! ({mount(gateway, "none")}) 2>/tmp/none; cat /tmp/none; grep -qi 'no such file' /tmp/none
""")
    assert "GUEST-RC 0" in out
    log = gateway.log.read_text()
    assert "/demo" in log and "127.0.0.1" in log
    # A change of the list needs no restart.
    (gateway.root / "shares/demo.toml").write_text(share.replace("10.9.0.0/16", "127.0.0.1"))
    time.sleep(2)
    guest.run(mount(gateway) + "touch /nfs/x 2>/dev/null || true; ls /nfs\n")
