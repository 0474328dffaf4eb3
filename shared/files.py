"""Files that outlive a process and a power cut: locks, and names that are on the disk.

A lock is given back by the system when its process ends, however it ends.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

_BEYOND = 1 << 30
"""Windows locks bytes, and lets nobody else read them: one that no file here has."""


def try_lock(handle: int) -> bool:
    """Lock an open file (its number) for this process alone; False when another has it.

    Closing the file gives it back.
    """
    try:
        if sys.platform == "win32":
            at = os.lseek(handle, 0, os.SEEK_CUR)
            os.lseek(handle, _BEYOND, os.SEEK_SET)
            try:
                msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
            finally:
                os.lseek(handle, at, os.SEEK_SET)
        else:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def sync_folder(folder: Path) -> None:
    """Have the names in a folder on the disk too. Raises OSError; Windows writes them by itself."""
    if sys.platform == "win32":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
