"""`make bench`: rate, distortion, perception and accuracy beside baselines', times, memory.

    python -m benchmarks [PHOTO|FOLDER|TAR ...] [--limit N] [--cache FOLDER]
    python -m benchmarks --transport
    python -m benchmarks --scale [--database URL]
    python -m benchmarks --coding [PHOTO|FOLDER|TAR ...] [--limit N]
    python -m benchmarks --regions [PHOTO|FOLDER|TAR ...] [--limit N]
    python -m benchmarks --repaint
    python -m benchmarks --cards
    python -m benchmarks --crops
    python -m benchmarks --framing
    python -m benchmarks --soak MINUTES
    python -m benchmarks --accelerator [DEVICE]
    python -m benchmarks --stream CLIP [CLIP ...] [--bundle NAME] [--limit FRAMES]
    python -m benchmarks --accuracy SET [SET ...] [--task NAME] [--limit N] [--cache FOLDER]
    python -m benchmarks --video [CLIP ...] [--frames N] [--every K] [--bundle NAME ...] [--help]

Without photos it takes those that packages ship. Results go to benchmarks/results/SET/; what was
measured before is taken from the cache, so that a new bundle costs only its own points. With
--accuracy it measures what tasks keep of their accuracy instead, on annotated sets.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from benchmarks.cards.crops import write_crops
from benchmarks.cards.measure import measure_cards
from benchmarks.coding import coding, coding_table
from benchmarks.curves import accuracy_curves, picture_curves
from benchmarks.demo.processes import DemoError
from benchmarks.framing import framing, framing_table
from benchmarks.memory import edge_peak_megabytes, soak, soak_table
from benchmarks.photos import write_photos, write_strip
from benchmarks.regions import regions, regions_table
from benchmarks.scale import measure, shared_log, write
from benchmarks.speed.accelerator import frame_rates, rates_table
from benchmarks.speed.times import (
    FEATURE_REFERENCE,
    feature_bundles,
    feature_speeds,
    repaint_speeds,
    repaint_table,
    speed_table,
    speeds,
)
from benchmarks.stream import FRAMES, stream_speed, stream_table
from benchmarks.transport.measure import transport, transport_table, write_transport
from benchmarks.video import command as video
from cloud_server.engine.spec import check_device
from codec.kit.recipe import open_recipe
from shared.bundle import Bundle, packaged_names
from shared.errors import FeatherwireError
from training.evaluate.judges.metrics import GROUPS
from training.evaluate.photos import evaluation_photos

RESULTS = Path(__file__).parent / "results"
PACKAGED = "packaged"
FEATURE_PHOTO = (640, 480)
"""Width and height in pixels of the photo that feature bundles are timed on."""
REPAINTED = ((768, 576), (1920, 1080))
"""Widths and heights in pixels of the pictures that are painted anew in part."""
CATS_FACE = (60, 20, 360, 220)


def main() -> int:
    """Measure, write results, print the tables; 1 when something could not be measured."""
    if "--video" in sys.argv[1:]:
        return video.main(sys.argv[1:])
    arguments = _parser().parse_args()
    torch.set_num_threads(1)
    for source in (*arguments.photos, *(arguments.accuracy or ()), *(arguments.stream or ())):
        if not source.exists():
            what = "a video" if arguments.stream else "a folder or a tar of photos, or none at all"
            _say(f"error: there is no {source}: give {what}")
            return 2
    try:
        if arguments.accuracy:
            for source in arguments.accuracy:
                print(accuracy_curves(source, arguments, _say))
            return 0
        if arguments.soak is not None:
            print(soak_table(soak(arguments.soak)))
            return 0
        if arguments.stream:
            stream_figures(arguments)
            return 0
        if arguments.accelerator:
            accelerator_rates(arguments.accelerator, arguments.output)
            return 0
        if arguments.framing:
            print(framing_table(framing(_astronaut(FEATURE_PHOTO))))
            return 0
        bundle = Bundle.load(arguments.bundle)
        if arguments.coding:
            coding_figures(arguments)
            return 0
        if arguments.repaint:
            repaint_times(bundle, arguments.output)
            return 0
        if arguments.cards:
            print(measure_cards(bundle, arguments.output))
            return 0
        if arguments.crops:
            crops(bundle, arguments.output / "crops.webp")
            return 0
        if arguments.regions:
            region_figures(bundle, arguments)
            return 0
        if arguments.transport:
            transport_times(bundle, arguments.output)
            return 0
        if arguments.scale:
            scale(bundle, arguments)
            return 0
        if not arguments.only_times:
            curves(bundle, arguments)
        if not arguments.no_times:
            times_and_strip(bundle, arguments)
    except (FeatherwireError, DemoError) as error:
        _say(f"error: {error}")
        return 1
    return 0


def curves(bundle: Bundle, arguments: argparse.Namespace) -> None:
    """The curves of one set of photos, into a folder of its name."""
    with tempfile.TemporaryDirectory() as folder:
        packaged = not arguments.photos
        sources = write_photos(Path(folder), _say) if packaged else arguments.photos
        name = PACKAGED if packaged else "+".join(path.stem for path in sources[:4])
        print(picture_curves(bundle, sources, name, arguments, _say))


def times_and_strip(bundle: Bundle, arguments: argparse.Namespace) -> None:
    """Times, memory and the strip, which do not depend on the set of photos."""
    from skimage import data

    pixels = _astronaut()
    rows = speeds(bundle, pixels)
    memory = edge_peak_megabytes(pixels, arguments.bundle)
    document: dict[str, Any] = {
        "bundle": bundle.id,
        "times": rows,
        "edge_peak_megabytes": memory,
        "features": {},
    }
    text = f"Bundle `{bundle.id[:16]}`.\n\n" + speed_table(rows, pixels)
    text += f"\n`featherwire-edge encode` of that photo: {memory:.0f} MB of memory at most.\n"
    larger = _astronaut(FEATURE_PHOTO)
    for name, features in feature_bundles().items():
        times = feature_speeds(features, larger)
        document["features"][name] = {"bundle": features.id, "times": times}
        text += f"\nBundle `{name}` (`{features.id[:16]}`).\n\n"
        text += speed_table(times, larger, FEATURE_REFERENCE)
    arguments.output.mkdir(parents=True, exist_ok=True)
    (arguments.output / "speed.json").write_text(json.dumps(document, indent=1) + "\n")
    (arguments.output / "speed.md").write_text(text)
    transport_times(bundle, arguments.output)
    cat = np.ascontiguousarray(data.chelsea())
    write_strip(bundle, cat, CATS_FACE, arguments.output / "states.webp")
    crops(bundle, arguments.output / "crops.webp")
    print(text)


def crops(bundle: Bundle, path: Path) -> None:
    """The sheet of crops, of packaged photos."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        photos = {one.stem: np.asarray(Image.open(one)) for one in write_photos(Path(folder), _say)}
        for line in write_crops(bundle, photos, path):
            print(line)


