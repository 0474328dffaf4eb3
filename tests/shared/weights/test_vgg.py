"""VGG16 out of HED's HDF5 file, and DISTS' weights: whole, in order, and nothing is run."""

from __future__ import annotations

import io
import os
import pickle
import zipfile

import numpy as np
import pytest
from safetensors.numpy import load_file

from shared.errors import ModelError
from shared.weights.convert import HED_BYTES, dists_weights, hed_vgg16
from tests.support.real_store import fetched

HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"


def test_arrays_are_taken_from_their_places_and_turned_to_rgb() -> None:
    data = bytearray(HDF5_SIGNATURE + bytes(HED_BYTES - 8))
    kernel = np.arange(3 * 3 * 3 * 64, dtype="<f4")
    data[10_992 : 10_992 + kernel.nbytes] = kernel.tobytes()
    data[19_952 : 19_952 + 256] = np.full(64, 7, "<f4").tobytes()
    tensors = hed_vgg16(bytes(data))
    assert len(tensors) == 26
    assert tensors["conv5_3.weight"].shape == (512, 512, 3, 3)
    height_width_in_out = kernel.reshape(3, 3, 3, 64)
    found = tensors["conv1_1.weight"]
    assert found[5, 0, 1, 2] == height_width_in_out[1, 2, 2, 5]  # red was last
    assert found[5, 2, 1, 2] == height_width_in_out[1, 2, 0, 5]
    assert (tensors["conv1_1.bias"] == 7).all()


def test_other_files_are_refused() -> None:
    not_finite = bytearray(HDF5_SIGNATURE + bytes(HED_BYTES - 8))
    not_finite[19_952 : 19_952 + 4] = np.float32(np.nan).tobytes()
    for data in (b"", b"x" * HED_BYTES, HDF5_SIGNATURE, bytes(not_finite)):
        with pytest.raises(ModelError) as caught:
            hed_vgg16(data)
        assert caught.value.reason == "damaged"


class Trap:
    def __reduce__(self):
        return os.system, ("touch trapped",)


def test_a_torch_file_that_would_run_a_command_is_refused(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("x/data.pkl", pickle.dumps({"alpha": Trap()}, protocol=2))
        archive.writestr("x/version", "3\n")
    for data in (b"", b"garbage" * 10, buffer.getvalue(), pickle.dumps(Trap(), protocol=2)):
        with pytest.raises(ModelError):
            dists_weights(data)
    assert list(tmp_path.iterdir()) == []


def test_the_real_files_hold_what_the_distances_need() -> None:
    names = ("vgg16-hed", "lpips-vgg", "dists-weights")
    store = fetched(*names)
    vgg, lpips, dists = (load_file(store.path(name)) for name in names)
    assert sum(tensor.size for tensor in vgg.values()) == 14_714_688  # VGG16 without its head
    assert [lpips[f"lin{k}.weight"].size for k in range(5)] == [64, 128, 256, 512, 512]
    assert all((weight >= 0).all() for weight in (*lpips.values(), *dists.values()))
    assert float(dists["alpha"].sum() + dists["beta"].sum()) == pytest.approx(1, abs=1e-3)
