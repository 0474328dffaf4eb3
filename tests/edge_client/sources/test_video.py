"""Videos by PyAV: what is in them, when it was taken, and what is wrong with them."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edge_client.sources import CaptureThread, SourceOptions, open_source
from edge_client.sources.base import Capture
from edge_client.sources.video import LiveClock
from shared.backoff import Backoff
from shared.errors import SourceError

av = pytest.importorskip("av", reason="needs the extra stream")


def video(
    path: Path,
    frames: int = 20,
    size: tuple[int, int] = (64, 48),
    codec: str = "mpeg4",
    rate: int = 10,
    **metadata: str,
) -> Path:
    """Frame n is of grey 10 * n; 10 a second."""
    with av.open(str(path), "w") as container:
        container.metadata.update(metadata)
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height = size
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        for number in range(frames):
            grey = np.full((size[1], size[0], 3), 10 * number % 250, np.uint8)
            frame = av.VideoFrame.from_ndarray(grey).reformat(format=stream.pix_fmt)
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def take(word: str | Path, **options: object) -> list[Capture]:
    source = open_source([str(word)], SourceOptions(**options))  # type: ignore[arg-type]
    return list(source.captures(threading.Event()))


def reason(word: str | Path) -> str:
    with pytest.raises(SourceError) as caught:
        take(word)
    return caught.value.reason


def test_a_file_gives_its_pictures_in_order(tmp_path: Path) -> None:
    path = video(tmp_path / "v.mp4")
    captures = take(path)
    assert [one.name for one in captures] == [f"{path}#{n}" for n in range(1, 21)]
    pictures = [one.load() for one in captures]
    assert {picture.shape for picture in pictures} == {(48, 64, 3)}
    greys = [float(np.asarray(picture).mean()) for picture in pictures]
    assert greys == pytest.approx([10 * n for n in range(20)], abs=6)


def test_pictures_were_taken_when_the_file_says(tmp_path: Path) -> None:
    path = video(tmp_path / "v.mp4", creation_time="2024-05-06T07:08:09.000000Z")
    times = [one.captured_at for one in take(path)]
    assert times == pytest.approx([1714979289 + n / 10 for n in range(20)], abs=1e-3)
    plain = video(tmp_path / "w.mkv")
    assert take(plain)[0].captured_at == pytest.approx(plain.stat().st_mtime, abs=1e-3)


def test_a_file_taken_live_comes_at_its_own_speed_and_loops(tmp_path: Path) -> None:
    source = open_source([str(video(tmp_path / "v.mp4", 5))], SourceOptions(live=True, loop=True))
    captures = source.captures(threading.Event())
    began_at = time.time()
    times = [next(captures).captured_at for _ in range(12)]
    took_s = time.time() - began_at
    assert source.live
    # Two times 0.4 s from first to last, and 0.1 s into the third; no sleep is exact.
    assert took_s >= 0.8
    assert all(-0.2 < at - began_at < took_s + 0.2 for at in times)


def test_a_limit_takes_every_so_manieth_by_the_times_in_the_file(tmp_path: Path) -> None:
    source = open_source([str(video(tmp_path / "v.mp4", 40))])
    names = []
    with CaptureThread(source, limit=lambda: 2.0) as captures:
        while not captures.ended or names[-1:] != [None]:
            one = captures.take(0.2)
            names.append(one and int(one.name.rpartition("#")[2]))
    assert [name for name in names if name] == [1, 6, 11, 16, 21, 26, 31, 36]
    assert (captures.captured, captures.left_out, captures.overtaken) == (40, 32, 0)


def test_a_phones_picture_is_upright(tmp_path: Path) -> None:
    class Turned:
        """What PyAV gives for a file with a display matrix; no encoder here writes one."""

        rotation = -90

        def to_ndarray(self, format: str) -> np.ndarray:
            return np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)

    from edge_client.sources.video import _rgb

    upright = _rgb(Turned())
    assert upright.shape == (3, 2, 3)
    # By 90 degrees clockwise the lower left corner becomes the upper left one.
    assert (upright[0, 0] == Turned().to_ndarray("")[1, 0]).all()


# -- what is wrong ---------------------------------------------------------------------------------


def test_what_is_no_video_says_so(tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("no video at all, but long enough for a probe\n" * 100)
    assert reason(text) == "unreadable"
    (tmp_path / "empty.mp4").touch()
    assert reason(tmp_path / "empty.mp4") == "unreadable"
    sound = tmp_path / "sound.wav"
    with av.open(str(sound), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), "s16", "mono")
        frame.rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert reason(sound) == "no_video"


def test_a_damaged_video_gives_what_can_be_read(tmp_path: Path) -> None:
    path = video(tmp_path / "v.mkv", 40, codec="mjpeg")
    data = bytearray(path.read_bytes())
    rng = np.random.default_rng(4)
    for at in rng.integers(2000, len(data) - 2000, 200):
        data[at] = rng.integers(256)
    path.write_bytes(data)
    source = open_source([str(path)])
    shapes = [one.load().shape for one in source.captures(threading.Event())]
    assert shapes
    assert set(shapes) <= {(48, 64, 3)}
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(video(tmp_path / "whole.mp4").read_bytes()[:600])
    assert reason(cut) == "unreadable"


def test_huge_pictures_are_refused_before_they_are_decoded(tmp_path: Path) -> None:
    wide = video(tmp_path / "wide.avi", 1, size=(9000, 32), codec="mjpeg")
    assert reason(wide) == "too_large"
    tiny = video(tmp_path / "tiny.avi", 1, size=(8, 8), codec="mjpeg")
    assert reason(tiny) == "too_small"


def test_without_the_extra_the_error_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = video(tmp_path / "v.mp4")
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(SourceError, match=r"pip install 'featherwire\[stream\]'") as caught:
        open_source([str(path)])
    assert caught.value.reason == "missing_extra"


def test_a_camera_that_is_not_there_is_looked_for_again() -> None:
    """There is no camera here: this is all of V4L2 that can be tested without one."""
    source = open_source(["v4l2:/dev/video99"], SourceOptions(input={"video_size": "640x480"}))
    backoff = Backoff(first_s=0.01, limit_s=0.02)
    with CaptureThread(source, patience_s=0.3, backoff=backoff) as captures:
        assert captures.take(5.0) is None
        until = time.monotonic() + 10
        while not captures.ended and time.monotonic() < until:
            captures.take(0.05)
    assert captures.state == "failed"
    assert captures.error is not None
    assert captures.error.reason == "source_away"
    assert captures.reconnects >= 2


# -- times of live streams -------------------------------------------------------------------------


def on_clock(delays: Callable[[int], float], count: int = 200) -> list[float]:
    """Errors in seconds of the times of pictures every 0.1 s that arrive with these delays."""
    clock = LiveClock()
    errors = []
    for n in range(count):
        taken_at = 1e9 + n / 10
        errors.append(clock.at(50 + n / 10, taken_at + delays(n)) - taken_at)
    return errors


def test_the_networks_moods_are_not_in_the_times() -> None:
    rng = np.random.default_rng(2)
    errors = on_clock(lambda n: 0.05 + rng.exponential(0.2))
    assert np.ptp(errors[50:]) < 0.05


def test_a_stream_that_starts_anew_is_followed() -> None:
    clock = LiveClock()
    assert clock.at(100.0, 1000.0) == 1000.0
    assert clock.at(0.0, 1001.0) == 1001.0
    assert clock.at(None, 1002.0) == 1002.0


def test_a_cameras_own_clock_is_taken_where_it_is_set() -> None:
    clock = LiveClock()
    assert clock.at(5.0, 1000.0, zero_at=994.8) == 999.8
    assert clock.at(5.0, 1000.0, zero_at=3.0) == 1000.0
