"""NLM and NSM with real Linux clients: two guests, each with an address of its own, in a network namespace with an rpcbind."""
import json
import os
import subprocess
import sys
import time

import guest
import pytest
from conftest import SOAK, sh

SHARE = 'bucket = "demo"\n[nfs]\nsquash = "none"\nclients = ["10.77.0.0/24"]\n[fuse]\nmount = "mnt/demo"\n'


class Network:
    """A namespace with a bridge 10.77.0.1, taps for guests, and an rpcbind with a /run of its own: an rpcbind's socket and lock are the whole
    machine's else, and two runs of these tests, or the machine's own rpcbind, would take them from each other."""

    def __init__(self, guests=2):
        self.name = f"tgnfs{os.getpid()}"
        sh(f"ip netns add {self.name}")
        enter = ["nsenter", f"--net=/run/netns/{self.name}"]
        taps = "".join(f"ip tuntap add tap{n} mode tap; ip link set tap{n} master br0 up;" for n in range(1, guests + 1))
        sh(" ".join(enter) + f" bash -ec 'ip link set lo up; ip link add br0 type bridge; ip addr add 10.77.0.1/24 dev br0;"
           f" {taps} ip link set br0 up'")
        start = "mount -t tmpfs tmpfs /run; mkdir /run/rpcbind; exec rpcbind -f"
        self.rpcbind = subprocess.Popen([*enter, "unshare", "--mount", "bash", "-ec", start])
        # What else runs in it, and how its files are seen from here.
        self.prefix = [*enter, f"--mount=/proc/{self.rpcbind.pid}/ns/mnt"]
        self.view = f"/proc/{self.rpcbind.pid}/root"
        deadline = time.monotonic() + 60
        while os.stat(f"{self.view}/run").st_dev == os.stat("/run").st_dev or not os.path.exists(f"{self.view}/run/rpcbind.sock"):
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

    def sql(self, path, statement):
        """A statement's rows, by an SQLite in the namespace: it follows /proc/PID/root as if it were a link, and would come out here."""
        code = (
            "import json, sqlite3, sys; database = sqlite3.connect(sys.argv[1], timeout=60, isolation_level=None);"
            " print(json.dumps(database.execute(sys.argv[2]).fetchall()))"
        )
        done = subprocess.run([*self.prefix, sys.executable, "-c", code, str(path), statement], capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, (statement, done.stderr)
        return json.loads(done.stdout)

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
    return make_gateway(shares={"demo": SHARE}, nfs=nfs, prefix=network.prefix, view=network.view).start()


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
    path = gateway.root / "mnt/demo/db"
    for statement in ("create table t(id integer primary key, who text, before int)", "create table n(n int)", "insert into n values(0)"):
        network.sql(path, statement)
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
    assert network.sql(path, "select n from n") == [[2 * rounds]]
    assert network.sql(path, "select count(distinct before), count(*) from t") == [[2 * rounds, 2 * rounds]]
    assert network.sql(path, "select who, count(*) from t group by who order by who") == [["guest1", rounds], ["guest2", rounds]]


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
