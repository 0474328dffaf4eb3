"""Streams of a classifier's features: how far what it says agrees with the whole network.

The reference is what the network says of uncompressed frames: the first bundle's own halves,
joined, on features that nobody quantised. The same network looks at what rivals decode.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from benchmarks.video.clips import Clip, digest_of, held
from benchmarks.video.measure import Plan, subject_names
from benchmarks.video.ours import KEYS, BundleStreams, OurStream
from benchmarks.video.rivals import Decoder, Rival, StreamStore, streams_of
from codec.base import open_cloud
from shared.results import TaskResult
from training.evaluate.judges.kinds import KEPT_CLASSES, ClassJudge
from training.evaluate.judges.networks import UncutNetwork
from training.evaluate.photos import EvaluationError
from training.evaluate.subjects import Halves

TASK = "classification"
_TITLES = (
    ("subject", "subject"),
    ("knob", "state or CRF"),
    ("bytes_per_frame", "bytes a frame"),
    ("key_bytes", "of a key frame"),
    ("predicted_bytes", "of a predicted one"),
    ("unchanged_bytes", "where nothing changes"),
    ("top1", "best class the same"),
    ("top5", "among the best five"),
)


@dataclass(frozen=True)
class Agreement:
    """A clip at one operating point of a subject.

    knob: a bundle's state, or a rival's CRF. bytes_per_frame: of the whole stream, a mean.
    key_bytes, predicted_bytes, unchanged_bytes: medians of frames that stand alone, of predicted
    ones, and of those in which no value differs from the reference's; None without any. top1, top5:
    shares of judged frames whose best class is the stream's first, or among its first five.
    """

    subject: str
    knob: int
    bytes_per_frame: float
    key_bytes: float | None
    predicted_bytes: float | None
    unchanged_bytes: float | None
    top1: float
    top5: float


@dataclass(frozen=True)
class ClipAgreement:
    """All of a clip. classes: how many different best classes its judged frames have."""

    clip: str
    frames: int
    judged: int
    classes: int
    points: tuple[Agreement, ...]


class Agreements:
    """Measures clips by one plan; the network is opened once."""

    def __init__(self, plan: Plan, say: Callable[[str], None]) -> None:
        """plan: its bundles classify. say: called with a line now and then. Raises EvaluationError
        ``no_tails`` for a bundle that does not."""
        for bundle in plan.bundles:
            if TASK not in bundle.manifest.tasks:
                text = f"bundle {bundle.manifest.name} does not classify"
                raise EvaluationError("no_tails", text)
        self._plan, self._say = plan, say
        self._network = UncutNetwork(Halves(plan.bundles[0]), TASK)
        self._streams = StreamStore(None if plan.cache is None else plan.cache / "streams")

    def clip(self, clip: Clip) -> ClipAgreement:
        """The clip by everything of the plan. Raises EvaluationError ``empty_clip`` and others."""
        plan = self._plan
        clip = held(clip, plan.frames)
        digest = digest_of(clip.frames(plan.frames))
        reference, count = [], 0
        for number, frame in enumerate(clip.frames(plan.frames)):
            count = number + 1
            if number % plan.every == 0:
                size = (frame.shape[1], frame.shape[0])
                reference.append(_ids(self._network.run(frame, size)))
        if not count:
            raise EvaluationError("empty_clip", f"{clip.name} has no frame")
        work = _Work(clip, digest, frozenset(range(0, count, plan.every)), ClassJudge(reference))
        points = [point for rival in plan.rivals for point in self._rival(work, rival)]
        points += self._ours(work)
        kinds = len({ids[0] for ids in reference})
        return ClipAgreement(clip.name, count, len(reference), kinds, tuple(points))

    def _rival(self, work: _Work, rival: Rival) -> list[Agreement]:
        plan, clip, points = self._plan, work.clip, []
        frames = clip.frames(plan.frames)
        shown = map(self._network.prepare, frames) if rival.at_input else frames
        found = streams_of(
            self._streams, work.digest, shown, rival, fps=clip.fps, key_every=plan.key_every
        )
        for crf, stream in found.items():
            size = stream.size
            pictures = Decoder(stream, rival).frames(work.judged)
            said = [_ids(self._network.run(picture, size)) for _, picture in pictures]
            coded = OurStream(stream.sizes, list(stream.keys), [False] * len(stream.sizes))
            points.append(_point(rival.name, crf, coded, work.judge, said))
        self._say(f"{clip.name}: {rival.name}")
        return points

    def _ours(self, work: _Work) -> list[Agreement]:
        plan, points = self._plan, []
        for name, bundle in zip(subject_names(plan.bundles), plan.bundles, strict=True):
            tail = open_cloud(bundle).open_tails(threads=1, score_threshold=0.0)[TASK]
            for mode in plan.modes_of(bundle):
                states = plan.states_of(bundle)
                streams = BundleStreams(bundle, states, mode=mode, key_every=plan.key_every)
                said: dict[int, list[list[int]]] = {state: [] for state in states}
                frames = work.clip.frames(plan.frames)
                for _, state, latents in streams.frames(frames, work.judged):
                    said[state].append(_ids(tail.run([latents])[0]))
                subject = f"{name}-{KEYS}" if mode == KEYS else name
                points += [
                    _point(subject, state, streams.streams[state], work.judge, said[state])
                    for state in states
                ]
                self._say(f"{work.clip.name}: {subject}")
        return points


@dataclass(frozen=True)
class _Work:
    clip: Clip
    digest: str
    judged: frozenset[int]
    judge: ClassJudge


def document(plan: Plan, clips: Sequence[ClipAgreement]) -> dict[str, Any]:
    """All figures, JSON-ready."""
    names = zip(subject_names(plan.bundles), plan.bundles, strict=True)
    return {
        "task": TASK,
        "bundles": {name: bundle.id for name, bundle in names},
        "rivals": {rival.name: rival.identity for rival in plan.rivals},
        "frames": plan.frames,
        "every": plan.every,
        "key_every": plan.key_every,
        "clips": [asdict(clip) for clip in clips],
    }


def page(clips: Sequence[ClipAgreement]) -> str:
    """The figures as Markdown: a table a clip."""
    lines = ["# Classes of streams", ""]
    for clip in clips:
        lines += [
            f"## {clip.clip}",
            "",
            f"{clip.frames} frames, {clip.judged} judged, {clip.classes} different best classes.",
            "",
            "| " + " | ".join(title for _, title in _TITLES) + " |",
            "| --- |" + " ---: |" * (len(_TITLES) - 1),
        ]
        for point in clip.points:
            values = asdict(point)
            lines.append("| " + " | ".join(_cell(values[name]) for name, _ in _TITLES) + " |")
        lines.append("")
    return "\n".join(lines)


def _cell(value: str | float | None) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.3f}" if value <= 1 else f"{value:.0f}"
    return str(value)


def _point(
    subject: str, knob: int, stream: OurStream, judge: ClassJudge, said: Sequence[list[int]]
) -> Agreement:
    sizes, keys = np.array(stream.sizes), np.array(stream.keys)
    figures = judge.figures(said)
    return Agreement(
        subject,
        knob,
        round(float(sizes.mean()), 1),
        _median(sizes[keys]),
        _median(sizes[~keys]),
        _median(sizes[np.array(stream.unchanged)]),
        round(float(figures["top1"] or 0), 4),
        round(float(figures["top5"] or 0), 4),
    )


def _median(sizes: np.ndarray[Any, Any]) -> float | None:
    return float(np.median(sizes)) if len(sizes) else None


def _ids(result: TaskResult) -> list[int]:
    """The likeliest classes' ids, the likeliest first."""
    return [one.class_id for one in (result.classes or ())[:KEPT_CLASSES]]
