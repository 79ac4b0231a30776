"""What is in the bucket, read and written by boto3; and a second gateway on the same bucket."""

import json
import os
import pathlib
import stat
import subprocess
import sys
import time

import boto3
import pytest

from conftest import REPOSITORY, SOAK, free_port, sh

NS = 1_000_000_000


def test_posix_metadata_content_type_and_storage_class(make_gateway):
    gateway = make_gateway(share='storage_class = "STANDARD_IA"').start()
    page = gateway.mount / "page.html"
    page.write_text("<p>")
    os.chown(page, 1234, 4321)
    os.chmod(page, 0o4751)
    os.utime(page, ns=(5 * NS + 7, 1595002920 * NS + 123456789))
    os.symlink("page.html", gateway.mount / "link")
    os.mkfifo(gateway.mount / "pipe", 0o600)
    os.mkdir(gateway.mount / "dir", 0o750)
    gateway.drain()
    client = gateway.s3()

    head = client.head_object(Bucket="demo", Key="page.html")
    assert head["ContentType"] == "text/html"
    assert head["StorageClass"] == "STANDARD_IA"
    metadata = head["Metadata"]
    assert metadata["file-permissions"] == "0104751"
    assert (metadata["file-owner"], metadata["file-group"]) == ("1234", "4321")
    assert metadata["file-mtime"] == "1595002920123456789ns"
    assert "tidegate-generation" in metadata

    link = client.get_object(Bucket="demo", Key="link")
    assert link["Body"].read() == b"page.html"
    assert link["Metadata"]["file-permissions"].startswith("0120")
    pipe = client.head_object(Bucket="demo", Key="pipe")
    assert pipe["ContentLength"] == 0 and pipe["Metadata"]["file-permissions"] == "0010600"
    directory = client.head_object(Bucket="demo", Key="dir/")
    assert directory["ContentLength"] == 0 and directory["Metadata"]["file-permissions"] == "0040750"


FORMS = {
    # name: (metadata, mode, uid, gid, mtime_ns)
    "full": ({"file-permissions": "0100640", "file-owner": "7", "file-group": "8", "file-mtime": "1595002920000000001ns"}, 0o640, 7, 8, 1595002920 * NS + 1),
    "bare-mode": ({"file-permissions": "0604"}, 0o604, 0, 0, None),
    "milliseconds": ({"file-permissions": "0100600", "file-mtime": "1595002920123"}, 0o600, 0, 0, 1595002920 * NS + 123_000_000),
    "none": ({}, 0o644, 0, 0, None),
    "nonsense": ({"file-permissions": "rwx", "file-owner": "ana", "file-mtime": "yesterday"}, 0o644, 0, 0, None),
}


def test_objects_of_others_appear_with_the_right_attributes(gateway):
    client = gateway.s3()
    for name, (metadata, *_) in FORMS.items():
        client.put_object(Bucket="demo", Key=f"forms/{name}", Body=b"12345", Metadata=metadata)
    client.put_object(Bucket="demo", Key="forms/symlink", Body=b"full", Metadata={"file-permissions": "0120777"})
    client.put_object(Bucket="demo", Key="forms/marked/", Body=b"", Metadata={"file-permissions": "0040711", "file-owner": "9"})
    client.put_object(Bucket="demo", Key="forms/implied/below/x", Body=b"")
    for name, (_, mode, uid, gid, mtime) in FORMS.items():
        found = os.stat(gateway.mount / "forms" / name)
        assert stat.S_IMODE(found.st_mode) == mode, name
        assert (found.st_uid, found.st_gid, found.st_size) == (uid, gid, 5), name
        if mtime is not None:
            assert found.st_mtime_ns == mtime, name
        else:
            assert abs(found.st_mtime - time.time()) < 120, name
    assert os.readlink(gateway.mount / "forms/symlink") == "full"
    marked = os.stat(gateway.mount / "forms/marked")
    assert (stat.S_IMODE(marked.st_mode), marked.st_uid) == (0o711, 9)
    assert stat.S_IMODE(os.stat(gateway.mount / "forms/implied/below").st_mode) == 0o755


LISTING = "find . -mindepth 1 -printf '%P %y %m %U:%G %s %T@ %n %l\\n' | grep -v ' d ' | sort"
DIRECTORIES = "find . -mindepth 1 -type d -printf '%P %m %U:%G %T@\\n' | sort"


def test_a_second_empty_gateway_shows_the_same_tree(make_gateway):
    first = make_gateway().start()
    sh(
        "mkdir -p a/b/c d && echo one > a/one && echo two > a/b/two && ln a/one a/b/hard && ln a/one d/hard2 && ln -s ../a/one d/soft && "
        "mkfifo d/pipe && chmod 2750 a/b && chown 11:12 a/b/two && chmod 600 a/b/two && touch -d '1999-12-31 23:59:59.25' a/b/two && "
        "setfattr -n user.note -v 'kept' a/one && mkdir empty && truncate -s 1M d/zeros && "
        # Times of directories that have something to say, and of one that is empty.
        "touch -d '2001-02-03 04:05:06.123456789' a a/b && touch -d '2002-03-04 05:06:07.5' empty && chmod 700 d && touch -d '2003-04-05 06:07:08' d",
        cwd=first.mount,
    )
    first.drain()
    expected = sh(LISTING, cwd=first.mount).stdout, sh(DIRECTORIES, cwd=first.mount).stdout
    key, secret = first.keys()
    credentials = first.root / "second.credentials"
    credentials.write_text(f"[default]\naws_access_key_id = {key}\naws_secret_access_key = {secret}\n")
    second = make_gateway(
        share=f'[s3]\nendpoint = "http://127.0.0.1:{first.s3_port}"\ncredentials_file = "{credentials}"'
    ).start()
    assert (sh(LISTING, cwd=second.mount).stdout, sh(DIRECTORIES, cwd=second.mount).stdout) == expected
    assert sh("getfattr --only-values -n user.note a/one", cwd=second.mount).stdout == "kept"
    assert os.stat(second.mount / "a/one").st_ino == os.stat(second.mount / "d/hard2").st_ino
    assert (second.mount / "a/b/hard").read_text() == "one\n"


