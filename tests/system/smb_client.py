"""SMB clients for tests: Samba's smbclient, and PyPI's smbprotocol for what that does not show."""
import contextlib
import subprocess
import uuid

from smbprotocol.connection import Connection, Dialects
from smbprotocol.exceptions import SMBException
from smbprotocol.open import (
    CreateDisposition, CreateOptions, DirectoryAccessMask, FileAttributes, FilePipePrinterAccessMask, ImpersonationLevel, Open,
    ShareAccess,
)
from smbprotocol.session import Session
from smbprotocol.tree import TreeConnect

PASSWORD = "Sesame, open 7"
DIALECTS = {
    "2.0.2": Dialects.SMB_2_0_2, "2.1": Dialects.SMB_2_1_0, "3.0": Dialects.SMB_3_0_0, "3.0.2": Dialects.SMB_3_0_2, "3.1.1": Dialects.SMB_3_1_1,
}


def add_user(gateway, name="ana", password=PASSWORD, *options):
    gateway.run("user", "add", name, *options, input=password + "\n")


def smbclient(gateway, commands, share="demo", user="ana", password=PASSWORD, check=True, options=(), cwd=None, timeout=300):
    """Runs commands of smbclient; what it printed."""
    done = subprocess.run(
        ["smbclient", f"//127.0.0.1/{share}", "-p", str(gateway.smb_port), "-U", f"{user}%{password}", *options, "-c", commands],
        capture_output=True, text=True, timeout=timeout, cwd=cwd,
    )
    text = done.stdout + done.stderr
    if check:
        assert done.returncode == 0 and "NT_STATUS" not in text, f"{commands}: {done.returncode}\n{text}"
    return text


def listed(gateway, user="ana", password=PASSWORD):
    """The shares that a user is shown."""
    done = subprocess.run(
        ["smbclient", "-L", "127.0.0.1", "-p", str(gateway.smb_port), "-U", f"{user}%{password}", "-g"],
        capture_output=True, text=True, timeout=60,
    )
    return {line.split("|")[1]: line.split("|")[2] for line in done.stdout.splitlines() if line.startswith("Disk|")}


def text(field):
    """A name of an answer."""
    value = field.get_value()
    return value.decode("utf-16-le") if isinstance(value, bytes) else value


@contextlib.contextmanager
def tree(gateway, share="demo", user="ana", password=PASSWORD, dialect=None, sign=True, encrypt=False):
    """A share by smbprotocol."""
    connection = Connection(uuid.uuid4(), "127.0.0.1", gateway.smb_port, require_signing=sign)
    connection.connect(DIALECTS[dialect] if dialect else None, timeout=30)
    try:
        session = Session(connection, user, password, require_encryption=encrypt)
        session.connect()
        connected = TreeConnect(session, rf"\\127.0.0.1\{share}")
        connected.connect()
        yield connected
    finally:
        # What the server has ended cannot be ended in order.
        try:
            connection.disconnect(True)
        except (SMBException, OSError):
            connection.disconnect(False)


@contextlib.contextmanager
def opened(connected, name, disposition=CreateDisposition.FILE_OPEN, write=False, directory=False, share=7, options=0, may_be_gone=False):
    """A file or directory of a share; `may_be_gone`: the server may have closed it before its client does."""
    access = FilePipePrinterAccessMask.GENERIC_READ | (FilePipePrinterAccessMask.GENERIC_WRITE if write else 0)
    if directory:
        access = DirectoryAccessMask.FILE_LIST_DIRECTORY | DirectoryAccessMask.SYNCHRONIZE
    kind = CreateOptions.FILE_DIRECTORY_FILE if directory else CreateOptions.FILE_NON_DIRECTORY_FILE
    handle = Open(connected, name)
    handle.create(
        ImpersonationLevel.Impersonation, access, FileAttributes.FILE_ATTRIBUTE_NORMAL, share, disposition, kind | options,
    )
    try:
        yield handle
    finally:
        try:
            handle.close()
        except (SMBException, OSError):
            if not may_be_gone:
                raise
