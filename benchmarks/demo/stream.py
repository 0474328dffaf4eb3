"""Footage as a stream, by a real edge session to a real server, beside x264 at the same bytes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.demo.footage import FPS, Pixels
from benchmarks.demo.processes import command, run_json
from benchmarks.video.rivals import Decoder, Rival, Stream, encode, rivals_here
from cloud_server.tasks.annotate import annotate
from edge_client.session import EdgeSession
from shared.results import AnalysisResult, TaskResult, agreement

TASK = "detection"
JUDGED_EVERY = 4
"""Of so many frames one is looked at, by the detector and for the metrics of pictures."""
SHOWN = 5
RIVAL = "x264"
KEY_EVERY = 250
_CRFS = range(1, 52)


@dataclass(frozen=True)
class Sent:
    """What a session sent, and what came back of the judged frames.

    sizes: bytes of every frame; keys: which of them stand alone. found and pictures are by the
    frame's number; a bundle that makes no pictures has none.
    """

    bundle: str
    state: int
    sizes: list[int]
    keys: list[bool]
    found: dict[int, TaskResult]
    pictures: dict[int, Pixels]


@dataclass(frozen=True)
class Side:
    """One codec's figures. there, found, both: objects in the judged frames together: of the uncut
    network in the frames as they were, in what was sent, and in both.

    psnr, ssim: means over judged frames; None without pictures.
    """

    sizes: list[int]
    keys: list[bool]
    there: int
    found: int
    both: int
    psnr: float | None = None
    ssim: float | None = None

    @property
    def f1(self) -> float:
        """Agreement, 0 to 1; 1 where there was nothing to find and nothing was found."""
        total = self.there + self.found
        return 2 * self.both / total if total else 1.0

    @property
    def total(self) -> int:
        """Bytes of all frames."""
        return sum(self.sizes)

    def mean(self, *, still_from: int, still: bool) -> float | None:
        """Bytes of a predicted frame, before the scene stands still or from then on; None of no
        frame."""
        chosen = [
            size
            for number, (size, key) in enumerate(zip(self.sizes, self.keys, strict=True))
            if not key and (number >= still_from) == still
        ]
        return float(np.mean(chosen)) if chosen else None


@dataclass(frozen=True)
class Moment:
    """A frame in the strip; pictures as paths relative to the page."""

    number: int
    original: str
    ours: str
    rival: str | None


@dataclass(frozen=True)
class StreamRow:
    """A bundle's stream, and x264's. crf: None, and ``no_rival`` says why, where there is none."""

    bundle: str
    state: int
    ours: Side
    rival: Side | None
    crf: int | None
    no_rival: str | None
    pictures: bool
    moments: list[Moment] = field(default_factory=list)


def judged_frames(count: int) -> list[int]:
    """Numbers of the frames that are looked at, the last one among them."""
    return sorted({*range(0, count, JUDGED_EVERY), count - 1})


def send(
    frames: Iterable[Pixels], bundle: str, address: str, judged: frozenset[int], **options: Any
) -> Sent:
    """All frames, in order, at the bundle's default state.

    judged: frames of which findings are wanted and, where the bundle makes them, pictures. options:
    further ones of EdgeSession. Raises FeatherwireError when the session or a frame fails.
    """
    sizes, keys, found, pictures, state = [], [], {}, {}, 0
    with EdgeSession(address, bundle=bundle, **options) as session:
        makes_pictures = bool(session.bundle.manifest.pictures)
        for number, frame in enumerate(frames):
            looked_at, before = number in judged, session.groups.key_frames
            tasks = (TASK,) if looked_at and TASK in session.available_tasks else ()
            result = session.send(frame, tasks=tasks, picture=looked_at and makes_pictures)
            result.raise_for_error()
            sizes.append(result.payload_bytes)
            keys.append(session.groups.key_frames > before)
            state = max(state, result.state or 0)
            if TASK in result.tasks:
                found[number] = result.tasks[TASK]
            if result.picture is not None:
                pictures[number] = result.image()
        name = session.bundle.manifest.name
    return Sent(name, state, sizes, keys, found, pictures)


def rival_at(frames: Sequence[Pixels], rival: Rival, least_bytes: int) -> tuple[int, Stream]:
    """The coarsest CRF at which a rival takes no fewer bytes than these, and its stream: what it
    has more is to its advantage. The finest there is, should that be smaller still."""
    known: dict[int, Stream] = {}

    def total(crf: int) -> int:
        if crf not in known:
            known.update(encode(frames, rival, [crf], fps=FPS, key_every=KEY_EVERY))
        return sum(known[crf].sizes)

    low, high = _CRFS[0], _CRFS[-1]
    while low < high:
        middle = (low + high + 1) // 2
        if total(middle) >= least_bytes:
            low = middle
        else:
            high = middle - 1
    total(low)
    return low, known[low]


def side(
    sizes: list[int],
    keys: list[bool],
    references: Mapping[int, TaskResult],
    found: Mapping[int, TaskResult],
    originals: Mapping[int, Pixels],
    pictures: Mapping[int, Pixels],
) -> Side:
    """Figures over the judged frames. references: what the uncut network found in the frames as
    they were; found, pictures: what is left of that."""
    pairs = [agreement(references[number], one) for number, one in sorted(found.items())]
    metrics = [picture_metrics(originals[number], one) for number, one in pictures.items()]
    psnr, ssim = np.mean(metrics, axis=0).tolist() if metrics else (None, None)
    return Side(
        sizes,
        keys,
        sum(pair.reference_count for pair in pairs),
        sum(pair.candidate_count for pair in pairs),
        sum(pair.matched for pair in pairs),
        psnr,
        ssim,
    )


def picture_metrics(first: Pixels, second: Pixels) -> tuple[float, float]:
    """PSNR in dB, and SSIM (Z. Wang et al., IEEE TIP 2004) of the colours together."""
    from skimage.metrics import structural_similarity

    error = float(np.square(first.astype(np.float64) - second).mean())
    similar = structural_similarity(  # type: ignore[no-untyped-call]
        first, second, channel_axis=2, data_range=255
    )
    return 10 * float(np.log10(255**2 / max(error, 1e-6))), float(similar)


def stream_rows(
    frames: Sequence[Pixels], bundles: Sequence[str], address: str, folder: Path
) -> list[StreamRow]:
    """Send the footage with each bundle, and code it with x264 at each one's bytes.

    folder: where pictures go; paths in the rows begin with its name. Raises FeatherwireError and
    DemoError when something fails.
    """
    judged = judged_frames(len(frames))
    sent = [send(frames, bundle, address, frozenset(judged)) for bundle in bundles]
    rival = next(iter(rivals_here([RIVAL])), None)
    originals = {number: frames[number] for number in judged}
    coded: list[tuple[int, Stream, dict[int, Pixels]]] = []
    for one in sent if rival is not None else ():
        assert rival is not None
        crf, stream = rival_at(frames, rival, sum(one.sizes))
        coded.append((crf, stream, dict(Decoder(stream, rival).frames(frozenset(judged)))))
    folders = {"original": originals}
    folders |= {f"{one.bundle}-{RIVAL}": made[2] for one, made in zip(sent, coded, strict=False)}
    found = _analysed(folders, folder)
    references = found["original"]
    rows = []
    for number, one in enumerate(sent):
        name = f"{one.bundle}-{RIVAL}"
        ours = side(one.sizes, one.keys, references, one.found, originals, one.pictures)
        theirs: Side | None = None
        chosen: int | None = None
        if coded:
            chosen, stream, pictures = coded[number]
            theirs = side(
                stream.sizes, list(stream.keys), references, found[name], originals,
                pictures if one.pictures else {},
            )  # fmt: skip
        moments = _strip(one, judged, originals, folders.get(name), found, folder)
        no_rival = None if coded else f"this PyAV has no {RIVAL} to compare with"
        rows.append(
            StreamRow(
                one.bundle, one.state, ours, theirs, chosen, no_rival, bool(one.pictures), moments
            )
        )
    return rows


def document(row: StreamRow, still_from: int) -> dict[str, Any]:
    """The figures of a row, for build/demo/stream.json."""

    def figures(one: Side) -> dict[str, Any]:
        means = {
            f"{name}_bytes": one.mean(still_from=still_from, still=name == "still")
            for name in ("moving", "still")
        }
        return asdict(one) | {"f1": one.f1, "bytes": one.total} | means

    return {
        "bundle": row.bundle,
        "state": row.state,
        "fps": FPS,
        "still_from": still_from,
        "ours": figures(row.ours),
        RIVAL: None if row.rival is None else figures(row.rival) | {"crf": row.crf},
        "no_rival": row.no_rival,
    }


# -- parts -----------------------------------------------------------------------------------------


def _analysed(
    folders: Mapping[str, Mapping[int, Pixels]], folder: Path
) -> dict[str, dict[int, TaskResult]]:
    """What `featherwire-cloud analyze` finds in pictures, by folder and number; all are written."""
    places: dict[str, tuple[str, int]] = {}
    for name, pictures in folders.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number, pixels in pictures.items():
            path = folder / name / f"{number:03}.png"
            Image.fromarray(pixels).save(path)
            places[str(path)] = (name, number)
    words = [command("featherwire-cloud"), "analyze", *places, "--tasks", TASK]
    found: dict[str, dict[int, TaskResult]] = {name: {} for name in folders}
    for record in run_json(words)["results"]:
        name, number = places[record["file"]]
        fields = {key: record[key] for key in AnalysisResult.model_fields if key in record}
        found[name][number] = AnalysisResult.model_validate(fields).tasks[TASK]
    return found


def _strip(
    one: Sent,
    judged: Sequence[int],
    originals: Mapping[int, Pixels],
    rival: Mapping[int, Pixels] | None,
    found: Mapping[str, Mapping[int, TaskResult]],
    folder: Path,
) -> list[Moment]:
    """Some judged frames with what was found in them, drawn; of a bundle without pictures on the
    original."""

    def drawn(name: str, number: int, pixels: Pixels, result: TaskResult | None) -> str:
        path = folder / f"{name}-found" / f"{number:03}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(annotate(pixels, () if result is None else (result,))).save(path)
        return f"{folder.name}/{path.parent.name}/{path.name}"

    chosen = np.linspace(0, len(judged) - 1, min(SHOWN, len(judged)))
    moments = []
    for number in dict.fromkeys(judged[round(place)] for place in chosen.tolist()):
        original = originals[number]
        name = f"{one.bundle}-{RIVAL}"
        ours = one.pictures.get(number, original)
        moments.append(
            Moment(
                number,
                drawn("original", number, original, found["original"].get(number)),
                drawn(one.bundle, number, ours, one.found.get(number)),
                None
                if rival is None
                else drawn(name, number, rival[number], found[name].get(number)),
            )
        )
    return moments
