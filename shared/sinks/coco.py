"""COCO's JSON (images, annotations, categories), as its tools read it.

The document is one, and may be made over days: its parts are lines of files in FILE.parts, which
are put together when the sink is closed. A sink that was killed goes on with the parts, and one
that is opened on a whole document takes that apart again.

Every annotation has what pycocotools asks for: ``bbox``, ``segmentation``, ``area`` (of the mask,
where there is one) and ``iscrowd``. A box without a mask is its own outline.
"""

from __future__ import annotations

import errno
import json
import logging
import math
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from shared.errors import TaskError
from shared.json_text import to_json
from shared.names import beside
from shared.results import Box, Face, RleMask, TaskResult, complete_mask, mask_box
from shared.sinks.files import move_aside, not_writable, unless_it_may_pass, write_whole
from shared.sinks.report import Report, iso

FACE = "face"
FREE_IDS = 1000
"""Classes whose own id another class has are numbered from here."""
_KEY_POINTS = ("right_eye", "left_eye", "nose", "mouth", "right_ear", "left_ear")
_INFO = {"description": "Found by Featherwire; scores as in COCO's result files"}
_LISTS = ("images", "annotations", "categories")
_REST = "rest"
"""Part of a document that was there: all but the lists."""


class CocoSink:
    """Writes an image for each report, and an annotation for each finding with a box or a mask."""

    at_once = 64

    def __init__(self, path: Path) -> None:
        """path: of the document; what is there and is none is moved aside. A disk that is full may
        have room later. Raises SinkError: not_writable, also for a pipe or a device."""
        self.name = str(path)
        self._path = path
        self._folder = beside(path.parent, path.name, ".parts")
        self._parts: tuple[_Part, _Part, _Part] | None = None
        self._categories: dict[str, dict[str, Any]] = {}
        self._next_image = self._next_annotation = 1
        with unless_it_may_pass():
            self._open()

    def deliver(self, reports: Sequence[Report]) -> None:
        """Append the reports to the parts: all, or none."""
        images, annotations, _ = self._open()
        before = self._next_image, self._next_annotation, images.size, annotations.size
        try:
            for report in reports:
                self._append(report)
        except BaseException as error:
            self._next_image, self._next_annotation, *sizes = before
            images.cut(sizes[0])
            annotations.cut(sizes[1])
            if isinstance(error, OSError):
                raise not_writable(self.name, error) from None
            raise

    def close(self) -> None:
        """Put the document together, and remove its parts."""
        if self._parts is None:
            return
        whole = beside(self._path.parent, f".{self._path.name}", ".new")
        try:
            self._put_together(whole)
            os.replace(whole, self._path)
            for part in self._parts:
                part.close()
            self._parts = None
            shutil.rmtree(self._folder)
        except OSError as error:
            whole.unlink(missing_ok=True)
            raise not_writable(self.name, error) from None

    # -- parts -----------------------------------------------------------------------------------

    def _open(self) -> tuple[_Part, _Part, _Part]:
        if self._parts is None:
            try:
                if self._path.exists() and not self._path.is_file():
                    raise OSError(errno.EINVAL, "a document is a file", self.name)
                if not self._folder.exists():
                    self._take_apart()
                images, annotations, names = (_Part(self._folder / name) for name in _LISTS)
            except OSError as error:
                raise not_writable(self.name, error) from None
            self._categories = {one["name"]: one for one in names.read()}
            self._next_image = images.last_id() + 1
            self._next_annotation = annotations.last_id() + 1
            self._parts = images, annotations, names
        return self._parts

    def _put_together(self, whole: Path) -> None:
        images, annotations, _ = self._open()
        rest = {"info": _INFO, "licenses": []} | self._rest()
        with whole.open("w", encoding="utf-8") as file:
            file.write("{" + "".join(f"{to_json(k)}: {to_json(v)},\n" for k, v in rest.items()))
            file.write('"categories": ' + to_json([*self._categories.values()]))
            for part in (images, annotations):
                file.write(f',\n"{part.path.name}": [')
                for number, one in enumerate(part.read()):
                    file.write((",\n" if number else "\n") + to_json(_mended(one)))
                file.write("]")
            file.write("}\n")
            file.flush()
            os.fsync(file.fileno())

    def _append(self, report: Report) -> None:
        if report.analysis is None:
            return
        images, annotations, _ = self._open()
        width, height = report.analysis.width, report.analysis.height
        date = iso(report.captured_at)
        image = {
            "id": self._next_image,
            "width": width,
            "height": height,
            "file_name": report.source or report.id,
            **({} if date is None else {"date_captured": date}),
            "featherwire_id": report.id,
        }
        found = [
            {"id": self._next_annotation + number, "image_id": self._next_image, **one}
            for number, one in enumerate(self._found(report.analysis.tasks.values(), width, height))
        ]
        # The image first: an annotation is never without its own.
        images.append([image])
        annotations.append(found)
        self._next_image += 1
        self._next_annotation += len(found)

    def _found(
        self, tasks: Iterable[TaskResult], width: int, height: int
    ) -> Iterator[dict[str, Any]]:
        for task in tasks:
            for item in (*(task.detections or ()), *(task.instances or ())):
                yield {
                    "category_id": self._category(item.class_name, item.class_id),
                    **_shape(item.box, getattr(item, "mask", None), width, height),
                    "score": item.score,
                    "task": task.task,
                }
            for region in task.regions or ():
                yield {
                    "category_id": self._category(region.class_name, region.class_id),
                    **_shape(None, region.mask, width, height),
                    "task": task.task,
                }
            for face in task.faces or ():
                yield {
                    "category_id": self._category(FACE, None),
                    **_shape(face.box, None, width, height),
                    **_points(face),
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
        category = {"id": number, "name": name, "supercategory": "", **keypoints}
        self._open()[2].append([category])
        self._categories[name] = category
        return number

    def _rest(self) -> dict[str, Any]:
        """What else was in the document that is gone on with."""
        try:
            found = json.loads((self._folder / _REST).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def _take_apart(self) -> None:
        """A document that is there is gone on with; anything else is moved aside."""
        document: dict[str, Any] = {name: [] for name in _LISTS}
        if self._path.exists():
            try:
                document = json.loads(self._path.read_text(encoding="utf-8"))
                for name in _LISTS:
                    _check([one["id"] for one in document[name]])
                if not all(isinstance(one["name"], str) for one in document["categories"]):
                    raise ValueError("a name is no text")
            except (ValueError, KeyError, TypeError, RecursionError):
                document = {name: [] for name in _LISTS}
                logging.getLogger(__name__).warning(
                    "warning: %s is no COCO JSON: it is %s now, and a new one begins",
                    self.name,
                    move_aside(self._path),
                )
        new = beside(self._path.parent, self._path.name, ".parts.new")
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True)
        for name in _LISTS:
            text = "".join(json.dumps(item) + "\n" for item in document.pop(name))
            (new / name).write_text(text, encoding="utf-8")
        (new / _REST).write_text(json.dumps(document), encoding="utf-8")
        new.rename(self._folder)


class _Part:
    """A file of JSON documents, one a line; lines that are none, as a crash leaves them, are
    passed over."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: BinaryIO = path.open("ab+", buffering=0)
        end = self._file.seek(0, os.SEEK_END)
        if end:
            self._file.seek(end - 1)
            if self._file.read(1) != b"\n":
                write_whole(self._file, "\n")

    @property
    def size(self) -> int:
        """In bytes."""
        return os.fstat(self._file.fileno()).st_size

    def append(self, items: Sequence[Mapping[str, Any]]) -> None:
        """Append all, or nothing. Raises OSError."""
        before = self.size
        try:
            write_whole(self._file, "".join(to_json(item) + "\n" for item in items))
        except OSError:
            self.cut(before)
            raise

    def cut(self, size: int) -> None:
        """Take away what is beyond so many bytes."""
        os.truncate(self._file.fileno(), size)

    def read(self) -> Iterator[dict[str, Any]]:
        """The documents."""
        with self.path.open("rb") as file:
            for line in file:
                try:
                    one = json.loads(line)
                    int(one["id"])
                except (ValueError, KeyError, TypeError):
                    continue
                yield one

    def last_id(self) -> int:
        """The highest id, 0 when there is none."""
        return max((int(one["id"]) for one in self.read()), default=0)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _shape(box: Box | None, mask: RleMask | None, width: int, height: int) -> dict[str, Any]:
    """Where a finding is: its mask, or the outline of its box; of a mask alone the box around."""
    area, around = 0, (0.0, 0.0, 0.0, 0.0)
    if mask is not None:
        try:
            mask = complete_mask(mask)
            area, around = mask_box(mask)
        except TaskError:  # damaged on its way: the box is still good
            mask = None
    corners = around if box is None else (box.x_min, box.y_min, box.width, box.height)
    if mask is None:
        outline = _outline(corners, width, height)
        within = (outline[2] - outline[0]) * (outline[5] - outline[1])
        return {**_boxed(corners), "segmentation": [outline], "area": within}
    return {**_boxed(corners), "segmentation": mask.model_dump(mode="json"), "area": area}


def _boxed(corners: Sequence[float]) -> dict[str, Any]:
    return {"bbox": [*corners], "iscrowd": 0}


def _outline(corners: Sequence[float], width: float, height: float) -> list[float]:
    """A box (x, y, width, height) as a polygon within the picture."""
    x, y, across, down = corners
    left, right = (min(max(one, 0.0), width) for one in (x, x + across))
    top, bottom = (min(max(one, 0.0), height) for one in (y, y + down))
    return [left, top, right, top, right, bottom, left, bottom]


def _points(face: Face) -> dict[str, Any]:
    points: list[float] = [value for x, y in face.key_points for value in (x, y, 2)]
    known = len(face.key_points)
    if known > len(_KEY_POINTS):
        points, known = points[: 3 * len(_KEY_POINTS)], len(_KEY_POINTS)
    return {"keypoints": points + [0.0] * 3 * (len(_KEY_POINTS) - known), "num_keypoints": known}


def _mended(one: dict[str, Any]) -> dict[str, Any]:
    """An annotation of a release before this one: its box had no outline. Others' may have no box,
    or anything for one: they stay as they are."""
    box = one.get("bbox")
    if one.get("segmentation") == [] and isinstance(box, list) and len(box) == 4:
        if not all(isinstance(side, int | float) and math.isfinite(side) for side in box):
            return one
        x, y, across, down = map(float, box)
        far = max(x + across, 0.0), max(y + down, 0.0)
        one["segmentation"] = [_outline((x, y, across, down), *far)]
    return one


def _check(numbers: Sequence[object]) -> None:
    """Raise ValueError unless every id is a number."""
    if not all(isinstance(number, int) for number in numbers):
        raise ValueError("an id is no number")
