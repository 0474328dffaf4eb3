"""`python -m benchmarks --video`: clips, what they are, rivals, judging, and a whole run."""

from __future__ import annotations

import json
import os
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks.__main__ import main
from benchmarks.video import command as video
from benchmarks.video.clips import Clip, Pixels, cut, digest_of, held, noisy, open_clips, still
from benchmarks.video.compare import difference, mean, precision_of
from benchmarks.video.judge import RESAMPLES, Precision, PseudoTruth
from benchmarks.video.measure import ClipResult, Point
from benchmarks.video.nature import nature_of
from benchmarks.video.ours import KEYS, PREDICTED, BundleStreams, modes_of
from benchmarks.video.rivals import Decoder, StreamStore, encode, rivals_here
from codec.base import open_edge, small_bundle
from shared.targets import RateTarget
from tests.support.feature_bundle import make_feature_bundle
from tests.support.real_store import fetched
from training.evaluate.photos import EvaluationError

FRAMES = 8
TASKS = Path("/proc/self/task")


def street(photo: Pixels, frames: int = FRAMES, pan: int = 0) -> Clip:
    """A photo with a red square that moves; with ``pan`` the camera moves too, pixels a frame."""

    def read() -> Iterator[Pixels]:
        for number in range(frames):
            frame = np.array(photo[:240, pan * number : pan * number + 320])
            frame[100:140, 20 + 6 * number : 60 + 6 * number] = (220, 30, 30)
            yield frame

    return Clip("street", 10.0, read)


def in_order(clip: Clip, folder: Path) -> Path:
    """The clip as pictures, with a label picture that is no frame, in a tar."""
    with tarfile.open(folder / "street.tar", "w") as archive:
        for number, frame in enumerate(clip.frames()):
            for name in (f"{number:03}.png", f"{number:03}_labels.png"):
                path = folder / name
                Image.fromarray(frame).save(path)
                archive.add(path, f"val/{name}")
    return folder / "street.tar"


def test_clips_are_found_in_tars_and_derived(photos: dict[str, Any], tmp_path: Path) -> None:
    path = in_order(street(photos["coffee"][:, :319]), tmp_path)
    words = [f"{path}/val", f"{path}+still+noise"]
    plain, derived = open_clips(words, tmp_path / "unpacked")
    frames = list(plain.frames())
    assert len(frames) == FRAMES
    assert frames[0].shape == (240, 318, 3), "codecs want even sides"
    assert (plain.name, derived.name) == ("street-val", "street-val+still+noise")
    first, second = derived.frames(2)
    assert 2 < (first.astype(float) - second).std() < 20, "every frame has noise of its own"
    again, _ = derived.frames(2)
    assert (again == first).all(), "the same noise on every run"
    (other,) = open_clips([f"{path}/val+cuts"], tmp_path / "unpacked")
    assert other.name == "street-val+cuts"
    assert next(other.frames()).tolist() == frames[0].tolist(), "the first view is the whole"
    for word in (tmp_path / "none.avi", f"{path}+rain", f"{path}/train"):
        with pytest.raises(EvaluationError, match=r"no video|derived"):
            open_clips([str(word)], tmp_path / "unpacked")


