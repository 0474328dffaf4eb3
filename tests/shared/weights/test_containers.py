"""Checkpoints of PyTorch are read without it: the same values, nothing is run, damage is told."""

from __future__ import annotations

import io
from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from shared.errors import ModelError
from shared.weights.containers import read_torch


def saved(value: Any) -> bytes:
    """A checkpoint in the form of before PyTorch 1.6."""
    buffer = io.BytesIO()
    torch.save(value, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


def checkpoint() -> dict[str, torch.Tensor]:
    whole = torch.arange(60, dtype=torch.float32).reshape(3, 4, 5)
    return {
        "whole": whole,
        "part": whole[1:, ::2],
        "turned": whole.permute(2, 0, 1),
        "one": torch.tensor(3.5, dtype=torch.float64),
        "count": torch.tensor([2**40], dtype=torch.int64),
        "half": torch.tensor([0.5, 1.5]).half(),
        "none": torch.zeros(0, 4),
        "parameter": torch.nn.Parameter(torch.ones(2, 2)),
    }


def test_tensors_come_out_as_torch_has_them() -> None:
    given = checkpoint()
    found = read_torch(saved(given))
    assert set(found) == set(given)
    for name, tensor in given.items():
        expected = tensor.detach().numpy()
        assert found[name].dtype == expected.dtype
        assert found[name].shape == expected.shape
        assert np.array_equal(found[name], expected), name


def test_a_network_s_state_comes_out_whole() -> None:
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    state = network.state_dict()
    assert isinstance(state, OrderedDict)
    found = read_torch(saved(state))
    assert all(np.array_equal(found[name], value.numpy()) for name, value in state.items())


def test_a_checkpoint_that_was_cut_anywhere_is_told() -> None:
    data = saved(checkpoint())
    for length in range(len(data)):
        with pytest.raises(ModelError) as caught:
            read_torch(data[:length])
        assert caught.value.reason == "damaged"


def test_a_damaged_checkpoint_is_told_or_has_other_values(rng: np.random.Generator) -> None:
    data = saved(checkpoint())
    for _ in range(100):
        changed: NDArray[np.uint8] = np.frombuffer(data, np.uint8).copy()
        changed[rng.integers(len(data), size=rng.integers(1, 4))] ^= np.uint8(rng.integers(1, 256))
        try:
            found = read_torch(changed.tobytes())
        except ModelError:
            continue
        assert sum(value.size for value in found.values()) <= len(data)


@pytest.mark.parametrize("value", [[1, 2], {"text": "no tensor"}, {"nested": {"x": torch.ones(1)}}])
def test_what_is_no_dictionary_of_tensors_is_refused(value: Any) -> None:
    with pytest.raises(ModelError):
        read_torch(saved(value))


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)
