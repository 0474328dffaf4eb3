"""A clip by every rival and every bundle: bytes, times, and what is still found or seen."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.video.clips import Clip, Pixels, digest_of, held
from benchmarks.video.judge import Key, Precision, PseudoTruth
from benchmarks.video.nature import Nature, nature_of
from benchmarks.video.ours import KEYS, PREDICTED, BundleStreams, OurStream, modes_of
from benchmarks.video.rivals import Decoder, Rival, Stream, StreamStore, streams_of
from codec.base import Latents, open_cloud
from shared.bundle import Bundle
from shared.results import TaskResult
from training.evaluate.judges.average_precision import Detections
from training.evaluate.judges.kinds import KEPT_SCORE, rows
from training.evaluate.judges.metrics import MetricGroup
from training.evaluate.judges.networks import PackagedDetector
from training.evaluate.measure import PointCache
from training.evaluate.photos import EvaluationError

Say = Callable[[str], None]
TASK = "detection"
_FINDINGS, _PICTURES, _OURS = "video-findings-1", "video-pictures-1", "video-ours-1"
EVERY_BUNDLE = ""
"""Names in a plan's ``states`` those of bundles that it has no states of."""


@dataclass(frozen=True)
class Plan:
    """What to measure of every clip.

    frames: at most so many. every: which of them are judged. key_every: frames from one key frame
    to the next at most, of all codecs. pictures: on how many judged frames pictures are compared.
    states: of bundles by name; all where there are none. cache: a folder, None keeps nothing.
    again: what bundles gave before is not taken from it; a bundle's id is the same when the code
    that encodes with it has changed. keys: streams of bundles that predict are measured with key
    frames alone too.
    """

    bundles: Sequence[Bundle]
    rivals: Sequence[Rival]
    groups: Sequence[MetricGroup] = ()
    frames: int = 200
    every: int = 5
    key_every: int = 250
    pictures: int = 8
    states: Mapping[str, frozenset[int]] = field(default_factory=dict)
    cache: Path | None = None
    again: bool = False
    keys: bool = True

    def modes_of(self, bundle: Bundle) -> tuple[str, ...]:
        """How the bundle's streams are measured."""
        modes = modes_of(bundle)
        return modes if self.keys else modes[-1:]

    def states_of(self, bundle: Bundle) -> list[int]:
        """Those of the bundle that are measured."""
        name = bundle.manifest.name
        wanted = self.states.get(name, self.states.get(EVERY_BUNDLE))
        every = range(bundle.manifest.coarsest_state + 1)
        return [state for state in every if wanted is None or state in wanted]


@dataclass(frozen=True)
class OurTimes:
    """What only streams of bundles tell. key_decode_ms, predicted_decode_ms: median CPU
    milliseconds of decoding one to latents; None without any. unchanged: predicted frames in which
    no value differs from the reference's; unchanged_bytes: the median size of those."""

    key_decode_ms: float | None
    predicted_decode_ms: float | None
    unchanged: int
    unchanged_bytes: float | None


@dataclass(frozen=True)
class Point:
    """A clip at one operating point of a subject.

    bytes_per_frame: of the whole stream. predicted_bytes: of a frame that is no key frame; None
    without any. encode_ms, decode_ms: CPU milliseconds a frame, on one thread. precision: what
    findings are worth. pictures: means of metrics by name, where pictures were made.
    """

    subject: str
    knob: int
    bytes_per_frame: float
    predicted_bytes: float | None
    key_frames: int
    encode_ms: float
    decode_ms: float | None
    precision: Mapping[Key, Precision]
    pictures: Mapping[str, float] = field(default_factory=dict)
    ours: OurTimes | None = None


@dataclass(frozen=True)
class ClipResult:
    """All of a clip. size: width and height. objects: of the pseudo truth, at the middle floor."""

    name: str
    derived: tuple[str, ...]
    nature: Nature
    size: tuple[int, int]
    fps: float
    frames: int
    judged: int
    truth: PseudoTruth
    points: list[Point]

    def of(self, subject: str) -> list[Point]:
        """A subject's points."""
        return [point for point in self.points if point.subject == subject]


