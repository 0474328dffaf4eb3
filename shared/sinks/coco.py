"""COCO's JSON (images, annotations, categories), as its tools read it.

The document is one, and may be made over days: its parts are lines of files in FILE.parts, which
are put together when the sink is closed. A sink that was killed goes on with the parts, and one
that is opened on a whole document takes that apart again.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from shared.errors import SinkError
from shared.results import Box, Face, TaskResult
from shared.sinks.report import Report, iso

FACE = "face"
FREE_IDS = 1000
"""Classes whose own id another class has are numbered from here."""
_KEY_POINTS = ("right_eye", "left_eye", "nose", "mouth", "right_ear", "left_ear")
_INFO = {"description": "Found by Featherwire; scores as in COCO's result files"}


class CocoSink:
    """Writes an image for each report, and an annotation for each finding with a box or a mask."""

    at_once = 64

    def __init__(self, path: Path) -> None:
        """path: of the document. Raises SinkError: not_writable, no_coco."""
        self.name = str(path)
        self._path = path
        self._folder = path.with_name(path.name + ".parts")
        try:
            if not self._folder.exists():
                self._take_apart()
            self._images = _lines(self._folder / "images")
            self._annotations = _lines(self._folder / "annotations")
            self._categories = self._read_categories()
            self._next_image = _last_id(self._folder / "images") + 1
            self._next_annotation = _last_id(self._folder / "annotations") + 1
        except OSError as error:
            raise self._not_writable(error) from None

    def deliver(self, reports: Sequence[Report]) -> None:
        """Append the reports to the parts."""
        try:
            for report in reports:
                self._append(report)
            self._images.flush()
            self._annotations.flush()
        except OSError as error:
            raise self._not_writable(error) from None

    def close(self) -> None:
        """Put the document together, and remove its parts."""
        try:
            self._images.close()
            self._annotations.close()
            whole = self._path.with_name(f".{self._path.name}.new")
            with whole.open("w", encoding="utf-8") as file:
                file.write('{"info": ' + json.dumps(_INFO) + ',\n"categories": ')
                json.dump(list(self._categories.values()), file)
                for name in ("images", "annotations"):
                    file.write(f',\n"{name}": [')
                    for number, line in enumerate(_read(self._folder / name)):
                        file.write((",\n" if number else "\n") + line)
                    file.write("]")
                file.write("}\n")
                file.flush()
                os.fsync(file.fileno())
            os.replace(whole, self._path)
            shutil.rmtree(self._folder)
        except OSError as error:
            raise self._not_writable(error) from None

    # -- parts -----------------------------------------------------------------------------------

    def _append(self, report: Report) -> None:
        if report.analysis is None:
            return
        image = {
            "id": self._next_image,
            "width": report.analysis.width,
            "height": report.analysis.height,
            "file_name": report.source or report.id,
            "date_captured": iso(report.captured_at),
            "featherwire_id": report.id,
        }
        lines = [
            json.dumps({"id": self._next_annotation + number, "image_id": image["id"], **one})
            for number, one in enumerate(self._found(report.analysis.tasks.values()))
        ]
        # The image first: an annotation is never without its own.
        self._images.write(json.dumps(image) + "\n")
        self._images.flush()
        self._annotations.writelines(line + "\n" for line in lines)
        self._next_image += 1
        self._next_annotation += len(lines)

    def _found(self, tasks: Any) -> Iterator[dict[str, Any]]:
        for task in tasks:
            yield from self._of_task(task)

    def _of_task(self, task: TaskResult) -> Iterator[dict[str, Any]]:
        for item in (*(task.detections or ()), *(task.instances or ())):
            mask = getattr(item, "mask", None)
            yield {
                "category_id": self._category(item.class_name, item.class_id),
                **_box(item.box),
                "segmentation": mask.model_dump(mode="json") if mask is not None else [],
                "score": item.score,
                "task": task.task,
            }
        for region in task.regions or ():
            yield {
                "category_id": self._category(region.class_name, region.class_id),
                "segmentation": region.mask.model_dump(mode="json"),
                "iscrowd": 0,
                "task": task.task,
            }
        for face in task.faces or ():
            yield {
                "category_id": self._category(FACE, None),
                **_box(face.box),
                **_points(face),
                "segmentation": [],
                "score": face.score,
                "task": task.task,
            }

    def _category(self, name: str, own_id: int | None) -> int:
        known = self._categories.get(name)
        if known is not None:
            return int(known["id"])
        taken = {one["id"] for one in self._categories.values()}
        number = own_id
        if number is None or number in taken:
            number = max([FREE_IDS, *(one + 1 for one in taken)])
        keypoints = {"keypoints": list(_KEY_POINTS), "skeleton": []} if name == FACE else {}
        self._categories[name] = {"id": number, "name": name, **keypoints}
        with (self._folder / "categories").open("a", encoding="utf-8") as file:
            file.write(json.dumps(self._categories[name]) + "\n")
        return number

    def _read_categories(self) -> dict[str, dict[str, Any]]:
        _lines(self._folder / "categories").close()
        found = [json.loads(line) for line in _read(self._folder / "categories")]
        return {one["name"]: one for one in found}

    def _take_apart(self) -> None:
        """A document that is there is gone on with."""
        document: dict[str, Any] = {}
        if self._path.exists():
            try:
                document = json.loads(self._path.read_text(encoding="utf-8"))
                parts = {key: document[key] for key in ("images", "annotations", "categories")}
            except (ValueError, KeyError, TypeError):
                raise SinkError("no_coco", f"{self._path} is there, and no COCO JSON") from None
        else:
            parts = {"images": [], "annotations": [], "categories": []}
        new = self._folder.with_name(self._folder.name + ".new")
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True)
        for name, items in parts.items():
            text = "".join(json.dumps(item) + "\n" for item in items)
            (new / name).write_text(text, encoding="utf-8")
        new.rename(self._folder)

    def _not_writable(self, error: OSError) -> SinkError:
        return SinkError("not_writable", f"{self.name}: {error.strerror or error}")


def _box(box: Box) -> dict[str, Any]:
    return {
        "bbox": [box.x_min, box.y_min, box.width, box.height],
        "area": box.area,
        "iscrowd": 0,
    }


def _points(face: Face) -> dict[str, Any]:
    points = [value for x, y in face.key_points for value in (x, y, 2)]
    return {"keypoints": points, "num_keypoints": len(face.key_points)} if points else {}


def _lines(path: Path) -> IO[str]:
    """The file, to append whole lines to; what a crash has left of a line is cut off."""
    with path.open("ab+") as file:
        size = file.seek(0, os.SEEK_END)
        while size > 0:
            file.seek(size - 1)
            if file.read(1) == b"\n":
                break
            size -= 1
        file.truncate(size)
    return path.open("a", encoding="utf-8")


def _read(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield line.rstrip("\n")


def _last_id(path: Path) -> int:
    last = 0
    for line in _read(path):
        last = max(last, int(json.loads(line)["id"]))
    return last
