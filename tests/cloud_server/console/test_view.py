"""What pages show, without a browser or a server."""

from __future__ import annotations

import base64
import io
from datetime import UTC, datetime

import numpy as np
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from PIL import Image

from benchmarks.console_curves import condensed
from cloud_server.console.view import commands, fleet, formats, overlay, rates, timeline
from cloud_server.console.view.rates import ladder
from shared.bitstream import Bitstream, Layer
from shared.errors import SessionError
from shared.proto.featherwire.v1 import bundles_pb2, fleet_pb2, results_pb2, types_pb2
from shared.results import encode_mask
from shared.wire import error_to_message

NOW = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)


def stamp(seconds_ago: float) -> Timestamp:
    """So long before ``NOW``."""
    found = Timestamp()
    found.FromMicroseconds(round((NOW.timestamp() - seconds_ago) * 1e6))
    return found


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1250, "1.25 kB"), (34_200, "34.2 kB"), (5e9, "5.00 GB")],
)
def test_sizes_have_three_digits(count: float, text: str) -> None:
    assert formats.size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(12, "12 s"), (240, "4 min"), (3 * 3600, "3 h"), (2 * 86400, "2 d")]
)
def test_ages_are_short(seconds: float, text: str) -> None:
    assert formats.ago(stamp(seconds), NOW) == text


@pytest.mark.parametrize(
    ("wanted", "fits"),
    [
        ("", True),
        ("CAM", True),
        ("site=north", True),
        ("site=nor", False),
        ("nor", True),
        ("site=north roof", False),
    ],
)
def test_the_fleet_is_filtered_by_words_and_labels(wanted: str, fits: bool) -> None:
    device = fleet_pb2.Device(device="cam-1", labels={"site": "north"})
    assert fleet.matches(device, wanted) is fits


def test_a_device_is_a_row() -> None:
    device = fleet_pb2.Device(
        device="cam/1",
        online=True,
        state=3,
        bits_per_pixel=0.0814,
        frames_per_second=2.04,
        bytes_per_second=2500,
        queued_frames=7,
        pending_commands=2,
        bundle_id="ab" * 32,
        last_error=error_to_message(SessionError("bad", "it broke")),
        last_error_at=stamp(60),
    )
    (row,) = fleet.rows([device], "", {"ab" * 32: "picture"}, NOW)
    texts = [cell["text"] for cell in row["cells"]]
    assert texts == [
        *("cam/1", "online", "3 +2 pending", "0.081", "2.0", "2.50 kB/s", "7", "picture", ""),
        "it broke (1 min)",
    ]
    assert row["cells"][0]["href"] == "/device/cam/1"


def test_those_online_come_first() -> None:
    away = fleet_pb2.Device(device="a", last_seen_at=stamp(120))
    here = fleet_pb2.Device(device="b", online=True)
    rows = fleet.rows([away, here], "", {}, NOW)
    assert [row["key"] for row in rows] == ["b", "a"]
    assert rows[1]["cells"][1]["text"] == "away 2 min"
    assert fleet.summary([away, here])["Online"] == "1 of 2"


def bitstream(*sizes: int, state: int) -> Bitstream:
    """Layers of so many bytes, down to ``state``."""
    coarsest = state + len(sizes) - 1
    layers = tuple(Layer(coarsest - n, bytes(size)) for n, size in enumerate(sizes))
    return Bitstream(b"12345678", 100, 80, state, layers)


def test_states_that_have_come_are_measured_and_finer_ones_estimated() -> None:
    one = bitstream(100, 200, 300, state=1)
    found = ladder(one, {0: 0.9, 1: 0.6, 2: 0.3, 3: 0.1})
    assert [rung.measured for rung in found.rungs] == [False, True, True, True]
    assert [rung.size_bytes for rung in found.rungs[1:]] == [
        one.truncate(state).file_bytes for state in (1, 2, 3)
    ]
    assert found.rungs[0].size_bytes == pytest.approx(1.5 * one.file_bytes)
    assert "about" in found.rungs[0].in_words()
    assert found.saving(1) == "as now"
    assert "fewer" in found.saving(3)
    assert found.coarsest == 3


