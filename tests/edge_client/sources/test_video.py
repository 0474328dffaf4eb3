"""Videos by PyAV: what is in them, when it was taken, and what is wrong with them."""

from __future__ import annotations

import contextlib
import gc
import io
import struct
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import numpy as np
import psutil
import pytest

from edge_client.sources import CaptureThread, SourceOptions, open_source
from edge_client.sources.base import Capture
from edge_client.sources.clock import FileClock, LiveClock
from shared.backoff import Backoff
from shared.errors import SourceError
from tests.support.http_server import http_server

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


def transport_stream(frames: int, begin_s: int = 0, codec: str = "mpeg2video") -> bytes:
    """Grey pictures, 25 a second; the first has that time."""
    data = io.BytesIO()
    with av.open(data, "w", format="mpegts") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 99, np.uint8))
            frame = frame.reformat(format="yuv420p")
            frame.pts = begin_s * 25 + number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return data.getvalue()


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


def test_nothing_stays_of_a_picture_that_nobody_has_any_more(tmp_path: Path) -> None:
    """Neither the decoder's memory nor threads of the converter, for Python to find one day."""
    source = open_source([str(video(tmp_path / "v.mp4", 40))], SourceOptions())
    before, threads = frames_in_memory(), 0
    gc.disable()
    try:
        for number, capture in enumerate(source.captures(threading.Event())):
            assert np.asarray(capture.load()).shape == (48, 64, 3)
            if number == 5:  # the decoder has begun its own by then
                threads = threads_of_this_process()
        assert number == 39
        # The last one, and what the decoder gave with it.
        assert frames_in_memory() - before <= 3
        assert threads_of_this_process() <= threads
    finally:
        gc.enable()


def frames_in_memory() -> int:
    return sum(isinstance(one, av.VideoFrame) for one in gc.get_objects())


def threads_of_this_process() -> int:
    return psutil.Process().num_threads()


def test_pictures_were_taken_when_the_file_says(tmp_path: Path) -> None:
    path = video(tmp_path / "v.mp4", creation_time="2024-05-06T07:08:09.000000Z")
    times = [one.captured_at for one in take(path)]
    assert times == pytest.approx([1714979289 + n / 10 for n in range(20)], abs=1e-3)
    plain = video(tmp_path / "w.mkv")
    assert take(plain)[0].captured_at == pytest.approx(plain.stat().st_mtime, abs=1e-3)


@pytest.mark.parametrize(
    "created",
    ["1970-01-01T00:00:10.000000Z", "1904-01-01T00:00:00.000000Z", "2099-01-01T00:00:00Z"],
)
def test_a_time_that_cannot_be_gives_way_to_the_files(tmp_path: Path, created: str) -> None:
    """As cameras write it whose clock was not set."""
    path = video(tmp_path / "v.mp4", 3, creation_time=created)
    assert take(path)[0].captured_at == pytest.approx(path.stat().st_mtime, abs=1e-3)


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


MATRICES = {
    # a b c d of the track's matrix: what ffmpeg shows, of a picture with rows 12 and 34.
    "as it is": ((1, 0, 0, 1), "12 34"),
    "turned right": ((0, 1, -1, 0), "31 42"),
    "turned round": ((-1, 0, 0, -1), "43 21"),
    "turned left": ((0, -1, 1, 0), "24 13"),
    "mirrored": ((-1, 0, 0, 1), "21 43"),
    "upside down": ((1, 0, 0, -1), "34 12"),
    "transposed": ((0, 1, 1, 0), "13 24"),
    "transposed the other way": ((0, -1, -1, 0), "42 31"),
    "half as large": ((0.5, 0, 0, 0.5), "12 34"),
    "by three degrees": ((0.9986, 0.0523, -0.0523, 0.9986), "12 34"),
}


@pytest.mark.parametrize(("matrix", "shown"), MATRICES.values(), ids=MATRICES)
def test_a_phones_picture_is_upright(tmp_path: Path, matrix: tuple[float, ...], shown: str) -> None:
    path = tmp_path / "v.mp4"
    greys = np.kron(np.array([[50, 100], [150, 200]]), np.ones((32, 48)))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        pixels = np.repeat(greys[:, :, None], 3, axis=2).astype(np.uint8)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels)))
        container.mux(stream.encode(None))
    data = bytearray(path.read_bytes())
    at = data.find(b"tkhd") + 4 + 40  # ISO/IEC 14496-12, 8.3.2, version 0
    a, b, c, d = (round(value * 65536) for value in matrix)
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    (picture,) = (one.load() for one in take(path))
    rows, columns = picture.shape[0] // 4, picture.shape[1] // 4
    corners = picture[rows :: 2 * rows, columns :: 2 * columns, 1][:2, :2]
    names = np.rint(corners / 50).astype(int)
    assert " ".join("".join(map(str, row)) for row in names) == shown
    assert picture.flags.c_contiguous


