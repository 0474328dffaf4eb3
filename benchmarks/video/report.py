"""What was measured as a page of tables, and as one JSON document."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import av

from benchmarks.video.compare import (
    Difference,
    Mean,
    Value,
    bytes_needed,
    difference,
    groups_of,
    mean,
    picture_of,
    precision_of,
)
from benchmarks.video.judge import FLOOR, FLOORS, GROUPS, MEASURES, Key
from benchmarks.video.measure import ClipResult, OurTimes, Plan, Point, subject_names
from benchmarks.video.ours import KEYS
from training.evaluate.judges.metrics import METRICS

HEADLINE = "person+vehicles"
_KNOWN = "x264"
"""The rival that every camera has: compared with alone too."""
LEVELS = (0.5, 0.6, 0.7, 0.8, 0.9)
"""Average precisions at which bytes are compared."""


@dataclass(frozen=True)
class Results:
    """Clips by everything of a plan. notes: what was left out."""

    plan: Plan
    clips: Sequence[ClipResult]
    notes: Sequence[str] = ()
    _known: dict[tuple[str, ...], Difference | None] = field(default_factory=dict, repr=False)

    @property
    def rivals(self) -> list[str]:
        """Their names, as far as they code frames as they are: one of those is the best rival."""
        return [rival.name for rival in self.plan.rivals if not rival.at_input]

    @property
    def reduced(self) -> list[str]:
        """Names of rivals that code frames at the network's input size."""
        return [rival.name for rival in self.plan.rivals if rival.at_input]

    @property
    def ours(self) -> list[str]:
        """Names of our subjects, predicted streams before key frames alone."""
        present = {point.subject for clip in self.clips for point in clip.points}
        names = [
            name
            for bundle in subject_names(self.plan.bundles)
            for name in (bundle, f"{bundle}-{KEYS}")
        ]
        return [name for name in names if name in present]

    def anchors(self, subject: str) -> dict[str, list[str]]:
        """What a subject is compared with, by a name for it: rivals, and itself without the past.

        Rivals at their best speeds and all of them together are one envelope: the fast ones are
        in it, and rarely its edge.
        """
        found = {"best rival": self.rivals}
        found |= {name: [name] for name in self.rivals if name == _KNOWN}
        found |= {name: [name] for name in self.reduced}
        keys = f"{subject}-{KEYS}"
        return found | ({"key frames alone": [keys]} if keys in self.ours else {})

    def values(self, subject: str) -> dict[str, Value]:
        """What is held equal: every accuracy, and every metric of pictures that was measured."""
        found: dict[str, Value] = {_words(key): precision_of(key) for key in _keys()}
        metrics = dict.fromkeys(
            name for clip in self.clips for point in clip.of(subject) for name in point.pictures
        )
        return found | {name: picture_of(name) for name in metrics}

    def difference(
        self, clip: ClipResult, subject: str, anchor: str, what: str
    ) -> Difference | None:
        """Of a clip, at equal ``what``, made once."""
        key = (clip.name, subject, anchor, what)
        if key not in self._known:
            anchors, value = self.anchors(subject)[anchor], self.values(subject)[what]
            self._known[key] = difference(clip, subject, anchors, value)
        return self._known[key]

    def mean(self, clips: Sequence[ClipResult], subject: str, anchor: str, what: str) -> Mean:
        """Over some clips."""
        return mean([self.difference(clip, subject, anchor, what) for clip in clips])


# -- the document ----------------------------------------------------------------------------------


def document(results: Results) -> dict[str, Any]:
    """All of it, JSON-ready."""
    plan = results.plan
    return {
        "bundles": {
            name: bundle.id
            for name, bundle in zip(subject_names(plan.bundles), plan.bundles, strict=True)
        },
        "rivals": {rival.name: rival.identity for rival in plan.rivals},
        "libraries": {"pyav": av.__version__},
        "frames": plan.frames,
        "every": plan.every,
        "key_every": plan.key_every,
        "floors": list(FLOORS),
        "notes": list(results.notes),
        "clips": [_clip_document(results, clip) for clip in results.clips],
        "bits_at_equal_value": list(_mean_rows(results)),
    }


