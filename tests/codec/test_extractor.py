"""The edge's networks: both precisions, the choice between them, and files that do not fit."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch

from codec import onnx as extractor_module
from codec import onnx as precision_module
from codec.markov_palette.coding import MarkovPaletteCodec
from codec.markov_palette.train.extractor_onnx import (
    calibrate,
    extractor_to_int8_onnx,
    extractor_to_onnx,
)
from codec.markov_palette.train.networks import Extractor, ExtractorConfig
from codec.onnx import (
    EXTRACTOR_FILES,
    PRECISION_VARIABLE,
    FeatureExtractor,
    Precision,
    default_cache_dir,
    fastest,
    recall,
    remember,
    trial_clock,
)
from edge_client.encoder import EdgeEncoder
from shared.bundle import Bundle
from shared.errors import BundleError
from tests.support.tiny_bundle import codec_files, tiny_manifest

CONFIG = ExtractorConfig(8, 3, (8, 12, 16), 1)
PRECISIONS: tuple[Precision, ...] = ("fp32", "int8")
FACTS = {"bundle": "b", "cpu": "c", "onnxruntime": "1", "threads": "1"}


def seeded(config: ExtractorConfig) -> Extractor:
    torch.manual_seed(5)
    extractor = Extractor(config).eval()
    with torch.no_grad():
        for head in (extractor.semantic, extractor.texture):
            head.weight.normal_(0, 40 / head.weight[0].numel() ** 0.5)
    return extractor


def networks(photo: np.ndarray, config: ExtractorConfig = CONFIG) -> dict[str, bytes]:
    extractor = seeded(config)
    picture = torch.tensor(photo[:256, :256]).permute(2, 0, 1)[None].float() / 255 - 0.5
    calibration = calibrate(extractor, [picture])
    return {
        "extractor.onnx": extractor_to_onnx(extractor),
        "extractor-int8.onnx": extractor_to_int8_onnx(extractor, calibration),
    }


@pytest.fixture(scope="module")
def photo(photos: dict[str, np.ndarray]) -> np.ndarray:
    return photos["astronaut"]


@pytest.fixture(scope="module")
def files(photo: np.ndarray) -> dict[str, bytes]:
    return codec_files() | networks(photo)


@pytest.fixture(scope="module")
def bundle(files: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    manifest = tiny_manifest(halo_positions=CONFIG.halo_positions)
    return Bundle.create(tmp_path_factory.mktemp("both"), manifest, files)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own, through the variable that people would use."""
    monkeypatch.delenv(PRECISION_VARIABLE, raising=False)
    monkeypatch.setenv(precision_module.CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


def refuse_to_measure(*_: object) -> None:
    raise AssertionError("this must not measure")


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("side", [3, 7])
def test_tiles_give_the_features_of_the_whole_picture(
    bundle: Bundle,
    photo: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
    precision: Precision,
    side: int,
) -> None:
    extractor = FeatureExtractor(bundle, precision=precision)
    assert extractor.precision == precision
    monkeypatch.setattr(extractor_module, "TILE_POSITIONS", 10_000)
    whole = extractor(photo[:390])
    monkeypatch.setattr(extractor_module, "TILE_POSITIONS", side)
    tiled = extractor(photo[:390])
    for name, values in whole.items():
        # Integers are the same in a tile; what is left is the noise of the float projections.
        np.testing.assert_allclose(tiled[name], values, atol=1e-5)


def test_a_halo_that_is_too_small_leaves_seams(
    bundle: Bundle, photo: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That the tile test above can fail."""
    extractor = FeatureExtractor(bundle, precision="int8")
    whole = extractor(photo)
    monkeypatch.setattr(extractor_module, "TILE_POSITIONS", 7)
    monkeypatch.setattr(extractor, "_halo", 1)
    tiled = extractor(photo)
    assert np.abs(tiled["semantic"] - whole["semantic"]).max() > 1e-3


def test_what_ran_is_what_is_sent(
    bundle: Bundle, photo: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A decoder gets the indices of the int8 features, and is not told of them."""
    codec = MarkovPaletteCodec(bundle)
    sent = {}
    for precision in PRECISIONS:
        monkeypatch.setenv(PRECISION_VARIABLE, precision)
        latents = codec.decode(EdgeEncoder(bundle).encode(photo))
        features = FeatureExtractor(bundle, precision=precision)(photo)
        expected = codec.chains[0].palette.decode(codec.chains[0].palette.encode(features), 0)
        for name, values in expected.items():
            np.testing.assert_array_equal(latents.scales[name], values)
        sent[precision] = np.concatenate([latents.scales[name].ravel() for name in expected])
    assert 0 < (sent["fp32"] != sent["int8"]).mean() < 0.2


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("what", ["garbage", "cut", "empty", "another_shape", "not_finite"])
def test_a_damaged_network_is_refused(
    files: dict[str, bytes], photo: np.ndarray, tmp_path: Path, precision: Precision, what: str
) -> None:
    name = EXTRACTOR_FILES[precision]
    if what == "another_shape":
        data = networks(photo, dataclasses.replace(CONFIG, texture_channels=4))[name]
    elif what == "not_finite":
        changed = seeded(CONFIG)
        with torch.no_grad():
            changed.texture.bias[1] = torch.nan
        picture = torch.tensor(photo[:64, :64]).permute(2, 0, 1)[None].float() / 255 - 0.5
        calibration = calibrate(changed, [picture])
        data = (
            extractor_to_onnx(changed)
            if precision == "fp32"
            else extractor_to_int8_onnx(changed, calibration)
        )
    else:
        whole = files[name]
        data = {"garbage": b"not onnx", "cut": whole[: len(whole) // 2], "empty": b""}[what]
    damaged = Bundle.create(tmp_path / "damaged", tiny_manifest(), files | {name: data})
    for wanted in (precision, "auto"):
        with pytest.raises(BundleError, match=name) as refused:
            FeatureExtractor(damaged, precision=wanted)(photo[:64, :64])
        assert refused.value.reason == "bad_extractor"


def test_a_network_for_something_else_is_refused(
    files: dict[str, bytes], bundle: Bundle, tmp_path: Path
) -> None:
    from onnx import TensorProto, helper

    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [None, None, 3])
    output = helper.make_tensor_value_info("semantic", TensorProto.FLOAT, None)
    node = helper.make_node("Relu", ["image"], ["semantic"])
    model = helper.make_model(
        helper.make_graph([node], "other", [image], [output]),
        opset_imports=[helper.make_opsetid("", 17)],
    )
    model.ir_version = 8
    other = files | {"extractor.onnx": model.SerializeToString()}
    with pytest.raises(BundleError, match="uint8") as refused:
        FeatureExtractor(Bundle.create(tmp_path, bundle.manifest, other), precision="fp32")
    assert refused.value.reason == "bad_extractor"


def test_precisions_that_are_not_there(bundle: Bundle, files: dict[str, bytes], tmp_path: Path,
                                       monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    plain = {name: data for name, data in files.items() if name != "extractor-int8.onnx"}
    fp32_only = Bundle.create(tmp_path / "plain", tiny_manifest(), plain)
    with pytest.raises(BundleError) as refused:
        FeatureExtractor(fp32_only, precision="int8")
    assert refused.value.reason == "no_int8"
    monkeypatch.setattr(extractor_module, "fastest", refuse_to_measure)
    assert FeatureExtractor(fp32_only).precision == "fp32"
    monkeypatch.setenv(PRECISION_VARIABLE, "int4")
    with pytest.raises(BundleError) as refused:
        FeatureExtractor(bundle)
    assert refused.value.reason == "unknown_precision"
    assert FeatureExtractor(bundle, precision="int8").precision == "int8"


@pytest.mark.parametrize("winner", PRECISIONS)
def test_the_choice_is_measured_once_and_remembered(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, cache: Path, winner: Precision
) -> None:
    monkeypatch.setattr(
        extractor_module, "fastest", lambda runs, _: (winner, dict.fromkeys(runs, 1))
    )
    assert FeatureExtractor(bundle).precision == winner
    (entry,) = cache.iterdir()
    kept = json.loads(entry.read_text())
    assert kept["precision"] == winner
    assert kept["facts"]["bundle"] == bundle.id
    assert kept["facts"]["onnxruntime"] == ort.__version__
    monkeypatch.setattr(extractor_module, "fastest", refuse_to_measure)
    assert FeatureExtractor(bundle).precision == winner


def test_a_real_measurement_finds_one_of_the_two(bundle: Bundle, cache: Path) -> None:
    chosen = FeatureExtractor(bundle).precision
    (entry,) = cache.iterdir()
    kept = json.loads(entry.read_text())
    assert kept["precision"] == chosen
    taken = kept["milliseconds"]
    assert min(taken.values()) > 0
    assert chosen == ("int8" if taken["int8"] <= 0.9 * taken["fp32"] else "fp32")


@pytest.mark.parametrize("fact", ["onnxruntime", "cpu", "threads"])
def test_a_choice_for_another_machine_is_stale(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, fact: str
) -> None:
    monkeypatch.setattr(
        extractor_module, "fastest", lambda runs, _: ("int8", dict.fromkeys(runs, 1))
    )
    assert FeatureExtractor(bundle).precision == "int8"
    real = extractor_module.machine_facts
    monkeypatch.setattr(extractor_module, "machine_facts", lambda *a: {**real(*a), fact: "other"})
    monkeypatch.setattr(
        extractor_module, "fastest", lambda runs, _: ("fp32", dict.fromkeys(runs, 1))
    )
    assert FeatureExtractor(bundle).precision == "fp32"


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"\xff\x00 no json",
        b"[]",
        b'"int8"',
        b'{"precision": "int8"}',
        b'{"facts": {}, "precision": "int8"}',
        b"[" * 4000,
        json.dumps({"facts": FACTS, "precision": "int4"}).encode(),
        json.dumps({"facts": FACTS, "precision": ["int8"]}).encode(),
        json.dumps({"facts": {**FACTS, "cpu": "other"}, "precision": "int8"}).encode(),
        json.dumps({"facts": FACTS, "precision": "int8", "padding": "x" * 5000}).encode(),
    ],
)
def test_a_damaged_memory_is_forgotten_and_replaced(tmp_path: Path, damage: bytes) -> None:
    remember(tmp_path, FACTS, "int8", {"int8": 1.0, "fp32": 2.0})
    assert recall(tmp_path, FACTS) == "int8"
    (entry,) = tmp_path.iterdir()
    entry.write_bytes(damage)
    assert recall(tmp_path, FACTS) is None
    remember(tmp_path, FACTS, "fp32", {"int8": 2.0, "fp32": 1.0})
    assert recall(tmp_path, FACTS) == "fp32"
    assert list(tmp_path.iterdir()) == [entry]


def test_a_cache_that_cannot_be_written_costs_only_time(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    chosen = FeatureExtractor(bundle, cache_dir=blocked / "cache").precision
    assert chosen in PRECISIONS
    (tmp_path / "folder").mkdir()
    remember(tmp_path / "folder", FACTS, "int8", {})
    (entry,) = (tmp_path / "folder").iterdir()
    entry.unlink()
    entry.mkdir()  # what is written cannot be put in its place
    remember(tmp_path / "folder", FACTS, "int8", {})
    assert recall(tmp_path / "folder", FACTS) is None
    assert list((tmp_path / "folder").iterdir()) == [entry]
    monkeypatch.delenv(precision_module.CACHE_VARIABLE)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)

    def homeless() -> Path:
        raise RuntimeError("no home")

    monkeypatch.setattr(Path, "home", homeless)
    assert default_cache_dir() is None
    assert FeatureExtractor(bundle).precision in PRECISIONS


def test_only_a_clear_win_makes_it_int8() -> None:
    now = 0.0

    def passes(*seconds: float) -> Callable[[], None]:
        turns = iter(seconds)

        def run() -> None:
            nonlocal now
            now += next(turns)

        return run

    def choice(int8: tuple[float, ...], fp32: tuple[float, ...]) -> tuple[str, dict[str, float]]:
        return fastest({"int8": passes(*int8), "fp32": passes(*fp32)}, lambda: now)

    # The first call does not count, nor does a turn in which something else ran.
    assert choice((9, 2, 7, 3), (1, 4, 4, 4)) == ("int8", {"int8": 2000, "fp32": 4000})
    assert choice((1, 4, 4, 4), (9, 4, 4, 4))[0] == "fp32"
    assert choice((1, 3.7, 4, 4), (1, 4, 4, 4))[0] == "fp32"
    assert choice((1, 3.5, 9, 9), (1, 4, 9, 9))[0] == "int8"


def test_other_processes_turns_do_not_count() -> None:
    clock = trial_clock(1)
    started = clock()
    time.sleep(0.05)
    assert clock() - started < 0.04
    assert trial_clock(2) is time.perf_counter