@pytest.mark.parametrize("live", [True, False])
def test_gaps_and_steps_back_cost_no_waiting(tmp_path: Path, live: bool) -> None:
    """Parts that were put together, recordings with gaps, and FFmpeg's 33 bits that wrap."""
    path = tmp_path / "v.ts"
    path.write_bytes(b"".join(transport_stream(5, at_s) for at_s in (3, 7200, 3, 95443, 3600)))
    began_s = time.monotonic()
    times = [one.captured_at for one in take(path, live=live)]
    assert time.monotonic() - began_s < 30  # and not hours
    assert np.diff(times) == pytest.approx([1 / 25] * 24, abs=1e-3 if not live else 0.02)


@pytest.mark.parametrize("ending", ["mp4", "mov", "mkv"])
def test_pictures_taken_now_and_then_keep_their_times(tmp_path: Path, ending: str) -> None:
    """A doorbell's recording: a picture when somebody came."""
    taken_s = [0, 15, 55, 77, 167, 450, 8000]
    path = tmp_path / f"v.{ending}"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=1)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        for at_s in taken_s:
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 99, np.uint8))
            frame = frame.reformat(format="yuvj420p")
            frame.pts = at_s
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    times = np.array([one.captured_at for one in take(path)])
    assert times - times[0] == pytest.approx(taken_s, abs=2e-3)


@pytest.mark.parametrize("live", [True, False])
@pytest.mark.parametrize("rate", [10, 50])
def test_a_bare_stream_without_time_stamps_has_its_own_rate(
    tmp_path: Path, rate: int, live: bool
) -> None:
    """H.264 in no container. Its pictures were all of one time, and all but one over the limit."""
    path = tmp_path / "v.h264"
    video(path, 20, codec="libx264", rate=rate)
    times = [one.captured_at for one in take(path, live=live)]
    assert np.diff(times) == pytest.approx([1 / rate] * 19, abs=1e-3 if not live else 0.02)


def test_a_rate_that_cannot_be_meant_is_not_taken(tmp_path: Path) -> None:
    """Encoders that write the ticks of their clock where a rate belongs."""
    path = video(tmp_path / "v.h264", 5, codec="libx264", rate=30000)
    assert np.diff([one.captured_at for one in take(path)]) == pytest.approx([1 / 25] * 4, abs=1e-6)


# -- what is wrong ---------------------------------------------------------------------------------


