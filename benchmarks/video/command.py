"""The command line of `python -m benchmarks --video`."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import cv2
import torch

from benchmarks.video import agreement
from benchmarks.video.agreement import TASK as CLASSES
from benchmarks.video.agreement import Agreements
from benchmarks.video.clips import Clip, default_words, open_clips
from benchmarks.video.measure import EVERY_BUNDLE, TASK, Measuring, Plan
from benchmarks.video.report import Results, document, page
from benchmarks.video.rivals import POINTS, RIVALS, rivals_here
from shared.bundle import Bundle
from shared.cli.output import print_document
from shared.errors import FeatherwireError
from shared.json_text import to_json
from training.evaluate.judges.metrics import GROUPS, open_groups
from training.evaluate.measure import default_cache_dir
from training.evaluate.photos import EvaluationError
from training.evaluate.run import NO_PLOT

DATA = Path("../shared/data")
"""Where the development set lies beside a checkout."""
_PICTURE_METRICS = "pixels,squeeze"
Found = TypeVar("Found")


def main(words: Sequence[str]) -> int:
    """Measure, write, print; 1 when something could not be measured."""
    arguments = _parser().parse_args(list(words))
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    try:
        plan, notes = _plan(arguments)
        if arguments.task == CLASSES:
            _agree(plan, arguments)
        else:
            _write(
                Results(plan, _over_clips(Measuring(plan, _say).clip, arguments), notes), arguments
            )
    except FeatherwireError as error:
        _say(f"error: {error}")
        return 1
    return 0


def _plan(arguments: argparse.Namespace) -> tuple[Plan, list[str]]:
    """What to measure, and notes on what is left out."""
    usual = ("classify",) if arguments.task == CLASSES else ("detect", "picture")
    bundles = [Bundle.load(name) for name in arguments.bundle or usual]
    names = None if arguments.rivals is None else [n for n in arguments.rivals.split(",") if n]
    rivals = [one.with_points(arguments.points) for one in rivals_here(names)]
    missing = {r.name for r in RIVALS} - {r.name for r in rivals} if names is None else set()
    notes = [f"{name} is not in this PyAV" for name in sorted(missing)]
    wanted = [name for name in arguments.metrics.split(",") if name]
    needed = any(bundle.manifest.pictures for bundle in bundles)
    groups, left_out = open_groups(wanted, fetch=True) if needed else ([], [])
    cache = arguments.cache or default_cache_dir() / "video"
    plan = Plan(
        bundles,
        rivals,
        groups,
        frames=arguments.frames,
        every=arguments.every,
        key_every=arguments.key_every,
        pictures=arguments.pictures,
        states=_states(arguments.states),
        cache=cache,
        again=arguments.again,
        keys=not arguments.no_keys,
    )
    return plan, notes + left_out


def _over_clips(measure: Callable[[Clip], Found], arguments: argparse.Namespace) -> list[Found]:
    clips = arguments.clips or default_words(arguments.data)
    if not clips:
        text = f"no clip is given, and none of the development set is at {arguments.data}"
        raise EvaluationError("no_clip", text)
    with tempfile.TemporaryDirectory() as folder:
        return [measure(clip) for clip in open_clips(clips, Path(folder))]


def _agree(plan: Plan, arguments: argparse.Namespace) -> None:
    """Measure classes, write and print."""
    clips = _over_clips(Agreements(plan, _say).clip, arguments)
    _put(agreement.document(plan, clips), agreement.page(clips), arguments)


def _write(results: Results, arguments: argparse.Namespace) -> None:
    found, text = document(results), page(results)
    if arguments.plots is not None:
        try:
            from benchmarks.video.plots import plot

            plot(results, arguments.plots)
        except ImportError:
            _say(NO_PLOT)
    _put(found, text, arguments)


def _put(found: dict[str, Any], text: str, arguments: argparse.Namespace) -> None:
    """Write the document and the page to where they are wanted; print what is left."""
    if arguments.page is not None:
        arguments.page.parent.mkdir(parents=True, exist_ok=True)
        arguments.page.write_text(text)
    if arguments.json == "-":
        print_document(found)
        return
    if arguments.json is not None:
        target = Path(arguments.json)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(to_json(found, indent=1) + "\n")
    print(text)


def _states(words: Sequence[str]) -> dict[str, frozenset[int]]:
    """Of ``0,3`` and ``NAME=0,3``: by the name of the bundle."""
    found = {}
    for word in words:
        name, _, text = word.rpartition("=")
        try:
            found[name or EVERY_BUNDLE] = frozenset(map(int, text.split(",")))
        except ValueError:
            raise EvaluationError("bad_states", f"{word}: states are numbers, as 0,3,5") from None
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="benchmarks --video", description="Streams beside x264, x265 and SVT-AV1."
    )
    parser.add_argument("--video", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument(
        "clips", nargs="*",
        help="videos, tars or folders; +noise, +still, +cuts behind them; "
        "none: the development set",
    )  # fmt: skip
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the development set")
    parser.add_argument("--frames", type=_count, default=200, help="of a clip, at most")
    parser.add_argument("--every", type=_count, default=5, help="judge every so-manieth frame")
    parser.add_argument(
        "--key-every", type=_count, default=250, help="frames to the next key frame, at most"
    )
    parser.add_argument(
        "--bundle", nargs="+", metavar="BUNDLE", help="names, folders or zips: detect picture"
    )
    parser.add_argument(
        "--task", choices=(TASK, CLASSES), default=TASK,
        help="what is judged: objects by AP, or classes (bundle: classify) by agreement",
    )  # fmt: skip
    parser.add_argument(
        "--states", action="append", default=[],
        help="of the bundles, as in 0,3,5, or of one, as in picture=0,3,5; default: all",
    )  # fmt: skip
    parser.add_argument(
        "--points", type=_points, default=POINTS,
        help=f"operating points of each rival, 2 to {POINTS}",
    )  # fmt: skip
    parser.add_argument(
        "--rivals", help=f"comma-separated; default: {','.join(r.name for r in RIVALS)}"
    )
    parser.add_argument(
        "--metrics", default=_PICTURE_METRICS,
        help=f"of pictures, of {','.join(GROUPS[:3])}; default: {_PICTURE_METRICS}",
    )  # fmt: skip
    parser.add_argument(
        "--pictures", type=_count, default=8, help="judged frames whose pictures are compared"
    )
    parser.add_argument("--cache", type=Path, help="folder of what was measured before")
    parser.add_argument(
        "--again", action="store_true", help="bundles are measured anew; rivals are taken from it"
    )
    parser.add_argument(
        "--no-keys", action="store_true", help="predicted streams alone, not key frames beside them"
    )
    parser.add_argument("--json", metavar="FILE", help="all figures; - prints them instead")
    parser.add_argument("--page", type=Path, metavar="FILE", help="the tables as Markdown")
    parser.add_argument("--plots", type=Path, metavar="DIR", help="accuracy over bytes as SVG")
    return parser


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return value


def _points(text: str) -> int:
    value = int(text)
    if not 2 <= value <= POINTS:
        raise argparse.ArgumentTypeError(f"must be 2 to {POINTS}")
    return value


def _say(text: str) -> None:
    print(text, file=sys.stderr)
