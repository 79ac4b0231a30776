"""SMB with clients that others wrote: Samba's smbclient and PyPI's smbprotocol."""
import json
import os
import pty
import select
import socket
import subprocess
import time

import pytest
from conftest import PROGRAM, SOAK, sh, until
from smb_client import DIALECTS, PASSWORD, add_user, listed, opened, smbclient, text, tree
from smbprotocol.change_notify import CompletionFilter, FileSystemWatcher
from smbprotocol.exceptions import SMBException, SMBResponseException
from smbprotocol.file_info import FileInformationClass
from smbprotocol.open import CreateDisposition

BIG_BYTES = (1 << 30) if SOAK else (64 << 20)
LOGON_FAILURE, ACCESS_DENIED, LOCKED_OUT = "NT_STATUS_LOGON_FAILURE", "NT_STATUS_ACCESS_DENIED", "NT_STATUS_ACCOUNT_LOCKED_OUT"


@pytest.fixture
def served(make_gateway):
    gateway = make_gateway().start()
    add_user(gateway)
    return gateway


def test_smbclient_works_on_a_share(served, tmp_path):
    gateway = served
    big = tmp_path / "big"
    sh(f"head -c {BIG_BYTES} /dev/urandom >{big}; mkdir -p {tmp_path}/tree/a/b; for i in $(seq 40); do seq $i 200 >{tmp_path}/tree/a/b/$i.txt; done; "
       f"echo top >'{tmp_path}/tree/Grüße, Welt.txt'")
    smbclient(gateway, f"put {big} big; get big {tmp_path}/back", timeout=600)
    sh(f"cmp {big} {tmp_path}/back && cmp {big} {gateway.mount}/big")
    # A tree there and back.
    smbclient(gateway, f"recurse on; prompt off; lcd {tmp_path}; mput tree")
    (tmp_path / "out").mkdir()
    smbclient(gateway, f"recurse on; prompt off; lcd {tmp_path}/out; mget tree")
    sh(f"diff -r {tmp_path}/tree {tmp_path}/out/tree && diff -r {tmp_path}/tree {gateway.mount}/tree")
    # Names: across directories, replaced, removed.
    smbclient(gateway, 'mkdir other; rename tree\\a\\b\\1.txt other\\moved.txt; del tree\\a\\b\\2.txt; rename tree\\a other\\deep')
    assert sorted(os.listdir(gateway.mount / "other")) == ["deep", "moved.txt"]
    assert "NT_STATUS_OBJECT_NAME_COLLISION" in smbclient(gateway, "rename big other\\moved.txt", check=False)
    assert "NT_STATUS_DIRECTORY_NOT_EMPTY" in smbclient(gateway, "rmdir other", check=False)
    assert "NT_STATUS_OBJECT_NAME_NOT_FOUND" in smbclient(gateway, "get nothing /dev/null", check=False)
    assert "NT_STATUS_OBJECT_PATH_NOT_FOUND" in smbclient(gateway, "get no\\thing /dev/null", check=False)
    told = smbclient(gateway, "ls; du; volume")
    assert "big" in told and str(BIG_BYTES) in told and "blocks of size" in told, told
    # smbclient's allinfo ends at the short name, which the crate never has; what else it would show:
    with tree(gateway) as share, opened(share, "big") as file:
        stat = (gateway.mount / "big").stat()
        assert (file.end_of_file, file.file_attributes) == (BIG_BYTES, 0x80)
        assert abs(file.last_write_time.timestamp() - stat.st_mtime) < 0.001 and file.creation_time <= file.change_time
    smbclient(gateway, "deltree other; ls")
    assert not (gateway.mount / "other").exists()
    # Spelled otherwise it is the same file, and keeps its name.
    smbclient(gateway, f"get BIG {tmp_path}/again; put {tmp_path}/tree/a/b/3.txt BIG")
    assert sorted(os.listdir(gateway.mount)) == ["big", "tree"]
    assert (gateway.mount / "big").read_bytes() == (tmp_path / "tree/a/b/3.txt").read_bytes()