def _clip_document(results: Results, clip: ClipResult) -> dict[str, Any]:
    return {
        "clip": clip.name,
        "kinds": list(clip.nature.kinds),
        "derived": list(clip.derived),
        "unchanged": round(clip.nature.unchanged, 3),
        "noise": round(clip.nature.noise, 2),
        "cuts": list(clip.nature.cuts),
        "size": list(clip.size),
        "frames_per_second": round(clip.fps, 3),
        "frames": clip.frames,
        "judged": clip.judged,
        "objects": {str(floor): clip.truth.objects(floor) for floor in FLOORS},
        "points": [_point_document(point) for point in clip.points],
        "bits_at_equal_value": list(_clip_rows(results, clip)),
    }


def _point_document(point: Point) -> dict[str, Any]:
    return {
        "subject": point.subject,
        "knob": point.knob,
        "bytes_per_frame": round(point.bytes_per_frame, 1),
        "predicted_bytes": _rounded(point.predicted_bytes, 1),
        "key_frames": point.key_frames,
        "encode_ms": round(point.encode_ms, 2),
        "decode_ms": _rounded(point.decode_ms, 2),
        "precision": [
            {
                "floor": floor, "classes": group, "measure": measure,
                "value": round(found.value, 4), "objects": found.objects,
            }
            for (floor, group, measure), found in point.precision.items()
        ],
        "pictures": {name: round(value, 5) for name, value in point.pictures.items()},
        **_ours_document(point.ours),
    }  # fmt: skip


def _ours_document(ours: OurTimes | None) -> dict[str, Any]:
    if ours is None:
        return {}
    return {
        "key_decode_ms": _rounded(ours.key_decode_ms, 2),
        "predicted_decode_ms": _rounded(ours.predicted_decode_ms, 2),
        "unchanged": ours.unchanged,
        "unchanged_bytes": _rounded(ours.unchanged_bytes, 1),
    }


def _clip_rows(results: Results, clip: ClipResult) -> Iterator[dict[str, Any]]:
    for subject in results.ours:
        for anchor in results.anchors(subject):
            for what in results.values(subject):
                found = results.difference(clip, subject, anchor, what)
                if found is not None:
                    yield {
                        "subject": subject, "against": anchor, "equal": what,
                        "ratio": _rounded(found.ratio, 4),
                        "interval_95": _pair(mean([found]).interval_95),
                        "covered": round(found.covered, 3),
                        "below": round(found.below, 3), "above": round(found.above, 3),
                    }  # fmt: skip


def _mean_rows(results: Results) -> Iterator[dict[str, Any]]:
    for subject in results.ours:
        for anchor in results.anchors(subject):
            for what in results.values(subject):
                for group, clips in groups_of(results.clips).items():
                    found = results.mean(clips, subject, anchor, what)
                    yield {
                        "subject": subject, "against": anchor, "equal": what, "clips": group,
                        "ratio": _rounded(found.ratio, 4),
                        "interval_95": _pair(found.interval_95),
                        "compared": found.clips[0], "of": found.clips[1],
                    }  # fmt: skip


# -- the page --------------------------------------------------------------------------------------


def page(results: Results) -> str:
    """Markdown: the clips, bits at equal value, then clip by clip every operating point."""
    parts = [_clips_table(results.clips), _means_table(results), _levels_table(results)]
    parts += [_times_table(results), _predicted_table(results)]
    parts += [_points_table(results, clip) for clip in results.clips]
    parts += [f"Note: {note}." for note in results.notes]
    return "\n\n".join(part for part in parts if part) + "\n"


def _clips_table(clips: Sequence[ClipResult]) -> str:
    rows = (
        [
            clip.name, " ".join(clip.nature.kinds), f"{clip.size[0]}x{clip.size[1]}",
            f"{clip.fps:.3g}", str(clip.frames), str(clip.judged), str(clip.truth.objects(FLOOR)),
        ]
        for clip in clips
    )  # fmt: skip
    heads = ("clip", "kind", "size", "frames a second", "frames", "judged", "objects")
    return _table(heads, rows, left=2)


