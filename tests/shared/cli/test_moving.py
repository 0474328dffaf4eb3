"""Files that are done with: moved, also to another file system, and never lost."""

from __future__ import annotations

import errno
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from shared.cli import moving
from shared.errors import FeatherwireError

SHARED_MEMORY = Path("/dev/shm")


@pytest.fixture
def elsewhere(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder on another file system than ``tmp_path``, where there is one."""
    folder = SHARED_MEMORY / f"featherwire-{os.getpid()}"
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("there is no /dev/shm")
    if folder.stat().st_dev == tmp_path.stat().st_dev:
        folder.rmdir()
        pytest.skip("/dev/shm is the same file system")
    yield folder  # type: ignore[misc]
    shutil.rmtree(folder)


def test_a_file_goes_to_another_file_system(tmp_path: Path, elsewhere: Path) -> None:
    file = tmp_path / "a.jpg"
    for number, name in enumerate(("a.jpg", "a-1.jpg", "a-2.jpg")):
        file.write_bytes(b"%d" % number)
        os.utime(file, (1_600_000_000, 1_600_000_000))
        assert moving.move(file, elsewhere) == elsewhere / name
        assert not file.exists()
    assert [p.read_bytes() for p in sorted(elsewhere.iterdir())] == [b"1", b"2", b"0"]
    assert (elsewhere / "a.jpg").stat().st_mtime == 1_600_000_000


def test_a_name_that_is_taken_gets_a_number_and_fits(tmp_path: Path) -> None:
    folder = tmp_path / "sent"
    moving.check_folder(folder)
    long = tmp_path / ("写" * 83 + ".jpg")
    for _ in range(3):
        long.write_bytes(b"x")
        moving.move(long, folder)
    (folder / "b.jpg").symlink_to("nowhere")  # a name all the same
    (tmp_path / "b.jpg").write_bytes(b"b")
    assert moving.move(tmp_path / "b.jpg", folder).name == "b-1.jpg"
    assert len(list(folder.iterdir())) == 5


def test_a_file_stays_when_its_copy_cannot_be_whole(
    tmp_path: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a.jpg"
    file.write_bytes(b"old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(moving.shutil, "copyfileobj", full)
        with pytest.raises(OSError, match="No space"):
            moving.move(file, elsewhere)
    assert file.read_bytes() == b"old"
    assert list(elsewhere.iterdir()) == []

    def written_to(source: Path, copy: Path) -> None:
        file.write_bytes(b"new and longer")

    with monkeypatch.context() as patch:
        patch.setattr(moving.shutil, "copystat", written_to)
        with pytest.raises(OSError, match="written"):
            moving.move(file, elsewhere)
    assert file.read_bytes() == b"new and longer"
    assert list(elsewhere.iterdir()) == []


def test_a_folder_that_takes_no_file_is_said_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", Path("/proc/sent")):
        with pytest.raises(FeatherwireError) as caught:
            moving.check_folder(folder)
        assert caught.value.reason == "bad_option"


def test_a_file_that_cannot_be_removed_leaves_no_copy(
    tmp_path: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a volume that is read-only every restart would make another copy."""
    file = tmp_path / "ro.jpg"
    file.write_bytes(b"x")
    unlink = Path.unlink

    def read_only(path: Path, missing_ok: bool = False) -> None:
        if path == file:
            raise OSError(errno.EROFS, "Read-only file system")
        unlink(path, missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", read_only)
        for _ in range(3):
            with pytest.raises(OSError, match="Read-only"):
                moving.move(file, elsewhere)
    assert list(elsewhere.iterdir()) == []
    assert file.read_bytes() == b"x"


def test_two_that_move_files_of_one_name_lose_none(tmp_path: Path) -> None:
    sent = tmp_path / "sent"
    moving.check_folder(sent)

    def mover(number: int) -> None:
        inbox = tmp_path / str(number)
        inbox.mkdir()
        for count in range(100):
            (inbox / "a.jpg").write_text(f"{number} {count}")
            moving.move(inbox / "a.jpg", sent)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(mover, range(4)))
    assert len({path.read_text() for path in sent.iterdir()}) == 400


def test_a_link_goes_on_showing_its_file(tmp_path: Path) -> None:
    (tmp_path / "album").mkdir()
    (tmp_path / "album" / "a.jpg").write_bytes(b"photo")
    (tmp_path / "inbox").mkdir()
    (tmp_path / "inbox" / "a.jpg").symlink_to("../album/a.jpg")
    (tmp_path / "elsewhere" / "sent").mkdir(parents=True)
    moved = moving.move(tmp_path / "inbox" / "a.jpg", tmp_path / "elsewhere" / "sent")
    assert moved.read_bytes() == b"photo"
    assert not os.path.lexists(tmp_path / "inbox" / "a.jpg")
    assert [path.name for path in moved.parent.iterdir()] == ["a.jpg"]
