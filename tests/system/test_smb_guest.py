"""SMB with the Linux kernel's own client, in a guest."""
import os

import guest
import pytest
from conftest import sh
from smb_client import add_user

PASSWORD = "kernel-client-7"


def mount(gateway, where="/smb", options="seal,hard"):
    """By the kernel alone: mount.cifs is not needed where the address is given."""
    options = f"ip=10.0.2.2,port={gateway.smb_port},username=ana,password={PASSWORD},vers=3.1.1,nobrl,actimeo=0,cache=none,{options}"
    return f"modprobe cifs; mkdir -p {where}; mount -i -t cifs -o {options} //10.0.2.2/demo {where}\n"


def served(make_gateway, **options):
    gateway = make_gateway(**options).start()
    add_user(gateway, "ana", PASSWORD)
    return gateway


@pytest.mark.timeout(1800)
def test_a_linux_client_works_on_a_share(make_gateway):
    gateway = served(make_gateway)
    guest.run(mount(gateway) + """
cd /smb; df . | tail -1
# a repository
git init -q /tmp/origin; cd /tmp/origin; git config user.email a@b; git config user.name n
for i in $(seq 40); do mkdir -p d$((i % 7)); seq $i 2000 >d$((i % 7))/f$i; done
git add .; git commit -qm one; cp -r /tmp/origin /smb/copy; cd /smb/copy
git config --global --add safe.directory '*'; git fsck --strict; git status --porcelain | head; diff -r /tmp/origin/d2 d2
# bytes that are checked
cd /smb; fio --name=v --filename=v --rw=randrw --bsrange=512-64k --size=4m --verify=crc32c --do_verify=1 --fsync=16 --ioengine=psync --output=/dev/null
# names, times, lengths
echo a >x; mv x y; ! ls x 2>/dev/null; ls Y; mkdir d; mv y d/z; touch -d '2001-02-03 04:05:06.7' d/z; test "$(stat -c %Y d/z)" = 981173106
mkdir full; touch full/f; ! rmdir full 2>/dev/null; rm -r full; truncate -s 5g sparse; test $(stat -c %s sparse) = 5368709120; rm sparse
for i in $(seq 300); do echo $i >d/$i; done; test $(ls d | wc -l) = 301; echo 'a:b' >'a:b'; test -e 'a:b'
chmod a-w d/z; ! echo b >d/z 2>/dev/null; chmod u+w d/z; echo b >d/z
dbench -t 5 -D /smb 2 >/tmp/dbench.log || { tail /tmp/dbench.log; exit 1; }
cd /; umount /smb
""", 1500)
    sh("git -C copy -c safe.directory='*' fsck --strict && test -e a:b && test $(cat d/z) = b", cwd=gateway.mount)
    gateway.drain()
    assert gateway.bucket()["d/z"] == 2


@pytest.mark.timeout(1800)
def test_two_mounts_and_fuse_see_each_other(make_gateway):
    gateway = served(make_gateway)
    (gateway.mount / "from-fuse").write_text("fuse")
    guest.run(mount(gateway, "/one") + mount(gateway, "/two", "nosharesock,hard") + """
test "$(cat /one/from-fuse)" = fuse
# A name of its own each time: the client itself believes for a second that a name is not there.
for i in $(seq 30); do
    echo $i >/one/f$i; test "$(cat /two/f$i)" = $i; echo more >>/two/f$i; test $(wc -l </one/f$i) = 2
    mv /two/f$i /two/g$i; ! cat /one/f$i 2>/dev/null; test $(head -1 /one/g$i) = $i; rm /one/g$i; ! cat /two/g$i 2>/dev/null
done
umount /one /two
""", 900)


@pytest.mark.timeout(1800)
def test_a_hard_mount_goes_on_over_kill_9(make_gateway):
    gateway = served(make_gateway)
    job = guest.Guest(mount(gateway) + """
mkdir /smb/d
for i in $(seq 30); do head -c 100000 /dev/urandom >/tmp/$i; cp /tmp/$i /smb/d/$i; sync /smb/d/$i; [ $i != 10 ] || echo GUEST-TEN; done
for i in $(seq 30); do cmp /tmp/$i /smb/d/$i; done
umount /smb
""", 900)
    try:
        job.wait_for("GUEST-TEN")
        gateway.kill()
        gateway.start()
        job.end()
    finally:
        job.close()
    assert len(os.listdir(gateway.mount / "d")) == 30