def _astronaut(size: tuple[int, int] | None = None) -> npt.NDArray[np.uint8]:
    """A photo that scikit-image ships, as it is or brought to (width, height)."""
    from skimage import data

    pixels = np.ascontiguousarray(data.astronaut())
    return pixels if size is None else np.asarray(Image.fromarray(pixels).resize(size))


def repaint_times(bundle: Bundle, output: Path) -> None:
    """What a picture costs whose last one is known; each table as soon as it is there."""
    tables = []
    for size in REPAINTED:
        photo = _astronaut(size)
        tables.append(repaint_table(repaint_speeds(bundle, photo, _say), photo))
        print(tables[-1], flush=True)
    output.mkdir(parents=True, exist_ok=True)
    (output / "repaint.md").write_text("\n".join(tables))


def region_figures(bundle: Bundle, arguments: argparse.Namespace) -> None:
    """What regions of interest cost and gain."""
    with tempfile.TemporaryDirectory() as folder:
        sources = arguments.photos or write_photos(Path(folder), _say)
        found = evaluation_photos(sources, arguments.side, open_recipe()[1])
        print(
            regions_table(regions(bundle, islice((one.pixels for one in found), arguments.limit)))
        )


def coding_figures(arguments: argparse.Namespace) -> None:
    """Bytes and times of the container's versions: a page."""
    with tempfile.TemporaryDirectory() as folder:
        sources = arguments.photos or write_photos(Path(folder), _say)
        found = evaluation_photos(sources, arguments.side, open_recipe()[1])
        photos = [one.pixels for one in islice(found, arguments.limit)]
    bundles = {name: Bundle.load(name) for name in packaged_names()}
    table = coding_table(list(coding(bundles, photos)))
    arguments.output.mkdir(parents=True, exist_ok=True)
    (arguments.output / "coding.md").write_text(f"{len(photos)} photos.\n\n{table}")
    print(table)


