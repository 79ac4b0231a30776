"""NLM and NSM with real Linux clients: two guests, each with an address of its own, in a network namespace with an rpcbind."""
import contextlib
import os
import pathlib
import sqlite3
import subprocess
import time

import guest
import pytest
from conftest import SOAK, sh

SHARE = 'bucket = "demo"\n[nfs]\nsquash = "none"\nclients = ["10.77.0.0/24"]\n[fuse]\nmount = "mnt/demo"\n'


class Network:
    """A namespace with a bridge 10.77.0.1, taps for guests, and an rpcbind."""

    def __init__(self, guests=2):
        self.name = f"tgnfs{os.getpid()}"
        sh(f"ip netns add {self.name}")
        self.prefix = ["nsenter", f"--net=/run/netns/{self.name}"]
        taps = "".join(f"ip tuntap add tap{n} mode tap; ip link set tap{n} master br0 up;" for n in range(1, guests + 1))
        sh(" ".join(self.prefix) + f" bash -ec 'ip link set lo up; ip link add br0 type bridge; ip addr add 10.77.0.1/24 dev br0;"
           f" {taps} ip link set br0 up'")
        # One of a run that was killed is nobody's.
        pathlib.Path("/run/rpcbind.sock").unlink(missing_ok=True)
        self.rpcbind = subprocess.Popen([*self.prefix, "rpcbind", "-f"])
        deadline = time.monotonic() + 10
        while not os.path.exists("/run/rpcbind.sock"):
            assert time.monotonic() < deadline and self.rpcbind.poll() is None, "rpcbind does not run"
            time.sleep(0.05)

    def guest(self, number, job, seconds=500):
        setup = f"""
N=$(ls /sys/class/net | grep -v lo | head -1); ip addr flush dev $N; ip addr add 10.77.0.1{number}/24 dev $N; hostname guest{number}
mkdir -p /run/rpcbind /var/lib/nfs/statd/sm /var/lib/nfs/statd/sm.bak /nfs; rpcbind; rpc.statd --no-notify
mount -t nfs -o vers=3,proto=tcp,mountproto=tcp,hard,timeo=50 10.77.0.1:/demo /nfs
cd /nfs
"""
        return guest.Guest(setup + job, seconds, tap=f"tap{number}", prefix=self.prefix)

    def close(self):
        self.rpcbind.terminate()
        self.rpcbind.wait(10)
        sh(f"ip netns del {self.name}", check=False)


@pytest.fixture
def network():
    made = Network()
    yield made
    made.close()


def served(network, make_gateway):
    nfs = 'listen = ["10.77.0.1:2049"]\nrpcbind = true'
    return make_gateway(shares={"demo": SHARE}, nfs=nfs, prefix=network.prefix).start()


def test_locks_of_two_guests_exclude_each_other_and_wait(network, make_gateway):
    gateway = served(network, make_gateway)
    lock = gateway.mount / "lock"
    lock.touch()
    first = network.guest(1, """
exec 3<>lock; flock -x 3; echo LOCKED >/dev/console; until test -e seen; do sleep 0.5; done
echo first >>order; sync order; flock -u 3; exec 3>&-; cd /; umount /nfs
""")
    second = None
    try:
        first.wait_for("LOCKED")
        second = network.guest(2, """
exec 3<>lock; ! flock -xn 3; touch seen; flock -x 3; echo second >>order; sync order; flock -u 3
sqlite3 db 'pragma journal_mode=delete; create table t(x); insert into t values(1);'; sqlite3 db 'pragma integrity_check'
exec 3>&-; cd /; umount /nfs
""")
        first.end()
        second.end()
    finally:
        for made in (first, second):
            if made:
                made.close()
    assert (gateway.mount / "order").read_text() == "first\nsecond\n"


@pytest.mark.timeout(7200 if SOAK else 900)
def test_a_database_is_changed_from_two_guests_at_once(network, make_gateway):
    """Each transaction reads a number and writes the next: one that is lost, or seen half, shows."""
    rounds = 300 if SOAK else 12
    gateway = served(network, make_gateway)
    with contextlib.closing(sqlite3.connect(gateway.mount / "db")) as database:
        database.executescript("create table t(id integer primary key, who text, before int); create table n(n int); insert into n values(0)")
    work = """
for i in $(seq ROUNDS); do
    sqlite3 -cmd '.timeout 120000' db "begin immediate; insert into t(who, before) select 'WHO', n from n; update n set n = n + 1; commit;"
done
sqlite3 -cmd '.timeout 120000' db 'pragma integrity_check' | grep -qx ok; cd /; umount /nfs
""".replace("ROUNDS", str(rounds))
    seconds = 7000 if SOAK else 800
    guests = [network.guest(number, work.replace("WHO", f"guest{number}"), seconds) for number in (1, 2)]
    try:
        for made in guests:
            made.end()
    finally:
        for made in guests:
            made.close()
    with contextlib.closing(sqlite3.connect(gateway.mount / "db")) as database:
        assert database.execute("select n from n").fetchall() == [(2 * rounds,)]
        assert database.execute("select count(distinct before), count(*) from t").fetchall() == [(2 * rounds, 2 * rounds)]
        assert database.execute("select who, count(*) from t group by who").fetchall() == [("guest1", rounds), ("guest2", rounds)]


def test_locks_exclude_fuse_and_survive_a_restart(network, make_gateway):
    import fcntl

    gateway = served(network, make_gateway)
    (gateway.mount / "lock").touch()
    job = network.guest(1, """
exec 3<>lock; flock -x 3; echo LOCKED; until test -e done; do sleep 0.5; done; echo still >&3; flock -u 3; echo UNLOCKED
until test -e over; do sleep 0.5; done; exec 3>&-; cd /; umount /nfs
""")

    def is_free():
        with open(gateway.mount / "lock", "r+") as file:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            except OSError:
                return False

    try:
        job.wait_for("LOCKED")
        assert not is_free()
        gateway.kill()
        gateway.start()
        deadline = time.monotonic() + 60
        while is_free():
            assert time.monotonic() < deadline, "the client did not reclaim its lock"
            time.sleep(1)
        (gateway.mount / "done").touch()
        job.wait_for("UNLOCKED")
        assert is_free()
        (gateway.mount / "over").touch()
        job.end()
    finally:
        job.close()