def test_a_frame_of_an_unknown_bundle_has_its_own_states_alone() -> None:
    found = ladder(bitstream(100, 200, state=1), {})
    assert [rung.measured for rung in found.rungs] == [False, True, True]


def analysis() -> types_pb2.AnalysisResult:
    """A cat with a mask, and a face."""
    mask = np.zeros((40, 60), dtype=bool)
    mask[10:20, 30:50] = True
    code = encode_mask(mask)
    found = types_pb2.AnalysisResult(width=60, height=40)
    box = types_pb2.Box(x_min=30, y_min=10, x_max=50, y_max=20)
    found.tasks["segmentation"].instances.add(
        box=box,
        class_id=17,
        class_name="cat",
        score=0.8,
        mask=types_pb2.RleMask(height=40, width=60, counts=code.counts),
    )
    found.tasks["landmarks"].faces.add(
        box=box, score=0.9, landmarks=[types_pb2.Landmark(x=31, y=12, z=0)]
    )
    return found


def test_what_was_found_is_drawn() -> None:
    drawn = overlay.shapes(analysis())
    assert drawn["boxes"][1] == {
        "x": 30,
        "y": 10,
        "width": 20,
        "height": 10,
        "label": "cat 0.80",
        "colour": overlay.colour(17),
    }
    assert drawn["points"] == [31, 12]
    data = base64.b64decode(drawn["masks"].partition(",")[2])
    alpha = np.asarray(Image.open(io.BytesIO(data)).convert("RGBA"))[..., 3] > 0
    assert alpha[10:20, 30:50].all()
    assert alpha.sum() == 200


def test_what_was_found_is_told() -> None:
    assert overlay.in_words(analysis()) == "face, cat"
    assert [row["cells"][0]["text"] for row in overlay.findings(analysis())] == ["face", "cat"]
    assert overlay.in_words(types_pb2.AnalysisResult()) == "nothing was found"


def test_a_damaged_mask_is_left_out() -> None:
    found = analysis()
    found.tasks["segmentation"].instances[0].mask.counts = "!!"
    assert overlay.shapes(found)["masks"] == ""


def test_commands_say_what_has_become_of_them() -> None:
    def issued(reason: str | None) -> fleet_pb2.IssuedCommand:
        one = fleet_pb2.IssuedCommand(command=commands.set_state(4))
        one.reply.SetInParent()
        if reason is not None:
            one.reply.error.CopyFrom(error_to_message(SessionError(reason, "because")))
        return one

    waiting = fleet_pb2.IssuedCommand(command=commands.set_state(4))
    texts = [commands.answer(one)["text"] for one in (waiting, issued(None), issued("no"))]
    assert texts == ["pending", "applied", "no: because"]
    assert "later" in commands.answer(issued("superseded"))["text"]
    assert commands.what(waiting.command, {}) == "rate: state 4"
    assert commands.what(commands.own_rate(), {}) == "rate: its own"


def test_regions_are_set_and_taken_back() -> None:
    (region,) = commands.set_regions((0.25, 0.5, 0.75, 1.0), 2).set_regions.regions
    assert (region.box.x_min, region.box.y_max, region.state) == (0.25, 1.0, 2)
    none = commands.set_regions(None, 0)
    assert none.WhichOneof("command") == "set_regions"
    assert len(none.set_regions.regions) == 0


def test_the_filter_is_asked_of_the_server_but_for_scores() -> None:
    wish = timeline.Wish(class_name="cat, dog", since="2026-05-01T12:00", least_score=0.85)
    message = wish.to_message()
    assert list(message.class_names) == ["cat", "dog"]
    assert message.since.ToDatetime(UTC) == NOW
    record = results_pb2.ResultRecord()
    record.outcome.analysis.CopyFrom(analysis())
    assert wish.keeps(record)
    assert not timeline.Wish(least_score=0.95).keeps(record)
    with pytest.raises(ValueError, match="isoformat"):
        timeline.Wish(since="yesterday").to_message()


def test_a_frame_whose_device_has_no_clock_is_told_by_its_results() -> None:
    record = results_pb2.ResultRecord(captured_at=stamp(60), completed_at=stamp(0))
    assert timeline.moment(record) == "captured 2026-05-01 11:59:00 UTC"
    record.ClearField("captured_at")
    assert timeline.moment(record) == "completed 2026-05-01 12:00:00 UTC"