def test_a_foreign_object_is_never_overwritten_unseen(make_gateway):
    gateway = make_gateway(share='upload_delay = "1s"').start()
    client = gateway.s3()
    (gateway.mount / "report").write_text("ours, first")
    gateway.drain()
    with open(gateway.mount / "report", "w") as file:
        file.write("ours, second")
        client.put_object(Bucket="demo", Key="report", Body=b"theirs")
    gateway.drain()
    objects = gateway.bucket()
    assert client.get_object(Bucket="demo", Key="report")["Body"].read() == b"theirs"
    beside = [key for key in objects if key.startswith("report.conflict-")]
    assert len(beside) == 1, objects
    assert client.get_object(Bucket="demo", Key=beside[0])["Body"].read() == b"ours, second"
    assert (gateway.mount / "report").read_text() == "theirs"
    assert (gateway.mount / beside[0]).read_text() == "ours, second"


@pytest.fixture
def moto():
    port = free_port()
    process = subprocess.Popen([sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + 60
    while True:
        try:
            clients = {name: boto3.client(name, endpoint_url=url, region_name="us-east-1", aws_access_key_id="k", aws_secret_access_key="s") for name in ("s3", "sqs")}
            clients["s3"].list_buckets()
            break
        except Exception:
            assert time.monotonic() < deadline, "moto did not start"
            time.sleep(0.2)
    yield url, clients
    process.terminate()
    process.wait(timeout=30)


def test_one_notification_per_saved_file_and_the_lambda_handler(make_gateway, moto):
    url, clients = moto
    s3, sqs = clients["s3"], clients["sqs"]
    s3.create_bucket(Bucket="demo")
    queue = sqs.create_queue(QueueName="events")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    s3.put_bucket_notification_configuration(
        Bucket="demo", NotificationConfiguration={"QueueConfigurations": [{"QueueArn": arn, "Events": ["s3:ObjectCreated:*"]}]}
    )
    gateway = make_gateway(share=f'[s3]\nendpoint = "{url}"')
    gateway.start(env={"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s"})

    def events():
        found = []
        while True:
            messages = sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10).get("Messages", [])
            if not messages:
                return [record for record in found if ".tidegate/" not in record["s3"]["object"]["key"]]
            for message in messages:
                found += json.loads(message["Body"]).get("Records", [])
                sqs.delete_message(QueueUrl=queue, ReceiptHandle=message["ReceiptHandle"])

    events()
    puts = gateway.requests().get("put", 0)
    (gateway.mount / "small name.txt").write_text("small")
    (gateway.mount / "large.bin").write_bytes(os.urandom(24 << 20))
    gateway.drain()
    created = events()
    # moto tells a part's arrival as a Put (a known fault of it): the meter says that only the small file was one.
    assert gateway.requests()["put"] - puts == 1
    completed = {record["s3"]["object"]["key"] for record in created if record["eventName"] == "ObjectCreated:CompleteMultipartUpload"}
    created = [r for r in created if r["eventName"] != "ObjectCreated:Put" or r["s3"]["object"]["key"] not in completed]
    assert sorted(record["s3"]["object"]["key"] for record in created) == ["large.bin", "small+name.txt"], created
    os.rename(gateway.mount / "small name.txt", gateway.mount / "renamed.txt")
    gateway.drain()
    renamed = events()
    assert [(record["eventName"], record["s3"]["object"]["key"]) for record in renamed] == [("ObjectCreated:Copy", "renamed.txt")]
    for change in (lambda path: os.chmod(path, 0o600), lambda path: os.utime(path, (1, 2)), lambda path: os.chown(path, 3, 4)):
        change(gateway.mount / "renamed.txt")
        gateway.drain()
        told = [(record["eventName"], record["s3"]["object"]["key"]) for record in events()]
        assert told == [("ObjectCreated:Copy", "renamed.txt")]
    # What changes nothing in the bucket tells nothing.
    (gateway.mount / "renamed.txt").read_text()
    gateway.drain()
    assert events() == []

    sys.path.insert(0, str(REPOSITORY / "examples/lambda"))
    import handler

    through_sqs = {"Records": [{"body": json.dumps({"Records": created + renamed})}]}
    saved = handler.handler(through_sqs, None)["saved"]
    assert {(entry["path"], entry["what"]) for entry in saved} == {
        ("small name.txt", "content"), ("large.bin", "content"), ("renamed.txt", "attributes or name"),
    }
