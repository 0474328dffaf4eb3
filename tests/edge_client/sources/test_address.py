"""What SOURCE means, and that no error about it tells its password."""

from __future__ import annotations

import threading

import pytest

from edge_client.sources import SourceOptions, open_source
from edge_client.sources.motion_jpeg import MotionJpegSource
from shared.errors import SourceError


@pytest.mark.parametrize(
    "words",
    [
        ["rtsp://admin:s3c#ret@10.0.0.5/live"],
        ["rtsp://admin:12/s3c@10.0.0.5/live"],
        ["http://admin:s3c?ret@10.0.0.5/live"],
        ["http://admin:s3c[ret@10.0.0.5:99999/live"],
        ["rtsps:/admin:s3c@host/x"],
        ["rtsp:admin:s3c@host/x"],
        ["rtps://admin:s3c@host/x"],
        ["admin:s3c@host/x"],
        ["s3c:x@host/x"],
        ["//admin:s3c@host/x"],
        ["'rtsp://admin:s3c@host/x'"],
        ["v4l2:rtsp://admin:s3c@host/x"],
        ["file:rtsp://admin:s3c@host/x"],
        ["rtsp://admin:s3c*@host/x*", "b.jpg"],
        ["rtsp://admin:12", "s3c@host/x"],  # as an environment variable with a space is split
        ["rtsp://admin:s3c ret@host/x"],
    ],
)
def test_no_error_tells_the_password(words: list[str]) -> None:
    with pytest.raises(SourceError) as caught:
        open_source(words)
    assert "s3c" not in str(caught.value.to_dict())
    assert ":12" not in caught.value.message


def test_an_address_that_cannot_be_read_says_how_to_write_it() -> None:
    with pytest.raises(SourceError, match="write %23 for #") as caught:
        open_source(["rtsp://admin:p#ss@10.0.0.5/live"])
    assert caught.value.reason == "bad_source"


@pytest.mark.parametrize("scheme", ["rtsp", "http"])
def test_neither_does_ffmpeg_or_the_network(scheme: str) -> None:
    pytest.importorskip("av", reason="needs the extra stream")
    word = f"{scheme}://admin:s3c%23@127.0.0.1:1/live.ts?token=t0ken"
    source = open_source([f" {word} "], SourceOptions(timeout_s=2))
    with pytest.raises(SourceError) as caught:
        next(source.captures(threading.Event()))
    assert caught.value.message == f"{scheme}://127.0.0.1:1/live.ts: Connection refused"
    assert source.name == f"{scheme}://127.0.0.1:1/live.ts"


def test_what_a_suffix_says_is_read_in_the_path_alone() -> None:
    assert isinstance(open_source(["http://cam/video?file=x.mp4"]), MotionJpegSource)
