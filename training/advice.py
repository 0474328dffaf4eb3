"""Advice on a bundle (``shared.bundle.advice``), measured: score thresholds, and a default state.

*Thresholds.* Through a coarse state a detector sees things that are not there. At every state each
class gets the least threshold, no lower than the task's own, with which there are no more false
positives on photos than without compression. A false positive is a finding of a class of which the
photo has nothing: nothing annotated, or, on photos without annotations, nothing that the network
shows of the uncompressed photo; what the uncompressed network is allowed is then measured on the
photo's mirror image, in which it makes mistakes of its own. Most classes are too rare to be counted
alone, so both the share of false positives that is allowed, and how they thin out as the threshold
rises, are shrunk towards those of all classes, as if each had ``PRIOR`` more false positives that
are like everyone's.

*Default state.* From the coarsest state on, each layer's share of the whole gain in quality is set
against its share of the bits. The default is the finest state whose layer still brings
``WORTH`` of what the average bit does.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final

import numpy as np

from codec.base import rendering_for_tasks
from shared.bundle import Bundle, ScoreThresholds
from training.evaluate.curves import Floats
from training.evaluate.false_positives import as_truths, judged, mirrored
from training.evaluate.judges.kinds import kind_of
from training.evaluate.judges.networks import PackagedDetector, TaskJudge
from training.evaluate.measure import Measurements, PointCache, Subject, measure
from training.evaluate.photos import EvaluationError, EvaluationPhoto
from training.evaluate.run import Say
from training.evaluate.subjects import Halves, Mirrored, Original, PictureStates, TailStates

TASK: Final = "detection"
PEOPLE: Final = "segmentation"
"""The task that cuts out the people of the same detector."""
PRIOR: Final = 10.0
WORTH: Final = 1 / 3
MOST_LENIENT: Final = 2.0
"""How far a class's allowance may be scaled up where others need less than theirs."""
_STEP = 0.005
_WHOLE, _MIRROR = "uncompressed", "mirrored"


# -- thresholds ------------------------------------------------------------------------------------


@dataclass
class WrongScores:
    """Scores of false positives that a task shows by itself, by class id.

    allowed: how many there are on uncompressed photos; states: through each state, finest first.
    """

    photos: int
    allowed: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    states: list[dict[int, list[float]]] = field(default_factory=list)


@dataclass(frozen=True)
class Calibration:
    """Thresholds, and false positives a photo: allowed, and at every state before and after."""

    thresholds: tuple[ScoreThresholds, ...]
    photos: int
    allowed: float
    before: tuple[float, ...]
    after: tuple[float, ...]


def calibrate(
    bundle: Bundle, photos: Iterable[EvaluationPhoto], cache: PointCache, default: float, say: Say
) -> Calibration:
    """Thresholds of detection for a bundle's pictures, or for its tail where it has one.

    photos: to train on; annotated or not. default: the task's own threshold. Raises EvaluationError
    ``no_photos``, ``no_boxes`` for a bundle with neither pictures nor boxes; ModelError.
    """
    halves = Halves(bundle)
    tail = TASK in bundle.manifest.tasks
    if not tail and not bundle.manifest.pictures:
        raise EvaluationError("no_boxes", f"nothing is detected by bundle {bundle.manifest.name}")
    subject: Subject = TailStates(halves, TASK) if tail else _as_tasks_see(halves)
    detector = PackagedDetector()
    judge = TaskJudge(kind_of("boxes"), detector)
    whole, mirror = Original(_WHOLE), Mirrored(_MIRROR)
    found = measure(photos, [whole, mirror, subject], [judge], cache=cache, progress=say)
    if not found.photos:
        raise EvaluationError("no_photos", "there is no photo to calibrate on")
    wrong = wrong_scores(found, subject.name, len(bundle.manifest.states), default)
    others, classes = least_scores(wrong, default)
    names = halves.class_names(TASK) if tail else detector.class_names
    named = {
        names[key]: row
        for key, row in sorted(classes.items())
        if key in names and row != others  # else it need not be named
    }
    model = halves.tail(TASK).models[0].sha256 if tail else detector.sha256
    assert model is not None
    made = [ScoreThresholds(task=TASK, model=model, others=others, classes=named)]
    if not tail:
        people = named.get("person", others)
        made.append(ScoreThresholds(task=PEOPLE, model=model, others=people))
    rows = [wrong.states[state] for state in range(len(bundle.manifest.states))]
    return Calibration(
        tuple(made),
        wrong.photos,
        sum(wrong.allowed.values()) / wrong.photos,
        tuple(sum(map(len, row.values())) / wrong.photos for row in rows),
        tuple(
            _count(row, lambda key, s=state: classes.get(key, others)[s]) / wrong.photos
            for state, row in enumerate(rows)
        ),
    )


def _as_tasks_see(halves: Halves) -> PictureStates:
    return PictureStates(halves, decoder=rendering_for_tasks(halves.bundle).decoder)


def wrong_scores(found: Measurements, subject: str, states: int, default: float) -> WrongScores:
    """The false positives among what was measured, scored ``default`` or more."""
    wrong = WrongScores(len(found.photos), states=[defaultdict(list) for _ in range(states)])
    whole = found.columns[_WHOLE, 24].outputs
    reversed_ = found.columns[_MIRROR, 24].outputs
    for number, photo in enumerate(found.photos):
        width = found.sizes[number][0]
        if photo.truth is None:
            truths = as_truths(whole[number], default)
            uncompressed = mirrored(reversed_[number], width)
        else:
            truths, uncompressed = photo.truth, whole[number]
        for one in judged(uncompressed, truths):
            if one.absent and one.score >= default:
                wrong.allowed[one.class_id] += 1
        for state in range(states):
            for one in judged(found.columns[subject, state].outputs[number], truths):
                if one.absent and one.score >= default:
                    wrong.states[state][one.class_id].append(one.score)
    return wrong


