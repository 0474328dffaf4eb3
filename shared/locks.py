"""Locks of files between processes, which the system gives back when a process ends, however."""

from __future__ import annotations

import os
import sys

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