def test_what_is_no_video_says_so(tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("no video at all, but long enough for a probe\n" * 100)
    assert reason(text) == "unreadable"
    noise = tmp_path / "noise.mp4"
    noise.write_bytes(np.random.default_rng(1).bytes(3000))
    with pytest.raises(SourceError, match=r"noise[.]mp4 is no video, or damaged from the start"):
        next(open_source([str(noise)]).captures(threading.Event()))
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
    path = video(tmp_path / "v.avi", 40)
    data = bytearray(path.read_bytes())
    sound = open_source([str(path)])
    assert len(list(sound.captures(threading.Event()))) == 40
    assert sound.damaged == 0
    begin, end = data.index(b"movi"), data.index(b"idx1")
    data[(begin + end) // 2 : end] = rng.bytes(end - (begin + end) // 2)
    path.write_bytes(data)
    source = open_source([str(path)])
    read = len(list(source.captures(threading.Event())))
    assert 0 < read < 40
    assert source.damaged >= 40 - read - 1
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
    with pytest.raises(SourceError, match=r"pip install .*\[stream\]") as caught:
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


# -- streams that give no pictures any more --------------------------------------------------------

VIDEO_PID, SOUND_PID = 0x100, 0x101


def packets(data: bytes, *pids: int) -> bytes:
    """The packets of a transport stream that are of these programs."""
    all_of_them = [data[at : at + 188] for at in range(0, len(data), 188)]
    return b"".join(one for one in all_of_them if int.from_bytes(one[1:3], "big") & 0x1FFF in pids)


def with_sound() -> tuple[bytes, bytes]:
    """A second of video and sound, and of the sound alone."""
    data = io.BytesIO()
    with av.open(data, "w", format="mpegts") as container:
        stream = container.add_stream("mpeg2video", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        sound = container.add_stream("mp2", rate=48000, layout="mono")
        for number in range(25):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 99, np.uint8))
            frame = frame.reformat(format="yuv420p")
            frame.pts = number
            container.mux(stream.encode(frame))
            heard = av.AudioFrame.from_ndarray(np.zeros((1, 1920), np.int16), "s16", "mono")
            heard.rate, heard.pts = 48000, 1920 * number
            container.mux(sound.encode(heard))
        container.mux(stream.encode(None))
        container.mux(sound.encode(None))
    return data.getvalue(), packets(data.getvalue(), 0, 0x1000, 0x11, SOUND_PID)


def switched() -> tuple[bytes, bytes]:
    """A second of one codec, and of another that nobody announces."""
    other = packets(transport_stream(25, codec="mpeg4"), VIDEO_PID)
    return transport_stream(25), other


@pytest.mark.parametrize("habit", [switched, with_sound])
def test_a_stream_without_pictures_is_lost_though_bytes_come(
    habit: Callable[[], tuple[bytes, bytes]],
) -> None:
    good, bad = habit()
    opened, gone = [0], threading.Event()

    def answer(request: BaseHTTPRequestHandler) -> None:
        opened[0] += 1
        request.send_response(200)
        request.end_headers()
        with contextlib.suppress(OSError):
            for number in range(1000):
                request.wfile.write(good if number < 10 else bad)
                if gone.wait(0.1):
                    return

    with http_server(answer) as server:
        source = open_source(
            [f"http://127.0.0.1:{server.server_address[1]}/live.ts"],
            SourceOptions(timeout_s=1.5, input={"analyzeduration": "200000"}),
        )
        why = ""
        with CaptureThread(source, backoff=Backoff(1.0, 1.0)) as captures:
            until, before = time.monotonic() + 40, 0
            while opened[0] < 2 and time.monotonic() < until:
                captures.take(0.05)
                if captures.state == "away" and captures.error is not None:
                    why, before = captures.error.message, captures.captured
            while captures.captured == before and time.monotonic() < until:
                captures.take(0.05)
            assert captures.reconnects >= 1
            assert captures.captured > before > 0
        gone.set()
    assert "no picture that can be decoded as mpeg2video" in why


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


def test_a_step_back_begins_a_streams_times_anew_however_small() -> None:
    clock = LiveClock()
    assert clock.at(10.0, 1000.0) == 1000.0
    assert clock.at(7.0, 1000.5) == 1000.5  # and is no delay of three seconds
    assert clock.at(7.5, 1001.0) == 1001.0
    assert clock.at(float("nan"), 1002.0) == 1002.0


def test_a_cameras_word_for_the_time_does_not_outlive_its_time_stamps() -> None:
    clock = LiveClock()
    assert clock.at(5.0, 1000.0, zero_at=994.0) == 999.0
    assert clock.at(45.0, 1001.0, zero_at=994.0) == 1001.0
    assert clock.at(46.0, 1002.0, zero_at=994.0) == 1002.0


# -- times of files --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stamps", "times"),
    [
        ([5, 6, 7.5], [0, 1, 2.5]),
        ([5, 6, 15.9, 16.9], [0, 1, 10.9, 11.9]),  # FFmpeg's limit is ten seconds
        ([0, 1, 7200, 7201, 0, 1], [0, 1, 2, 3, 4, 5]),
        ([9, 10, 7, 8], [0, 1, 2, 3]),
        ([0, 1, 0.95, 2], [0, 1, 1, 2]),  # disorder
        ([0, 1, None, 3, float("nan"), 5], [0, 1, 2, 3, 4, 5]),
        ([None, None, 7, 8], [0, 0.5, 1, 2]),
        ([None, None, None], [0, 0.5, 1]),
        ([0, 60, 120, 180], [0, 0.5, 60.5, 120.5]),  # one a minute, and the file does not say so
        ([-3, -2, -1], [0, 1, 2]),
    ],
)
def test_times_of_files_go_on(stamps: list[float | None], times: list[float]) -> None:
    clock = FileClock(0.5)
    assert [clock.at(stamp) for stamp in stamps] == pytest.approx(times)


def test_where_times_are_in_a_table_long_steps_are_times() -> None:
    clock = FileClock(0.5, gaps=True)
    daily_s = 7201 + 86400
    stamps = (0, 15, 7200, 7201, daily_s, 1e9, 3, 4)
    # The last three: no such step is time, and there is no way back.
    times = [0, 15, 7200, 7201, daily_s, daily_s + 1, daily_s + 2, daily_s + 3]
    assert [clock.at(at) for at in stamps] == times


def test_a_long_step_that_the_file_announces_is_time() -> None:
    clock = FileClock(60.0)
    assert [clock.at(stamp) for stamp in (0, 60, 120, 300)] == [0, 60, 120, 180]
