"""The demo's streams: what is drawn, sent, coded by x264 and said of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.demo.footage import SIZE, Pixels, footage
from benchmarks.demo.report import Row, write_page
from benchmarks.demo.stream import (
    TASK,
    Moment,
    Side,
    StreamRow,
    judged_frames,
    picture_metrics,
    rival_at,
    send,
    side,
)
from benchmarks.demo.stream_report import (
    chart,
    page_section,
    stream_table,
    verdict,
    write_stream_report,
)
from benchmarks.video.rivals import Decoder, rivals_here
from codec.base import small_bundle
from shared.results import Box, Detection, TaskResult
from tests.support.servers import FixedTask


@pytest.fixture(scope="module")
def clip() -> list[Pixels]:
    return footage(moving=3, still=2)


def side_of(sizes: list[int], there: int = 4, both: int = 3, **more: Any) -> Side:
    return Side(sizes, [True] + [False] * (len(sizes) - 1), there, both, both, **more)


def row_of(ours: Side, rival: Side | None) -> StreamRow:
    moments = [Moment(0, "original.png", "ours.png", None if rival is None else "rival.png")]
    no_rival = "no x264 here" if rival is None else None
    crf = None if rival is None else 40
    return StreamRow("detect", 2, ours, rival, crf, no_rival, ours.psnr is not None, moments)


def test_people_walk_and_then_nothing_but_noise_changes(clip: list[Pixels]) -> None:
    assert {frame.shape for frame in clip} == {(SIZE[1], SIZE[0], 3)}
    steps = [np.abs(a.astype(int) - b).mean() for a, b in zip(clip[1:], clip[:-1], strict=True)]
    assert min(steps[:2]) > 1.2 * max(steps[2:]) > 0
    assert all((a == b).all() for a, b in zip(clip, footage(3, 2), strict=True))


def test_a_session_sends_a_key_frame_and_predicted_ones(
    clip: list[Pixels], start_server: Callable[..., Any], tmp_path: Path
) -> None:
    bundle = small_bundle("null", tmp_path / "bundle")
    address = start_server({TASK: lambda: FixedTask(TASK)}, bundle=bundle.origin).address
    sent = send(clip, str(bundle.origin), address, frozenset({0, 4}), bundle_cache_dir=tmp_path)
    assert sent.keys == [True, False, False, False, False]
    assert len(sent.sizes) == 5
    assert all(sent.sizes)
    assert {number: one.shape for number, one in sent.pictures.items()} == {
        0: clip[0].shape,
        4: clip[4].shape,
    }
    assert set(sent.found) == {0, 4}


@pytest.mark.skipif(not rivals_here(["x264"]), reason="this PyAV has no x264")
def test_x264_gets_no_fewer_bytes_unless_it_cannot_spend_them(clip: list[Pixels]) -> None:
    frames = [frame[:96, :128] for frame in clip]
    (rival,) = rivals_here(["x264"])
    crf, stream = rival_at(frames, rival, 3000)
    assert sum(stream.sizes) >= 3000
    assert len(dict(Decoder(stream, rival).frames(frozenset({0, 4})))) == 2
    _, coarser = rival_at(frames, rival, sum(stream.sizes) + 1)
    assert sum(coarser.sizes) > sum(stream.sizes)
    assert rival_at(frames, rival, 1)[0] == 51
    assert rival_at(frames, rival, 10**9)[0] == 1
    assert 1 < crf < 51


def test_objects_are_counted_over_all_judged_frames(clip: list[Pixels]) -> None:
    def found(*lefts: float) -> TaskResult:
        boxes = [
            Detection(
                class_id=1, class_name="person", score=0.9,
                box=Box(x_min=left, y_min=0, x_max=left + 10, y_max=10),
            )
            for left in lefts
        ]  # fmt: skip
        return TaskResult(task="detection", model=[], detections=boxes)

    references = {0: found(0, 20), 4: found(0, 20)}
    seen = {0: found(0, 20), 4: found(0, 40)}
    one = side([9, 1], [True, False], references, seen, {0: clip[0]}, {0: clip[0]})
    assert (one.there, one.found, one.both, one.f1) == (4, 4, 3, 0.75)
    assert one.ssim == pytest.approx(1)
    psnr, ssim = picture_metrics(clip[0], clip[1])
    assert 10 < psnr < 50
    assert 0 < ssim < 1


def test_means_leave_out_the_key_frame_and_part_motion_from_rest() -> None:
    one = side_of([5000, 900, 1100, 40, 36])
    assert one.mean(still_from=3, still=False) == 1000
    assert one.mean(still_from=3, still=True) == 38
    assert one.mean(still_from=9, still=True) is None
    assert judged_frames(10) == [0, 4, 8, 9]


def test_the_chart_is_logarithmic_and_has_both_codecs() -> None:
    made = chart(side_of([10000, 1000, 100, 10]), side_of([10000, 10000, 10, 10]), still_from=2)
    assert [bar.key for bar in made.bars] == [True, False, False, False]
    assert [bar.height for bar in made.bars] == [150, 100, 50, 0]
    assert [words for _, words in made.marks] == ["10 B", "100 B", "1,000 B", "10,000 B"]
    assert len(made.line.split()) == 4
    assert made.still_x == made.bars[2].x
    assert chart(side_of([20, 20]), None, still_from=2).line == ""


def test_the_verdict_says_whichever_way_it_came_out() -> None:
    ours, same = side_of([500, 500]), side_of([600, 400])
    assert "more is found" in verdict(row_of(ours, side_of([600, 400], both=2))).lower()
    assert "less is found" in verdict(row_of(ours, side_of([600, 400], both=4))).lower()
    assert verdict(row_of(ours, same)).startswith("As much is found")
    assert "the same bytes" in verdict(row_of(ours, same))
    assert "2.00 times our bytes" in verdict(row_of(ours, side_of([1000, 1000])))
    pixels = verdict(row_of(side_of([9], psnr=21.0, ssim=0.5), side_of([9], psnr=28, ssim=0.8)))
    assert "x264's pictures are nearer to the original (28.0 dB to our 21.0 dB)" in pixels
    assert verdict(row_of(ours, None)) == "no x264 here."


@pytest.mark.parametrize("rival", [None, side_of([600, 400], psnr=28.0, ssim=0.8)])
def test_page_table_and_document_have_every_stream(rival: Side | None, tmp_path: Path) -> None:
    row = row_of(side_of([777, 41], psnr=21.0, ssim=0.5), rival)
    photo = Row("cat", 64, 48, "o.png", "a.png", "1")
    write_page([photo], "ab" * 32, tmp_path / "p.html", page_section([row], still_from=1))
    page = (tmp_path / "p.html").read_text()
    assert "original.png" in page
    assert "ours.png" in page
    assert ("rival.png" in page) == (rival is not None)
    assert "777 B" in page
    assert "frame 1: 41 bytes, predicted frame" in page
    assert ("polyline" in page) == (rival is not None)
    assert stream_table([row], still_from=1).row_count == (1 if rival is None else 2)
    (record,) = write_stream_report([row], tmp_path / "stream.json", still_from=1)
    assert record["ours"]["still_bytes"] == 41
    assert (record["x264"] is None) == (rival is None)
