"""A stream of files that was killed: what it left in the spool has one result, and one only."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from shared.bundle import Bundle
from tests.support.recorder import Recorder
from tests.support.servers import FixedTask, ServerThread
from tests.support.streaming_edge import jpeg, streaming

Start = Callable[..., ServerThread]
NOBODY = "127.0.0.1:9"


@pytest.fixture
def options(tiny_bundle: Bundle, tmp_path: Path) -> tuple[object, ...]:
    words = ("--bundle", tiny_bundle.origin, "--device", "cam", "--timeout", 0.5)
    return (*words, "--spool", tmp_path / "spool")


def photos(folder: Path, count: int) -> list[Path]:
    folder.mkdir()
    files = [folder / f"{number:02}.jpg" for number in range(count)]
    for number, file in enumerate(files):
        file.write_bytes(jpeg(number))
        os.utime(file, (1_750_000_000 + number / 8, 1_750_000_000 + number / 8))
    return files


def leave_in_spool(inbox: object, options: tuple[object, ...], count: int) -> None:
    """Spool so many files while there is no server, and be killed before one is moved."""
    with streaming(inbox, *options, "--no-predict", "--server", NOBODY) as stream:
        stream.until(
            lambda: any(one.get("queue", {}).get("frames") == count for one in stream.events)
        )
        stream.process.send_signal(signal.SIGKILL)
        stream.process.wait(10)


@pytest.mark.parametrize("source", ["inbox", "inbox/*.jpg"])
def test_files_in_the_spool_are_moved_and_not_sent_again(
    source: str, start_server: Start, options: tuple[object, ...], tmp_path: Path
) -> None:
    files = photos(tmp_path / "inbox", 4)
    leave_in_spool(tmp_path / source, options, 4)
    files[1].write_bytes(jpeg(99))  # another picture under that name since
    (tmp_path / "inbox" / "new.jpg").write_bytes(jpeg(77))
    recorder = Recorder()
    server = start_server({"record": lambda: recorder})
    to, sent = ("--no-predict", "--server", server.address, *options), tmp_path / "sent"
    with streaming(tmp_path / source, *to, "--move-to", sent) as stream:
        stream.until(lambda: len(stream.results) == 6)
        status, end = stream.end(signal.SIGTERM if source == "inbox" else None)
    assert (status, end["failed"], end["dropped"]) == (0, 0, {"already_spooled": 3})
    assert end["queue"] == {"frames": 0, "bytes": 0, "awaited": 0}
    names = Counter(Path(one["source"]).name for one in stream.results)
    assert names == {"00.jpg": 1, "01.jpg": 2, "02.jpg": 1, "03.jpg": 1, "new.jpg": 1}
    assert len(recorder.widths) == 6
    assert len(list(sent.iterdir())) == 5
    assert not list((tmp_path / "inbox").iterdir())


def test_without_a_folder_to_move_to_they_are_not_sent_again_either(
    start_server: Start, options: tuple[object, ...], tmp_path: Path
) -> None:
    files = photos(tmp_path / "inbox", 3)
    leave_in_spool(tmp_path / "inbox", options, 3)
    server = start_server({"one": lambda: FixedTask("one")})
    with streaming(
        tmp_path / "inbox", "--no-predict", "--server", server.address, *options
    ) as stream:
        stream.until(lambda: len(stream.results) == 3)
        left_out = {"already_spooled": 3}
        stream.until(lambda: stream.statuses and stream.statuses[-1]["dropped"] == left_out)
        files[0].write_bytes(jpeg(50))  # written anew: a new picture
        stream.until(lambda: len(stream.results) == 4)
        status, end = stream.end()
    assert (status, end["sent"], end["results"]) == (0, 1, 4)


def test_kills_while_files_move_on_give_each_one_result(
    start_server: Start, options: tuple[object, ...], tmp_path: Path
) -> None:
    photos(tmp_path / "inbox", 24)
    sent = tmp_path / "sent"
    recorder = Recorder()
    server = start_server({"record": lambda: recorder, "slow": lambda: FixedTask("slow", 0.05)})
    words = (
        tmp_path / "inbox",
        "--no-predict",
        "--server",
        server.address,
        *options,
        "--move-to",
        sent,
    )
    for least in (3, 8, 13):
        with streaming(*words) as stream:
            stream.until(lambda least=least: sent.exists() and len(list(sent.iterdir())) >= least)  # type: ignore[misc]
            stream.process.send_signal(signal.SIGKILL)
            stream.process.wait(10)
    with streaming(*words) as stream:
        stream.until(lambda: len(list(sent.iterdir())) == 24)
        status, end = stream.end()
    assert (status, end["queue"]["frames"], end["queue"]["awaited"]) == (0, 0, 0)
    assert sorted(path.name for path in sent.iterdir()) == [f"{n:02}.jpg" for n in range(24)]
    assert len(recorder.widths) == 24
