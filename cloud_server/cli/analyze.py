"""featherwire-cloud analyze: vision tasks on .fwf files, or on photos as the reference."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cloud_server.cli.options import BundleOption, DeviceOption, ScoreOption, StateOption
from shared.cli import Batch, JsonOption, read_file, split_names, stop_on_error, write_atomically
from shared.errors import FeatherwireError, ModelError, TaskError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command("analyze")(analyze)


def analyze(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE.fwf|PHOTO...", help=".fwf files or photos.")
    ],
    tasks: Annotated[
        str | None,
        typer.Option(
            "--tasks",
            help="Comma-separated: detection, segmentation, landmarks; or, on features that were "
            "made for it, another. "
            "Default: all that a file has enough for.",
        ),
    ] = None,
    detector: Annotated[
        str | None,
        typer.Option("--detector", help="Weights of another detector, such as yolo11n.pt."),
    ] = None,
    segmenter: Annotated[
        str | None,
        typer.Option("--segmenter", help="Weights of another segmenter, such as yolo11n-seg.pt."),
    ] = None,
    score: ScoreOption = None,
    annotate: Annotated[
        Path | None, typer.Option("--annotate", help="Folder for pictures with results drawn in.")
    ] = None,
    photo: Annotated[
        list[Path] | None,
        typer.Option(
            "--photo",
            metavar="PHOTO|DIR",
            help="With --annotate: the photos that features of no picture were made of, to draw "
            "into; found by their stems. Photos that are analysed too need not be named again.",
        ),
    ] = None,
    state: StateOption = None,
    bundle: BundleOption = None,
    device: DeviceOption = "cpu",
    as_json: JsonOption = False,
) -> None:
    """Run tasks on FILE.fwf: on the reconstruction, or on features that a task was made for.

    Photos are analysed as they are: the uncompressed reference.

    --annotate writes DIR/STEM.png, or DIR/NAME.png for the second of two files with one stem. What
    was found in features that make no picture, such as those of bundle detect, is drawn into the
    photo of that stem.
    """
    from cloud_server.engine.files import Analyzer, png_bytes
    from cloud_server.tasks.annotate import annotate as draw
    from shared.results import summarise

    with stop_on_error(as_json=as_json):
        names = None if tasks is None else split_names(tasks)
        backends = {"detection": detector, "segmentation": segmenter}
        analyzer = Analyzer(
            names, bundle=bundle, backends=backends, device=device, shown_score=score
        )
    batch = Batch(
        as_json=as_json,
        columns={
            "file": "file",
            "state": "state",
            "passes": "passes",
            "payload_bytes": "bytes",
            "bits_per_pixel": "bits/pixel",
            "found": "found",
        },
    )

    photos = [*_photos(photo or ()), *(file for file in files if file.suffix.lower() != ".fwf")]

    def one(path: Path) -> dict[str, Any]:
        target = _drawing_of(path, annotate, batch) if annotate else None
        started = time.perf_counter()
        data = read_file(path)
        try:
            analysed = analyzer.analyze(
                data, state, features=True if path.suffix.lower() == ".fwf" else None
            )
        except ModelError:  # what lacks for one file lacks for all
            with stop_on_error(as_json=as_json):
                raise
        elapsed = 1000 * (time.perf_counter() - started)
        result = analysed.result
        if analysed.warning:
            typer.echo(f"warning: {path}: {analysed.warning}", err=True)
        if target is not None:
            picture = analysed.picture
            if picture is None:
                picture = _photo_of(path, (result.width, result.height), photos)
            write_atomically(target, png_bytes(draw(picture, result.tasks.values())))
        return {
            "file": str(path),
            **result.to_dict(),
            "passes": analysed.passes,
            "total_milliseconds": round(elapsed, 2),
            "annotated": str(target) if target else None,
            "warning": analysed.warning,
            "found": summarise(result.tasks.values()),
        }

    batch.run(files, one)


def _photos(given: Iterable[Path]) -> Iterator[Path]:
    """The files, and what is in the folders."""
    for path in given:
        if path.is_dir():
            yield from sorted(one for one in path.iterdir() if one.is_file())
        else:
            yield path


def _photo_of(path: Path, size: tuple[int, int], photos: Sequence[Path]) -> NDArray[np.uint8]:
    """The photo of which features (width, height ``size``) were made: uint8 [H, W, 3].

    Raises TaskError ``needs_picture`` where none has its stem, or is of its size; PhotoError.
    """
    from shared.preprocess import load_photo

    named = [one for one in photos if one.stem == path.stem]
    if not named:
        raise TaskError(
            "needs_picture",
            "it holds features of no picture: give the photo that they were made of too (--photo)",
        )
    picture = load_photo(named[0])
    height, width = picture.shape[:2]
    if (width, height) != size:
        raise TaskError(
            "needs_picture",
            f"{named[0]} has {width}x{height} pixels, but these features are of a photo of "
            f"{size[0]}x{size[1]}",
        )
    return picture


def _drawing_of(path: Path, folder: Path, batch: Batch) -> Path:
    """DIR/STEM.png; the whole name before .png when a photo and its features share a stem."""
    try:
        return batch.claim(folder / f"{path.stem}.png", path)
    except FeatherwireError:
        return batch.claim(folder / f"{path.name}.png", path)
