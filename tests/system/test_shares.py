"""Shares as they are changed, drained and promised: live settings, fsync that means S3, what does not fit into S3's metadata, long paths."""

import errno
import http.server
import os
import random
import threading
import time

import pytest

from conftest import sh, until
from test_limits import far_away  # noqa: F401  (a fixture)


def test_settings_change_under_an_open_file(make_gateway):
    text = 'bucket = "demo"\nupload_delay = "{delay}"\n{more}\n[fuse]\nmount = "mnt/demo"\n'
    gateway = make_gateway(shares={"demo": text.format(delay="1h", more="")}).start()
    path = gateway.mount / "open"
    file = open(path, "w")
    file.write("written before")
    file.flush()
    (gateway.mount / "waits").write_text("an hour")
    device = os.stat(gateway.mount).st_dev
    share = gateway.root / "shares/demo.toml"
    share.write_text(text.format(delay="1s", more='storage_class = "STANDARD_IA"\nfile_mode = "0600"'))
    # What waited for the old delay goes by the new one, as the new settings say; the mount and the open file are the same.
    until(lambda: gateway.bucket().get("waits") == 7)
    assert gateway.s3().head_object(Bucket="demo", Key="waits")["StorageClass"] == "STANDARD_IA"
    file.write(", and after")
    file.close()
    assert os.stat(gateway.mount).st_dev == device
    until(lambda: gateway.bucket().get("open") == 25)
    share.write_text(text.format(delay="1s", more="read_only = true"))
    until(lambda: refused(gateway.mount / "new") == errno.EROFS)
    assert os.stat(gateway.mount).st_dev == device
    share.write_text(text.format(delay="1s", more=""))
    until(lambda: refused(gateway.mount / "new") is None)
    # Only what is about the mount itself makes it anew.
    share.write_text(text.format(delay="1s", more="").replace("mnt/demo", "mnt/other"))
    until(lambda: os.path.ismount(gateway.root / "mnt/other"))
    assert not os.path.ismount(gateway.mount)
    assert (gateway.root / "mnt/other/open").read_text() == "written before, and after"


def test_a_share_keeps_its_endpoint_over_a_restart(make_gateway):
    """Also where nobody changed the share's file: the endpoint that it inherits is as good as one of its own."""
    gateway = make_gateway().start()
    (gateway.mount / "x").write_text("at home")
    gateway.drain()
    gateway.stop()
    gateway.write_config('[s3]\nendpoint = "http://127.0.0.1:1"\n')
    line = gateway.config.read_text().splitlines().index('endpoint = "http://127.0.0.1:1"') + 1
    gateway.start(env={"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s"})
    [share] = gateway.status()["shares"]
    assert share["state"] == "failed"
    for words in (f"tidegate.toml:{line}: s3.endpoint:", '"embedded"', '"http://127.0.0.1:1"', "cannot change", "another name"):
        assert words in share["reason"], share
    assert not os.path.ismount(gateway.mount)
    # Said the other way it is the same place; and what was there is there.
    text = (gateway.root / "shares/demo.toml").read_text()
    (gateway.root / "shares/demo.toml").write_text(text.replace("[fuse]", '[s3]\nendpoint = "embedded"\n[fuse]'))
    gateway.stop()
    gateway.start()
    assert (gateway.mount / "x").read_text() == "at home"


def test_two_shares_of_one_bucket_are_refused_however_they_say_it(make_gateway):
    gateway = make_gateway(shares={"a": 'bucket = "one"\n', "b": 'bucket = "one"\n[s3]\nendpoint = "embedded"\n'})
    done = gateway.run("check", check=False)
    assert done.returncode == 78 and "b.toml" in done.stderr and "overlaps" in done.stderr, done.stderr


def refused(path):
    try:
        path.write_text("x")
    except OSError as error:
        return error.errno
    return None


def test_a_removed_share_is_seen_until_it_is_drained(far_away):  # noqa: F811
    gateway, proxy, endpoint = far_away()
    os.listdir(gateway.mount)
    proxy.cut()
    (gateway.mount / "kept").write_text("until S3 is back")
    text = (gateway.root / "shares/demo.toml").read_text()
    states = lambda: {share["name"]: share["state"] for share in gateway.status()["shares"]}
    (gateway.root / "shares/demo.toml").unlink()
    until(lambda: states() == {"demo": "draining", "near": "running"})
    assert not os.path.ismount(gateway.mount)
    time.sleep(2)
    assert states()["demo"] == "draining"
    assert next(share for share in gateway.status()["shares"] if share["name"] == "demo")["dirty_bytes"] > 0
    # It may come back.
    (gateway.root / "shares/demo.toml").write_text(text)
    until(lambda: os.path.ismount(gateway.mount) and states()["demo"] == "running")
    assert (gateway.mount / "kept").read_text() == "until S3 is back"
    (gateway.root / "shares/demo.toml").unlink()
    until(lambda: states()["demo"] == "draining")
    proxy.mend()
    until(lambda: "demo" not in states(), 90)
    assert endpoint.s3().get_object(Bucket="far", Key="kept")["Body"].read() == b"until S3 is back"