def _means_table(results: Results) -> str:
    rows = []
    groups = groups_of(results.clips)
    for subject in results.ours:
        for anchor in results.anchors(subject):
            for what in results.values(subject):
                if what not in _SHOWN and what not in METRICS:
                    continue
                texts = [_mean_text(results, clips, subject, anchor, what)
                         for clips in groups.values()]  # fmt: skip
                if any(texts):
                    rows.append([subject, anchor, what, *texts])
    heads = ("what", "against", "at equal", *(f"{name} clips" for name in groups))
    title = "Bits at equal value, [95 % interval over clips and frames], (clips compared/all):"
    return f"{title}\n\n{_table(heads, rows, left=3)}" if rows else ""


def _mean_text(
    results: Results, clips: Sequence[ClipResult], subject: str, anchor: str, what: str
) -> str:
    """The mean; where no clip has one, why not; empty where nothing was measured."""
    each = [results.difference(clip, subject, anchor, what) for clip in clips]
    known = [one for one in each if one is not None]
    found = mean(each)
    compared = f"({found.clips[0]}/{found.clips[1]})"
    if found.ratio is not None:
        spread = ""
        if found.interval_95 is not None:
            spread = " [{:+.0f}, {:+.0f}]".format(*(100 * end for end in found.interval_95))
        return f"{100 * found.ratio:+.0f} %{spread} {compared}"
    if known and all(one.below > 0.5 for one in known):
        return f"their coarsest is better {compared}"
    if known and all(one.above > 0.5 for one in known):
        return f"their finest is worse {compared}"
    return f"no common range {compared}" if known else ""


def _levels_table(results: Results) -> str:
    """Bytes a frame at equal accuracy, rivals' beside ours."""
    value = precision_of((FLOOR, HEADLINE, "ap"))
    rows = []
    for clip in results.clips:
        contenders = {"best rival": results.rivals}
        alone = [name for name in results.rivals if name == _KNOWN]
        contenders |= {name: [name] for name in [*alone, *results.reduced, *results.ours]}
        for name, subjects in contenders.items():
            found = [bytes_needed(clip, subjects, value, level) for level in LEVELS]
            texts = [_bytes_text(one, named=len(subjects) > 1) for one in found]
            if any(texts):
                rows.append([clip.name, name, *texts])
    heads = ("clip", "what", *(f"AP {level:g}" for level in LEVELS))
    title = f"Bytes a frame for an AP of {HEADLINE}, empty where it is out of reach:"
    return f"{title}\n\n{_table(heads, rows, left=2)}" if rows else ""


def _bytes_text(found: tuple[float, str] | None, *, named: bool) -> str:
    if found is None:
        return ""
    return f"{found[0]:,.0f} ({found[1]})" if named else f"{found[0]:,.0f}"


def _times_table(results: Results) -> str:
    """Means over clips and operating points."""
    rows = []
    for subject in [*results.rivals, *results.reduced, *results.ours]:
        points = [point for clip in results.clips for point in clip.of(subject)]
        if points:
            encode = [point.encode_ms for point in points]
            decode = [point.decode_ms for point in points if point.decode_ms is not None]
            rows.append([subject, _span(encode), _span(decode)])
    title = "CPU milliseconds a frame, one thread, least to most of operating points and clips:"
    return f"{title}\n\n" + _table(("what", "encode", "decode"), rows, left=1)


