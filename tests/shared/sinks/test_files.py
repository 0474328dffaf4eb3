"""JSON lines, CSV and COCO JSON: what is in them, and what a crash leaves."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from shared.errors import SinkError
from shared.sinks import Report, SinkOptions, open_sinks
from shared.sinks.coco import CocoSink
from shared.sinks.files import CSV_COLUMNS, CsvSink, JsonLinesSink
from tests.support.reports import failed_report, report

REPORTS: Sequence[Report] = [report(1), failed_report(2), report(3)]


def test_json_lines_hold_everything(tmp_path: Path) -> None:
    sink = JsonLinesSink(tmp_path / "new" / "r.jsonl")
    sink.deliver(REPORTS)
    sink.close()
    lines = [json.loads(line) for line in (tmp_path / "new" / "r.jsonl").read_text().splitlines()]
    assert lines == [one.to_dict() for one in REPORTS]
    assert lines[0]["found"] == "2 person, 1 cup; 1 person; 1 face"
    assert lines[0]["captured_at"] == "2023-11-14T22:13:21.250000Z"
    assert lines[1]["error"]["reason"] == "task_failed"


def test_a_file_is_gone_on_with_also_after_a_cut_line_and_a_rotation(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text('{"cut": ')
    sink = JsonLinesSink(path)
    sink.deliver(REPORTS[:1])
    path.rename(tmp_path / "r.jsonl.1")
    sink.deliver(REPORTS[1:])
    sink.close()
    before = (tmp_path / "r.jsonl.1").read_text().splitlines()
    assert before[0] == '{"cut": '
    assert json.loads(before[1])["sequence"] == 1
    assert [json.loads(line)["sequence"] for line in path.read_text().splitlines()] == [2, 3]


def test_csv_has_a_row_a_finding_and_reads_back(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    for reports in (REPORTS[:2], REPORTS[2:]):  # closed between, as by a restart
        sink = CsvSink(path)
        sink.deliver(reports)
        sink.close()
    rows = list(csv.DictReader(io.StringIO(path.read_text())))
    assert tuple(rows[0]) == CSV_COLUMNS
    assert [row["sequence"] for row in rows] == ["1"] * 5 + ["2"] + ["3"] * 5
    assert [row["class"] for row in rows[:5]] == ["person", "person", "cup", "person", "face"]
    assert (rows[0]["x_min"], rows[0]["y_max"], rows[0]["score"]) == ("1.0", "22.0", "0.9")
    assert rows[5]["error"] == "task_failed"


def test_a_csv_with_other_columns_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(SinkError) as caught:
        CsvSink(path)
    assert caught.value.reason == "other_columns"
    assert path.read_text() == "a,b\n1,2\n"


def coco_ids(path: Path) -> tuple[list[int], list[int]]:
    """Ids of images and annotations, as pycocotools reads them."""
    coco_module = pytest.importorskip("pycocotools.coco")
    coco = coco_module.COCO(str(path))
    people = coco.loadAnns(coco.getAnnIds(catIds=coco.getCatIds(["person"])))
    assert all(one["bbox"] == [1.0, 2.0, 10.0, 20.0] for one in people)
    (masked,) = [one for one in people if one["segmentation"] and one["image_id"] == 1]
    assert coco.annToMask(masked).shape == (48, 64)
    return sorted(coco.imgs), sorted(coco.anns)


def test_coco_json_is_read_by_its_own_tools(tmp_path: Path) -> None:
    path = tmp_path / "r.coco.json"
    sink = CocoSink(path)
    sink.deliver(REPORTS)
    assert not path.exists()
    sink.close()
    assert coco_ids(path) == ([1, 2], list(range(1, 11)))
    document = json.loads(path.read_text())
    assert {one["name"]: one["id"] for one in document["categories"]} == {
        "person": 1,
        "cup": 47,
        "face": 1000,
    }
    assert [one["file_name"] for one in document["images"]] == ["photo-1.jpg", "photo-3.jpg"]
    faces = [one for one in document["annotations"] if one["category_id"] == 1000]
    assert [face["num_keypoints"] for face in faces] == [6, 6]
    assert [path.name for path in tmp_path.iterdir()] == ["r.coco.json"]


def test_coco_json_is_gone_on_with_after_its_end_and_after_a_crash(tmp_path: Path) -> None:
    path = tmp_path / "r.coco.json"
    first = CocoSink(path)
    first.deliver(REPORTS[:1])
    first.close()
    crashed = CocoSink(path)
    crashed.deliver([report(3)])
    with (tmp_path / "r.coco.json.parts" / "annotations").open("a") as file:
        file.write('{"id": 11, "image')  # all that a power cut left of a line
    again = CocoSink(path)
    again.deliver([report(4)])
    again.close()
    images, annotations = coco_ids(path)
    assert images == [1, 2, 3]
    assert annotations == list(range(1, 16))


def test_classes_with_one_id_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "r.coco.json"
    sink = CocoSink(path)
    assert [sink._category(*one) for one in (("a", 1), ("b", 1), ("a", 7), ("c", None))] == [
        1,
        1000,
        1,
        1001,
    ]
    sink.close()


def test_what_is_no_coco_json_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "r.coco.json"
    path.write_text("[]")
    with pytest.raises(SinkError) as caught:
        CocoSink(path)
    assert caught.value.reason == "no_coco"
    assert path.read_text() == "[]"


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("results.txt", "unknown_sink"),
        ("ftp://host/x", "unknown_sink"),
        ("coco:-", "bad_sink"),
        ("mqtt://", "bad_sink"),
        ("mqtt://host/a/#", "bad_sink"),
        ("mqtt://host/a?qos=7", "bad_sink"),
        ("mqtt://host/a?colour=red", "bad_sink"),
        ("https://", "bad_sink"),
        ("csv:/dev/null/x.csv", "not_writable"),
    ],
)
def test_what_is_no_sink_says_why(word: str, reason: str) -> None:
    with pytest.raises(SinkError) as caught:
        open_sinks([word], SinkOptions("me"))
    assert caught.value.reason == reason


def test_a_kind_may_stand_before_any_name(tmp_path: Path) -> None:
    with open_sinks([f"csv:{tmp_path}/a", f"jsonl:{tmp_path}/b", f"{tmp_path}/C.NDJSON"],
                    SinkOptions("me")) as sinks:  # fmt: skip
        sinks.put(report(1))
    assert (tmp_path / "a").read_text().startswith("captured_at,")
    assert (tmp_path / "b").read_text() == (tmp_path / "C.NDJSON").read_text()
