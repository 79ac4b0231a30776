"""SIGKILL of the real program under mixed load, again and again: what was acknowledged is there, nothing is invented."""

import hashlib
import json
import os
import pathlib
import random
import subprocess
import sys
import time

from conftest import SOAK, sh

# Works in the mount until it is gone, and tells (through a pipe that outlives it) each change after it was acknowledged.
WORKER = r"""
import hashlib, json, os, random, sys
root, seed = sys.argv[1], int(sys.argv[2])
rng = random.Random(seed)
def tell(*what):
    sys.stdout.write(json.dumps(what) + "\n"); sys.stdout.flush()
names = [f"{root}/w{seed}-{i}" for i in range(30)]
try:
    while True:
        name, other = rng.choice(names), rng.choice(names)
        body = rng.randbytes(rng.choice([0, 10, 5000, 300000]))
        what = rng.random()
        try:
            if what < 0.55:
                tell("begin", "write", os.path.basename(name), hashlib.sha256(body).hexdigest())
                with open(name + ".tmp", "wb") as f:
                    f.write(body)
                    if rng.random() < 0.5: os.fsync(f.fileno())
                os.rename(name + ".tmp", name)
                tell("done", "write", os.path.basename(name), hashlib.sha256(body).hexdigest())
            elif what < 0.75:
                tell("begin", "remove", os.path.basename(name))
                os.unlink(name)
                tell("done", "remove", os.path.basename(name))
            elif what < 0.95 and name != other:
                tell("begin", "rename", os.path.basename(name), os.path.basename(other))
                os.rename(name, other)
                tell("done", "rename", os.path.basename(name), os.path.basename(other))
            else:
                os.truncate(name, os.stat(name).st_size)
        except FileNotFoundError:
            tell("failed")
except OSError:
    pass
"""


def settle(state, lines):
    """What a worker's tree may look like: `state` changed by everything that is done, and by what began last, or not."""
    pending = None
    for line in lines:
        try:
            step = json.loads(line)
        except ValueError:
            continue
        if step[0] == "begin":
            pending = step[1:]
        elif step[0] == "failed":
            pending = None
        else:
            apply(state, step[1:])
            pending = None
    after = dict(state)
    if pending:
        apply(after, pending)
    return [state, after]


def apply(state, step):
    if step[0] == "write":
        state[step[1]] = step[2]
    elif step[0] == "remove":
        state.pop(step[1], None)
    elif step[0] == "rename" and step[1] in state:
        state[step[2]] = state.pop(step[1])


def look(mount, worker):
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in mount.iterdir()
        if path.name.startswith(f"w{worker}-") and not path.name.endswith(".tmp")
    }


def test_kill_9_under_mixed_load(make_gateway):
    gateway = make_gateway(config='[cache]\nsize = "64 MiB"', share='upload_delay = "200ms"').start()
    workers = 3
    states = [{} for _ in range(workers)]
    rng = random.Random(7)
    for round_ in range(100 if SOAK else 20):
        logs = [open(gateway.root / f"worker{w}-{round_}", "w+b") for w in range(workers)]
        running = [
            subprocess.Popen([sys.executable, "-c", WORKER, str(gateway.mount), str(w)], stdout=logs[w], stderr=subprocess.DEVNULL)
            for w in range(workers)
        ]
        time.sleep(rng.uniform(0.2, 1.5))
        gateway.kill()
        for process in running:
            process.wait(timeout=30)
        gateway.start()
        for w in range(workers):
            logs[w].seek(0)
            allowed = settle(states[w], logs[w].read().decode().splitlines())
            found = look(gateway.mount, w)
            assert found in allowed, f"round {round_}: {set(found.items()) ^ set(allowed[0].items())}"
            states[w] = found
            logs[w].close()
    gateway.drain()
    for name in sh("ls", cwd=gateway.mount).stdout.split():
        if name.endswith(".tmp"):
            os.unlink(gateway.mount / name)
    gateway.drain()
    client = gateway.s3()
    objects = {key: hashlib.sha256(client.get_object(Bucket="demo", Key=key)["Body"].read()).hexdigest() for key in gateway.bucket()}
    tree = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in gateway.mount.iterdir()}
    assert objects == tree
