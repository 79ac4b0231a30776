"""What an NFS client was answered, a program on the mount of the gateway's own machine sees: at once, not soon."""
import os

from conftest import SOAK
from nfs_client import FILE_SYNC, NFS, Client, opaque

ROUNDS = 20_000 if SOAK else 500


def test_what_nfs_was_answered_shows_through_fuse_at_once(make_gateway):
    gateway = make_gateway(share='\n[nfs]\nsquash = "none"\n').start()
    client = Client(gateway.nfs_port)
    root = client.mount()
    shared = client.create(root, "shared")
    for number in range(ROUNDS):
        name = f"file-{number}"
        path = gateway.mount / name
        # The kernel now knows that it is not there, what is in the file, and what is in the directory.
        assert not path.exists()
        if number % 10 == 0:
            assert name not in os.listdir(gateway.mount)
        client.create(root, name)
        assert path.exists(), name
        if number % 10 == 0:
            assert name in os.listdir(gateway.mount)
        text = b"%08d" % number
        client.write(shared, 0, text, FILE_SYNC)
        assert (gateway.mount / "shared").read_bytes() == text
        client.write(shared, 8 + number, b"x")
        client.commit(shared)
        assert (gateway.mount / "shared").stat().st_size == 9 + number
        client.call(NFS, 12, opaque(root) + opaque(name.encode()))
        assert not path.exists(), name
        # Back to what the next round expects.
        client.call(NFS, 2, opaque(shared) + bytes(12) + b"\0\0\0\1" + bytes(8) + bytes(8) + bytes(4))
        assert (gateway.mount / "shared").read_bytes() == b""
