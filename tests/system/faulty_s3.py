"""A small HTTP proxy in front of an S3 endpoint that fails as endpoints and networks do: by seed, at any byte, with or without having done it.

Each request's fate follows from the seed, what it asks for and how often that was asked before, so that a run can be had again whatever the order
in which requests come. A fault comes at most `IN_A_ROW` times in a row to one request, so everything is done in the end.
"""

import collections
import random
import socket
import threading
import time

IN_A_ROW = 3
# Only what writes may be told that a condition did not hold: to a reader that is no mistake, but another object.
WRITES = ("PUT", "POST", "DELETE")
ERRORS = {
    500: ("Internal Server Error", "InternalError"),
    503: ("Slow Down", "SlowDown"),
    409: ("Conflict", "ConditionalRequestConflict"),
    412: ("Precondition Failed", "PreconditionFailed"),
}


def read_head(source):
    """Everything up to the empty line, and what came behind it; None at the end of the connection."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = source.recv(1 << 16)
        if not more:
            return None
        data += more
    head, rest = data.split(b"\r\n\r\n", 1)
    return head + b"\r\n\r\n", rest


def fields(head):
    lines = head.decode("latin-1").split("\r\n")[1:]
    return {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}


def read_body(source, head, rest):
    """The body as it is on the wire."""
    found = fields(head)
    if "chunked" in found.get("transfer-encoding", "").lower():
        while not rest.endswith(b"0\r\n\r\n"):
            more = source.recv(1 << 16)
            if not more:
                break
            rest += more
        return rest
    length = int(found.get("content-length", 0))
    parts, have = [rest], len(rest)
    while have < length:
        more = source.recv(1 << 18)
        if not more:
            break
        parts.append(more)
        have += len(more)
    return b"".join(parts)


class FaultyS3:
    """`rate`: the part of the requests that fail; 0 is a plain proxy. `hang_s`: how long a silent connection is kept."""

    def __init__(self, target, seed, rate, hang_s=1.0):
        self.target, self.seed, self.rate, self.hang_s = target, seed, rate, hang_s
        self.asked, self.faults = collections.Counter(), collections.Counter()
        self.failed = collections.Counter()
        self.guard = threading.Lock()
        # Every request and its fate, to read after a failure.
        self.told = []
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def close(self):
        self.listener.close()

    def accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self.serve, args=(client,), daemon=True).start()

    def serve(self, client):
        with client:
            try:
                while self.exchange(client):
                    pass
            except OSError:
                pass

    def fate(self, method, target):
        """What becomes of a request, and the die that says where it is cut."""
        with self.guard:
            name = f"{method} {target}"
            self.asked[name] += 1
            die = random.Random(f"{self.seed} {name} {self.asked[name]}")
            if die.random() >= self.rate or self.failed[name] >= IN_A_ROW:
                self.failed[name] = 0
                return None, die
            kinds = ["refuse 500", "refuse 503", "do 500", "do lose", "do hang", "hang", "cut request", "cut answer"]
            if method in WRITES and "uploadId" not in target:
                kinds += ["refuse 409", "refuse 412", "do 409", "do 412"]
            kind = die.choice(kinds)
            self.failed[name] += 1
            self.faults[kind] += 1
            return kind, die

    def exchange(self, client):
        """One request and its answer; whether the connection goes on."""
        head = read_head(client)
        if head is None:
            return False
        head, rest = head
        method, target, _ = head.decode("latin-1").split(" ", 2)
        if "expect" in fields(head):
            client.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = read_body(client, head, rest)
        kind, die = self.fate(method, target)
        self.told.append((time.time(), method, target, fields(head).get("if-match"), fields(head).get("if-none-match"), fields(head).get("x-amz-copy-source"), kind))
        if kind == "hang":
            time.sleep(self.hang_s)
            return False
        if kind and kind.startswith("refuse"):
            return self.refuse(client, method, int(kind.split()[1]))
        request = head + body
        with socket.create_connection(("127.0.0.1", self.target)) as server:
            server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if kind == "cut request":
                server.sendall(request[: die.randrange(len(request))])
                return False
            server.sendall(request)
            answer = self.answer(server, method)
        if answer is None:
            return False
        if kind == "do hang":
            time.sleep(self.hang_s)
        if kind in ("do hang", "do lose"):
            return False
        if kind and kind.startswith("do"):
            return self.refuse(client, method, int(kind.split()[1]))
        if kind == "cut answer":
            client.sendall(answer[: die.randrange(len(answer))])
            return False
        client.sendall(answer)
        return "close" not in fields(answer.split(b"\r\n\r\n", 1)[0]).get("connection", "")

    def answer(self, server, method):
        while True:
            head = read_head(server)
            if head is None:
                return None
            head, rest = head
            status = int(head.split(b" ", 2)[1])
            if status >= 200:
                break
            server_rest = rest
            assert not server_rest, "an interim answer comes alone"
        if method == "HEAD" or status in (204, 304):
            return head
        return head + read_body(server, head, rest)

    def refuse(self, client, method, status):
        words, code = ERRORS[status]
        body = f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code><Message>{words}</Message></Error>'.encode()
        head = f"HTTP/1.1 {status} {words}\r\ncontent-type: application/xml\r\ncontent-length: {len(body)}\r\n\r\n".encode()
        client.sendall(head if method == "HEAD" else head + body)
        return True