def test_who_may_and_who_may_not(make_gateway):
    shares = {
        "all": 'bucket = "all"\n[smb]\ncomment = "for everybody"\n',
        "staff": 'bucket = "staff"\n[smb]\nusers = ["@staff"]\nread_only_users = ["bob"]\n',
        "guests": 'bucket = "guests"\n[smb]\nguest = true\ndeny = ["bob"]\n',
        "secret": 'bucket = "secret"\n[smb]\nhidden = true\n',
    }
    gateway = make_gateway(shares=shares).start()
    assert LOGON_FAILURE in smbclient(gateway, "ls", share="all", check=False), "there are no users"
    add_user(gateway, "ana", PASSWORD, "--group", "staff")
    add_user(gateway, "Bob", PASSWORD, "--group", "Staff", "--group", "other")
    add_user(gateway, "smbguest", "guest password")
    may = {"user": "bob"}
    for share, options, expected in [
        ("all", {}, ""), ("all", may, ""), ("all", {"user": "eve"}, LOGON_FAILURE), ("all", {"password": "wrong pass"}, LOGON_FAILURE),
        ("staff", {}, ""), ("guests", {}, ""), ("guests", may, ACCESS_DENIED), ("secret", may, ""),
        ("nowhere", {}, "NT_STATUS_BAD_NETWORK_NAME"),
    ]:
        told = smbclient(gateway, "ls", share=share, check=False, **options)
        assert expected in told if expected else "NT_STATUS" not in told, (share, options, told)
    guest = {"user": "smbguest", "password": "guest password", "check": False}
    assert "NT_STATUS" not in smbclient(gateway, "mkdir by-guest", share="guests", **guest)
    assert ACCESS_DENIED in smbclient(gateway, "ls", share="all", **guest)
    # Nobody without a password.
    for options in (["-N"], ["-U", "%"], ["-U", "guest%"]):
        done = subprocess.run(["smbclient", "//127.0.0.1/guests", "-p", str(gateway.smb_port), *options, "-c", "ls"], capture_output=True, text=True)
        assert done.returncode != 0 and "NT_STATUS" in done.stdout + done.stderr, options
    # Who may only read.
    smbclient(gateway, "mkdir dir; put /etc/hostname f", share="staff")
    smbclient(gateway, "get f /dev/null", share="staff", **may)
    for command in ("put /etc/hostname g", "del f", "rename f g", "rmdir dir", "mkdir d", "put /etc/hostname f"):
        smbclient(gateway, command, share="staff", check=False, **may)
    assert "f" in smbclient(gateway, "ls", share="staff") and " g " not in smbclient(gateway, "ls", share="staff")
    assert listed(gateway) == {"all": "for everybody", "guests": "", "staff": ""}
    assert set(listed(gateway, "bob")) == {"all", "staff"}
    # Lists and users change while it runs.
    (gateway.root / "shares/all.toml").write_text('bucket = "all"\n[smb]\ndeny = ["ana"]\n')
    until(lambda: ACCESS_DENIED in smbclient(gateway, "ls", share="all", check=False))
    gateway.run("user", "disable", "bob")
    assert LOGON_FAILURE in smbclient(gateway, "ls", share="all", check=False, **may)
    gateway.run("user", "enable", "BOB")
    smbclient(gateway, "ls", share="all", **may)
    gateway.run("user", "passwd", "bob", input="another password\n")
    assert LOGON_FAILURE in smbclient(gateway, "ls", share="all", check=False, **may)
    smbclient(gateway, "ls", share="all", user="bob", password="another password")
    gateway.run("user", "groups", "ana")
    assert ACCESS_DENIED in smbclient(gateway, "ls", share="staff", check=False)
    gateway.run("user", "remove", "ana")
    assert LOGON_FAILURE in smbclient(gateway, "ls", share="guests", check=False)
    assert json.loads(gateway.run("user", "list", "--json").stdout) == [
        {"name": "Bob", "groups": ["Staff", "other"], "disabled": False}, {"name": "smbguest", "groups": [], "disabled": False},
    ]


