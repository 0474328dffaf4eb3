"""Weights rewritten as safetensors: nothing is run, and nothing is lost."""

from __future__ import annotations

import io
import os
import pickle
import zipfile

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load, load_file

from shared.errors import ModelError
from shared.weights.containers import to_safetensors
from shared.weights.convert import lpips_head, squeezenet_from_pickle
from tests.support.real_store import fetched


class Trap:
    def __reduce__(self):
        return os.system, ("touch trapped",)


@pytest.mark.parametrize("read", [squeezenet_from_pickle, lpips_head])
def test_a_pickle_that_would_run_a_command_is_refused(read, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError) as caught:
        read(pickle.dumps({"conv1": Trap()}, protocol=2))
    assert caught.value.reason == "damaged"
    assert list(tmp_path.iterdir()) == []


def test_a_torch_archive_that_would_run_a_command_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("x/data.pkl", pickle.dumps(Trap(), protocol=2))
        archive.writestr("x/version", "3\n")
    with pytest.raises(ModelError):
        lpips_head(buffer.getvalue())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "content",
    [
        [1, 2],
        {"conv1": [np.zeros((3, 3, 3, 64))]},
        {"conv1": [np.zeros((3, 3)), np.zeros(3)]},
        {"fire99/squeeze1x1": [np.zeros((1, 1, 2, 2)), np.zeros(2)]},
        {"fire2/other": [np.zeros((1, 1, 2, 2)), np.zeros(2)]},
    ],
)
def test_unexpected_layers_are_refused(content):
    with pytest.raises(ModelError):
        squeezenet_from_pickle(pickle.dumps(content, protocol=3))


@pytest.mark.parametrize("data", [b"", b"\x80\x02", b"garbage" * 10])
def test_damaged_weights_are_refused(data):
    for read in (squeezenet_from_pickle, lpips_head):
        with pytest.raises(ModelError):
            read(data)


def test_safetensors_read_back_and_are_the_same_bytes_in_any_order():
    rng = np.random.default_rng(1)
    tensors = {
        name: rng.normal(size=shape).astype(np.float32)
        for name, shape in (("b", (2, 3)), ("a", (5,)), ("empty", (0, 4)))
    }
    data = to_safetensors(tensors)
    assert data == to_safetensors(dict(reversed(tensors.items())))
    loaded = load(data)
    assert set(loaded) == set(tensors)
    assert all(np.array_equal(loaded[name], tensors[name]) for name in tensors)


@pytest.mark.parametrize(("photo", "label"), [("chelsea", 285), ("coffee", 967)])
def test_the_converted_squeezenet_names_photos(photos, photo, label):
    """285 is ImageNet's Egyptian cat, 967 espresso."""
    import torch
    from torch.nn.functional import conv2d, max_pool2d, relu

    store = fetched("squeezenet-1.1")
    weights = load_file(store.path("squeezenet-1.1"))
    w = {name: torch.from_numpy(value) for name, value in weights.items()}

    def conv(x, name, **options):
        return relu(conv2d(x, w[f"{name}.weight"], w[f"{name}.bias"], **options))

    image = np.asarray(Image.fromarray(photos[photo]).resize((227, 227)))
    x = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float()
    x = x - torch.tensor([123.68, 116.779, 103.939]).view(1, 3, 1, 1)
    x = max_pool2d(conv(x, "features.0", stride=2), 3, 2)
    for position in (3, 4, 0, 6, 7, 0, 9, 10, 11, 12):
        if position == 0:
            x = max_pool2d(x, 3, 2)
            continue
        fire = f"features.{position}"
        squeezed = conv(x, f"{fire}.squeeze")
        wide = conv(squeezed, f"{fire}.expand3x3", padding=1)
        x = torch.cat([conv(squeezed, f"{fire}.expand1x1"), wide], 1)
    assert int(conv(x, "classifier.1").mean((2, 3)).argmax()) == label


def test_the_lpips_heads_weigh_every_feature_map():
    store = fetched("lpips-squeeze")
    heads = load_file(store.path("lpips-squeeze"))
    channels = [64, 128, 256, 384, 384, 512, 512]
    assert [heads[f"lin{k}.weight"].shape for k in range(7)] == [(1, c, 1, 1) for c in channels]
    assert all((weight >= 0).all() and (weight > 0).any() for weight in heads.values())