def test_fsync_of_a_remote_share_means_s3(far_away):  # noqa: F811
    gateway, proxy, endpoint = far_away(share='durability = "remote"\nupload_delay = "1h"\nremote_timeout = "3s"')
    os.listdir(gateway.mount)
    client = endpoint.s3()
    with open(gateway.mount / "a", "wb") as file:
        # Also in the moment after the one before, when what is over is put away.
        for body in [b"%03d" % number for number in range(20)] + [b"first", b"first, second"]:
            time.sleep(random.random() / 8)
            file.seek(0)
            file.write(body)
            file.flush()
            os.fsync(file.fileno())
            # Not a moment later, though the file is open and the delay is an hour.
            assert client.get_object(Bucket="far", Key="a")["Body"].read() == body
        proxy.cut()
        file.write(b", third")
        file.flush()
        begun = time.monotonic()
        with pytest.raises(OSError):
            os.fsync(file.fileno())
        # After the share's 3 s, and not after the usual 30.
        assert 2 < time.monotonic() - begun < 20
        assert client.get_object(Bucket="far", Key="a")["Body"].read() == b"first, second"
        proxy.mend()
        until(lambda: synced(file), 90)
    assert client.get_object(Bucket="far", Key="a")["Body"].read() == b"first, second, third"


def synced(file):
    try:
        os.fsync(file.fileno())
    except OSError:
        return False
    return True


def second_gateway(make_gateway, first):
    key, secret = first.keys()
    credentials = first.root / "second.credentials"
    credentials.write_text(f"[default]\naws_access_key_id = {key}\naws_secret_access_key = {secret}\n")
    return make_gateway(share=f'[s3]\nendpoint = "http://127.0.0.1:{first.s3_port}"\ncredentials_file = "{credentials}"').start()


def test_attributes_larger_than_s3s_metadata_reach_another_gateway(make_gateway):
    first = make_gateway().start()
    path = first.mount / "much"
    path.write_text("small")
    directory = first.mount / "dir"
    directory.mkdir()
    values = {f"user.n{number}": os.urandom(1500) for number in range(8)} | {"user.empty": b"", "user.large": os.urandom(30_000)}
    for at in (path, directory):
        for name, value in values.items():
            os.setxattr(at, name, value)
    first.drain()
    second = second_gateway(make_gateway, first)
    for at in (second.mount / "much", second.mount / "dir"):
        assert {name: os.getxattr(at, name) for name in os.listxattr(at)} == values


def test_paths_over_s3s_keys_survive_a_restart(gateway):
    name = "d" * 200
    depth = 7
    script = f"for i in $(seq {depth}); do mkdir {name}; cd {name}; done; echo deep > file; ln file also; setfattr -n user.a -v b file"
    sh(script, cwd=gateway.mount)
    gateway.drain()
    assert any(key.count("/") == 4 for key in gateway.bucket())
    gateway.stop()
    gateway.start()
    look = f"for i in $(seq {depth}); do cd {name}; done; cat file also; stat -c %h file; getfattr --only-values -n user.a file"
    assert sh(look, cwd=gateway.mount).stdout == "deep\ndeep\n2\nb"
    sh(f"cd {name}/{name}; mv {name} ../../up", cwd=gateway.mount)
    gateway.drain()
    # It is short enough for a key now, and there.
    assert gateway.bucket()[f"up/{name}/{name}/{name}/{name}/file"] == 5


def test_chains_and_swaps_of_names_come_out_right(gateway):
    for number in range(10):
        (gateway.mount / f"n{number}").write_text(str(number))
    gateway.drain()
    # n8 → n9, n7 → n8, …; and a swap of two through a third name.
    for number in reversed(range(9)):
        os.rename(gateway.mount / f"n{number}", gateway.mount / f"n{number + 1}")
    os.rename(gateway.mount / "n1", gateway.mount / "tmp")
    os.rename(gateway.mount / "n2", gateway.mount / "n1")
    os.rename(gateway.mount / "tmp", gateway.mount / "n2")
    gateway.drain()
    expected = {f"n{number + 1}": str(number) for number in range(9)} | {"n1": "1", "n2": "0"}
    client = gateway.s3()
    assert {key: client.get_object(Bucket="demo", Key=key)["Body"].read().decode() for key in gateway.bucket()} == expected
    assert {path.name: path.read_text() for path in gateway.mount.iterdir()} == expected


def test_an_endpoint_that_is_no_s3_keeps_nobody_waiting(make_gateway):
    rounds, late, ready = [], [], threading.Event()

    class NotImplementedHere(http.server.BaseHTTPRequestHandler):
        def answer(self):
            if self.command == "POST":
                # What a look at the endpoint ends with.
                rounds.append(time.monotonic())
                # Looks come after 0, 1, 3, 7 s. The third one is answered when the share is there, and else too late for it.
                if len(rounds) >= 3 and not ready.wait(40):
                    late.append(len(rounds))
            self.rfile.read(int(self.headers.get("content-length", 0)))
            self.send_response(501)
            self.send_header("content-length", "0")
            self.end_headers()

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = answer

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), NotImplementedHere)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        endpoint = f"http://127.0.0.1:{server.server_port}"
        gateway = make_gateway(shares={"demo": f'bucket = "far"\n[s3]\nendpoint = "{endpoint}"\n[fuse]\nmount = "mnt/demo"\n'})
        gateway.start(env={"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"})
        ready.set()
        assert rounds and not late, (rounds, late)
        assert "501" in gateway.log.read_text()
    finally:
        server.shutdown()
        server.server_close()