def test_the_users_are_a_secret_and_outlive_a_restart(served):
    gateway = served
    for args, expected in [
        (["add", "ana"], "already"), (["add", "a/b"], "not a user's name"), (["add", "guest"], "smbguest"),
        (["passwd", "eve"], "no user"), (["remove", "eve"], "no user"),
    ]:
        done = gateway.run("user", *args, check=False, input=PASSWORD + "\n")
        assert done.returncode == 1 and expected in done.stderr, (args, done.stderr)
    assert "6 to 512" in gateway.run("user", "add", "eve", check=False, input="short\n").stderr
    directory = gateway.root / "tidegate-data/smb"
    assert directory.stat().st_mode & 0o777 == 0o700
    for name in ("users.toml", "key"):
        assert (directory / name).stat().st_mode & 0o777 == 0o600
    smbclient(gateway, "ls")
    smbclient(gateway, "ls", password="not the password", check=False)
    gateway.stop()
    gateway.start()
    smbclient(gateway, "ls")
    # A file that is broken leaves who may in force, and is told.
    whole = (directory / "users.toml").read_text()
    (directory / "users.toml").write_text(whole + "nonsense = 1\n")
    assert "nonsense" in gateway.run("user", "disable", "ana", check=False).stderr
    until(lambda: any("users.toml" in notice for notice in gateway.status()["notices"]))
    smbclient(gateway, "ls")
    (directory / "users.toml").write_text(whole)
    until(lambda: not any("users.toml" in notice for notice in gateway.status()["notices"]))
    everything = gateway.log.read_text() + gateway.run("status", "--json").stdout + gateway.run("user", "list").stdout
    everything += "".join(path.read_bytes().decode(errors="replace") for path in directory.iterdir())
    assert PASSWORD not in everything and "not the password" not in everything


@pytest.mark.parametrize("dialect", DIALECTS)
def test_each_dialect_signs_and_encrypts(served, dialect):
    gateway = served
    for encrypt in (False, True):
        if encrypt and dialect.startswith("2"):
            continue
        name = f"{dialect}-{encrypt}".replace(".", "_")
        with tree(gateway, dialect=dialect, encrypt=encrypt) as share:
            with opened(share, name, CreateDisposition.FILE_CREATE, write=True) as file:
                assert file.write(b"x" * 100_000, 0) == 100_000
                file.flush()
                assert file.read(50_000, 100) == b"x" * 100
            with pytest.raises(SMBResponseException, match="STATUS_OBJECT_NAME_COLLISION"):
                with opened(share, name.upper(), CreateDisposition.FILE_CREATE, write=True):
                    pass
        assert (gateway.mount / name).read_bytes() == b"x" * 100_000
    with pytest.raises(SMBException, match="STATUS_LOGON_FAILURE|Received unexpected status"):
        with tree(gateway, dialect=dialect, password="a wrong one"):
            pass


def test_what_is_required_is_required(make_gateway):
    # Where neither the gateway nor the share says anything, clients must encrypt.
    shares = {
        "plain": 'bucket = "plain"\n[smb]\nencryption = "client"\n',
        "sealed": 'bucket = "sealed"\n',
    }
    gateway = make_gateway(shares=shares, smb='signing = "required"').start()
    add_user(gateway)
    assert "NT_STATUS" not in smbclient(gateway, "ls", share="plain", options=["-m", "SMB2"])
    assert "NT_STATUS" in smbclient(gateway, "ls", share="sealed", check=False, options=["-m", "SMB2"])
    assert set(listed(gateway)) == {"plain", "sealed"}
    smbclient(gateway, "put /etc/hostname f; get f /dev/null", share="sealed")
    with tree(gateway, share="sealed", encrypt=True) as share, opened(share, "f") as file:
        assert file.read(0, 100)


def test_a_file_is_one_object_and_every_front_end_sees_it_at_once(served, tmp_path):
    gateway = served
    (tmp_path / "page.html").write_bytes(b"<p>" * 5000)
    before = gateway.requests()
    smbclient(gateway, f"put {tmp_path}/page.html page.html")
    assert (gateway.mount / "page.html").read_bytes() == b"<p>" * 5000
    gateway.drain()
    after = gateway.requests()
    assert gateway.bucket() == {"page.html": 15000} and after.get("put", 0) - before.get("put", 0) == 1, (before, after)
    head = gateway.s3().head_object(Bucket="demo", Key="page.html")
    assert head["Metadata"]["file-permissions"] == "0100644" and head["Metadata"]["file-owner"] == "0" and head["ContentType"] == "text/html"
    stat = (gateway.mount / "page.html").stat()
    assert head["Metadata"]["file-mtime"] == f"{stat.st_mtime_ns}ns"
    # Both ways, without a wait in between.
    with tree(gateway) as share:
        for number in range(200 if SOAK else 40):
            name, bytes_ = f"file-{number}", b"%06d" % number
            (gateway.mount / name).write_bytes(bytes_)
            with opened(share, name.upper()) as file:
                assert file.read(0, 100) == bytes_
            with opened(share, name, CreateDisposition.FILE_OVERWRITE, write=True) as file:
                file.write(bytes_ * 2, 0)
                assert (gateway.mount / name).read_bytes() == bytes_ * 2
                (gateway.mount / name).write_bytes(b"again")
                assert file.read(0, 100) == b"again"
                os.rename(gateway.mount / name, gateway.mount / f"{name}.renamed")
                assert file.read(0, 100) == b"again", "an open file keeps its bytes"
            with pytest.raises(SMBResponseException, match="NOT_FOUND"):
                with opened(share, name):
                    pass
            with opened(share, f"{name}.renamed") as file:
                os.unlink(gateway.mount / f"{name}.renamed")
                assert file.read(0, 100) == b"again"


