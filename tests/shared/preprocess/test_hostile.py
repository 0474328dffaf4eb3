"""Files that are damaged, cut, lying or no photo: a PhotoError with a reason, nothing else."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from shared.errors import PhotoError
from shared.limits import Limits
from shared.preprocess import load_photo
from shared.preprocess.photo import MAX_JPEG_SCANS, jpeg_scans

SLOWEST_S = 1.0  # for a photo of a few hundred bytes, however it was damaged

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def small_photo() -> Image.Image:
    rng = np.random.default_rng(11)
    return Image.fromarray(rng.integers(0, 256, (24, 31, 3), dtype=np.uint8))


def sample_files() -> dict[str, bytes]:
    """One small file of each kind that we read, the rarer modes included."""
    photo = small_photo()
    grey16 = Image.fromarray(np.arange(24 * 31, dtype=np.uint16).reshape(24, 31) * 88)
    exif = Image.Exif()
    exif[0x0112] = 6
    return {
        "jpeg": encode(photo, "JPEG", exif=exif),
        "jpeg-progressive": encode(photo, "JPEG", progressive=True),
        "jpeg-cmyk": encode(photo.convert("CMYK"), "JPEG"),
        "png": encode(photo, "PNG"),
        "png-palette": encode(photo.quantize(16), "PNG", transparency=3),
        "png-16": encode(grey16, "PNG"),
        "webp": encode(photo, "WEBP"),
        "webp-lossless": encode(photo.convert("RGBA"), "WEBP", lossless=True),
        "avif": encode(photo, "AVIF"),
        "gif": encode(photo, "GIF"),
        "bmp": encode(photo, "BMP"),
        "ppm": encode(photo, "PPM"),
        "tiff": encode(photo, "TIFF", exif=exif),
        "tiff-lzw": encode(photo, "TIFF", compression="tiff_lzw"),
        "tiff-float": encode(Image.fromarray(np.eye(24, dtype=np.float32)), "TIFF"),
    }


SAMPLES = sample_files()


def reason_of(source: object, **options: Limits) -> str:
    with pytest.raises(PhotoError) as caught:
        load_photo(source, **options)  # type: ignore[arg-type]
    return caught.value.reason


# --- files that are no photo -----------------------------------------------------------------


def test_empty_file(tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").touch()
    assert reason_of(b"") == "empty"
    assert reason_of(tmp_path / "empty.jpg") == "empty"


def test_missing_file(tmp_path: Path) -> None:
    assert reason_of(tmp_path / "none.jpg") == "not_found"
    assert reason_of("") == "unreadable"  # the current folder


def test_folder_and_null_path(tmp_path: Path) -> None:
    assert reason_of(tmp_path) == "unreadable"
    assert reason_of("a\0b.jpg") == "unreadable"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
def test_devices_and_pipes_are_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    assert reason_of(tmp_path / "pipe.jpg") == "unreadable"
    assert reason_of("/dev/zero") == "unreadable"


@pytest.mark.parametrize(
    "data",
    [b"hello", b"\0" * 4096, b"\xff" * 4096, b"<svg xmlns='http://www.w3.org/2000/svg'/>"],
    ids=["text", "zeros", "ones", "svg"],
)
def test_what_is_no_photo(data: bytes) -> None:
    assert reason_of(data) == "unreadable"


@pytest.mark.parametrize("kind", ["EPS", "ICO", "TGA", "JPEG2000", "PCX", "SGI"])
def test_formats_that_we_do_not_open(kind: str) -> None:
    """EPS would start Ghostscript; the others only widen what a forged file could reach."""
    assert reason_of(encode(small_photo(), kind)) == "unreadable"


# --- sides and bytes -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "AVIF", "TIFF", "GIF", "BMP", "PPM"])
def test_sides_are_bounded_in_every_format(kind: str) -> None:
    assert reason_of(encode(Image.new("RGB", (15, 400)), kind)) == "too_small"
    assert reason_of(encode(Image.new("RGB", (400, 15)), kind)) == "too_small"
    limits = Limits(max_side=100)
    assert reason_of(encode(Image.new("RGB", (101, 20)), kind), limits=limits) == "too_large"
    assert reason_of(encode(Image.new("RGB", (20, 101)), kind), limits=limits) == "too_large"


def test_bytes_are_bounded_before_reading(tmp_path: Path) -> None:
    path = tmp_path / "sparse.png"
    with path.open("wb") as file:
        file.truncate(2**40)
    started = time.monotonic()
    assert reason_of(path) == "too_many_bytes"
    assert time.monotonic() - started < SLOWEST_S
    assert reason_of(SAMPLES["png"], limits=Limits(max_photo_bytes=100)) == "too_many_bytes"


def png_header(width: int, height: int, *, body: bytes = b"") -> bytes:
    def chunk(name: bytes, content: bytes) -> bytes:
        crc = zlib.crc32(name + content)
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", crc)

    size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def gif_header(width: int, height: int) -> bytes:
    return (
        b"GIF89a"
        + struct.pack("<HHBBB", width, height, 0x80, 0, 0)
        + b"\0\0\0\xff\xff\xff"
        + b","
        + struct.pack("<HHHHB", 0, 0, width, height, 0)
        + b"\x02\x02\x44\x01\0;"
    )


def webp_header(width: int, height: int) -> bytes:
    """An extended WebP whose canvas is larger than its one small frame."""
    small = encode(small_photo(), "WEBP", lossless=True)[12:]
    canvas = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    body = b"WEBPVP8X" + struct.pack("<I", 10) + b"\0\0\0\0" + canvas + small
    return b"RIFF" + struct.pack("<I", len(body)) + body


HUGE = {
    "png": png_header(2**31 - 1, 2**31 - 1),
    "png-40000": png_header(40_000, 40_000),
    "png-just-over": png_header(8193, 8193),
    "gif": gif_header(65535, 65535),
    "webp": webp_header(16383, 16383),
    "ppm": b"P6 999999999 999999999 255\n",
    "bmp": b"BM" + struct.pack("<IHHIIiiHH", 54, 0, 0, 54, 40, 2**31 - 1, 2**31 - 1, 1, 24)
    + bytes(24),
}  # fmt: skip


@pytest.mark.parametrize("name", HUGE)
def test_huge_claims_are_refused(name: str) -> None:
    assert reason_of(HUGE[name]) in {"too_large", "unreadable"}
    if name.startswith("png"):
        assert reason_of(HUGE[name]) == "too_large"


MEMORY_OF_REFUSAL = """
import resource, sys
from shared.errors import PhotoError
from shared.preprocess import load_photo
load_photo({warm_up!r})
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for data in {files!r}:
    try:
        load_photo(data)
        sys.exit("a huge file was accepted")
    except PhotoError:
        pass
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


