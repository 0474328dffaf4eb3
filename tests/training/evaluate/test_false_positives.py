"""False positives: boxes in the wrong place, and of what is nowhere in the photo."""

from __future__ import annotations

from training.evaluate.false_positives import as_truths, counts, judged, mirrored
from training.evaluate.photos import Truth

CAT, BEAR = 17, 88
BOX = (10.0, 10.0, 40.0, 20.0)
CAT_HERE = Truth(CAT, BOX, crowd=False)


def row(kind: int, score: float, box: tuple[float, ...] = BOX) -> list[float]:
    return [kind, score, *box]


def test_another_class_in_the_object_s_place_is_a_false_positive() -> None:
    (found,) = judged([row(BEAR, 0.9)], [CAT_HERE])
    assert found.misplaced
    assert found.absent


def test_a_second_box_around_one_object_is_misplaced_but_not_absent() -> None:
    best, second = judged([row(CAT, 0.6), row(CAT, 0.9)], [CAT_HERE])
    assert (best.score, best.misplaced, best.absent) == (0.9, False, False)
    assert (second.score, second.misplaced, second.absent) == (0.6, True, False)


def test_a_box_in_a_crowd_is_neither() -> None:
    crowd = Truth(CAT, (0.0, 0.0, 100.0, 100.0), crowd=True)
    found = judged([row(CAT, 0.9), row(CAT, 0.8, (12.0, 12.0, 5.0, 5.0))], [crowd])
    assert not any(one.misplaced or one.absent for one in found)


def test_an_empty_photo_has_only_false_positives() -> None:
    (found,) = judged([row(CAT, 0.5)], [])
    assert found.misplaced
    assert found.absent


def test_what_is_shown_of_the_uncompressed_photo_stands_for_annotations() -> None:
    truths = as_truths([row(CAT, 0.5), row(BEAR, 0.49)], 0.5)
    assert truths == (CAT_HERE,)


def test_mirrored_findings_come_back_to_their_place() -> None:
    there = row(CAT, 0.9, (30.0, 10.0, 40.0, 20.0))
    assert mirrored([there], 80) == [row(CAT, 0.9)]
    assert mirrored(mirrored([there], 80), 80) == [there]


def test_counts_are_of_what_is_shown_a_photo_each() -> None:
    photos = [([row(CAT, 0.9), row(BEAR, 0.6)], [CAT_HERE]), ([], [CAT_HERE])]
    assert counts(photos, lambda key: 0.5) == {
        "found": 1.0, "misplaced": 0.5, "absent": 0.5, "recall": 0.5,
    }  # fmt: skip
    shown = counts(photos, lambda key: 0.7 if key == BEAR else 0.5)
    assert shown == {"found": 0.5, "misplaced": 0.0, "absent": 0.0, "recall": 0.5}
    assert counts([([], [])], lambda key: 0.5)["recall"] is None