def test_an_object_that_others_wrote_is_a_file_to_clients(make_gateway):
    gateway = make_gateway(share='refresh = "1s"').start()
    add_user(gateway)
    gateway.s3().put_object(Bucket="demo", Key="from/s3/Object.TXT", Body=b"others")
    until(lambda: "from" in smbclient(gateway, "ls"))
    with tree(gateway) as share:
        with opened(share, r"FROM\s3\object.txt") as file:
            assert file.read(0, 100) == b"others"
        with opened(share, r"from\s3", directory=True) as directory:
            names = [text(entry["file_name"]) for entry in
                     directory.query_directory("*", FileInformationClass.FILE_ID_BOTH_DIRECTORY_INFORMATION)]
        assert names == [".", "..", "Object.TXT"]


def test_names_that_windows_cannot_hold_are_shown_otherwise(served):
    gateway = served
    for name in ("a:b", "ends.", "aux.c", 'q"u?e*s|t'):
        (gateway.mount / name).write_text(name)
    shown = {"a\uf022b", "ends\uf029", "au\uf078.c", "q\uf020u\uf025e\uf021s\uf027t"}
    with tree(gateway) as share:
        with opened(share, "", directory=True) as root:
            entries = root.query_directory("*", FileInformationClass.FILE_NAMES_INFORMATION)
            assert {text(entry["file_name"]) for entry in entries} == shown | {".", ".."}
        for name in shown:
            with opened(share, name) as file:
                assert (gateway.mount / file.read(0, 100).decode()).exists()
        with opened(share, "new\uf025", CreateDisposition.FILE_CREATE, write=True):
            pass
    assert (gateway.mount / "new?").exists()


def test_a_client_that_watches_hears_of_others(served):
    gateway = served
    (gateway.mount / "watched").mkdir()
    heard, path = [], gateway.mount / "watched"
    with tree(gateway) as share, opened(share, "watched", directory=True) as directory:

        def hear(change, *expected):
            watcher = FileSystemWatcher(directory)
            watcher.start(CompletionFilter.FILE_NOTIFY_CHANGE_FILE_NAME | CompletionFilter.FILE_NOTIFY_CHANGE_SIZE)
            # The first request is what begins the watch.
            time.sleep(0.3)
            change()
            while True:
                watcher.wait()
                heard.extend((result["action"].get_value(), text(result["file_name"])) for result in watcher.result)
                if set(expected) <= set(heard):
                    return
                watcher = FileSystemWatcher(directory)
                watcher.start(CompletionFilter.FILE_NOTIFY_CHANGE_FILE_NAME | CompletionFilter.FILE_NOTIFY_CHANGE_SIZE)

        hear(lambda: (path / "new").write_text("x"), (1, "new"), (3, "new"))
        hear(lambda: (path / "new").rename(path / "other"), (4, "new"), (5, "other"))
        hear(lambda: (path / "other").unlink(), (2, "other"))


def test_sessions_are_shown_counted_and_closed(served):
    gateway = served
    with tree(gateway, dialect="3.0.2") as share, opened(share, "f", CreateDisposition.FILE_CREATE, write=True, may_be_gone=True) as file:
        file.write(b"x" * 1000, 0)
        sessions = json.loads(gateway.run("smb", "sessions", "--json").stdout)
        assert [(s["dialect"], s["shares"], s["failed_logons"]) for s in sessions] == [("3.0.2", ["demo"], 0)]
        assert "ana" in sessions[0]["users"][0] and sessions[0]["client"].startswith("127.0.0.1:")
        shares = gateway.status()["smb"]["shares"]
        assert shares[0]["name"] == "demo" and shares[0]["open_files"] == 1 and shares[0]["written_bytes"] == 1000
        import urllib.request

        metrics = urllib.request.urlopen(f"http://127.0.0.1:{gateway.admin_port}/metrics", timeout=30).read().decode()
        assert 'tidegate_smb_written_bytes_total{share="demo"} 1000' in metrics and "tidegate_smb_connections 1" in metrics
        assert "ana" in gateway.run("status").stdout and "127.0.0.1" in gateway.run("smb", "sessions").stdout
        gateway.run("smb", "sessions", "--close", "ana")
        with pytest.raises(SMBException):
            file.write(b"y", 0)
        until(lambda: gateway.status()["smb"]["shares"][0]["open_files"] == 0)
        assert "no user" in gateway.run("smb", "sessions", "--close", "eve", check=False).stderr
    until(lambda: not json.loads(gateway.run("smb", "sessions", "--json").stdout))
    smbclient(gateway, "ls")


