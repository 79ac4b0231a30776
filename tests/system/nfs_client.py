"""A small NFSv3 client over one TCP connection: for loads that no guest is needed for."""
import os
import socket
import struct

NFS, MOUNT = 100003, 100005
UNSTABLE, FILE_SYNC = 0, 2


def opaque(value):
    return struct.pack(">I", len(value)) + value + b"\0" * (-len(value) % 4)


class NfsError(Exception):
    """A status that is not OK."""


class Client:
    def __init__(self, port, host="127.0.0.1", source=None, timeout=120):
        self.socket = socket.create_connection((host, port), timeout=timeout, source_address=(source, 0) if source else None)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.xid = int.from_bytes(os.urandom(4), "big")

    def record(self, program, procedure, args):
        self.xid = (self.xid + 1) & 0xFFFFFFFF
        auth = struct.pack(">I", 1) + opaque(b"test") + struct.pack(">III", 0, 0, 0)
        call = struct.pack(">IIIIIII", self.xid, 0, 2, program, 3, procedure, 1) + opaque(auth) + struct.pack(">II", 0, 0) + args
        return struct.pack(">I", 0x80000000 | len(call)) + call

    def read(self, count):
        parts = []
        while count:
            part = self.socket.recv(min(count, 1 << 20))
            assert part, "the server closed the connection"
            parts.append(part)
            count -= len(part)
        return b"".join(parts)

    def call(self, program, procedure, args):
        """The results after the status."""
        self.socket.sendall(self.record(program, procedure, args))
        (mark,) = struct.unpack(">I", self.read(4))
        answer = self.read(mark & 0x7FFFFFFF)
        assert answer[:24] == struct.pack(">IIIIII", self.xid, 1, 0, 0, 0, 0), answer[:24].hex()
        (status,) = struct.unpack(">I", answer[24:28])
        if status:
            raise NfsError(status)
        return answer[28:]

    def mount(self, path="/demo"):
        results = self.call(MOUNT, 1, opaque(path.encode()))
        return results[4:36]

    def getattr(self, handle):
        """Type, mode, links, uid, gid, size."""
        return struct.unpack(">IIIIIQ", self.call(NFS, 1, opaque(handle))[:28])

    def create(self, directory, name):
        """A new file's handle."""
        attributes = struct.pack(">IIIIIII", 1, 0o644, 0, 0, 0, 0, 0)
        results = self.call(NFS, 8, opaque(directory) + opaque(name.encode()) + struct.pack(">I", 1) + attributes)
        return results[8:40]

    def write(self, handle, offset, data, stable=UNSTABLE):
        self.call(NFS, 7, opaque(handle) + struct.pack(">QII", offset, len(data), stable) + opaque(data))

    def lookup(self, directory, name):
        return self.call(NFS, 3, opaque(directory) + opaque(name.encode()))[4:36]

    def truncate(self, handle, size):
        self.call(NFS, 2, opaque(handle) + struct.pack(">IIIIQIII", 0, 0, 0, 1, size, 0, 0, 0))

    def remove(self, directory, name):
        self.call(NFS, 12, opaque(directory) + opaque(name.encode()))

    def rename(self, directory, name, new_name):
        self.call(NFS, 14, opaque(directory) + opaque(name.encode()) + opaque(directory) + opaque(new_name.encode()))

    def commit(self, handle):
        self.call(NFS, 21, opaque(handle) + struct.pack(">QI", 0, 0))

    def close(self):
        self.socket.close()
