"""Files that are done with, moved into another folder, on another file system too."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

from shared.errors import FeatherwireError
from shared.files import sync_folder
from shared.names import beside, text_of

PARTIAL = ".moving-"
"""What names of copies that are not whole yet begin with."""


def check_folder(folder: Path) -> None:
    """Make the folder, and try to make a file in it. Raises FeatherwireError ``bad_option``."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        why = error.strerror or str(error)
        raise FeatherwireError(
            "bad_option", f"no file can be put into {text_of(folder)}: {why}"
        ) from None


def move(file: Path, folder: Path) -> Path:
    """Move a file into a folder, under its name or one with a number; returns where it is now.

    From one file system to another it is copied, written to the disk, named, and only then removed:
    a power cut leaves it where it was, or in both places, and whole wherever it has its name.
    Raises OSError, also (``ESTALE``) for a file that is written to meanwhile, which stays.
    """
    if file.is_symlink():
        return _moved_link(file, folder)
    try:
        return _renamed(file, folder, file)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EPERM):
            raise
    before = file.stat()
    handle, name = tempfile.mkstemp(dir=folder, prefix=PARTIAL)
    copy = Path(name)
    try:
        with open(handle, "wb") as target, file.open("rb") as source:
            shutil.copyfileobj(source, target)
            target.flush()
            os.fsync(target.fileno())
        with suppress(OSError):  # a file system may know neither modes nor dates
            shutil.copystat(file, copy)
        after = file.stat()
        if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
            raise OSError(errno.ESTALE, "it is being written to", str(file))
        moved = _renamed(copy, folder, file)
    except BaseException:
        copy.unlink(missing_ok=True)
        raise
    with suppress(OSError):  # where that can be asked for
        sync_folder(folder)
    _remove(file, moved)
    return moved


def _moved_link(file: Path, folder: Path) -> Path:
    """A link to the same file from the other folder."""
    target = os.path.abspath(os.path.join(file.parent, os.readlink(file)))
    with tempfile.TemporaryDirectory(dir=folder, prefix=PARTIAL) as made:
        link = Path(made) / "link"
        link.symlink_to(target)
        moved = _renamed(link, folder, file)
    _remove(file, moved)
    return moved


def _remove(file: Path, moved: Path) -> None:
    """Remove what has been moved; where that cannot be, it has not been."""
    try:
        file.unlink()
    except OSError:
        with suppress(OSError):
            moved.unlink()
        raise


def _renamed(source: Path, folder: Path, named: Path) -> Path:
    """Give ``source`` the name of ``named`` there, or that with a number before its suffix."""
    number, free = 1, folder / named.name
    while not _claimed(free):
        free = beside(folder, f"{named.stem}-{number}", named.suffix)
        number += 1
    try:
        source.replace(free)
    except BaseException:
        free.unlink(missing_ok=True)
        raise
    return free


def _claimed(path: Path) -> bool:
    """Make an empty file of this name, which nobody else has then; False where there is one."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError:
        return False
    return True
