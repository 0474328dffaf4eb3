"""What the contract test needs of a codec: a small bundle of it, and golden files in its folder.

python -m tests.support.contract NAME    makes the golden files of a new codec; or those of the
                                         version of the container's format that is written now; or
                                         golden streams of predicted frames
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codec.base import EdgeCodec, codec_names, open_cloud, open_edge, small_bundle, small_kinds
from shared.bitstream import FORMAT_VERSION, Bitstream
from shared.bundle import Bundle
from shared.targets import RateTarget
from tests.support.portable import STREAMS, golden_folder, streams

SIZES = ((16, 16), (33, 97), (160, 100))


def golden(name: str) -> dict[str, Any]:
    """Of golden.json: ``bundle_id``, and ``files`` with ``file``, ``file_sha256`` and
    ``latents_sha256``; those of later versions of the container's format are in folders there.
    ``streams``: of each frame of golden streams, what :func:`tests.support.portable.streams` says.
    """
    path = golden_folder(name) / "golden.json"
    if not path.is_file():
        command = f"python -m tests.support.contract {name}"
        raise FileNotFoundError(f"codec {name} has no golden files yet: {command} makes them")
    found: dict[str, Any] = json.loads(path.read_text())
    streams = golden_folder(name) / STREAMS / "golden.json"
    found["streams"] = json.loads(streams.read_text()) if streams.is_file() else {}
    for later in sorted(golden_folder(name).glob("version*/golden.json")):
        for record in json.loads(later.read_text())["files"]:
            found["files"].append({**record, "file": f"{later.parent.name}/{record['file']}"})
    return found


def picture(width: int, height: int, seed: int = 0) -> NDArray[np.uint8]:
    """Smooth colours with some noise: uint8 [height, width, 3], the same on every machine."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (-(-height // 16) + 1, -(-width // 16) + 1, 3))
    smooth = np.kron(coarse, np.ones((16, 16, 1), int))[:height, :width]
    noisy = smooth + rng.integers(-9, 10, smooth.shape)
    return np.clip(noisy, 0, 255).astype(np.uint8)


def print_checksums(name: str) -> None:
    """Every golden file and the checksum of what it decodes to, a line each."""
    folder = golden_folder(name)
    codec = open_cloud(Bundle.load(folder / "bundle.zip"))
    for path in sorted(folder.rglob("*.fwf")):
        if STREAMS in path.parts:
            continue
        latents = codec.decode(Bitstream.from_bytes(path.read_bytes()))
        print(path.relative_to(folder).as_posix(), latents.checksum().hex())
    for file, checksum in streams(name).items():
        print(file, checksum)


def index_hash(indices: Mapping[str, NDArray[Any]]) -> str:
    """SHA-256 over planes' names, shapes and little-endian int32 indices."""
    digest = hashlib.sha256()
    for name in sorted(indices):
        digest.update(f"{name}{list(indices[name].shape)}".encode())
        digest.update(np.ascontiguousarray(indices[name], "<i4").tobytes())
    return digest.hexdigest()


def write_golden(name: str) -> None:
    """Make a codec's golden files: every state of some sizes, and a cut file. All or none."""
    with tempfile.TemporaryDirectory(dir=golden_folder(name).parent) as unfinished:
        folder = Path(unfinished) / "golden"
        folder.mkdir()
        _write_golden(name, folder)
        folder.rename(golden_folder(name))


def write_golden_again(name: str, version: int) -> None:
    """Make the golden files of a later version of the container's format: the same values, coded
    again. All or none."""
    folder = golden_folder(name)
    edge = open_edge(Bundle.load(folder / "bundle.zip"))
    with tempfile.TemporaryDirectory(dir=folder) as unfinished:
        made = Path(unfinished) / f"version{version}"
        made.mkdir()
        records = []
        for path in sorted(folder.glob("*.fwf")):
            bitstream = edge.recode(Bitstream.from_bytes(path.read_bytes()), version)
            (made / path.name).write_bytes(bitstream.to_bytes())
            records.append(_record(path.name, bitstream, edge))
        (made / "golden.json").write_text(json.dumps({"files": records}, indent=1) + "\n")
        made.rename(folder / made.name)


def write_streams(name: str) -> None:
    """Make golden streams of every kind of bundle that predicts: a part of the picture moves, all
    of it changes, then nothing does. All or none."""
    folder = golden_folder(name)
    with tempfile.TemporaryDirectory(dir=folder) as unfinished:
        made = Path(unfinished) / STREAMS
        for kind in small_kinds(name):
            with tempfile.TemporaryDirectory() as small:
                bundle = small_bundle(name, Path(small), kind)
                edge = open_edge(bundle)
                if edge.predicts:
                    (made / (kind or "frames")).mkdir(parents=True)
                    (made / (kind or "frames") / "bundle.zip").write_bytes(bundle.to_zip())
                    _write_stream(edge, made / (kind or "frames"))
        made.rename(folder / STREAMS)
    (folder / STREAMS / "golden.json").write_text(json.dumps(streams(name), indent=1) + "\n")


def moving_pictures() -> list[NDArray[np.uint8]]:
    """Frames of 100 by 64 pixels: a part moves, a cut, stillness."""
    first, other = picture(100, 64, 1), picture(100, 64, 2)
    frames = [first.copy() for _ in range(4)]
    for number, frame in enumerate(frames):
        frame[8 : 8 + 9 * number, 20:50] = other[8 : 8 + 9 * number, 20:50]
    return [*frames, other, other]


def _write_stream(edge: EdgeCodec[Any, Any], folder: Path) -> None:
    before = None
    for number, frame in enumerate(moving_pictures()):
        bitstream = edge.encode(frame, RateTarget(state=0), reference=before)
        (folder / f"{number:02}.fwf").write_bytes(bitstream.to_bytes())
        before = edge.decode(bitstream, reference=before)


def _record(file: str, bitstream: Bitstream, edge: EdgeCodec[Any, Any]) -> dict[str, str]:
    return {
        "file": file,
        "file_sha256": hashlib.sha256(bitstream.to_bytes()).hexdigest(),
        "latents_sha256": edge.decode(bitstream).checksum().hex(),
    }


def _write_golden(name: str, folder: Path) -> None:
    with tempfile.TemporaryDirectory() as small:
        (folder / "bundle.zip").write_bytes(small_bundle(name, Path(small)).to_zip())
    bundle = Bundle.load(folder / "bundle.zip")
    edge = open_edge(bundle)
    records = []
    for width, height in SIZES:
        photo = picture(width, height)
        made = {f"state{s.state}": RateTarget(state=s.state) for s in bundle.manifest.states}
        made["cut"] = RateTarget(max_bytes=edge.encode(photo).file_bytes - 3)
        for kind, target in made.items():
            bitstream = edge.encode(photo, target)
            file = folder / f"{width}x{height}-{kind}.fwf"
            file.write_bytes(bitstream.to_bytes())
            records.append(_record(file.name, bitstream, edge))
    facts = {"bundle_id": bundle.id, "files": records}
    (folder / "golden.json").write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    (wanted,) = sys.argv[1:]
    if wanted in codec_names() and not golden_folder(wanted).exists():
        write_golden(wanted)
    elif wanted in codec_names() and not any(
        Bitstream.from_bytes(path.read_bytes()).version == FORMAT_VERSION
        for path in golden_folder(wanted).rglob("*.fwf")
    ):
        write_golden_again(wanted, FORMAT_VERSION)
    elif wanted in codec_names() and not (golden_folder(wanted) / STREAMS).exists():
        write_streams(wanted)
    else:
        sys.exit(f"{wanted} is no codec, or has golden files already; they are never made again")