def test_refusing_a_huge_file_takes_no_memory_for_its_pixels() -> None:
    """All of the forged headers above together, in a process of their own."""
    script = MEMORY_OF_REFUSAL.format(warm_up=SAMPLES["webp"], files=list(HUGE.values()))
    done = subprocess.run(
        [sys.executable, "-"], input=script, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 48 * 2**20  # one 8192x8192 picture would be 192 MiB


def test_compressed_text_bomb_in_a_png() -> None:
    bomb = b"Comment\0\0" + zlib.compress(bytes(2**28), 9)
    crc = struct.pack(">I", zlib.crc32(b"zTXt" + bomb))
    data = SAMPLES["png"]
    forged = data[:33] + struct.pack(">I", len(bomb)) + b"zTXt" + bomb + crc + data[33:]
    started = time.monotonic()
    assert reason_of(forged) == "unreadable"
    assert time.monotonic() - started < SLOWEST_S


def test_jpeg_of_endless_scans_is_refused() -> None:
    """Each scan of a few bytes walks over the whole picture: a small file, minutes of work."""
    data = encode(Image.new("L", (2048, 2048), 128), "JPEG", progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    forged = data[:-2] + last * 5000 + data[-2:]
    assert jpeg_scans(forged) > 5000
    started = time.monotonic()
    assert reason_of(forged) == "too_complex"
    assert time.monotonic() - started < SLOWEST_S


def test_scans_of_ordinary_jpegs_are_counted() -> None:
    assert jpeg_scans(SAMPLES["jpeg"]) == 1
    assert 6 <= jpeg_scans(SAMPLES["jpeg-progressive"]) < MAX_JPEG_SCANS
    assert jpeg_scans(SAMPLES["jpeg"] + SAMPLES["jpeg"]) == 1  # what follows the picture is not it
    filled = SAMPLES["jpeg"].replace(b"\xff\xda", b"\xff\xff\xff\xda")
    assert jpeg_scans(filled) == 1
    assert jpeg_scans(b"\xff\xd8") == jpeg_scans(b"") == 0
    assert jpeg_scans(b"\xff\xd8" + b"\0" * 9) == 0


def test_thousands_of_random_scan_markers_end() -> None:
    for seed in range(200):
        noise = np.random.default_rng(seed).integers(200, 256, 5000, dtype=np.uint8).tobytes()
        assert 0 <= jpeg_scans(noise) <= 5000


# --- cut and damaged files -------------------------------------------------------------------


@pytest.mark.parametrize("name", ["jpeg", "jpeg-cmyk", "png", "webp", "webp-lossless", "tiff-lzw"])
def test_cut_photo_is_never_a_half_picture(name: str) -> None:
    data = SAMPLES[name]
    if name == "tiff-lzw":
        data = data[: len(data) * 9 // 10]
        assert reason_of(data) in {"truncated", "unreadable"}
        return
    for kept in (len(data) // 2, len(data) * 3 // 4):
        assert reason_of(data[:kept]) == "truncated"


@pytest.mark.parametrize("name", SAMPLES)
def test_every_cut_of_every_kind_is_an_error_or_a_whole_picture(name: str) -> None:
    data = SAMPLES[name]
    for kept in range(0, len(data), max(1, len(data) // 60)):
        outcome(data[:kept])


def outcome(data: bytes) -> str:
    """The reason of the refusal, or ``ok``; fails on anything that a caller would not expect."""
    started = time.monotonic()
    try:
        picture = load_photo(data, limits=Limits(max_side=512))
    except PhotoError as error:
        return error.reason
    finally:
        assert time.monotonic() - started < SLOWEST_S
    assert picture.dtype == np.uint8
    assert picture.ndim == 3
    assert picture.shape[2] == 3
    assert 16 <= min(picture.shape[:2]) <= max(picture.shape[:2]) <= 512
    return "ok"


def flip_bytes(data: bytes, rng: np.random.Generator) -> bytes:
    damaged = bytearray(data)
    for at in rng.integers(0, len(data), rng.integers(1, 8)):
        damaged[at] = rng.integers(0, 256)
    return bytes(damaged)


def flip_header(data: bytes, rng: np.random.Generator) -> bytes:
    return flip_bytes(data[:64], rng) + data[64:]


def cut_out(data: bytes, rng: np.random.Generator) -> bytes:
    start, end = sorted(rng.integers(0, len(data), 2))
    return data[:start] + data[end:]


def repeat_part(data: bytes, rng: np.random.Generator) -> bytes:
    start, end = sorted(rng.integers(0, len(data), 2))
    return data[:end] + data[start:end] * int(rng.integers(1, 4)) + data[end:]


MUTATORS: list[Callable[[bytes, np.random.Generator], bytes]] = [
    flip_bytes,
    flip_header,
    cut_out,
    repeat_part,
]


@pytest.mark.parametrize("name", SAMPLES)
def test_mutated_photos_crash_nothing(name: str) -> None:
    rng = np.random.default_rng(2024)
    words = {outcome(MUTATORS[n % len(MUTATORS)](SAMPLES[name], rng)) for n in range(400)}
    assert words - {"ok"}  # the mutator did reach the parser
    assert outcome(SAMPLES[name]) == "ok"


@given(st.binary(max_size=300), st.sampled_from([data[:12] for data in SAMPLES.values()]))
@settings(max_examples=150, deadline=None)
def test_arbitrary_bytes_behind_a_real_signature(tail: bytes, signature: bytes) -> None:
    outcome(signature + tail)