def _predicted_table(results: Results) -> str:
    """What key and predicted frames cost to decode, and those without a change to send."""
    rows = []
    for name in subject_names(results.plan.bundles):
        subjects = (f"{name}-{KEYS}", name)
        points = [p for clip in results.clips for one in subjects for p in clip.of(one)]
        for state in sorted({point.knob for point in points}):
            of_clips = [[_ours_of(clip, one, state) for one in subjects] for clip in results.clips]
            keys = [key.key_decode_ms for key, _ in of_clips if key and key.key_decode_ms]
            mine = [one for _, one in of_clips if one]
            predicted = [one.predicted_decode_ms for one in mine if one.predicted_decode_ms]
            ratios = [
                one.predicted_decode_ms / key.key_decode_ms
                for key, one in of_clips
                if key and one and key.key_decode_ms and one.predicted_decode_ms
            ]
            still = [one for one in mine if one.unchanged_bytes is not None]
            share = sum(one.unchanged for one in still) / sum(c.frames for c in results.clips)
            rows.append([
                name, str(state), _span(keys), _span(predicted), _span(ratios, "{:.2f}"),
                f"{100 * share:.0f} %" if mine else "",
                _span([one.unchanged_bytes or 0.0 for one in still], "{:.0f}"),
            ])  # fmt: skip
    heads = (
        "what", "state", "key frame, ms", "predicted, ms", "of a key frame's",
        "frames without a change", "bytes of one",
    )  # fmt: skip
    title = "Decoding to features, CPU milliseconds a frame, and frames in which no value changes:"
    return f"{title}\n\n{_table(heads, rows, left=2)}" if rows else ""


def _ours_of(clip: ClipResult, subject: str, state: int) -> OurTimes | None:
    return next((point.ours for point in clip.of(subject) if point.knob == state), None)


def _span(values: Sequence[float], form: str = "{:.1f}") -> str:
    """The least to the most."""
    ends = list(dict.fromkeys(form.format(pick(values)) for pick in (min, max))) if values else []
    return " to ".join(ends)


def _points_table(results: Results, clip: ClipResult) -> str:
    """Every operating point; beside ours what the best rival needs for the same AP."""
    shown = [
        group
        for group in GROUPS
        if any((FLOOR, group, "ap") in point.precision for point in clip.points)
    ]
    metrics = dict.fromkeys(name for point in clip.points for name in point.pictures)
    rows = []
    for point in clip.points:
        rest = "" if point.predicted_bytes is None else f"{point.predicted_bytes:,.0f}"
        texts = [point.subject, str(point.knob), f"{point.bytes_per_frame:,.0f}", rest]
        for group in shown:
            pair = [point.precision.get((FLOOR, group, measure)) for measure in MEASURES]
            texts.append(" / ".join("" if one is None else f"{one.value:.3f}" for one in pair))
        texts += [
            f"{point.pictures[name]:.{METRICS[name].decimals}f}" if name in point.pictures else ""
            for name in metrics
        ]
        texts.append(_needed(results, clip, point))
        rows.append(texts)
    heads = (
        "what", "CRF or state", "bytes a frame", "of predicted",
        *(f"{group}, AP / AP50" for group in shown), *metrics, "best rival at this AP",
    )  # fmt: skip
    return f"### {clip.name}\n\n" + _table(heads, rows, left=1)


def _needed(results: Results, clip: ClipResult, point: Point) -> str:
    if point.subject not in results.ours:
        return ""
    for group in (HEADLINE, "all"):
        value = precision_of((FLOOR, group, "ap"))
        rows = value(point)
        if rows is not None:
            found = bytes_needed(clip, results.rivals, value, float(rows[0]))
            return _bytes_text(found, named=True)
    return ""


def _keys() -> Iterator[Key]:
    for floor in FLOORS:
        for group in GROUPS:
            for measure in MEASURES:
                yield floor, group, measure


def _words(key: Key) -> str:
    floor, group, measure = key
    return f"{measure.upper()} of {group}, floor {floor:g}"


_SHOWN = frozenset(_words((FLOOR, group, measure)) for group in GROUPS for measure in MEASURES)
"""Of what can be held equal, what a page has room for; metrics of pictures come to it."""


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]], left: int) -> str:
    """left: how many columns are words."""
    rule = ["---"] * left + ["---:"] * (len(heads) - left)
    lines = [heads, rule, *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _pair(values: tuple[float, float] | None) -> list[float] | None:
    return None if values is None else [round(value, 4) for value in values]


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)