def stream_figures(arguments: argparse.Namespace) -> None:
    """The whole of `stream FILE` on one core, of every packaged bundle or of one."""
    names = packaged_names() if arguments.bundle is None else [arguments.bundle]
    rows = [
        stream_speed(clip, Bundle.load(name), frames=arguments.limit or FRAMES)
        for clip in arguments.stream
        for name in names
    ]
    arguments.output.mkdir(parents=True, exist_ok=True)
    (arguments.output / "stream.json").write_text(json.dumps(rows, indent=1) + "\n")
    text = stream_table(rows)
    (arguments.output / "stream.md").write_text(text)
    print(text)


def accelerator_rates(device: str, output: Path) -> None:
    """Frames a second on a device: a page."""
    check_device(device)
    table = rates_table(frame_rates(_astronaut(), device), device)
    output.mkdir(parents=True, exist_ok=True)
    (output / "accelerator.md").write_text(table)
    print(table)


def transport_times(bundle: Bundle, output: Path) -> None:
    """Frames a second through a durable session, beside a bare echo: a page and its numbers."""
    rows = transport(bundle)
    write_transport(rows, output)
    print(transport_table(rows))


def scale(bundle: Bundle, arguments: argparse.Namespace) -> None:
    """Engines by workers, and servers on one log where there is an empty PostgreSQL for it."""
    document = {
        "cores": os.cpu_count() or 1,
        "engines": asyncio.run(measure(bundle, _say)),
        "log": asyncio.run(shared_log(arguments.database)) if arguments.database else [],
    }
    print(write(document, arguments.output))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="benchmarks", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("photos", nargs="*", type=Path, help="none: packaged photos")
    parser.add_argument(
        "--accuracy", nargs="+", type=Path, metavar="SET", help="accuracy on annotated sets instead"
    )
    parser.add_argument("--coding", action="store_true", help="the container's versions alone")
    parser.add_argument("--regions", action="store_true", help="regions of interest alone")
    parser.add_argument("--repaint", action="store_true", help="pictures changed in part, alone")
    parser.add_argument("--cards", action="store_true", help="colours and letters alone")
    parser.add_argument("--crops", action="store_true", help="the sheet of crops alone")
    parser.add_argument("--framing", action="store_true", help="what is not payload, alone")
    parser.add_argument("--transport", action="store_true", help="the transport's rates alone")
    parser.add_argument(
        "--stream",
        nargs="+",
        type=Path,
        metavar="CLIP",
        help="`stream CLIP` as a whole on one core",
    )
    parser.add_argument("--scale", action="store_true", help="engines by workers alone")
    parser.add_argument(
        "--accelerator",
        nargs="?",
        const="cuda",
        metavar="DEVICE",
        help="frames a second on a device alone; without a name: cuda",
    )
    parser.add_argument("--database", help="with --scale: URL of an empty PostgreSQL database")
    parser.add_argument(
        "--soak", type=float, metavar="MINUTES", help="memory of `stream` over so many minutes"
    )
    parser.add_argument("--video", action="store_true", help="streams beside x264 and others")
    parser.add_argument("--task", default="detection", help="with --accuracy: the task")
    parser.add_argument("--split", default=None, help="with --accuracy: which part of the set")
    parser.add_argument("--bundle", default=None, help="folder, zip or name; default: the packaged")
    parser.add_argument("--decoder", default=None, help="of its pictures, by name; default: first")
    parser.add_argument("--limit", type=int, default=None, help="at most so many photos")
    parser.add_argument("--every", type=int, default=1, help="take every so-manieth photo")
    parser.add_argument("--vgg-limit", type=int, default=None, help="VGG's metrics on so many")
    parser.add_argument("--side", type=int, default=512, help="long side of photos, in pixels")
    parser.add_argument("--metrics", default=",".join(GROUPS), help="groups, comma-separated")
    parser.add_argument("--resamples", type=int, default=500, help="for intervals")
    parser.add_argument("--cache", type=Path, default=None, help="folder of points measured before")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of results")
    parser.add_argument("--no-times", action="store_true", help="curves alone")
    parser.add_argument("--only-times", action="store_true", help="times, memory and strip alone")
    return parser


def _say(text: str) -> None:
    print(text, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
