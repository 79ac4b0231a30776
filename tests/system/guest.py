"""A virtual machine with a distribution's kernel: the real NFS and iSCSI clients.

The images are made once by tests/guest/build. A guest runs one job (a shell script, as root) on a copy of its disk that is dropped at the
end; the host's loopback is 10.0.2.2 inside. All guests look like 127.0.0.1 to the host.
"""
import os
import pathlib
import subprocess
import tempfile
import threading
import time

DIRECTORY = pathlib.Path(os.environ.get("GUEST_DIR", "/var/tmp/tidegate-guest"))
JOB_BYTES = 4 << 20


class Guest:
    """One guest that runs one job."""

    def __init__(self, job, seconds=300, tap=None, prefix=()):
        """`tap`: the network device in the namespace that `prefix` (the words of an nsenter) enters, instead of the user-mode network."""
        assert (DIRECTORY / "ready").exists(), f"no guest in {DIRECTORY}: run tests/guest/build"
        self.seconds = seconds
        self.lines = []
        self.begin = time.monotonic()
        self.job = tempfile.NamedTemporaryFile(prefix="tidegate-job-", dir="/var/tmp")
        text = ("set -euo pipefail\n" + job).encode()
        self.job.write(text + b"\0" * (JOB_BYTES - len(text)))
        self.job.flush()
        kernel = next((DIRECTORY / "kernel/boot").glob("vmlinuz-*"))
        accel = ["-accel", "tcg,thread=multi", "-cpu", "max"]
        self.process = subprocess.Popen(
            [*prefix, "qemu-system-x86_64", *accel, "-m", "1024", "-smp", "2", "-display", "none", "-monitor", "none", "-serial", "stdio",
             "-no-reboot", "-kernel", str(kernel), "-initrd", str(DIRECTORY / "initrd.gz"),
             "-append", "console=ttyS0 quiet panic=-1",
             "-drive", f"file={DIRECTORY}/root.img,format=raw,if=virtio,snapshot=on",
             "-drive", f"file={self.job.name},format=raw,if=virtio,readonly=on",
             "-netdev", f"tap,id=n0,ifname={tap},script=no,downscript=no" if tap else "user,id=n0",
             "-device", f"virtio-net-pci,netdev=n0,mac=52:54:00:77:00:{int(tap[3:]) if tap else 0:02x}"],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
        )
        self.changed = threading.Condition()
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        for line in self.process.stdout:
            with self.changed:
                self.lines.append(line.rstrip())
                self.changed.notify_all()
        with self.changed:
            self.lines.append("GUEST-GONE")
            self.changed.notify_all()

    @property
    def text(self):
        return "\n".join(self.lines)

    def wait_for(self, word):
        """The line with this word, when the job has printed it."""
        with self.changed:
            while True:
                for line in self.lines:
                    if word in line:
                        return line
                left = self.begin + self.seconds - time.monotonic()
                assert left > 0 and "GUEST-GONE" not in self.lines, f"no {word} from the guest:\n{self.text[-6000:]}"
                self.changed.wait(min(left, 5))

    def end(self):
        """Waits for the job's end; everything it printed."""
        line = self.wait_for("GUEST-RC")
        self.close()
        assert line.split()[-1] == "0", f"the job failed:\n{self.text[-6000:]}"
        return self.text

    def close(self):
        self.process.kill()
        self.process.wait()
        self.job.close()


def run(job, seconds=300):
    guest = Guest(job, seconds)
    try:
        return guest.end()
    finally:
        guest.close()
