"""The exported ONNX files compute what the torch extractor does: to float noise, and in int8."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import numpy_helper

from codec.kit.bisect import fit_leaves, nearest
from codec.kit.rounding import compensated_rounding
from codec.markov_palette.train.extractor_onnx import (
    calibrate,
    extractor_to_int8_onnx,
    extractor_to_onnx,
)
from codec.markov_palette.train.networks import Extractor, ExtractorConfig

Latents = dict[str, np.ndarray]
WIDTHS = (32, 64, 96)
INT8_SNR_DB = 20.0
"""Least variance of the latents over the power of int8's error, with untrained weights."""
CALIBRATED_ON = ("astronaut", "coffee", "rocket", "flower")
HELD_OUT = ("chelsea", "china")


def seeded(config: ExtractorConfig) -> Extractor:
    """An untrained extractor whose heads matter as much as its projections."""
    torch.manual_seed(3)
    extractor = Extractor(config).eval()
    with torch.no_grad():
        for head in (extractor.semantic, extractor.texture):
            head.weight.normal_(0, 40 / head.weight[0].numel() ** 0.5)
            head.bias.normal_(0, 4)
        for linear in (extractor.semantic_linear, extractor.texture_linear):
            linear.weight.normal_(0, 60 / linear.weight[0].numel() ** 0.5)
    return extractor


@pytest.fixture(scope="module")
def extractor() -> Extractor:
    return seeded(ExtractorConfig(widths=WIDTHS))


@pytest.fixture(scope="module")
def int8_file(extractor: Extractor, photos: dict[str, np.ndarray]) -> bytes:
    pictures = (centred(photos[name][:208, :256]) for name in CALIBRATED_ON)
    return extractor_to_int8_onnx(extractor, calibrate(extractor, pictures))


def centred(photo: np.ndarray) -> torch.Tensor:
    return torch.tensor(photo).permute(2, 0, 1)[None].float() / 255 - 0.5


def by_torch(extractor: Extractor, photo: np.ndarray) -> Latents:
    with torch.inference_mode():
        outputs = extractor(centred(photo))
    return {n: o[0].numpy() for n, o in zip(("semantic", "texture"), outputs, strict=True)}


def runner(file: bytes) -> Callable[[np.ndarray], Latents]:
    session = ort.InferenceSession(file, providers=["CPUExecutionProvider"])
    names = ["semantic", "texture"]
    return lambda photo: dict(zip(names, session.run(names, {"image": photo}), strict=True))


def initialisers(file: bytes) -> dict[str, np.ndarray]:
    graph = onnx.load_from_string(file).graph
    return {item.name: numpy_helper.to_array(item) for item in graph.initializer}


@pytest.mark.parametrize("size", [(16, 16), (64, 16), (16, 80), (208, 304)])
def test_fp32_is_torch_to_float_noise(
    extractor: Extractor, photos: dict[str, np.ndarray], size: tuple[int, int]
) -> None:
    photo = np.ascontiguousarray(photos["chelsea"][: size[0], : size[1]])
    run = runner(extractor_to_onnx(extractor))
    expected = by_torch(extractor, photo)
    for name, values in run(photo).items():
        np.testing.assert_allclose(values, expected[name], atol=2e-5)
        assert expected[name].std() > 0.1  # otherwise anything would agree


@pytest.mark.parametrize(
    "config",
    [
        ExtractorConfig(8, 3, (8, 12, 16), 1, 0),
        ExtractorConfig(4, 4, (8, 8, 8), 0, 2),
    ],
)
def test_every_shape_of_network_is_exported(
    config: ExtractorConfig, photos: dict[str, np.ndarray]
) -> None:
    extractor = seeded(config)
    photo = np.ascontiguousarray(photos["coffee"][:96, :112])
    expected = by_torch(extractor, photo)
    calibration = calibrate(extractor, [centred(photo)])
    fp32 = runner(extractor_to_onnx(extractor))(photo)
    int8 = runner(extractor_to_int8_onnx(extractor, calibration))(photo)
    for name, values in expected.items():
        np.testing.assert_allclose(fp32[name], values, atol=2e-5)
        assert int8[name].shape == values.shape
        assert np.corrcoef(int8[name].ravel(), values.ravel())[0, 1] > 0.99


def test_files_are_the_same_bytes_every_time_and_hold_no_prediction(
    extractor: Extractor, int8_file: bytes, photos: dict[str, np.ndarray]
) -> None:
    fp32 = extractor_to_onnx(extractor)
    assert fp32 == extractor_to_onnx(extractor)
    pictures = [centred(photos[name][:208, :256]) for name in CALIBRATED_ON]
    assert int8_file == extractor_to_int8_onnx(extractor, calibrate(extractor, pictures))
    for file in (fp32, int8_file):
        assert not any("prediction" in name for name in initialisers(file))
    assert len(int8_file) < len(fp32) / 2


def test_int8_weights_cannot_saturate_where_there_is_no_vnni(int8_file: bytes) -> None:
    """Without it two products of uint8 and int8 are added in int16, and saturate beyond it."""
    weights = [values for values in initialisers(int8_file).values() if values.dtype == np.int8]
    assert sum(values.size for values in weights) > 200_000
    largest = max(int(np.abs(values.astype(int)).max()) for values in weights)
    assert largest > 32  # seven bits are used
    assert 2 * 255 * largest < 2**15


