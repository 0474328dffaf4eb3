"""YOLO cut in two, its weights random: the halves are the whole, and a bundle comes out."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch
import yaml
from PIL import Image
from typer.testing import CliRunner

from codec.lattice_palette.coding import LatticeCodec
from codec.settings import FeatureSettings
from codec.tails import open_tails
from shared.bundle import Bundle
from shared.errors import ModelError, RecipeError
from shared.targets import RateTarget
from shared.weights import ModelStore
from training.cli import build_app

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("ultralytics") is None, reason="ultralytics is not installed"
)
SIDE = 96


@pytest.fixture(autouse=True, scope="module")
def settings_folder(tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("YOLO_CONFIG_DIR", str(tmp_path_factory.mktemp("yolo")))
        yield


def opened(model: str, **options: Any) -> Any:
    from codec.lattice_palette.train.networks.yolo import SplitYolo

    return SplitYolo(ModelStore(), model, **({"side": SIDE} | options))


@pytest.mark.parametrize(
    ("model", "at"),
    [("yolo11n.yaml", None), ("yolo11n.yaml", 10), ("yolov8n.yaml", 21), ("yolo26n.yaml", 16)],
)
def test_the_halves_together_are_the_whole_network(model: str, at: int | None):
    from codec.lattice_palette.train.networks.yolo import _opened

    network = opened(model, at=at)
    torch.manual_seed(2)
    picture = torch.rand(2, 3, SIDE, SIDE) * 255
    features = network.head(picture)
    for scale in network.info.scales:
        grid = SIDE // scale.stride
        assert features[scale.name].shape == (2, scale.channels, grid, grid)
    with torch.no_grad():
        boxes, scores = network.finish(network.tail(features))
        whole = _opened(ModelStore(), model)[0]
        detect = whole.model[-1]
        raw = whole(picture / 255)[1]
        raw = raw["one2one"] if detect.end2end else raw
        wanted = detect._inference(raw).transpose(1, 2)
    x, y, width, height = wanted[..., :4].unbind(2)
    corners = torch.stack([x - width / 2, y - height / 2, x + width / 2, y + height / 2], 2)
    corners = wanted[..., :4] if detect.end2end else corners
    assert torch.allclose(boxes, corners / SIDE, atol=1e-5)
    assert torch.allclose(scores, wanted[..., 4:], atol=1e-5)


def test_the_cut_that_is_found_is_narrow_and_early():
    network = opened("yolo11n.yaml")
    assert network.cut.edge_share <= 1 / 3
    assert network.cut.values == min(c.values for c in network.cuts if c.edge_share <= 1 / 3)
    assert [scale.name for scale in network.info.scales] == [f"layer_{network.cut.after}"]
    assert opened("yolo11n.yaml", most_on_edge=0.06).cut.after <= 1
    assert network.info.licence == "AGPL-3.0"
    assert len(network.info.classes) == 80


@pytest.mark.parametrize(
    ("model", "options", "error", "reason"),
    [
        ("yolo11n.yaml", {"side": 100}, RecipeError, "bad_size"),
        ("yolo11n.yaml", {"at": 23}, RecipeError, "no_cut"),
        ("yolo11n.yaml", {"most_on_edge": 0.001}, RecipeError, "no_cut"),
        ("yolo11n-seg.yaml", {}, ModelError, "wrong_model"),
        ("no-such-file.pt", {}, ModelError, "weights_missing"),
        ("no-such-network.yaml", {}, ModelError, "damaged"),
    ],
)
def test_what_cannot_be_cut_is_an_error(
    model: str, options: dict[str, Any], error: type[Exception], reason: str
):
    with pytest.raises(error) as caught:
        opened(model, **options)
    assert caught.value.reason == reason  # type: ignore[attr-defined]


def run_json(*arguments: object) -> Any:
    result = CliRunner().invoke(build_app(), [str(a) for a in (*arguments, "--json")])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.mark.parametrize("at", ["auto", "16"])
def test_a_bundle_of_any_cut_codes_photos(
    at: str, photos: dict[str, np.ndarray], tmp_path: Path
) -> None:
    (tmp_path / "train").mkdir()
    for name, photo in photos.items():
        Image.fromarray(photo).save(tmp_path / "train" / f"{name}.jpg", quality=95)
    recipe = tmp_path / "recipe.yaml"
    words = ("--network", "yolo11n.yaml", "--at", at, "--side", SIDE, "-o", recipe)
    planned = run_json("plan", "--recipe", "detect", *words)
    crossing = planned["cut"]["crossing"]
    assert len(crossing) == (1 if at == "auto" else 3)
    values = yaml.safe_load(recipe.read_text())
    values |= {
        "views": {"views": 16, "held_out": 1},
        "start_samples": 16,
        "fit": {"steps": 1, "batch": 2},
        "tail": {"steps": 1, "batch": 2},
        "contexts": {"views": 8, "hidden": 4, "width": 4, "steps": 10, "batch": 4},
        "chains": values["chains"][::3],
    }
    values["model"] |= {
        "analysis_width": 8, "analysis_blocks": 1, "synthesis_width": 8, "synthesis_blocks": 1,
        "rate_width": 8,
    }  # fmt: skip
    recipe.write_text(yaml.safe_dump(values))
    common = ("--recipe", recipe, "--run", tmp_path)
    run_json("photos", "--data", tmp_path / "train", *common)
    for step in ("views", "fit", "palette", "tail", "tables"):
        run_json(step, *common)
    run_json("export", "-o", tmp_path / "bundle", *common)
    bundle = Bundle.load(tmp_path / "bundle")
    assert bundle.manifest.licence == "AGPL-3.0"
    assert [scale.name for scale in FeatureSettings.of(bundle).scales] == [
        f"layer_{n}" for n in crossing
    ]
    codec = LatticeCodec(bundle)
    photo = photos["chelsea"]
    height, width = photo.shape[:2]
    placement = FeatureSettings.of(bundle).placement(width, height)
    assert placement is not None
    session = ort.InferenceSession(bundle.read("extractor.onnx"))
    names = [scale.name for scale in FeatureSettings.of(bundle).scales]
    grids = dict(zip(names, session.run(names, {"image": placement.apply(photo)}), strict=True))
    sizes = []
    (tail,) = open_tails(bundle, score_threshold=0).values()
    for state in (0, bundle.manifest.coarsest_state):
        coded = codec.encode(grids, width, height, RateTarget(state=state))
        sizes.append(coded.file_bytes)
        results = tail.run([codec.decode(coded)] * 2)
        assert results[0].detections == results[1].detections
        assert len(results[0].found) > 0
    assert sizes[0] > sizes[1]
