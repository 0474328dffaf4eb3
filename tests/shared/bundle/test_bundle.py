"""Bundles: identity, hashes, folders and zips, and refusal of damaged ones."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from codec.settings import FeatureSettings
from shared.bundle import Bundle, Manifest
from shared.errors import BundleError
from shared.limits import Limits
from tests.support.tiny_bundle import codec_files, make_codec_bundle, tiny_manifest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_codec_bundle(tmp_path / "bundle")
    return tmp_path / "bundle"


def reason(source: str | Path | None, **more: object) -> str:
    with pytest.raises(BundleError) as refused:
        Bundle.load(source, **more).verify()  # type: ignore[arg-type]
    return refused.value.reason


def test_folder_and_zip_are_the_same_bundle(folder: Path, tmp_path: Path) -> None:
    bundle = Bundle.load(folder)
    packed = tmp_path / "bundle.zip"
    packed.write_bytes(bundle.to_zip())
    again = Bundle.load(packed)
    assert again.id == bundle.id == Bundle.from_zip_bytes(bundle.to_zip()).id
    assert again.short_id.hex() == bundle.id[:16]
    assert again.read("palette.npz") == bundle.read("palette.npz")
    again.verify()


def test_the_zip_is_the_same_bytes_every_time(folder: Path) -> None:
    assert Bundle.load(folder).to_zip() == Bundle.load(folder).to_zip()


def test_a_zip_without_what_the_other_side_needs_keeps_its_id(folder: Path, tmp_path: Path) -> None:
    bundle = Bundle.load(folder)
    files = {name: bundle.read(name) for name in bundle.manifest.files}
    made = Bundle.create(
        tmp_path / "with", tiny_manifest(), files | {"decoder.bin": b"x"}, {"decoder.bin": "cloud"}
    )
    light = Bundle.from_zip_bytes(made.to_zip("edge"))
    assert light.id == made.id
    assert light.read("palette.npz") == files["palette.npz"]
    assert Bundle.from_zip_bytes(made.to_zip("cloud")).read("decoder.bin") == b"x"
    with pytest.raises(BundleError) as refused:
        light.read("decoder.bin")
    assert refused.value.reason == "missing_file"


def test_formatting_the_manifest_does_not_change_the_id(folder: Path) -> None:
    before = Bundle.load(folder).id
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text())))
    assert Bundle.load(folder).id == before


def test_anything_that_changes_decoding_changes_the_id(folder: Path, tmp_path: Path) -> None:
    files = codec_files(seed=8)
    assert Bundle.create(tmp_path / "other", tiny_manifest(), files).id != Bundle.load(folder).id


def test_a_changed_file_is_found_when_it_is_read(folder: Path) -> None:
    path = folder / "palette.npz"
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    assert reason(folder) == "hash_mismatch"


def test_missing_files_are_named(folder: Path, tmp_path: Path) -> None:
    (folder / "contexts.npz").unlink()
    assert reason(folder) == "missing_file"
    assert reason(tmp_path / "nowhere") == "not_found"
    assert reason("no-such-name") == "not_found"
    (tmp_path / "empty").mkdir()
    assert reason(tmp_path / "empty") == "missing_file"
    with pytest.raises(BundleError) as refused:
        Bundle.load(folder).read("decoder.safetensors")
    assert refused.value.reason == "missing_file"


def test_a_file_that_grew_is_not_even_read(folder: Path) -> None:
    with (folder / "palette.npz").open("ab") as file:
        file.write(b"more")
    assert reason(folder) == "limit_exceeded"


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"format": "featherwire-bundle/3"}, "format"),
        ({"name": "../evil"}, "name"),
        ({"surprise": 1}, "surprise"),
        ({"states": [{"state": 1, "typical_bits_per_pixel": 1, "begins": True}]}, "from 0 up"),
        ({"states": [{"state": 0, "typical_bits_per_pixel": 1}]}, "coarsest"),
        ({"tasks": ["a", "a"]}, "two tails"),
        ({"pictures": [{"name": "a"}, {"name": "a"}]}, "two decoders"),
        ({"files": {"../../etc/passwd": {"sha256": "0" * 64, "size_bytes": 1}}}, "files"),
        ({"states": []}, "states"),
    ],
)
def test_a_bad_manifest_is_refused_and_says_where(
    folder: Path, change: dict[str, object], where: str
) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(BundleError, match=where) as refused:
        Bundle.load(folder)
    assert refused.value.reason == "bad_manifest"


def test_a_manifest_that_contradicts_itself_is_refused() -> None:
    planes = FeatureSettings.model_validate(tiny_manifest().settings).planes
    for broken in (
        {"planes": (planes[0].model_copy(update={"scale": "nowhere"}), *planes[1:])},
        {"planes": (planes[0].model_copy(update={"channels": 9}), *planes[1:])},
        {"planes": (planes[0], planes[0], planes[2])},
        {"input_multiple": 12},
    ):
        with pytest.raises(ValueError, match=r"plane|input_multiple"):
            tiny_manifest(**broken)


def test_what_is_no_manifest_is_refused() -> None:
    for data in (b"", b"{", b"[]", b"\xff\xfe", b"null"):
        with pytest.raises(BundleError) as refused:
            Manifest.parse(data)
        assert refused.value.reason == "bad_manifest"


def zipped(entries: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def test_hostile_zips_are_refused(folder: Path, tmp_path: Path) -> None:
    manifest = (folder / "manifest.json").read_bytes()
    small = Limits(max_bundle_bytes=100_000)
    bomb = zipped({"manifest.json": manifest, "palette.npz": bytes(10_000_000)})
    for data, expected in (
        (b"PK\x03\x04 not really", "bad_zip"),
        (zipped({}), "missing_file"),
        (bomb, "limit_exceeded"),
        (zipped({f"f{n}": b"" for n in range(300)}), "limit_exceeded"),
        (bytes(200_000), "limit_exceeded"),
    ):
        with pytest.raises(BundleError) as refused:
            Bundle.from_zip_bytes(data, limits=small)
        assert refused.value.reason == expected
    path = tmp_path / "large.zip"
    path.write_bytes(bytes(200_000))
    assert reason(path, limits=small) == "limit_exceeded"
    # A member that claims another size than the manifest does is not unpacked at all.
    wrong = Bundle.from_zip_bytes(zipped({"manifest.json": manifest, "palette.npz": bytes(10**6)}))
    with pytest.raises(BundleError) as refused:
        wrong.read("palette.npz")
    assert refused.value.reason == "limit_exceeded"


def test_every_mutation_of_a_zip_is_refused_or_harmless(folder: Path) -> None:
    good = Bundle.load(folder)
    data = good.to_zip()
    rng = np.random.default_rng(4)
    harmless = 0
    for _ in range(400):
        mutated = bytearray(data)
        for _ in range(int(rng.integers(1, 4))):
            mutated[int(rng.integers(len(mutated)))] = int(rng.integers(256))
        try:
            bundle = Bundle.from_zip_bytes(bytes(mutated))
            contents = {name: bundle.read(name) for name in bundle.manifest.files}
        except BundleError:
            continue
        harmless += 1
        if bundle.id == good.id:
            assert contents == {name: good.read(name) for name in good.manifest.files}
    assert harmless < 400


def test_arrays_are_read_without_pickle(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, evil=np.array([{"a": 1}], dtype=object))
    files = {"evil.npz": buffer.getvalue(), "broken.npz": b"PK\x03\x04"}
    bundle = Bundle.create(tmp_path, tiny_manifest(), files)
    for name in files:
        with pytest.raises(BundleError) as refused:
            bundle.read_arrays(name)
        assert refused.value.reason == "bad_arrays"
