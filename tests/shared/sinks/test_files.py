"""JSON lines, CSV and COCO JSON: what is in them, and what a crash leaves."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest

from shared.errors import SinkError
from shared.results import Box, Detection, Instance, Region, RleMask, TaskResult, encode_mask
from shared.sinks import Report, SinkOptions, open_sinks
from shared.sinks.coco import CocoSink
from shared.sinks.files import (
    CSV_COLUMNS,
    CsvSink,
    JsonLinesSink,
    TerminalSink,
    move_aside,
    write_whole,
)
from tests.support.reports import BOX, MODEL, failed_report, found_tasks, report

REPORTS: Sequence[Report] = [report(1), failed_report(2), report(3)]


def test_json_lines_hold_everything(tmp_path: Path) -> None:
    sink = JsonLinesSink(tmp_path / "new" / "r.jsonl")
    sink.deliver(REPORTS)
    sink.close()
    lines = [json.loads(line) for line in (tmp_path / "new" / "r.jsonl").read_text().splitlines()]
    assert lines == [one.to_dict() for one in REPORTS]
    assert lines[0]["found"] == "2 person, 1 cup; 1 face"
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


def test_a_csv_with_other_columns_is_moved_aside(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A camera that starts at night does not wait for somebody to look at a file."""
    path = tmp_path / "mine.csv"
    (tmp_path / "mine.1.csv").write_text("older still")
    path.write_text("a,b\n1,2\n")
    sink = CsvSink(path)
    sink.deliver([report(1)])
    path.write_bytes(b"\0" * 100)  # what some file systems make of a power cut
    path.rename(tmp_path / "x")  # and a rotation that puts something else there
    path.write_text("c,d\n")
    sink.deliver([report(2)])
    sink.close()
    assert (tmp_path / "mine.2.csv").read_text() == "a,b\n1,2\n"
    assert (tmp_path / "mine.3.csv").read_text() == "c,d\n"
    rows = list(csv.DictReader(io.StringIO(path.read_text())))
    assert [row["sequence"] for row in rows] == ["2"] * 5
    assert caplog.text.count("has other columns") == 2


