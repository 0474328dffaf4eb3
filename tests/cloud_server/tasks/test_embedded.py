"""The built-in tasks on real photos, with what a person sees in them."""

from __future__ import annotations

import numpy as np
import pytest

from cloud_server.tasks import open_task, task_names
from shared.errors import ModelError, TaskError
from shared.results import Box, TaskResult, agreement, box_iou, decode_mask
from shared.weights import ModelStore

TASKS = ("detection", "segmentation", "landmarks")


def box(x_min, y_min, x_max, y_max):
    return Box(x_min=x_min, y_min=y_min, x_max=x_max, y_max=y_max)


@pytest.mark.parametrize(
    ("photo", "name", "where"),
    [
        ("astronaut", "person", box(14, 6, 372, 508)),
        ("chelsea", "cat", box(6, 1, 402, 299)),
        ("coffee", "cup", box(170, 14, 414, 299)),
    ],
)
def test_the_best_detection_is_the_subject(task, photos, photo, name, where):
    (result,) = task("detection").run([photos[photo]])
    best = max(result.detections, key=lambda found: found.score)
    assert best.class_name == name
    assert best.score > 0.6
    assert box_iou(best.box, where) > 0.85


def test_class_ids_are_coco_categories(task, photos):
    results = task("detection").run([photos["astronaut"], photos["chelsea"]])
    ids = {found.class_name: found.class_id for result in results for found in result.detections}
    assert ids["person"] == 1
    assert ids["cat"] == 17


def test_a_person_is_cut_out_of_her_background(task, photos):
    (result,) = task("segmentation").run([photos["astronaut"]])
    (person,) = result.instances
    mask = decode_mask(person.mask)
    assert mask.shape == (512, 512)
    assert person.class_name == "person"
    assert 0.35 < mask.mean() < 0.5
    assert mask[110, 225]  # her face
    assert mask[350, 150]  # her suit
    assert not mask[20, 300]  # the wall
    assert not mask[450, 480]  # the helmet's table
    rows, columns = np.nonzero(mask)
    assert columns.min() >= person.box.x_min - 1
    assert columns.max() <= person.box.x_max + 1
    assert rows.max() <= person.box.y_max + 1


def test_no_person_no_mask_and_no_face(task, photos):
    assert task("segmentation").run([photos["coffee"]])[0].instances == []
    assert task("landmarks").run([photos["coffee"]])[0].faces == []
    assert task("landmarks").run([photos["chelsea"]])[0].faces == []


def test_a_face_has_its_landmarks_where_a_person_sees_them(task, photos):
    (result,) = task("landmarks").run([photos["astronaut"]])
    (face,) = result.faces
    points = np.array(face.landmarks)
    assert points.shape == (468, 3)
    assert face.score > 0.8
    assert box_iou(face.box, box(173, 68, 279, 175)) > 0.8
    # Tip of the nose, outer corners of her right and left eye, middle of the lips.
    for index, seen in ((1, (223, 128)), (33, (194, 101)), (263, (256, 104)), (13, (223, 142))):
        assert np.linalg.norm(points[index, :2] - seen) < 5, index
    assert len(face.key_points) == 6
    # The mesh and the detector agree about the eyes' middles.
    assert np.linalg.norm(points[[33, 133], :2].mean(0) - face.key_points[0]) < 8


@pytest.mark.parametrize("rows", [40, 80, 120])
def test_landmarks_move_with_the_face(task, photos, rows):
    picture = photos["astronaut"]
    wide = np.pad(picture, ((rows, 0), (0, 17), (0, 0)), mode="edge")
    (straight,) = task("landmarks").run([picture])[0].faces
    (moved,) = task("landmarks").run([wide])[0].faces
    shift = np.array(moved.landmarks)[:, :2] - np.array(straight.landmarks)[:, :2]
    assert np.abs(np.median(shift, axis=0) - (0, rows)).max() < 3


def test_a_tilted_head_is_turned_level_first(task, photos):
    from PIL import Image

    angle = 30
    turned = np.asarray(
        Image.fromarray(photos["astronaut"]).rotate(angle, Image.Resampling.BICUBIC)
    )
    (straight,) = task("landmarks").run([photos["astronaut"]])[0].faces
    (tilted,) = task("landmarks").run([turned])[0].faces
    c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    expected = (np.array(straight.landmarks)[:, :2] - 256) @ np.array([[c, -s], [s, c]]) + 256
    errors = np.linalg.norm(np.array(tilted.landmarks)[:, :2] - expected, axis=1)
    assert errors.mean() < 4


def test_a_small_face_in_a_large_picture_is_found(task, photos):
    from PIL import Image

    small = np.asarray(Image.fromarray(photos["astronaut"]).resize((256, 256)))
    picture = np.full((600, 1200, 3), 110, np.uint8)
    picture[300:556, 700:956] = small
    (face,) = task("landmarks").run([picture])[0].faces
    assert box_iou(face.box, box(786, 334, 840, 388)) > 0.6


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("size", [(16, 16), (16, 8192), (8192, 16), (17, 301)])
def test_pictures_of_unusual_sizes_are_accepted(task, photos, name, size):
    picture = np.resize(photos["coffee"], (*size, 3))
    (result,) = task(name).run([picture])
    assert isinstance(result, TaskResult)
    for found in result.found:
        assert 0 <= found.box.x_min <= found.box.x_max <= size[1]
        assert 0 <= found.box.y_min <= found.box.y_max <= size[0]