@pytest.mark.parametrize("name", HELD_OUT)
def test_int8_error_is_far_below_the_latents(
    convolutions: Extractor, photos: dict[str, np.ndarray], name: str
) -> None:
    """Without the projections, which are in float32 in both files."""
    pictures = [centred(photos[name][:208, :256]) for name in CALIBRATED_ON]
    file = extractor_to_int8_onnx(convolutions, calibrate(convolutions, pictures))
    photo = np.ascontiguousarray(photos[name][:288, :432])
    exact, held = runner(extractor_to_onnx(convolutions))(photo), runner(file)(photo)
    for scale, values in exact.items():
        noise = held[scale] - values
        power = np.square(values - values.mean((1, 2), keepdims=True)).mean()
        assert 10 * np.log10(power / np.square(noise).mean()) > INT8_SNR_DB
        # A shift of a whole channel would be a colour cast, however small its power.
        assert np.abs(noise.mean((1, 2))).max() < 0.05 * np.sqrt(power)


@pytest.fixture(scope="module")
def convolutions(extractor: Extractor) -> Extractor:
    """The extractor with its projections taken out."""
    rest = Extractor(extractor.config).eval()
    rest.load_state_dict(extractor.state_dict())
    with torch.no_grad():
        rest.semantic_linear.weight.zero_()
        rest.texture_linear.weight.zero_()
    return rest


def test_a_channel_that_is_only_a_bias_is_held(photos: dict[str, np.ndarray]) -> None:
    """Training leaves some channels without weights; their bias must still fit."""
    extractor = seeded(ExtractorConfig(4, 4, (8, 8, 8), 1, 1))
    photo = np.ascontiguousarray(photos["coffee"][:96, :112])
    with torch.no_grad():
        for layer, number in ((extractor.quarter, 2), (extractor.eighth.first, 0)):
            layer.weight[number].zero_()
            layer.bias[number] = 1.5
    run = runner(extractor_to_int8_onnx(extractor, calibrate(extractor, [centred(photo)])))
    expected = by_torch(extractor, photo)
    for name, values in run(photo).items():
        assert np.corrcoef(values.ravel(), expected[name].ravel())[0, 1] > 0.99


def test_compensated_rounding_changes_the_outputs_less() -> None:
    rng = np.random.default_rng(5)
    mixed = rng.standard_normal((300, 40)) @ rng.standard_normal((40, 150))
    inputs = np.maximum(mixed + rng.standard_normal((300, 150)), 0)
    weight = rng.standard_normal((16, 150))
    scales = np.abs(weight).max(1) / 7
    covariance = np.cov(inputs.T, bias=True)
    nearest_steps = np.rint(weight / scales[:, None])
    steps = compensated_rounding(weight, scales, covariance, 7)
    assert np.abs(steps).max() <= 7

    def error(integers: np.ndarray) -> float:
        difference = weight - integers * scales[:, None]
        return float(np.einsum("ok,kj,oj->", difference, covariance, difference))

    assert error(steps) < 0.6 * error(nearest_steps)


@pytest.mark.parametrize(("scale", "channels"), [("semantic", 8), ("texture", 6)])
def test_int8_takes_the_same_leaves_almost_always(
    extractor: Extractor,
    int8_file: bytes,
    photos: dict[str, np.ndarray],
    scale: str,
    channels: int,
) -> None:
    """And where it does not, the other leaf is about as near: the error hardly grows."""
    fp32 = runner(extractor_to_onnx(extractor))
    int8 = runner(int8_file)

    def vectors(run: Callable[[np.ndarray], Latents], names: tuple[str, ...]) -> torch.Tensor:
        found = [run(np.ascontiguousarray(photos[n][:288, :400]))[scale][:channels] for n in names]
        return torch.from_numpy(np.concatenate([v.reshape(channels, -1) for v in found], 1).T)

    leaves, _ = fit_leaves(vectors(fp32, CALIBRATED_ON).contiguous(), 7)
    exact, held = (vectors(run, HELD_OUT).contiguous() for run in (fp32, int8))
    by_exact, by_held = nearest(exact, leaves), nearest(held, leaves)
    assert (by_exact == by_held).float().mean() > 0.9
    errors = [float((exact - leaves[index]).square().mean()) for index in (by_exact, by_held)]
    assert errors[1] < 1.01 * errors[0]


def test_calibration_needs_pictures(extractor: Extractor) -> None:
    with pytest.raises(ValueError, match="at least one picture"):
        calibrate(extractor, [])


def test_calibration_sees_what_activations_take(
    extractor: Extractor, photos: dict[str, np.ndarray]
) -> None:
    calibration = calibrate(extractor, [centred(photos["astronaut"][:128, :128])])
    for name, held in calibration.activations.items():
        assert 0 < held.scale < 1
        signed = name.endswith(".second")
        assert (0 < held.zero_point < 255) if signed else held.zero_point == 0
    for name, seen in calibration.patches.items():
        layer = extractor.get_submodule(name)
        assert seen.mean.shape == (layer.weight[0].numel(),)
        if name != "stem":
            assert (seen.mean >= 0).all()
        assert (np.diag(seen.covariance) > -1e-6).all()