@pytest.mark.parametrize("kind", [CsvSink, JsonLinesSink])
def test_a_pipe_is_written_and_stays_where_it_is(kind: type[CsvSink], tmp_path: Path) -> None:
    pipe, link = tmp_path / "pipe", tmp_path / "r.csv"
    os.mkfifo(pipe)
    link.symlink_to(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    sink = kind(link)
    sink.deliver([report(1)])
    sink.deliver([report(2)])
    sink.close()
    text = os.read(reader, 1 << 16).decode()
    os.close(reader)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["pipe", "r.csv"]
    if kind is CsvSink:
        rows = list(csv.DictReader(io.StringIO(text)))
        assert [row["sequence"] for row in rows] == ["1"] * 5 + ["2"] * 5
    else:
        assert [json.loads(one)["sequence"] for one in text.splitlines()] == [1, 2]


def test_what_is_no_file_is_not_moved_aside_and_no_document(tmp_path: Path) -> None:
    pipe = tmp_path / "r.coco.json"
    os.mkfifo(pipe)
    with pytest.raises(OSError, match="no plain file"):
        move_aside(pipe)
    with pytest.raises(SinkError, match="a document is a file") as caught:
        CocoSink(pipe)
    assert caught.value.reason == "not_writable"
    assert [one.name for one in tmp_path.iterdir()] == ["r.coco.json"]


@pytest.mark.parametrize("name", ["x" * 251 + ".csv", "é" * 120 + ".a.csv", "a." + "x" * 253])
def test_a_name_that_leaves_no_room_for_a_number_is_shortened(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    for _ in range(2):
        path.write_text("a,b\n")
        CsvSink(path).close()
    others = [one for one in tmp_path.iterdir() if one != path]
    assert [one.read_text() for one in others] == ["a,b\n"] * 2
    assert path.read_text().startswith("captured_at,")


@pytest.mark.parametrize("size", [245, 246, 250, 255])
def test_a_document_may_have_any_name_that_a_file_may_have(size: int, tmp_path: Path) -> None:
    path = tmp_path / f"{'x' * (size - 10)}.coco.json"
    for number in (1, 2):
        sink = CocoSink(path)
        sink.deliver([report(number)])
        sink.close()
    assert [one.name for one in tmp_path.iterdir()] == [path.name]
    assert coco_ids(path)[0] == [1, 2]


@pytest.mark.parametrize(
    "box", [None, [None] * 4, ["1", 2, 3, 4], 7, {"x": 1}, [1, 2], [1e999, 0, 1, 1]]
)
def test_an_annotation_of_others_with_any_box_is_gone_on_with(box: object, tmp_path: Path) -> None:
    path = tmp_path / "r.coco.json"
    other = {"id": 1, "image_id": 1, "category_id": 1, "bbox": box, "segmentation": []}
    image = {"id": 1, "width": 64, "height": 48, "file_name": "a.jpg"}
    document = {"images": [image], "annotations": [other], "categories": []}
    path.write_text(json.dumps(document))
    sink = CocoSink(path)
    sink.deliver([report(1)])
    sink.close()
    after = json.loads(path.read_text())
    assert after["annotations"][0]["segmentation"] == []
    assert len(after["annotations"]) == 6


def test_the_area_of_a_box_is_that_of_its_outline(tmp_path: Path) -> None:
    path = tmp_path / "r.coco.json"
    boxes = [(-5, 40, 10, 60), (-10, -10, 980, 980), (70, 0, 90, 10)]
    found = [
        Detection(
            box=Box(x_min=a, y_min=b, x_max=c, y_max=d), class_id=1, class_name="a", score=0.5
        )
        for a, b, c, d in boxes
    ]
    task = TaskResult(task="boxes", model=MODEL, detections=found)
    analysis = report(1).analysis
    assert analysis is not None
    sink = CocoSink(path)
    sink.deliver([report(1, analysis=analysis.model_copy(update={"tasks": {"boxes": task}}))])
    sink.close()
    areas = [one["area"] for one in json.loads(path.read_text())["annotations"]]
    assert areas == [80, 64 * 48, 0]


def test_a_csv_that_a_spreadsheet_has_saved_is_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    path.write_bytes(b"\xef\xbb\xbf" + ",".join(CSV_COLUMNS).encode() + b"\r\n")
    sink = CsvSink(path)
    sink.deliver([report(1)])
    sink.close()
    assert [one.name for one in tmp_path.iterdir()] == ["r.csv"]
    assert len(path.read_text().splitlines()) == 6


def test_a_csv_that_was_truncated_in_place_has_its_header_again(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    sink = CsvSink(path)
    sink.deliver([report(1)])
    os.truncate(path, 0)  # as logrotate's copytruncate does
    sink.deliver([report(2)])
    sink.close()
    CsvSink(path).close()
    rows = list(csv.DictReader(io.StringIO(path.read_text())))
    assert {row["sequence"] for row in rows} == {"2"}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("kind", [CsvSink, JsonLinesSink, CocoSink])
def test_a_disk_that_is_full_keeps_no_camera_from_its_pictures(
    kind: type[CsvSink], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = [True]

    def write(file: BinaryIO, text: str) -> None:
        """Half of it, and then the error of the real device that is always full."""
        if full[0] and text:
            file.write(text[: len(text) // 2].encode())
            with open("/dev/full", "wb", buffering=0) as device:
                device.write(b"x")
        write_whole(file, text)

    monkeypatch.setattr("shared.sinks.files.write_whole", write)
    monkeypatch.setattr("shared.sinks.coco.write_whole", write)
    path = tmp_path / "r.coco.json"
    sink = kind(path)
    for _ in range(3):
        with pytest.raises(SinkError) as caught:
            sink.deliver([report(1), report(2)])
        assert caught.value.reason == "not_writable"
    full[0] = False
    sink.deliver([report(1), report(2)])
    sink.close()
    text = path.read_text()
    if kind is CocoSink:
        assert coco_ids(path) == ([1, 2], list(range(1, 11)))
    elif kind is CsvSink:
        rows = list(csv.DictReader(io.StringIO(text)))
        assert [row["sequence"] for row in rows] == ["1"] * 5 + ["2"] * 5
    else:
        assert [json.loads(line)["sequence"] for line in text.splitlines()] == [1, 2]


@pytest.mark.parametrize("kind", [CsvSink, JsonLinesSink, CocoSink])
def test_what_is_no_number_no_date_and_no_character_is_written_all_the_same(
    kind: type[CsvSink], tmp_path: Path
) -> None:
    path = tmp_path / "r.coco.json"
    sink = kind(path)
    odd = {"source": os.fsdecode(b"gr\xfc\xdfe.jpg"), "round_trip_ms": math.nan}
    sink.deliver([report(1, captured_at=1e18, **odd), report(2, captured_at=math.inf, **odd)])
    sink.close()
    text = path.read_text(encoding="utf-8")
    assert "NaN" not in text
    if kind is not CsvSink:
        assert "gr\\ufffd\\ufffde.jpg" in text
        for line in text.splitlines() if kind is JsonLinesSink else [text]:
            json.loads(line, parse_constant=lambda name: pytest.fail(name))
    else:
        assert "gr\ufffd\ufffde.jpg" in text


def test_a_terminal_without_the_characters_shows_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(raw, encoding="latin-1"))
    TerminalSink().deliver([report(1, source="写é.jpg")])
    assert "?é.jpg" in raw.getvalue().decode("latin-1")


def coco_ids(path: Path) -> tuple[list[int], list[int]]:
    """Ids of images and annotations, as pycocotools reads them."""
    coco_module = pytest.importorskip("pycocotools.coco")
    coco = coco_module.COCO(str(path))
    people = coco.loadAnns(coco.getAnnIds(catIds=coco.getCatIds(["person"])))
    assert all(one["bbox"] == [1.0, 2.0, 10.0, 20.0] for one in people)
    for one in coco.anns.values():
        assert coco.annToMask(one).shape == (48, 64)
    (masked,) = [one for one in people if one["task"] == "segmentation" and one["image_id"] == 1]
    assert masked["area"] == coco.annToMask(masked).sum() == 80
    assert all(one["area"] == 200 for one in people if one["task"] == "detection")
    return sorted(coco.imgs), sorted(coco.anns)


def evaluate(path: Path, kind: str) -> float:
    """Average precision of a document against itself, by COCO's own evaluation."""
    coco_module = pytest.importorskip("pycocotools.coco")
    evaluation = pytest.importorskip("pycocotools.cocoeval")
    truth = coco_module.COCO(str(path))
    found = []
    for one in truth.anns.values():
        shape = {"bbox": one["bbox"]} if kind == "bbox" else {"segmentation": truth.annToRLE(one)}
        keys = {key: one[key] for key in ("image_id", "category_id")}
        found.append(keys | shape | {"score": one.get("score", 1.0)})
    run = evaluation.COCOeval(truth, truth.loadRes(found), iouType=kind)
    run.evaluate()
    run.accumulate()
    run.summarize()
    return float(run.stats[0])


def test_coco_json_of_everything_is_evaluated_by_its_own_tools(tmp_path: Path) -> None:
    """Boxes and faces without masks, masks, regions, an empty mask, a damaged one, a box over the
    edge, a box without an inside, a frame in which nothing was found, names in any script."""
    path = tmp_path / "r.coco.json"
    mask = np.zeros((48, 64), np.uint8)
    mask[5:15, 60:] = 1
    regions = [
        Region(class_id=300, class_name="空", share=0.1, mask=encode_mask(mask)),
        Region(class_id=301, class_name="море", share=0.0, mask=encode_mask(mask * 0)),
    ]
    edge = Box(x_min=-5, y_min=40, x_max=10, y_max=60)
    flat = Box(x_min=3, y_min=4, x_max=3, y_max=9)
    bad = RleMask(size=(48, 64), counts="!!")
    instances = [Instance(box=BOX, class_id=5, class_name="bus", score=0.5, mask=bad)]
    boxes = [Detection(box=one, class_id=5, class_name="bus", score=0.4) for one in (edge, flat)]
    tasks = {
        **found_tasks(),
        "regions": TaskResult(task="regions", model=MODEL, regions=regions),
        "instances": TaskResult(task="instances", model=MODEL, instances=instances),
        "boxes": TaskResult(task="boxes", model=MODEL, detections=boxes),
    }
    full = report(1)
    assert full.analysis is not None
    nothing = {"detection": TaskResult(task="detection", model=MODEL, detections=[])}
    sink = CocoSink(path)
    sink.deliver(
        [
            report(1, analysis=full.analysis.model_copy(update={"tasks": tasks})),
            report(2, analysis=full.analysis.model_copy(update={"tasks": nothing})),
            report(3, source="写真.jpg"),
        ]
    )
    sink.close()
    assert evaluate(path, "segm") > 0.5
    assert evaluate(path, "bbox") > 0.5
    document = json.loads(path.read_text())
    assert [one["file_name"] for one in document["images"]][1:] == ["photo-2.jpg", "写真.jpg"]
    assert all(one["date_captured"] for one in document["images"])
    by_task = {
        (one["task"], number): one
        for number, one in enumerate(document["annotations"])
        if one["task"] in ("regions", "instances", "boxes")
    }
    sky, sea, bus, over, thin = (one for _, one in sorted(by_task.items(), key=lambda i: i[0][1]))
    assert (sky["area"], sky["bbox"]) == (40, [60.0, 5.0, 4.0, 10.0])
    assert (sea["area"], sea["bbox"]) == (0, [0.0, 0.0, 0.0, 0.0])
    assert bus["segmentation"] == [[1.0, 2.0, 11.0, 2.0, 11.0, 22.0, 1.0, 22.0]]
    assert over["segmentation"] == [[0.0, 40.0, 10.0, 40.0, 10.0, 48.0, 0.0, 48.0]]
    assert thin["area"] == 0


def test_a_document_of_others_or_of_an_older_release_is_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "r.coco.json"
    crowd = {
        "id": 7, "image_id": 9, "category_id": 1, "bbox": [0, 0, 4, 4], "area": 16, "iscrowd": 1,
        "segmentation": {"size": [48, 64], "counts": [0, 4, 3068]},
    }  # fmt: skip
    old = {
        "id": 8, "image_id": 9, "category_id": 1, "bbox": [1.0, 2.0, 10.0, 20.0], "area": 200.0,
        "iscrowd": 0, "segmentation": [], "score": 0.5, "task": "detection",
    }  # fmt: skip
    document = {
        "info": {"year": 2014},
        "licenses": [{"id": 1, "name": "CC"}],
        "images": [{"id": 9, "width": 64, "height": 48, "file_name": "a.jpg", "license": 1}],
        "annotations": [crowd, old],
        "categories": [{"id": 1, "name": "person"}],
        "mine": True,
    }
    path.write_text(json.dumps(document))
    sink = CocoSink(path)
    sink.deliver([report(1)])
    sink.close()
    after = json.loads(path.read_text())
    assert {key: after[key] for key in ("info", "licenses", "mine")} == {
        key: document[key] for key in ("info", "licenses", "mine")
    }
    assert after["images"][0] == document["images"][0]
    assert after["annotations"][0] == crowd
    assert after["annotations"][1] == old | {
        "segmentation": [[1.0, 2.0, 11.0, 2.0, 11.0, 22.0, 1.0, 22.0]]
    }
    assert [one["id"] for one in after["annotations"]] == list(range(7, 14))
    assert evaluate(path, "segm") > 0.5


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


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "{",
        "",
        '{"images": [{"id": "a"}], "annotations": [], "categories": []}',
        '{"images": [], "annotations": [], "categories": [{"id": 1, "name": []}]}',
    ],
)
def test_what_is_no_coco_json_is_moved_aside(
    text: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "r.coco.json"
    path.write_text(text)
    sink = CocoSink(path)
    sink.deliver([report(1)])
    sink.close()
    assert (tmp_path / "r.1.coco.json").read_text() == text
    assert coco_ids(path)[0] == [1]
    assert "is no COCO JSON" in caplog.text


def test_a_word_that_is_no_sink_is_shown_without_its_password() -> None:
    for word in ("ftp://user:hush@host/x", "mqt://u:hush@h/x", "x?token=hush", "a@b:hush@h"):
        with pytest.raises(SinkError) as caught:
            open_sinks([word], SinkOptions("me"))
        assert "hush" not in caught.value.message


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
