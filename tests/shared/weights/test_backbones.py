"""Networks out of frozen graphs and torch checkpoints: nothing is run, damage is told."""

from __future__ import annotations

import io
import os
import pickle
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import ModelError
from shared.weights.containers import float_constants
from shared.weights.convert import efficientnet_lite0, ssd_mobilenetv3_backbone
from tests.support.real_store import fetched


def field(number: int, payload: bytes) -> bytes:
    """A length-delimited protobuf field of up to 127 bytes."""
    return bytes([number << 3 | 2, len(payload)]) + payload


def constant(name: str, shape: list[int], content: bytes, op: bytes = b"Const") -> bytes:
    """A GraphDef's serialised node with a float tensor, written by hand."""
    dims = b"".join(field(2, bytes([1 << 3, size])) for size in shape)
    tensor = bytes([1 << 3, 1]) + field(2, dims) + field(4, content)
    attribute = field(1, b"value") + field(2, field(8, tensor))
    return field(1, field(1, name.encode()) + field(2, op) + field(5, attribute))


def test_constants_are_read_by_name_and_shape() -> None:
    values = np.arange(6, dtype="<f4")
    graph = constant("a", [2, 3], values.tobytes()) + constant("b", [6], values.tobytes(), b"Add")
    found = float_constants(graph)
    assert set(found) == {"a"}
    np.testing.assert_array_equal(found["a"], values.reshape(2, 3))


def test_a_constant_that_does_not_fill_its_shape_is_damage() -> None:
    for content in (b"", bytes(8), bytes(7)):
        with pytest.raises(ModelError) as caught:
            float_constants(constant("a", [2, 3], content))
        assert caught.value.reason == "damaged"


@given(st.binary(max_size=200))
def test_whatever_is_no_graph_with_the_network_is_refused(data: bytes) -> None:
    with pytest.raises(ModelError) as caught:
        ssd_mobilenetv3_backbone(data)
    assert caught.value.reason == "damaged"


def test_a_cut_graph_is_refused() -> None:
    data = fetched("ssd-mobilenetv3-coco").path("ssd-mobilenetv3-coco").read_bytes()
    for length in (100_000, len(data) // 3):
        with pytest.raises(ModelError):
            ssd_mobilenetv3_backbone(data[:length])


class Trap:
    def __reduce__(self):
        return os.system, ("touch trapped",)


def test_a_checkpoint_that_would_run_a_command_is_refused(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("x/data.pkl", pickle.dumps(Trap(), protocol=2))
        archive.writestr("x/version", "3\n")
    for data in (buffer.getvalue(), pickle.dumps(Trap(), protocol=2), b"", b"garbage"):
        with pytest.raises(ModelError) as caught:
            efficientnet_lite0(data)
        assert caught.value.reason == "damaged"
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_of_another_network_is_refused() -> None:
    buffer = io.BytesIO()
    torch.save({"features.0.weight": torch.zeros(1)}, buffer)
    with pytest.raises(ModelError) as caught:
        efficientnet_lite0(buffer.getvalue())
    assert caught.value.reason == "damaged"
