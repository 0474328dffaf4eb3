"""The pinned versions are whole, agree with what we ask for, and never bring two of a kind."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def pins(name: str) -> dict[str, str]:
    """Canonical package name to version."""
    lines = (ROOT / name).read_text().splitlines()
    pairs = (line.split("==") for line in lines if line and not line.startswith("#"))
    return {canonicalize_name(package): version for package, version in pairs}


def requirements(*extras: str) -> list[Requirement]:
    """What the given extras ask for, ours (`featherwire[...]`) unfolded; the base included."""
    texts = list(PROJECT["dependencies"])
    for extra in extras:
        texts += PROJECT["optional-dependencies"][extra]
    parsed = [Requirement(text) for text in texts]
    nested = {extra for one in parsed if one.name == "featherwire" for extra in one.extras}
    own = [one for one in parsed if one.name != "featherwire"]
    return own + (requirements(*sorted(nested)) if nested else [])


@pytest.mark.parametrize(
    ("file", "extras"),
    [
        (
            "constraints.txt",
            (
                "edge",
                "cloud",
                "console",
                "postgres",
                "ray",
                "tasks",
                "ultralytics",
                "train",
                "jxl",
                "demo",
                "dev",
            ),
        ),
        ("constraints-edge.txt", ("edge", "stream", "mqtt", "webhook")),
    ],
)
def test_every_requirement_is_pinned_to_a_version_that_it_allows(
    file: str, extras: tuple[str, ...]
) -> None:
    pinned = pins(file)
    for requirement in requirements(*extras):
        version = pinned[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), (str(requirement), version)


def test_the_two_files_differ_in_numpy_alone() -> None:
    everything, edge = pins("constraints.txt"), pins("constraints-edge.txt")
    assert {name for name, version in edge.items() if everything[name] != version} == {"numpy"}


def test_no_two_packages_of_the_same_files() -> None:
    """opencv-python beside its headless twin, onnxruntime beside its GPU twin: broken installs."""
    pinned = set(pins("constraints.txt"))
    assert "opencv-python-headless" in pinned
    assert not pinned & {"opencv-python", "opencv-contrib-python", "onnxruntime-gpu"}
    for plain, with_gpu in (("edge", "gpu"), ("cloud", "cloud-gpu")):
        ours = {canonicalize_name(one.name) for one in requirements(plain)}
        theirs = {canonicalize_name(one.name) for one in requirements(with_gpu)}
        assert ours ^ theirs == {"onnxruntime", "onnxruntime-gpu"}
        assert "onnxruntime" in ours


def test_cuda_is_not_pinned() -> None:
    heavy = [name for name in pins("constraints.txt") if name.startswith(("nvidia-cu", "triton"))]
    assert heavy == []


def test_edge_asks_for_nothing_of_the_cloud() -> None:
    names = {canonicalize_name(one.name) for one in requirements("edge")}
    assert not names & {"torch", "torchvision", "diffusers", "opencv-python-headless", "pandas"}