def subject_names(bundles: Sequence[Bundle]) -> list[str]:
    """What bundles are called: by name, with a piece of the id where names are equal."""
    names = [bundle.manifest.name for bundle in bundles]
    return [
        name if names.count(name) == 1 else f"{name}-{bundle.id[:6]}"
        for name, bundle in zip(names, bundles, strict=True)
    ]


class Measuring:
    """Measures clips by one plan; networks are opened once."""

    def __init__(self, plan: Plan, say: Say) -> None:
        """say: called with a line now and then. Raises EvaluationError ``no_tails`` for a bundle
        that neither finds objects nor makes pictures; ModelError without the detector's weights.
        """
        self._plan, self._say = plan, say
        self._network = PackagedDetector()
        self._cache = PointCache(plan.cache)
        self._streams = StreamStore(None if plan.cache is None else plan.cache / "streams")
        for bundle in plan.bundles:
            if TASK not in bundle.manifest.tasks and not bundle.manifest.pictures:
                text = f"bundle {bundle.manifest.name} neither finds objects nor makes pictures"
                raise EvaluationError("no_tails", text)
        self._with_pictures = any(bundle.manifest.pictures for bundle in plan.bundles)

    def clip(self, clip: Clip) -> ClipResult:
        """The clip by everything of the plan. Raises EvaluationError ``empty_clip`` and others."""
        clip = held(clip, self._plan.frames)
        nature = nature_of(clip.frames(self._plan.frames))
        digest = digest_of(clip.frames(self._plan.frames))
        kept, count, size = self._judged_frames(clip)
        judged = frozenset(kept)
        work = _Work(clip, digest, judged, self._compared(kept), size, count)
        truth = PseudoTruth(self._truth(work, kept))
        self._say(
            f"{clip.name}: {count} frames of {size[0]}x{size[1]}, {' '.join(nature.kinds)}, "
            f"{len(judged)} judged, {truth.objects(0.4)} objects"
        )
        points = [point for rival in self._plan.rivals for point in self._rival(work, rival, truth)]
        for name, bundle in zip(subject_names(self._plan.bundles), self._plan.bundles, strict=True):
            for mode in self._plan.modes_of(bundle):
                points += self._ours(work, name, bundle, mode, truth)
        return ClipResult(
            clip.name, clip.derived, nature, size, clip.fps, count, len(judged), truth, points
        )

    # -- the frames themselves -------------------------------------------------------------------

    def _judged_frames(self, clip: Clip) -> tuple[dict[int, Pixels], int, tuple[int, int]]:
        kept, count, size = {}, 0, (0, 0)
        for number, frame in enumerate(clip.frames(self._plan.frames)):
            count, size = number + 1, (frame.shape[1], frame.shape[0])
            if number % self._plan.every == 0:
                kept[number] = frame
        if not count:
            raise EvaluationError("empty_clip", f"{clip.name} has no frame")
        return kept, count, size

    def _truth(self, work: _Work, kept: Mapping[int, Pixels]) -> list[Detections]:
        identity = f"{self._network.identity}/uncompressed/{self._plan.every}"
        known = self._cache.read(_FINDINGS, work.digest, identity)
        if 0 in known:
            return list(known[0]["findings"])
        found: list[Detections] = [self._findings(one, work.size) for one in kept.values()]
        self._cache.write(_FINDINGS, work.digest, identity, {0: {"findings": found}})
        return found

    def _findings(self, picture: Pixels, size: tuple[int, int]) -> list[list[float]]:
        return rows(self._network.run(picture, size).detections or ())

    def _compared(self, kept: Mapping[int, Pixels]) -> _Compared:
        """Judged frames, evenly spread, on which pictures are compared."""
        if not self._with_pictures:
            return _Compared((), {})
        numbers = list(kept)
        wanted = np.linspace(0, len(numbers) - 1, min(self._plan.pictures, len(numbers)))
        chosen = {numbers[k]: kept[numbers[k]] for k in map(round, wanted.tolist())}
        return _Compared(self._plan.groups, chosen)

    # -- rivals ----------------------------------------------------------------------------------

    def _rival(self, work: _Work, rival: Rival, truth: PseudoTruth) -> Iterable[Point]:
        streams = self._encoded(work, rival)
        settings = f"{rival.identity}/{self._plan.key_every}/{work.clip.fps}/{self._plan.every}"
        found = f"{settings}/{self._network.identity}"
        compared = f"{settings}/{self._groups}/{work.compared.numbers}"
        findings = self._cache.read(_FINDINGS, work.digest, found)
        pictures = self._cache.read(_PICTURES, work.digest, compared)
        for crf, stream in streams.items():
            unjudged = crf not in findings
            if not unjudged and (crf in pictures or not work.compared.numbers):
                continue
            decoder, seen, figures = Decoder(stream, rival), [], []
            for number, picture in decoder.frames(work.judged):
                if unjudged:
                    seen.append(self._findings(picture, work.size))
                if not rival.at_input:
                    figures.append(work.compared.figures(number, picture))
            if unjudged:
                findings[crf] = {"findings": seen, "decode_s": decoder.decode_s}
            pictures[crf] = _means(figures)
        self._cache.write(_FINDINGS, work.digest, found, findings)
        if work.compared.numbers:
            self._cache.write(_PICTURES, work.digest, compared, pictures)
        self._say(f"{work.clip.name}: {rival.name}")
        for crf, stream in streams.items():
            yield _point(
                rival.name, crf, stream.sizes, stream.keys,
                1000 * stream.encode_s / work.count,
                1000 * float(findings[crf]["decode_s"]) / work.count,
                truth.judge(findings[crf]["findings"]),
                pictures.get(crf, {}),
            )  # fmt: skip

    def _encoded(self, work: _Work, rival: Rival) -> dict[int, Stream]:
        clip, plan = work.clip, self._plan
        frames = clip.frames(plan.frames)
        shown = map(self._network.prepare, frames) if rival.at_input else frames
        return streams_of(
            self._streams, work.digest, shown, rival, fps=clip.fps, key_every=plan.key_every
        )

    @property
    def _groups(self) -> str:
        return "+".join(f"{group.name}-{group.version}" for group in self._plan.groups)

    # -- ours ------------------------------------------------------------------------------------

    def _ours(
        self, work: _Work, name: str, bundle: Bundle, mode: str, truth: PseudoTruth
    ) -> Iterable[Point]:
        subject = f"{name}-{KEYS}" if mode == KEYS else name
        plan, states = self._plan, self._plan.states_of(bundle)
        settings = (mode, plan.key_every, plan.every, self._network.identity)
        identity = "/".join(map(str, (bundle.id, *settings, self._groups, *work.compared.numbers)))
        known = self._cache.read(_OURS, work.digest, identity)
        missing = [state for state in states if plan.again or state not in known]
        if missing:
            known |= self._streamed(work, bundle, mode, missing)
            self._cache.write(_OURS, work.digest, identity, known)
        self._say(f"{work.clip.name}: {subject}")
        for state in states:
            stream, found = OurStream(**known[state]["stream"]), known[state]
            decoded = [one for values in stream.decode_ms.values() for one in values]
            yield _point(
                subject, state, stream.sizes, stream.keys,
                1000 * stream.encode_s / work.count,
                float(np.mean(decoded)) if decoded else None,
                truth.judge(found["findings"]),
                found["pictures"],
                _our_times(stream),
            )  # fmt: skip

    def _streamed(
        self, work: _Work, bundle: Bundle, mode: str, states: Sequence[int]
    ) -> dict[int, dict[str, Any]]:
        """By state the stream, its findings, and what its pictures are like."""
        streams = BundleStreams(bundle, states, mode=mode, key_every=self._plan.key_every)
        look = _Looking(bundle, self._findings, work.size)
        findings: dict[int, list[Detections]] = {state: [] for state in states}
        figures: dict[int, list[dict[str, float]]] = {state: [] for state in states}
        frames = work.clip.frames(self._plan.frames)
        for number, state, latents in streams.frames(frames, work.judged):
            found, picture = look(latents)
            findings[state].append(found)
            if picture is not None:
                figures[state].append(work.compared.figures(number, picture))
        return {
            state: {
                "stream": asdict(stream),
                "findings": findings[state],
                "pictures": _means(figures[state]),
            }
            for state, stream in streams.streams.items()
        }