def least_scores(
    wrong: WrongScores, default: float
) -> tuple[tuple[float, ...], dict[int, tuple[float, ...]]]:
    """Thresholds at every state, of classes that were never wrong, and of each of the others.

    All classes together have as many false positives as allowed, or fewer: the shares that are
    allowed to each are scaled alike until that is so.
    """
    kinds = sorted({*wrong.allowed, *(key for row in wrong.states for key in row)})
    columns = [_of_state(row, wrong.allowed, kinds, default) for row in wrong.states]
    others = tuple(column[0] for column in columns)
    return others, {key: tuple(column[1][key] for column in columns) for key in kinds}


def _of_state(
    scores: Mapping[int, Sequence[float]],
    allowed: Mapping[int, int],
    kinds: Sequence[int],
    default: float,
) -> tuple[float, dict[int, float]]:
    levels = np.round(np.arange(default, 1.0 + _STEP / 2, _STEP), 4)
    everyone = np.array([score for row in scores.values() for score in row])
    budget = sum(allowed.values())
    if not len(everyone):
        return default, dict.fromkeys(kinds, default)
    thinning = _left(everyone, levels) / len(everyone)
    share = budget / len(everyone)
    leniency = MOST_LENIENT
    while True:
        chosen: dict[int, float] = {}
        for key in kinds:
            own = np.array(scores.get(key, ()))
            may = (allowed.get(key, 0) + PRIOR * share) / (len(own) + PRIOR)
            left = (_left(own, levels) + PRIOR * thinning) / (len(own) + PRIOR)
            chosen[key] = _first(levels, left, may * leniency)
        if _count(scores, chosen.__getitem__) <= budget or leniency < 1e-3:
            return _first(levels, thinning, share * leniency), chosen
        leniency *= 0.95


def _left(scores: Floats, levels: Floats) -> Floats:
    """How many scores are at each level or above: float64 [levels]."""
    return np.asarray((scores[None, :] >= levels[:, None]).sum(1), np.float64)


def _first(levels: Floats, left: Floats, may: float) -> float:
    """The first level at which no more than ``may`` are left; 1 where there is none."""
    enough = np.flatnonzero(left <= max(may, 0.0) + 1e-12)
    return float(levels[enough[0]]) if len(enough) else 1.0


def _count(scores: Mapping[int, Sequence[float]], least: Any) -> int:
    return sum(score >= least(key) for key, row in scores.items() for score in row)


# -- the default state -----------------------------------------------------------------------------

PICTURE_FIGURES: Final = {
    "psnr": 1, "ms_ssim": 1, "lpips_vgg": -1, "dists_vgg": -1, "detection_ap": 1,
}  # fmt: skip
"""Of an evaluation of pictures; -1 where less is better."""
TASK_FIGURES: Final = ("ap", "top1", "top5", "mean_iou")


def default_state(bundle: Bundle, document: Mapping[str, Any]) -> int:
    """The finest state that is worth its bits, by what ``featherwire-train evaluate`` wrote.

    document: of the bundle's pictures (``curves.json``), or of a task (``accuracy-TASK.json``).
    Raises EvaluationError ``another_bundle``, ``no_figures``.
    """
    name = bundle.manifest.name
    if "averages" in document:
        ids, rows = [document["bundle"]], document["averages"]
        ours = [row for row in rows if row["codec"] == "featherwire"]
        figures = PICTURE_FIGURES
    else:
        ids, rows = list(document["bundles"].values()), document["points"]
        ours = [row for row in rows if row["subject"] == name]
        figures = dict.fromkeys(TASK_FIGURES, 1)
    if bundle.id not in ids:
        raise EvaluationError("another_bundle", f"it evaluates {', '.join(ids)}, not {bundle.id}")
    ours.sort(key=lambda row: -row["knob"])
    known = {
        key: [sign * row[key] for row in ours]
        for key, sign in figures.items()
        if ours and all(row.get(key) is not None for row in ours)
    }
    if not known:
        raise EvaluationError("no_figures", f"it has no figures of every state of {name}")
    rates = [row["bits_per_pixel"] for row in ours]
    return int(ours[worth_its_bits(rates, list(known.values()))]["knob"])


def worth_its_bits(rates: Sequence[float], figures: Sequence[Sequence[float]]) -> int:
    """The place of the finest state that is worth its bits; states are the coarsest first.

    rates: bits per pixel, rising. figures: of every state, more is better; they count alike, each
    by the share of its whole range. Where a layer brings more than the one before it, the two are
    taken as one, so that a bad step does not hide a good one behind it.
    """
    bits = np.array(rates, np.float64)
    gained = np.zeros(len(bits))
    for values in figures:
        row = np.array(values, np.float64)
        span = row.max() - row.min()
        gained += (row - row[0]) / span if span > 0 else 0.0
    if len(bits) < 2 or gained.max() <= 0:
        return 0
    gained, bits = gained / gained.max(), (bits - bits[0]) / (bits[-1] - bits[0])
    hull = [0]
    for place in range(1, len(bits)):
        while len(hull) > 1 and _slope(bits, gained, hull[-2], hull[-1]) <= _slope(
            bits, gained, hull[-1], place
        ):
            hull.pop()
        hull.append(place)
    best = 0
    for before, place in pairwise(hull):
        if _slope(bits, gained, before, place) < WORTH:
            break
        best = place
    return best


def _slope(bits: Floats, gained: Floats, before: int, place: int) -> float:
    return float((gained[place] - gained[before]) / max(bits[place] - bits[before], 1e-12))
