"""SCSI commands from user space: a session of libiscsi's, through ctypes, with the data, the sense and the residual as they came."""
import ctypes
import dataclasses

NORMAL_SESSION = 2
NO_DIGEST = 0
NONE, READ, WRITE = 0, 1, 2


class Data(ctypes.Structure):
    _fields_ = [("size", ctypes.c_int), ("data", ctypes.c_void_p)]


class OutData(ctypes.Structure):
    _fields_ = [("size", ctypes.c_size_t), ("data", ctypes.c_char_p)]


class Sense(ctypes.Structure):
    # Three bit-fields share a byte with nothing.
    _fields_ = [
        ("error_type", ctypes.c_ubyte), ("key", ctypes.c_int), ("ascq", ctypes.c_int),
        ("flags", ctypes.c_ubyte), ("bit_pointer", ctypes.c_ubyte), ("field_pointer", ctypes.c_uint16),
    ]


class Task(ctypes.Structure):
    """The beginning of libiscsi's struct scsi_task."""

    _fields_ = [
        ("status", ctypes.c_int), ("cdb_size", ctypes.c_int), ("xfer_dir", ctypes.c_int), ("expxferlen", ctypes.c_int),
        ("cdb", ctypes.c_ubyte * 16), ("residual_status", ctypes.c_int), ("residual", ctypes.c_size_t),
        ("sense", Sense), ("datain", Data),
    ]


def library():
    lib = ctypes.CDLL("libiscsi.so.7")
    lib.iscsi_create_context.restype = ctypes.c_void_p
    lib.scsi_create_task.restype = ctypes.POINTER(Task)
    lib.iscsi_scsi_command_sync.restype = ctypes.POINTER(Task)
    lib.iscsi_get_error.restype = ctypes.c_char_p
    lib.iscsi_scsi_command_sync.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.POINTER(Task), ctypes.POINTER(OutData)]
    lib.scsi_task_add_data_in_buffer.argtypes = [ctypes.POINTER(Task), ctypes.c_int, ctypes.c_char_p]
    lib.scsi_free_scsi_task.argtypes = [ctypes.POINTER(Task)]
    for name in ["set_targetname", "connect_sync"]:
        getattr(lib, f"iscsi_{name}").argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    for name in ["set_session_type", "set_header_digest"]:
        getattr(lib, f"iscsi_{name}").argtypes = [ctypes.c_void_p, ctypes.c_int]
    for name in ["login_sync", "logout_sync", "destroy_context", "get_error", "disconnect"]:
        getattr(lib, f"iscsi_{name}").argtypes = [ctypes.c_void_p]
    return lib


@dataclasses.dataclass
class Done:
    """How a command ended."""

    status: int
    data: bytes
    sense: bytes
    residual: int

    @property
    def condition(self):
        """Sense key with its bits, code, qualifier, INFORMATION as a signed number or None."""
        assert self.status == 2, f"status {self.status:#x}, {len(self.data)} bytes"
        information = int.from_bytes(self.sense[3:7], "big", signed=True) if self.sense[0] & 0x80 else None
        return self.sense[2], self.sense[12], self.sense[13], information

    @property
    def triple(self):
        return self.condition[:3]


class Initiator:
    """One session with one target, unit 0."""

    LIB = None

    def __init__(self, address, target, name="iqn.2026-01.org.example:tester"):
        Initiator.LIB = Initiator.LIB or library()
        self.context = self.LIB.iscsi_create_context(name.encode())
        self.LIB.iscsi_set_targetname(self.context, target.encode())
        self.LIB.iscsi_set_session_type(self.context, NORMAL_SESSION)
        self.LIB.iscsi_set_header_digest(self.context, NO_DIGEST)
        self.must(self.LIB.iscsi_connect_sync(self.context, address.encode()))
        self.must(self.LIB.iscsi_login_sync(self.context))

    def must(self, code):
        assert code == 0, self.LIB.iscsi_get_error(self.context)

    def send(self, cdb, out=b"", into=0):
        """A command with Data-Out, or with room for so many bytes of Data-In."""
        direction = WRITE if out else READ if into else NONE
        task = self.LIB.scsi_create_task(len(cdb), bytes(cdb), direction, len(out) or into)
        buffer = ctypes.create_string_buffer(into) if into else None
        if into:
            self.LIB.scsi_task_add_data_in_buffer(task, into, buffer)
        data = OutData(len(out), out) if out else None
        answered = self.LIB.iscsi_scsi_command_sync(self.context, 0, task, ctypes.byref(data) if data else None)
        assert answered, self.LIB.iscsi_get_error(self.context)
        done = answered.contents
        residual = done.residual if done.residual_status == 1 else -done.residual if done.residual_status == 2 else 0
        sense = ctypes.string_at(done.datain.data, done.datain.size)[2:] if done.status == 2 else b""
        moved = max(into - max(residual, 0), 0)
        result = Done(done.status, buffer.raw[:moved] if into else b"", sense, residual)
        self.LIB.scsi_free_scsi_task(task)
        return result

    def ok(self, cdb, out=b"", into=0):
        done = self.send(cdb, out, into)
        assert done.status == 0, f"{bytes(cdb).hex(' ')}: status {done.status:#x}, sense {done.sense.hex(' ')}"
        return done.data

    def fails(self, cdb, out=b"", into=0):
        return self.send(cdb, out, into).condition

    def close(self):
        self.LIB.iscsi_logout_sync(self.context)
        self.LIB.iscsi_destroy_context(self.context)
