"""Pictures in files: in order, when they are whole, once."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from datetime import UTC as UTC_ZONE
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from edge_client.sources import SourceOptions, open_source
from edge_client.sources.base import Capture
from edge_client.sources.capture import CaptureThread
from edge_client.sources.feed import Feed
from edge_client.sources.stills import SUFFIXES, FolderSource, photo_time
from shared.errors import PhotoError, SourceError
from shared.preprocess.photo import FORMATS


def photo(
    path: Path, grey: int = 0, *, age_s: float = 10.0, exif: Image.Exif | None = None
) -> Path:
    Image.fromarray(np.full((32, 32, 3), grey, np.uint8)).save(path, exif=exif or Image.Exif())
    then = time.time() - age_s
    os.utime(path, (then, then))
    return path


class Watched:
    """A folder source that is read by hand."""

    def __init__(self, folder: Path) -> None:
        self.stop = threading.Event()
        self._captures: Iterator[Capture] = FolderSource(folder, poll_s=0.01).captures(self.stop)

    def next(self, count: int) -> list[str]:
        return [Path(next(self._captures).name).name for _ in range(count)]

    def rest(self, seconds: float = 0.2) -> list[str]:
        """What else there is."""
        threading.Timer(seconds, self.stop.set).start()
        return [Path(one.name).name for one in self._captures]


def test_a_folder_gives_what_is_there_the_oldest_first_and_what_comes(tmp_path: Path) -> None:
    photo(tmp_path / "b.jpg", age_s=30)
    photo(tmp_path / "a.png", age_s=20)
    photo(tmp_path / ".hidden.jpg")
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "folder.jpg").mkdir()
    watched = Watched(tmp_path)
    assert watched.next(2) == ["b.jpg", "a.png"]
    photo(tmp_path / "c.jpg")
    assert watched.next(1) == ["c.jpg"]
    photo(tmp_path / "a.png", grey=9, age_s=5)  # written anew
    assert watched.next(1) == ["a.png"]
    assert watched.rest() == []


def test_a_file_that_grows_is_waited_for(tmp_path: Path) -> None:
    whole = photo(tmp_path / "whole.bmp").read_bytes()
    (tmp_path / "whole.bmp").unlink()
    watched = Watched(tmp_path)
    growing = tmp_path / "growing.bmp"
    done = threading.Event()

    def write() -> None:
        with growing.open("wb") as file:
            for start in range(0, len(whole), 256):
                file.write(whole[start : start + 256])
                file.flush()
                time.sleep(0.002)
        done.set()

    thread = threading.Thread(target=write)
    thread.start()
    # Looked at every 10 ms: while it changes between two looks it is not given.
    assert watched.next(1) == ["growing.bmp"]
    assert done.is_set()
    thread.join()
    assert watched.rest() == []


def test_a_folder_forgets_files_that_are_gone(tmp_path: Path) -> None:
    source = FolderSource(tmp_path, poll_s=0.01)
    for number in range(20):
        path = photo(tmp_path / f"{number}.jpg")
        assert source._ready() == [path]
        path.unlink()
    assert source._ready() == []
    assert source._taken == {}
    assert source._growing == {}


def test_a_folder_that_is_gone_is_away(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no folder") as caught:
        next(FolderSource(tmp_path / "absent").captures(threading.Event()))
    assert caught.value.reason == "source_away"


def test_a_glob_is_sorted_and_loops(tmp_path: Path) -> None:
    for name in ("b.jpg", "a.jpg", "c.txt"):
        photo(tmp_path / name) if name.endswith("jpg") else (tmp_path / name).touch()
    source = open_source([str(tmp_path / "*")], SourceOptions(loop=True))
    captures = source.captures(threading.Event())
    began_at = time.time()
    found = [next(captures) for _ in range(5)]
    assert [Path(one.name).name for one in found] == ["a.jpg", "b.jpg"] * 2 + ["a.jpg"]
    assert found[0].captured_at < began_at - 5  # the file's
    assert found[2].captured_at >= began_at  # taken again
    assert found[0].load().shape == (32, 32, 3)


def test_several_words_are_files(tmp_path: Path) -> None:
    names = [str(photo(tmp_path / name)) for name in ("z.jpg", "a.jpg")]
    assert [one.name for one in open_source(names).captures(threading.Event())] == names
    with pytest.raises(SourceError) as caught:
        open_source([*names, "rtsp://camera/"])
    assert caught.value.reason == "not_found"


def test_a_photo_was_taken_when_its_exif_says(tmp_path: Path) -> None:
    fields = {0x9003: "2024:05:06 07:08:09", 0x9011: "+02:00", 0x9291: "25"}
    exif = Image.Exif()
    exif[0x8769] = fields
    assert photo_time(photo(tmp_path / "with.jpg", exif=exif)) == 1714972089.25
    plain = photo(tmp_path / "without.jpg", age_s=100)
    assert photo_time(plain) == pytest.approx(time.time() - 100, abs=5)
    fields[0x9003] = "no time at all"
    assert photo_time(photo(tmp_path / "odd.jpg", exif=exif, age_s=50)) == pytest.approx(
        time.time() - 50, abs=5
    )


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("ftp://host/x.jpg", "unknown_scheme"),
        ("rtsp:///no-host", "bad_source"),
        ("http://", "bad_source"),
        ("rtsp://host:notaport/", "bad_source"),
        ("v4l2:video0", "bad_source"),
        ("absent.mp4", "not_found"),
        ("absent/*.jpg", "not_found"),
        ("/dev/null", "bad_source"),
    ],
)
def test_what_is_no_source_says_why(word: str, reason: str) -> None:
    with pytest.raises(SourceError) as caught:
        open_source([word])
    assert caught.value.reason == reason


def test_names_hold_no_password() -> None:
    for word in ("rtsp://user:secret@camera/x?key=secret", "http://user:secret@camera/?k=secret"):
        assert "secret" not in open_source([word]).name


def exif_of(date: object, offset: object = None, fraction: object = None) -> Image.Exif:
    exif = Image.Exif()
    tags = {0x9003: date, 0x9011: offset, 0x9291: fraction}
    exif[0x8769] = {tag: value for tag, value in tags.items() if value is not None}
    return exif


HERE = datetime(2021, 5, 3, 10, 0, 0).timestamp()
UTC = datetime(2021, 5, 3, 10, 0, 0, tzinfo=UTC_ZONE).timestamp()


@pytest.mark.parametrize(
    ("date", "offset", "fraction", "expected"),
    [
        ("2021:05:03 10:00:00", None, None, HERE),
        ("2021:05:03 10:00:00", "   :  ", None, HERE),  # of a camera that knows no zone
        ("2021:05:03 10:00:00", "garbage", "ab", HERE),
        ("2021:05:03 10:00:00", "+00:00", "250 ", UTC + 0.25),
        ("2021:05:03 10:00:00", "Z", None, UTC),
        ("2021:05:03 10:00:00", "-09:30", None, UTC + 9.5 * 3600),
        ("2021:05:03 10:00:00", "+14:00", None, UTC - 14 * 3600),
        ("2021-05-03T10:00:00", "+00:00", None, UTC),
        ("2021:05:03 10:00", "+00:00", None, UTC),
        ("2021:05:03 10:00:00", "+25:00", None, HERE),  # no place has it
        ("2021: 5: 3 10: 0: 0", "+00:00", None, UTC),
        ("2021:05:03 10:00:60", "+00:00", None, UTC + 59),
    ],
)
def test_a_date_is_taken_with_the_zone_it_has(
    tmp_path: Path, date: str, offset: str | None, fraction: str | None, expected: float
) -> None:
    path = photo(tmp_path / "a.jpg", exif=exif_of(date, offset, fraction))
    assert photo_time(path) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize(
    "date",
    [
        "", "0000:00:00 00:00:00", "    :  :     :  :  ", "1970:01:01 00:00:10",
        "2021:02:30 10:00:00", "9999:12:31 23:59:59", "2038:01:19 03:14:08", "yesterday", b"\xff",
    ],
)  # fmt: skip
def test_a_date_that_cannot_be_gives_way_to_the_files(tmp_path: Path, date: object) -> None:
    path = photo(tmp_path / "a.jpg", exif=exif_of(date), age_s=1000)
    assert photo_time(path) == pytest.approx(path.stat().st_mtime, abs=1e-3)


@pytest.mark.parametrize("seconds", [-5.0, 0.0, 7e10])
def test_a_files_own_date_that_cannot_be_gives_way_to_now(tmp_path: Path, seconds: float) -> None:
    path = photo(tmp_path / "a.jpg")
    os.utime(path, (seconds, seconds))
    assert photo_time(path) == pytest.approx(time.time(), abs=600)


def test_names_that_are_not_utf_8_are_pictures_too(tmp_path: Path) -> None:
    for name in (b"a.jpg", b"b-caf\xe9.jpg", b"c\n.JPE", b"d.jfif"):
        path = photo(tmp_path / "made.jpg", age_s=30)
        os.rename(path, os.path.join(os.fsencode(tmp_path), name))
    captures = FolderSource(tmp_path).captures(threading.Event())
    found = [next(captures) for _ in range(4)]
    assert sorted(Path(one.name).name for one in found) == [
        "a.jpg", r"b-caf\xe9.jpg", "c\n.JPE", "d.jfif",
    ]  # fmt: skip
    for one in found:
        one.name.encode("utf-8")
        pixels = one.load()
        assert not isinstance(pixels, Path)
        assert pixels.shape == (32, 32, 3)


def test_what_is_left_alone_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("a.txt", "b.TXT", "c.heic", ".hidden", "d.part", "without"):
        (tmp_path / name).write_text("x")
    watched = Watched(tmp_path)
    assert watched.rest(0.3) == []
    said = " ".join(record.getMessage() for record in caplog.records)
    assert said.count(".txt in") == said.count(".heic in") == said.count("without a suffix") == 1
    assert "hidden" not in said
    assert ".part" not in said


def test_a_folder_takes_what_pillow_calls_our_formats(tmp_path: Path) -> None:
    Image.init()
    ours = {*FORMATS, "MPO"}
    known = {suffix for suffix, name in Image.registered_extensions().items() if name in ours}
    assert known - {".bufr", ".pfm", ".jps"} <= SUFFIXES


class Broken:
    """A picture whose reading fails in a way that nobody thought of."""

    def __call__(self) -> NDArray[np.uint8]:
        raise ZeroDivisionError("inside a library")


def test_one_picture_that_breaks_a_library_is_counted_and_the_rest_go_on() -> None:
    good = Capture("good", time.time(), lambda: np.zeros((32, 32, 3), np.uint8))

    class Three:
        name, live, stills, polled, lasting, damaged = "three", False, True, False, False, 0

        def captures(self, stop: threading.Event) -> Iterator[Capture]:
            yield Capture("broken", time.time(), Broken())
            yield Capture("undated", float("nan"), lambda: np.zeros((32, 32, 3), np.uint8))
            yield good

    failures: list[tuple[str, str]] = []
    with CaptureThread(Three()) as captures:
        feed = Feed(
            captures, None, threading.Event(),
            lambda name, error: failures.append((name, error.reason)),
        )  # fmt: skip
        sent = [one.origin.name for one in feed if one is not None]
    assert sent == ["good"]
    assert failures == [("broken", "unreadable"), ("undated", "bad_time")]
    assert feed.dropped() == {"unreadable": 2}


def test_a_file_that_stays_empty_is_said_and_one_that_has_just_begun_is_waited_for(
    tmp_path: Path,
) -> None:
    for name, age_s in (("old.jpg", 100.0), ("new.jpg", 5.0)):
        (tmp_path / name).touch()
        then = time.time() - age_s
        os.utime(tmp_path / name, (then, then))
    captures = FolderSource(tmp_path, poll_s=0.01).captures(threading.Event())
    one = next(captures)
    assert Path(one.name).name == "old.jpg"
    with pytest.raises(PhotoError) as caught:
        one.load()
    assert caught.value.reason == "empty"
