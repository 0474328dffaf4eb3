"""The Ultralytics back end with networks built from its own descriptions (untrained: its trained
weights cannot be had everywhere), so that what is tested is that its results become ours."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import numpy as np
import pytest

from cloud_server.tasks import open_task
from shared.errors import ModelError
from shared.results import decode_mask
from shared.weights import ModelStore

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("ultralytics") is None, reason="ultralytics is not installed"
)


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> dict[str, Path]:
    """Paths of yolo11n.pt and yolo11n-seg.pt with random weights that find something."""
    folder = tmp_path_factory.mktemp("yolo")
    os.environ.setdefault("YOLO_CONFIG_DIR", str(folder))
    from codec.libraries import import_yolo

    yolo, _ = import_yolo()
    import torch

    paths = {}
    for task, name in (("detection", "yolo11n"), ("segmentation", "yolo11n-seg")):
        torch.manual_seed(1)
        paths[task] = folder / f"{name}.pt"
        yolo(f"{name}.yaml").save(str(paths[task]))
    return paths


@pytest.mark.parametrize("size", [(512, 512), (120, 333), (16, 16)])
@pytest.mark.parametrize("name", ["detection", "segmentation"])
def test_its_findings_become_results(weights, photos, name, size):
    picture = photos["astronaut"][: size[0], : size[1]]
    opened = open_task(name, backend=str(weights[name]), score_threshold=1e-6)
    (result,) = opened.run([picture])
    height, width = picture.shape[:2]
    assert result.task == name
    if size == (512, 512):
        assert len(result.found) > 10
    for found in result.found:
        assert 0 <= found.box.x_min <= found.box.x_max <= width
        assert 0 <= found.box.y_min <= found.box.y_max <= height
    if name == "segmentation":
        for instance in result.instances[:5]:
            mask = decode_mask(instance.mask)
            assert mask.shape == (height, width)
            rows, columns = np.nonzero(mask)
            assert columns.min() >= instance.box.x_min - 2
            assert rows.max() <= instance.box.y_max + 2
    assert set(result.milliseconds) == {"preprocess", "inference", "postprocess"}


def test_its_licence_and_hash_are_told(weights):
    (info,) = open_task("detection", backend=str(weights["detection"])).models
    assert info.licence == "AGPL-3.0"
    assert info.name == "yolo11n.pt"
    assert len(info.sha256) == 64


def test_weights_are_found_by_name_in_a_folder_of_models(weights, tmp_path):
    store = ModelStore(tmp_path, models_dirs=[weights["detection"].parent])
    assert open_task("detection", store, "yolo11n.pt").models[0].name == "yolo11n.pt"
    assert open_task("detection", store, "ultralytics").models[0].name == "yolo11n.pt"


def test_a_detector_is_no_segmenter(weights):
    with pytest.raises(ModelError) as caught:
        open_task("segmentation", backend=str(weights["detection"]))
    assert caught.value.reason == "wrong_model"


def test_missing_weights_are_told(tmp_path):
    with pytest.raises(ModelError) as caught:
        open_task("detection", ModelStore(tmp_path), str(tmp_path / "mine.pt"))
    assert caught.value.reason == "weights_missing"


def test_published_weights_that_cannot_be_downloaded_are_told_with_a_command(tmp_path):
    from shared.weights.ultralytics_assets import get_yolo

    with pytest.raises(ModelError) as caught:
        get_yolo(ModelStore(tmp_path), "yolo11n.pt", release="http://127.0.0.1:9")
    assert caught.value.reason == "weights_missing"
    assert caught.value.command == "featherwire-cloud models fetch yolo11n.pt"
    assert not list(tmp_path.rglob("*.pt"))


def test_a_file_that_would_run_a_command_is_refused(tmp_path):
    import torch

    class Trap:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path}/trapped",)

    torch.save({"model": Trap()}, tmp_path / "bad.pt")
    with pytest.raises(ModelError):
        open_task("detection", backend=str(tmp_path / "bad.pt"))
    assert not (tmp_path / "trapped").exists()


def test_garbage_is_refused(tmp_path):
    (tmp_path / "bad.pt").write_bytes(b"garbage")
    with pytest.raises(ModelError) as caught:
        open_task("detection", backend=str(tmp_path / "bad.pt"))
    assert caught.value.reason == "damaged"