def test_what_was_flushed_survives_kill_9(served):
    gateway = served
    with tree(gateway) as share, opened(share, "kept", CreateDisposition.FILE_CREATE, write=True, may_be_gone=True) as file:
        for block in range(64):
            file.write(bytes([block]) * 65536, block * 65536)
        file.flush()
        gateway.kill()
    gateway.start()
    assert (gateway.mount / "kept").read_bytes() == b"".join(bytes([block]) * 65536 for block in range(64))
    smbclient(gateway, "get kept /dev/null")


def test_a_broken_or_hostile_client_costs_only_itself(served):
    gateway = served
    deadline = time.monotonic() + 60
    resident = lambda: int(next(line.split()[1] for line in open(f"/proc/{gateway.process.pid}/status") if line.startswith("VmRSS")))
    before = resident()
    sockets = []
    for number in range(600):
        probe = socket.create_connection(("127.0.0.1", gateway.smb_port))
        # A length that is not kept, a length that is too long, noise.
        probe.sendall([b"\0\x0f\xff\xff" + b"x" * 100, b"\0\xff\xff\xff", os.urandom(200)][number % 3])
        sockets.append(probe)
    assert resident() - before < 300_000, "KiB"
    for probe in sockets:
        probe.close()
    until(lambda: "NT_STATUS" not in smbclient(gateway, "ls", check=False), deadline - time.monotonic())
    # Guessing is slowed down, and told with the address.
    answers = [smbclient(gateway, "ls", user="bob", password=f"guess-{number}", check=False) for number in range(7)]
    assert LOGON_FAILURE in answers[0] and LOCKED_OUT in answers[-1], answers
    smbclient(gateway, "ls")
    lines = [line for line in gateway.log.read_text().splitlines() if "NTLM authenticate failed" in line]
    assert len(lines) == 5 and all("127.0.0.1" in line for line in lines), lines


def test_a_share_that_leaves_leaves_clients_nothing_open(make_gateway):
    gateway = make_gateway(shares={"a": 'bucket = "aaa"\n', "b": 'bucket = "bbb"\n'}).start()
    add_user(gateway)
    with tree(gateway, share="a") as share, opened(share, "f", CreateDisposition.FILE_CREATE, write=True, may_be_gone=True) as file:
        file.write(b"written before it left", 0)
        (gateway.root / "shares/a.toml").unlink()
        until(lambda: set(listed(gateway)) == {"b"})
        with pytest.raises(SMBException):
            file.write(b"x", 0)
    until(lambda: [share["name"] for share in gateway.status()["shares"]] == ["b"])
    assert gateway.s3().get_object(Bucket="aaa", Key="f")["Body"].read() == b"written before it left"
    assert "NT_STATUS_BAD_NETWORK_NAME" in smbclient(gateway, "ls", share="a", check=False)


def test_a_typed_password_is_asked_for_twice_and_not_shown(make_gateway):
    gateway = make_gateway()
    for answers, code in [(("typed secret", "typed secret"), 0), (("typed secret", "another"), 1)]:
        ours, theirs = pty.openpty()
        command = [PROGRAM, "--config", str(gateway.config), "user", "add", f"user{code}"]
        process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, cwd=gateway.root)
        os.close(theirs)
        shown = b""
        for prompt, answer in zip((b"password of", b"once more"), answers):
            while prompt not in shown:
                shown += os.read(ours, 1000)
            time.sleep(0.2)
            os.write(ours, answer.encode() + b"\n")
        assert process.wait(timeout=60) == code
        while select.select([ours], [], [], 0.5)[0]:
            try:
                shown += os.read(ours, 1000)
            except OSError:
                break
        os.close(ours)
        assert b"secret" not in shown, shown
    assert [user["name"] for user in json.loads(gateway.run("user", "list", "--json").stdout)] == ["user0"]