def test_frames_are_made_once_where_there_is_room(
    photos: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    clip, made = street(photos["coffee"]), 0

    def read() -> Iterator[Pixels]:
        nonlocal made
        for frame in clip.read():
            made += 1
            yield frame

    counted = Clip("street", 10.0, read)
    kept = held(counted, 5)
    assert made == 5
    assert digest_of(kept.frames(5)) == digest_of(kept.frames()) == digest_of(clip.frames(5))
    assert made == 5
    monkeypatch.setattr("benchmarks.video.clips.HELD_BYTES", 3 * 320 * 240 * 2)
    assert held(counted, 5) is counted, "so many do not fit"


def test_a_clip_is_what_it_shows(photos: dict[str, Any]) -> None:
    fixed, moving = street(photos["coffee"], 12), street(photos["coffee"], 12, pan=12)
    assert nature_of(fixed.frames()).kinds == ("fixed",)
    assert nature_of(moving.frames()).kinds == ("moving",)
    assert nature_of(still(fixed).frames(5)).kinds == ("fixed", "still")
    assert nature_of(noisy(still(fixed)).frames(5)).kinds == ("fixed", "still", "noise")
    shown = nature_of(cut(street(photos["coffee"], 50)).frames())
    assert shown.cuts == (20, 40), "ten frames a second, a shot is two seconds"
    other = street(photos["chelsea"], 12)
    both = nature_of([*fixed.frames(), *other.frames()])
    assert both.cuts == (12,)


def test_a_rival_with_fewer_points_has_the_same_range() -> None:
    (rival,) = rivals_here(["x264"]) or pytest.skip("this PyAV has no x264")
    assert rival.with_points(9) == rival
    assert rival.with_points(3).crfs == (17, 33, 49)
    assert rival.with_points(2).identity == rival.identity, "what is kept serves both"


@pytest.mark.parametrize("name", ["x264", "x264-fast", "x265", "x265-fast", "svt-av1"])
def test_a_rivals_packets_are_a_stream_of_its_frames(
    name: str, photos: dict[str, Any], tmp_path: Path
) -> None:
    found = rivals_here([name])
    if not found:
        pytest.skip(f"this PyAV has no {name}")
    clip, (rival,) = street(photos["coffee"]), found
    fine, coarse = rival.crfs[0], rival.crfs[-1]
    streams = encode(clip.frames(), rival, [fine, coarse], fps=10, key_every=4)
    assert sum(streams[coarse].sizes) < sum(streams[fine].sizes)
    assert [k for k, key in enumerate(streams[fine].keys) if key] == [0, 4]
    store = StreamStore(tmp_path)
    store.write("some stream", streams[fine])
    kept = store.read("some stream")
    assert kept == streams[fine]
    assert store.read("another") is None
    decoded = dict(Decoder(kept, rival).frames(frozenset(range(FRAMES))))
    for number, frame in enumerate(clip.frames()):
        error = np.abs(decoded[number].astype(float) - frame).mean()
        assert error < 5, f"frame {number} is not the one that was encoded"


def test_an_encoder_takes_no_more_of_the_machine_than_others(photos: dict[str, Any]) -> None:
    """SVT-AV1 makes threads of root real-time ones."""
    found = rivals_here(["svt-av1"])
    if not found or not sys.platform.startswith("linux"):
        pytest.skip("not here")
    before = os.sched_getscheduler(0)
    seen = set()

    def frames() -> Iterator[Pixels]:
        for frame in street(photos["coffee"]).frames():
            seen.update(os.sched_getscheduler(int(one.name)) for one in TASKS.iterdir())
            yield frame

    encode(frames(), found[0], [63], fps=10, key_every=4)
    assert seen == {before}
    assert os.sched_getscheduler(0) == before


def test_findings_are_worth_what_the_network_itself_found() -> None:
    truth = [[[1, 0.9, 10, 10, 20, 40], [3, 0.35, 60, 10, 30, 20]]] * 12
    judge = PseudoTruth(truth)
    same = judge.judge(truth)
    assert same[0.3, "person+vehicles", "ap"].value == pytest.approx(1.0)
    assert same[0.3, "person+vehicles", "ap"].objects == 24
    assert same[0.4, "person+vehicles", "ap"].objects == 12, "the car is below this floor"
    assert (0.4, "vehicles", "ap") not in same, "of nothing, nothing is said"
    half = judge.judge([*truth[:6], *([[]] * 6)])
    assert half[0.3, "person", "ap"].value == pytest.approx(0.5, abs=0.02)
    rows = half[0.4, "person", "ap"].rows
    assert len(rows) == 1 + RESAMPLES
    assert 0.05 < rows[1:].std() < 0.4, "which frames are drawn matters"
    moved = [[[1, 0.9, 14, 10, 20, 40]]] * 12
    assert judge.judge(moved)[0.5, "person", "ap50"].value == pytest.approx(1.0)
    assert judge.judge(moved)[0.5, "person", "ap"].value < 0.7


def test_the_mean_over_clips_is_of_ratios() -> None:
    key = (0.4, "all", "ap")

    def clip(ratio: float) -> ClipResult:
        def points(subject: str, factor: float) -> list[Point]:
            return [
                Point(
                    subject, k, factor * 100 * 2**k, None, 1, 0, 0,
                    {key: Precision(k / 10, 50, np.full(1, k / 10))},
                )
                for k in range(1, 6)
            ]  # fmt: skip

        frames: list[Pixels] = [np.zeros((32, 32, 3), np.uint8)] * 2
        both = points("x264", 1) + points("detect", ratio)
        return ClipResult(
            f"{ratio}", (), nature_of(frames), (32, 32), 10, 2, 1, PseudoTruth([[]]), both
        )

    clips = [clip(0.5), clip(0.5), clip(2.0), clip(2.0)]
    found = mean([difference(one, "detect", ["x264"], precision_of(key)) for one in clips])
    assert found.ratio == pytest.approx(0.0, abs=1e-6)
    assert found.interval_95 is not None
    assert found.interval_95[0] < -0.3
    assert found.interval_95[1] > 0.4
    assert found.clips == (4, 4)


def test_our_stream_has_the_bytes_that_a_session_sends(
    photos: dict[str, Any], tmp_path: Path
) -> None:
    bundle, clip = make_feature_bundle(tmp_path), street(photos["coffee"])
    assert modes_of(bundle)[0] == KEYS
    streams = BundleStreams(bundle, [0, 3], mode=KEYS, key_every=250)
    seen = [(k, state) for k, state, _ in streams.frames(clip.frames(), frozenset({0, 5}))]
    assert seen == [(0, 0), (0, 3), (5, 0), (5, 3)]
    edge = open_edge(bundle)
    alone = [
        len(edge.encode(frame, RateTarget(state=3)).to_bytes(with_bundle=False))
        for frame in clip.frames()
    ]
    assert streams.streams[3].sizes == alone
    assert all(streams.streams[3].keys)


def test_a_predicted_stream_begins_groups_where_it_is_told(
    photos: dict[str, Any], tmp_path: Path
) -> None:
    """With the null codec, whose predicted frames hold what changed."""
    bundle, clip = small_bundle("null", tmp_path), street(photos["coffee"])
    assert modes_of(bundle) == (KEYS, PREDICTED)
    sizes = {}
    for mode in modes_of(bundle):
        streams = BundleStreams(bundle, [0], mode=mode, key_every=3)
        every = frozenset(range(FRAMES))
        assert len(list(streams.frames(still(clip).frames(FRAMES), every))) == FRAMES
        sizes[mode] = streams.streams[0].sizes
    assert [k for k, key in enumerate(streams.streams[0].keys) if key] == [0, 3, 6]
    assert sizes[PREDICTED][0] == sizes[KEYS][0]
    assert max(sizes[PREDICTED][1:3]) < 40, "of a still scene nothing is sent"
    stream = streams.streams[0]
    assert stream.unchanged == [not key for key in stream.keys]
    assert [len(stream.decode_ms[kind]) for kind in (KEYS, PREDICTED)] == [3, 5]
    moving = BundleStreams(bundle, [0], mode=PREDICTED, key_every=100)
    assert len(list(moving.frames(clip.frames(), every))) == FRAMES
    assert not any(moving.streams[0].unchanged), "the square moves in every frame"


def test_a_run_ends_in_tables_figures_and_plots(
    photos: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    fetched()
    make_feature_bundle(tmp_path / "features")
    small_bundle("null", tmp_path / "pictures")
    path = in_order(street(photos["coffee"]), tmp_path)
    words = ["--video", path, "--bundle", tmp_path / "features", tmp_path / "pictures"]
    words += ["--rivals", "x264"]
    words += ["--every", 4, "--pictures", 1, "--metrics", "pixels", "--cache", tmp_path / "cache"]
    words += ["--json", tmp_path / "video.json", "--plots", tmp_path / "plots", "--points", "3"]
    words += ["--states", "0", "--states", "tiny-features=0,3"]
    monkeypatch.setattr("sys.argv", ["benchmarks", *map(str, words)])
    assert main() == 0
    document = json.loads((tmp_path / "video.json").read_text())
    (clip,) = document["clips"]
    assert clip["frames"] == FRAMES
    names = {point["subject"] for point in clip["points"]}
    assert names >= {"x264", "tiny-features-keys", "null", "null-keys"}
    equal = {(row["subject"], row["against"]) for row in document["bits_at_equal_value"]}
    assert ("null", "key frames alone") in equal
    assert (tmp_path / "plots" / "street-val-psnr.svg").is_file()
    states = {
        name: [point["knob"] for point in clip["points"] if point["subject"] == name]
        for name in names
    }
    assert states["x264"] == [17, 33, 49]
    assert states["tiny-features-keys"] == [0, 3]
    assert states["null"] == [0]
    page = capsys.readouterr().out
    assert "psnr" in page
    decoding = page.split("in which no value changes:")[1].split("###")[0]
    assert "| null | 0 |" in decoding
    assert "| tiny-features | 3 |" in decoding, "what does not predict has key frames"
    # A second time every figure is one that was measured before; times tell.
    drawn = words.index("--plots")
    words = words[:drawn] + words[drawn + 2 :]
    monkeypatch.setattr("sys.argv", ["benchmarks", *map(str, words)])
    assert main() == 0
    (again,) = json.loads((tmp_path / "video.json").read_text())["clips"]
    assert again["points"] == clip["points"]
    # And with --again the bundles' are new, where the rivals' are not.
    monkeypatch.setattr("sys.argv", ["benchmarks", *map(str, words), "--again", "--no-keys"])
    assert main() == 0
    (anew,) = json.loads((tmp_path / "video.json").read_text())["clips"]
    assert {point["subject"] for point in anew["points"]} == {
        "x264", "tiny-features-keys", "null",
    }, "what does not predict has key frames alone"  # fmt: skip
    before = {(one["subject"], one["knob"]): one for one in clip["points"]}
    for point in anew["points"]:
        same = point == before[point["subject"], point["knob"]]
        assert same == (point["subject"] == "x264"), point["subject"]


def test_states_are_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    assert video.main(["--video", "--bundle", "detect", "--states", "detect=fine"]) == 1
    assert "states are numbers" in capsys.readouterr().err


def test_classes_are_judged_by_agreement(
    photos: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The packaged classifier's streams, and a rival's at both sizes."""
    path = in_order(street(photos["coffee"]), tmp_path)
    words = ["--video", path, "--task", "classification", "--every", 2, "--points", 2]
    words += ["--rivals", "x264,x264-input", "--cache", tmp_path / "cache"]
    words += ["--states", "0,3", "--json", tmp_path / "found.json"]
    monkeypatch.setattr("sys.argv", ["benchmarks", *map(str, words)])
    assert main() == 0
    document = json.loads((tmp_path / "found.json").read_text())
    (clip,) = document["clips"]
    assert (document["task"], clip["frames"], clip["judged"]) == ("classification", FRAMES, 4)
    rows = {(point["subject"], point["knob"]): point for point in clip["points"]}
    assert set(rows) == {
        ("x264", 17), ("x264", 49), ("x264-input", 17), ("x264-input", 45),
        ("classify-keys", 0), ("classify-keys", 3), ("classify", 0), ("classify", 3),
    }  # fmt: skip
    assert rows["x264", 17]["top1"] == 1, "what is near to the frames says what they do"
    assert rows["x264", 17]["predicted_bytes"] < rows["x264", 17]["key_bytes"]
    finest = rows["classify-keys", 0]
    assert finest["key_bytes"] > rows["classify-keys", 3]["key_bytes"]
    assert finest["predicted_bytes"] is None
    assert finest["top5"] == 1
    predicted = rows["classify", 0]
    assert predicted["predicted_bytes"] < predicted["key_bytes"]
    assert predicted["bytes_per_frame"] < finest["bytes_per_frame"]
    assert "| classify | 3 |" in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", ["benchmarks", *map(str, words), "--bundle", "detect"])
    assert main() == 1
    assert "does not classify" in capsys.readouterr().err
