"""JPEGs are found in a stream of bytes, whatever stands between them and however they are cut."""

from __future__ import annotations

import io
import os
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from edge_client.sources.motion_jpeg import JpegSplitter, StdinSource, stamped
from shared.errors import SourceError


def jpeg(seed: int, *, progressive: bool = False) -> bytes:
    """A picture of noise, with a thumbnail in its EXIF: a JPEG in the JPEG."""
    rng = np.random.default_rng(seed)
    image = Image.fromarray(rng.integers(0, 256, (32, 48, 3), dtype=np.uint8))
    inner, outer = io.BytesIO(), io.BytesIO()
    image.resize((16, 16)).save(inner, "JPEG")
    restart = {} if progressive else {"restart_marker_blocks": 2}
    image.save(
        outer, "JPEG", quality=80, progressive=progressive, exif=b"Exif\0\0" + inner.getvalue(),
        **restart,
    )  # fmt: skip
    return outer.getvalue()


JPEGS = [jpeg(1), jpeg(2, progressive=True), jpeg(3)]


def split(data: bytes, cuts: list[int], splitter: JpegSplitter | None = None) -> list[bytes]:
    splitter = splitter or JpegSplitter()
    ends = [*sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    found, start = [], 0
    for end in ends:
        found += [one for _, one in splitter.feed(data[start:end])]
        start = end
    splitter.finish()
    return found


@given(st.lists(st.integers(0, 2**16), max_size=30))
def test_jpegs_come_out_whole_however_the_bytes_are_cut(cuts: list[int]) -> None:
    parts = b"".join(b"--frame\r\nContent-Type: image/jpeg\r\n\r\n" + one for one in JPEGS)
    assert split(b"".join(JPEGS), cuts) == JPEGS
    assert split(parts, cuts) == JPEGS


def test_a_byte_at_a_time() -> None:
    data = b"".join(JPEGS)
    assert split(data, list(range(len(data)))) == JPEGS


def test_what_is_cut_short_is_passed_over_and_counted() -> None:
    splitter = JpegSplitter()
    cut = JPEGS[0][:-200]  # within the pixels
    assert split(cut + JPEGS[1] + JPEGS[2] + cut, [], splitter) == JPEGS[1:]
    assert splitter.damaged == 2


def test_one_that_is_too_long_is_passed_over_and_memory_stays_small() -> None:
    splitter = JpegSplitter(max_bytes=10_000)
    long = JPEGS[0][:-2] + bytes(50_000) + b"\xff\xd9"
    found = split(long + JPEGS[1], list(range(0, 60_000, 1000)), splitter)
    assert found == [JPEGS[1]]
    assert splitter.damaged >= 1


@given(st.binary(max_size=3000))
def test_no_bytes_are_too_strange(noise: bytes) -> None:
    found = split(noise + b"\xff\xd9" + JPEGS[0], [100, 200])
    assert found[-1:] in ([], [JPEGS[0]])
    # After noise that began no JPEG the whole one is found.
    if b"\xff\xd8\xff" not in noise:
        assert found == [JPEGS[0]]


def test_headers_tell_the_time_where_the_clock_is_set() -> None:
    header = b"--x\r\nX-Timestamp: 1000.25\r\nContent-Type: image/jpeg\r\n\r\n"
    assert stamped(header, 1001.0) == 1000.25
    assert stamped(header, 5000.0) == 5000.0  # a clock that is far off
    assert stamped(b"", 7.0) == 7.0


def test_standard_input_gives_pictures_and_ends() -> None:
    read, write = os.pipe()
    with os.fdopen(read, "rb") as reader, os.fdopen(write, "wb") as writer:
        thread = threading.Thread(target=lambda: (writer.write(b"".join(JPEGS)), writer.close()))
        thread.start()
        source = StdinSource(stream=reader)
        pictures = [capture.load() for capture in source.captures(threading.Event())]
        thread.join()
    assert [picture.shape for picture in pictures] == [(32, 48, 3)] * 3


def test_standard_input_without_a_jpeg_is_an_error() -> None:
    read, write = os.pipe()
    os.write(write, b"no pictures here")
    os.close(write)
    with os.fdopen(read, "rb") as reader, pytest.raises(SourceError, match="no JPEG") as caught:
        list(StdinSource(stream=reader).captures(threading.Event()))
    assert caught.value.reason == "unreadable"


def test_a_pipe_that_says_nothing_does_not_hold_the_end_up() -> None:
    read, write = os.pipe()
    stop = threading.Event()
    with os.fdopen(read, "rb") as reader:
        threading.Timer(0.2, stop.set).start()
        assert list(StdinSource(stream=reader).captures(stop)) == []
    os.close(write)


@given(st.lists(st.integers(0, 2**16), max_size=10))
@pytest.mark.parametrize("between", [b"", b"\r\n--frame\r\nX-Timestamp: 12.5\r\n\r\n"])
def test_pictures_without_an_end_marker_are_whole(between: bytes, cuts: list[int]) -> None:
    """Some cameras never write it; a cut picture among them is still damaged."""
    splitter = JpegSplitter()
    pieces = [JPEGS[0][:-2], JPEGS[1][:-2], JPEGS[2][:-300], JPEGS[2][:-2]]
    data = b"".join(between + piece for piece in pieces)
    headers = []
    ends = [*sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    found, start = [], 0
    for end in ends:
        for header, one in splitter.feed(data[start:end]):
            headers.append(header)
            found.append(one)
            assert not splitter.ended
        start = end
    for header, one in splitter.finish():
        headers.append(header)
        found.append(one)
    assert found == JPEGS
    assert splitter.damaged == 1
    assert all(stamped(header, 13.0) == (12.5 if between else 13.0) for header in headers)


def test_standard_input_may_end_without_an_end_marker() -> None:
    read, write = os.pipe()
    os.write(write, JPEGS[0] + JPEGS[1][:-2])
    os.close(write)
    with os.fdopen(read, "rb") as reader:
        source = StdinSource(stream=reader)
        assert len([one.load() for one in source.captures(threading.Event())]) == 2
    assert source.damaged == 0