@dataclass(frozen=True)
class _Work:
    """A clip, and what of it is looked at. compared: the frames that pictures are compared with."""

    clip: Clip
    digest: str
    judged: frozenset[int]
    compared: _Compared
    size: tuple[int, int]
    count: int


class _Looking:
    """What a bundle's latents say: by its tail, or by the uncut network on its pictures."""

    def __init__(
        self,
        bundle: Bundle,
        findings: Callable[[Pixels, tuple[int, int]], list[list[float]]],
        size: tuple[int, int],
    ) -> None:
        cloud = open_cloud(bundle)
        tails = cloud.open_tails(threads=1, score_threshold=KEPT_SCORE)
        self._tail = tails.get(TASK)
        self._reconstructor = cloud.open_reconstructor() if bundle.manifest.pictures else None
        self._findings, self._size = findings, size

    def __call__(self, latents: Latents) -> tuple[Detections, Pixels | None]:
        """Rows of findings, and the picture where the bundle makes any."""
        picture = None
        if self._reconstructor is not None:
            (picture,) = self._reconstructor.reconstruct([latents])
        if self._tail is not None:
            result: TaskResult = self._tail.run([latents])[0]
            return rows(result.detections or ()), picture
        assert picture is not None
        return self._findings(picture, self._size), picture


