"""Checks of files by their hashes: bundles that come with Featherwire, and weights of the tasks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from shared.bundle import Bundle
from shared.doctor.finding import Finding, Role, State
from shared.errors import BundleError
from shared.installation import install_command
from shared.weights import ModelStatus, ModelStore


def check_bundles(folder: Path) -> Iterator[Finding]:
    """Every bundle of a folder: its manifest, and every file with its SHA-256."""
    manifests = sorted(folder.glob("*/manifest.json"))
    if not manifests:
        yield Finding(
            "bundles", "packaged", "problem", f"{folder} has none", install_command(again=True)
        )
    for manifest in manifests:
        name = manifest.parent.name
        try:
            bundle = Bundle.load(manifest.parent)
            bundle.verify()
        except BundleError as error:
            found = f"{error.message} [{error.reason}]"
            yield Finding("bundles", name, "problem", found, install_command(again=True))
        else:
            found = f"{bundle.manifest.codec}, id {bundle.id[:16]}, all hashes right"
            yield Finding("bundles", name, "ok", found)


def check_weights(store: ModelStore, roles: Sequence[Role]) -> Iterator[Finding]:
    """Weights of the model store, hashed anew: those of the built-in tasks, and the others.

    A server needs those of the built-in tasks; the others are for training, measuring, the demo.
    """
    missing: dict[bool, list[ModelStatus]] = {True: [], False: []}
    for model in store.verify(*store.names):
        if model.state == "missing":
            missing[model.default].append(model)
            continue
        right = model.state != "invalid"
        worst: State = "problem" if model.default and "cloud" in roles else "warning"
        yield Finding(
            "weights",
            model.name,
            "ok" if right else worst,
            model.path or "" if right else f"{model.path} has the wrong SHA-256",
            None if right else f"rm '{model.path}' && featherwire-cloud models fetch {model.name}",
        )
    if missing[True]:
        yield Finding(
            "weights",
            "of the built-in tasks",
            "problem" if "cloud" in roles else "optional",
            f"missing in {store.cache_dir}: {_names(missing[True])}",
            "featherwire-cloud models fetch",
        )
    if missing[False]:
        yield Finding(
            "weights",
            "others",
            "optional",
            f"missing: {_names(missing[False])}; for training, measuring and the demo",
            f"featherwire-cloud models fetch {' '.join(one.name for one in missing[False])}",
        )


def _names(models: Sequence[ModelStatus]) -> str:
    return ", ".join(model.name for model in models)
