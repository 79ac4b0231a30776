"""A name of several goes: the others stay readable, nothing is sent again, and the name can be somebody else's at once."""

import os
import time

import pytest

from test_requests import spent


@pytest.mark.parametrize("cached", [True, False])
def test_the_first_of_two_names_goes(make_gateway, cached):
    gateway = make_gateway(config='[cache]\nsize = "64 MiB"', share='upload_delay = "200ms"').start()
    body = os.urandom(3 << 20)
    (gateway.mount / "a").write_bytes(body)
    gateway.drain()
    os.link(gateway.mount / "a", gateway.mount / "b")
    gateway.drain()
    for number in range(0 if cached else 40):
        (gateway.mount / f"x{number}").write_bytes(os.urandom(4 << 20))
        if number % 8 == 7:
            gateway.drain()
    before = gateway.requests()
    os.unlink(gateway.mount / "a")
    gateway.drain("20s")
    # The link group is told, and goes; the bytes are at the other key.
    assert not spent(gateway, before).keys() & {"put", "get", "multipart_part"}
    gateway.kill()
    gateway.start()
    assert (gateway.mount / "b").read_bytes() == body


def test_a_name_that_went_is_another_file_s_at_once(make_gateway):
    gateway = make_gateway(share='upload_delay = "200ms"').start()
    (gateway.mount / "a").write_bytes(b"A" * 100_000)
    gateway.drain()
    os.link(gateway.mount / "a", gateway.mount / "b")
    gateway.drain()
    (gateway.mount / "z").write_bytes(b"Z" * 100_000)
    gateway.drain()
    os.unlink(gateway.mount / "a")
    os.link(gateway.mount / "z", gateway.mount / "a")
    gateway.drain("20s")
    client = gateway.s3()
    bodies = {key: client.get_object(Bucket="demo", Key=key)["Body"].read()[:1] for key in gateway.bucket()}
    assert bodies == {"a": b"Z", "b": b"A", "z": b"Z"}


def test_a_file_written_through_a_mapping_is_uploaded_as_soon_as_any(make_gateway):
    import mmap

    gateway = make_gateway(share='upload_delay = "200ms"').start()
    with open(gateway.mount / "x", "w+b") as file:
        file.truncate(50_000)
        with mmap.mmap(file.fileno(), 50_000) as pages:
            pages[:10_000] = b"y" * 10_000
    # Beside a file that was written by calls: some seconds more are a fault, whatever the machine's pace.
    (gateway.mount / "usual").write_bytes(b"y")
    begin, found = time.monotonic(), {}
    while len(found) < 2:
        now = time.monotonic() - begin
        assert now < 60 and now < found.get("usual", now) + 5, found
        for name in gateway.bucket():
            found.setdefault(name, now)
        time.sleep(0.1)
