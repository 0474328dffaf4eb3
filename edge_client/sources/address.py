"""The source that a SOURCE on the command line names."""

from __future__ import annotations

import glob
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from edge_client.sources.base import Source
from edge_client.sources.motion_jpeg import MotionJpegSource, StdinSource
from edge_client.sources.stills import FilesSource, FolderSource, is_picture
from edge_client.sources.video import VideoSource
from shared.addresses import shown, split_address
from shared.errors import SourceError

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):(?://)?(.*)", re.DOTALL)
_KNOWN = "rtsp, rtsps, http, https, v4l2 and file"
# By UDP firewalls and busy networks lose parts; and the first picture need not wait five seconds.
_RTSP = {"rtsp_transport": "tcp", "analyzeduration": "500000"}
_VIDEO_SUFFIXES = re.compile(r"\.(m3u8|mp4|ts|mkv|webm|flv|mov)$", re.I)


@dataclass(frozen=True, slots=True)
class SourceOptions:
    """How a source is run.

    live: take what could wait (a video file, standard input) as a camera's: at its own times, and
    the newest picture wins. loop: files again from the first when they are done. input: FFmpeg's
    options for the input. timeout_s: without a byte of a stream.
    """

    live: bool = False
    loop: bool = False
    input: Mapping[str, str] = field(default_factory=dict)
    timeout_s: float = 10.0


def open_source(words: Sequence[str], options: SourceOptions | None = None) -> Source:
    """The source of that name, not opened yet; several words are files.

    Raises SourceError: unknown_scheme, not_found, bad_source, missing_extra.
    """
    options = options or SourceOptions()
    if len(words) != 1:
        if any("://" in word for word in words):
            raise SourceError(
                "not_found",
                "of several sources all are files; if it is one, write %20 for a space in it",
            )
        return FilesSource([_file(word) for word in words], loop=options.loop)
    word = words[0].strip() if "://" in words[0] else words[0]
    if word == "-":
        return StdinSource(live=options.live)
    found = _SCHEME.fullmatch(word)
    if found is not None and not Path(word).exists():
        return _by_scheme(found[1].lower(), found[2], word, options)
    return _by_path(word, options)


def _by_scheme(scheme: str, rest: str, word: str, options: SourceOptions) -> Source:
    if scheme == "file":
        return _by_path(rest, options)
    if scheme == "v4l2":
        return _camera(rest, options)
    if scheme not in {"rtsp", "rtsps", "http", "https"}:
        # Without the slashes it may be a user that stands before the colon.
        name = f"{scheme}:" if "@" not in word or "://" in word else "that"
        raise SourceError("unknown_scheme", f"no source is called {name}; there are {_KNOWN}")
    try:
        address = split_address(word)
    except ValueError as error:
        raise SourceError(
            "bad_source", f"the address {scheme}:... is not understood: {error}"
        ) from None
    if scheme in {"http", "https"} and not _VIDEO_SUFFIXES.search(address.path):
        return MotionJpegSource(address, timeout_s=options.timeout_s)
    defaults = _RTSP if scheme.startswith("rtsp") else {}
    return VideoSource(
        address.url,
        address.shown,
        live=True,
        lasting=True,
        options={**defaults, **options.input},
        timeout_s=options.timeout_s,
        secrets=address.secrets,
    )


def _by_path(word: str, options: SourceOptions) -> Source:
    path = Path(word)
    if word.startswith("/dev/video"):
        return _camera(word, options)
    if path.is_dir():
        return FolderSource(path)
    if path.is_file():
        if is_picture(path.name):
            return FilesSource([path], loop=options.loop)
        return VideoSource(
            word,
            word,
            live=options.live,
            lasting=False,
            options=options.input,
            loop=options.loop,
            realtime=options.live,
        )
    if glob.has_magic(word):
        found = sorted(Path(name) for name in glob.iglob(word, recursive=True))
        pictures = [one for one in found if one.is_file() and is_picture(one.name)]
        if pictures:
            return FilesSource(pictures, loop=options.loop)
        raise SourceError("not_found", f"no picture is called {shown(word)}")
    if path.exists():
        raise SourceError("bad_source", f"{word} is neither a file nor a folder")
    raise SourceError("not_found", f"there is no file or folder {shown(word)}")


def _file(word: str) -> Path:
    path = Path(word)
    if not path.is_file():
        raise SourceError(
            "not_found", f"{shown(word)} is no file; of several sources all are files"
        )
    return path


def _camera(device: str, options: SourceOptions) -> Source:
    if not device.startswith("/dev/"):
        raise SourceError(
            "bad_source", f"a camera is called like v4l2:/dev/video0, not {shown(device)}"
        )
    return VideoSource(
        device,
        device,
        live=True,
        lasting=True,
        form="v4l2",
        options=options.input,
        timeout_s=options.timeout_s,
    )