class _Compared:
    """The frames with which pictures are compared; one is opened at a time, for its features."""

    def __init__(self, groups: Sequence[MetricGroup], originals: Mapping[int, Pixels]) -> None:
        self._groups, self._originals = groups, originals
        self._number, self._open = -1, list[Callable[[Pixels], dict[str, Any]]]()
        self.numbers = sorted(originals)

    def figures(self, number: int, picture: Pixels) -> dict[str, Any]:
        """Every metric of the picture beside frame ``number``; none of other frames."""
        if number not in self._originals:
            return {}
        if number != self._number:
            self._number = number
            self._open = [group.open(self._originals[number]) for group in self._groups]
        return {name: value for compare in self._open for name, value in compare(picture).items()}


def _means(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    names = dict.fromkeys(name for figures in rows for name in figures)
    return {name: float(np.mean([one[name] for one in rows if name in one])) for name in names}


def _point(
    subject: str,
    knob: int,
    sizes: Sequence[int],
    keys: Sequence[bool],
    encode_ms: float,
    decode_ms: float | None,
    precision: Mapping[Key, Precision],
    pictures: Mapping[str, float],
    ours: OurTimes | None = None,
) -> Point:
    predicted = [size for size, key in zip(sizes, keys, strict=True) if not key]
    return Point(
        subject,
        knob,
        float(np.mean(sizes)),
        float(np.mean(predicted)) if predicted else None,
        sum(keys),
        encode_ms,
        decode_ms,
        precision,
        pictures,
        ours,
    )


def _our_times(stream: OurStream) -> OurTimes:
    pairs = zip(stream.sizes, stream.unchanged, strict=True)
    still = [size for size, unchanged in pairs if unchanged]
    key_ms, predicted_ms = (_median(stream.decode_ms[kind]) for kind in (KEYS, PREDICTED))
    return OurTimes(key_ms, predicted_ms, len(still), _median(still))


def _median(values: Sequence[float]) -> float | None:
    return float(np.median(values)) if values else None