def test_a_frame_in_which_nothing_changed_is_told_as_such() -> None:
    record = results_pb2.ResultRecord(sequence=9)
    assert timeline.unchanged(record) == ""
    record.outcome.analysis.CopyFrom(analysis())
    assert timeline.unchanged(record) == ""
    record.outcome.analysis.unchanged_since = 0
    assert timeline.unchanged(record) == "nothing changed since frame 0", "0 is a frame too"
    record.outcome.error.reason = "deadline_exceeded"
    assert timeline.unchanged(record) == ""


def test_what_several_tasks_found_is_told_once_and_failures_too() -> None:
    outcome = types_pb2.FrameOutcome(analysis=analysis())
    outcome.analysis.tasks["detection"].task = "detection"
    outcome.analysis.tasks["segmentation"].task = "segmentation"
    outcome.analysis.tasks["detection"].detections.add(
        box=types_pb2.Box(x_min=31, y_min=10, x_max=50, y_max=20), class_id=17, class_name="cat",
        score=0.95,
    )  # fmt: skip
    outcome.task_errors["depth"].message = "no weights"
    assert overlay.in_words(outcome.analysis) == "cat, face"
    assert len(overlay.shapes(outcome.analysis)["boxes"]) == 2
    rows = overlay.findings(outcome.analysis, outcome.task_errors)
    assert [[one["text"] for one in row["cells"]] for row in rows] == [
        ["failed: no weights", "depth", ""],
        ["cat", "detection, segmentation", "0.95"],
        ["face", "", "0.90"],
    ]


def test_why_nothing_is_beside_a_frame() -> None:
    outcome = types_pb2.FrameOutcome(analysis=types_pb2.AnalysisResult())
    assert overlay.nothing(outcome) == "No task was asked of this frame."
    outcome.analysis.tasks["detection"].task = "detection"
    assert overlay.nothing(outcome) == "Nothing was found in this frame."
    failed = types_pb2.FrameOutcome(error=error_to_message(SessionError("bad", "it broke")))
    assert overlay.nothing(failed) == "This frame failed: it broke"


def test_finer_is_said_of_what_is_finer() -> None:
    found = ladder(bitstream(100, state=3), {0: 0.9, 3: 0.3, 6: 0.1})
    assert [step.state for step in found.steps] == [6, 3, 0]
    assert found.why_not(0) == "This frame came at state 3; state 0 is finer."
    assert "cannot be cut to state 6" in found.why_not(6)
    assert (found.finest, found.place(3), found.rung(5).state) == (0, 1, 3)
    alone = ladder(bitstream(100, 200, state=1), {})
    assert alone.finest == 1


def test_frames_are_played_as_they_were_captured() -> None:
    records = [results_pb2.ResultRecord(captured_at=stamp(-at)) for at in (0, 1, 1, 61)]
    assert timeline.gaps_s(records, 2.0) == [0.5, timeline.SHORTEST_GAP_S, 3.0, 3.0]
    assert timeline.gaps_s([], 1.0) == []


def test_curves_are_those_of_the_benchmarks() -> None:
    assert rates.measured() == condensed(), "run python -m benchmarks.console_curves"


def test_a_bundle_of_somebody_elses_has_states_alone() -> None:
    bundle = bundles_pb2.BundleInfo(name="other")
    bundle.states.add(state=0, typical_bits_per_pixel=0.4)
    bundle.states.add(state=1, typical_bits_per_pixel=0.1)
    assert rates.curves(bundle) == []
    assert [row["cells"][3]["text"] for row in rates.state_rows(bundle)] == ["100 %", "25 %"]
    assert [row["cells"][0]["text"] for row in rates.state_rows(bundle)] == ["0, default", "1"]
    bundle.default_state = 1
    assert [row["cells"][0]["text"] for row in rates.state_rows(bundle)] == ["0", "1, default"]


def test_every_point_of_a_curve_is_in_its_table() -> None:
    for curve in rates.curves(bundles_pb2.BundleInfo(name="picture")):
        points = sum(len(series["data"]) for series in curve.chart["series"])
        assert points == len(curve.rows) > 9