@pytest.mark.parametrize("name", TASKS)
def test_the_largest_picture_gives_what_the_small_one_gives(task, photos, name):
    small = photos["astronaut"]
    large = small.repeat(16, axis=0).repeat(16, axis=1)
    (expected,) = task(name).run([small])
    (found,) = task(name).run([large])
    subject = max(expected.found, key=lambda x: x.score)
    same = max(found.found, key=lambda x: x.score)
    values = {side: value / 16 for side, value in same.box.model_dump().items()}
    assert box_iou(subject.box, Box(**values)) > 0.8
    if name == "segmentation":
        mask = decode_mask(same.mask)
        assert mask.shape == (8192, 8192)
        coarse = mask[8::16, 8::16]
        assert (coarse == decode_mask(subject.mask)).mean() > 0.97
    if name == "landmarks":
        difference = np.array(same.landmarks) / 16 - np.array(subject.landmarks)
        assert np.abs(difference[:, :2]).mean() < 3


@pytest.mark.parametrize("name", TASKS)
def test_a_batch_gives_what_single_pictures_give(task, photos, name):
    pictures = [photos["astronaut"], photos["chelsea"], photos["astronaut"]]
    together = task(name).run(pictures)
    alone = [task(name).run([picture])[0] for picture in pictures]
    assert [r.model_dump(exclude={"milliseconds"}) for r in together] == [
        r.model_dump(exclude={"milliseconds"}) for r in alone
    ]


@pytest.mark.parametrize("name", TASKS)
def test_a_result_says_which_weights_made_it_and_how_long_each_stage_took(
    task, photos, name, real_store
):
    (result,) = task(name).run([photos["astronaut"]])
    assert result.task == name
    assert result.model == task(name).models
    for model in result.model:
        assert model.sha256 == real_store.entry(model.name).sha256
        assert model.licence == "Apache-2.0"
    assert set(result.milliseconds) == {"preprocess", "inference", "postprocess"}
    assert result.milliseconds["inference"] > 0


@pytest.mark.parametrize("name", TASKS)
def test_a_picture_and_its_jpeg_agree(task, photos, name):
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(photos["astronaut"]).save(buffer, "JPEG", quality=80)
    coded = np.asarray(Image.open(buffer))
    found = agreement(task(name).run([photos["astronaut"]])[0], task(name).run([coded])[0])
    assert found.f1 > 0.6
    assert found.mean_iou > 0.9
    if name == "landmarks":
        assert found.normalised_mean_error < 0.05


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((15, 100, 3), np.uint8),
        np.zeros((100, 8193, 3), np.uint8),
        np.zeros((100, 100), np.uint8),
        np.zeros((100, 100, 4), np.uint8),
        np.zeros((100, 100, 3), np.float32),
        "a string",
    ],
)
@pytest.mark.parametrize("name", TASKS)
def test_what_is_no_picture_is_refused(task, name, image):
    with pytest.raises(TaskError) as caught:
        task(name).run([image])
    assert caught.value.reason == "bad_image"


def test_a_read_only_or_strided_picture_is_accepted(task, photos):
    flipped = photos["chelsea"][:, ::-1]
    (result,) = task("detection").run([flipped])
    assert result.detections[0].class_name == "cat"


def test_the_threshold_chooses_how_much_is_told(real_store, photos):
    counts = []
    for threshold in (0.2, 0.5, 0.99):
        opened = open_task("detection", real_store, score_threshold=threshold)
        found = opened.run([photos["coffee"]])[0].detections
        assert all(detection.score >= threshold for detection in found)
        counts.append(len(found))
    assert counts[0] > counts[1] > counts[2] == 0


@pytest.mark.parametrize("threshold", [-0.1, 1.1, float("nan")])
@pytest.mark.parametrize("name", TASKS)
def test_a_threshold_that_is_no_share_is_refused(real_store, name, threshold):
    with pytest.raises(TaskError) as caught:
        open_task(name, real_store, score_threshold=threshold)
    assert caught.value.reason == "bad_option"


@pytest.mark.parametrize("name", TASKS)
def test_missing_weights_are_told_when_a_task_is_opened(tmp_path, name):
    with pytest.raises(ModelError) as caught:
        open_task(name, ModelStore(tmp_path))
    assert caught.value.reason == "weights_missing"
    assert caught.value.command.startswith("featherwire-cloud models fetch ")


def test_unknown_tasks_and_back_ends_are_told_with_the_known_ones(real_store):
    with pytest.raises(TaskError, match="detection, segmentation, landmarks") as caught:
        open_task("smell", real_store)
    assert caught.value.reason == "unknown_task"
    with pytest.raises(TaskError, match="embedded, ultralytics") as caught:
        open_task("detection", real_store, "tensorflow")
    assert caught.value.reason == "unknown_backend"
    assert task_names() == TASKS
