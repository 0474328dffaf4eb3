"""Generates the protobuf stubs that are committed beside this file, or checks them.

    python -m shared.proto.generate            # write
    python -m shared.proto.generate --check    # compare with a fresh run; 1 when they differ

Needs grpcio-tools and mypy-protobuf of the versions pinned in the extra ``dev``: other versions
write other text. ``protoc`` names modules by their proto path (``featherwire.v1``); the imports are
rewritten to where the files live, ``shared.proto.featherwire.v1``.
"""

from __future__ import annotations

import argparse
import difflib
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

PROTO_ROOT = Path(__file__).resolve().parents[2] / "protos"
STUB_ROOT = Path(__file__).resolve().parent

# protoc writes a service module for every file; these have no service.
_WITHOUT_SERVICE = {
    f"featherwire/v1/{name}_pb2_grpc.{suffix}"
    for name in ("types", "worker")
    for suffix in ("py", "pyi")
}
_DOC = '"""Generated from protos/featherwire; see shared/proto/generate.py."""\n'


def main(arguments: list[str] | None = None) -> int:
    """Write or check the stubs; returns the exit code."""
    parser = argparse.ArgumentParser(description="Generate the committed protobuf stubs.")
    parser.add_argument("--check", action="store_true", help="compare only, change nothing")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        fresh = generate(Path(folder))
        if options.check:
            return _report_differences(fresh)
        _write(fresh)
    return 0


def generate(folder: Path) -> dict[str, str]:
    """Run protoc into ``folder``; returns the text of each stub by its path below shared/proto."""
    sources = sorted(
        path.relative_to(PROTO_ROOT).as_posix() for path in PROTO_ROOT.rglob("*.proto")
    )
    command = [sys.executable, "-m", "grpc_tools.protoc", f"--proto_path={PROTO_ROOT}"]
    for plugin in ("python", "grpc_python", "mypy", "mypy_grpc"):
        command.append(f"--{plugin}_out={folder}")
    subprocess.run([*command, *sources], check=True, capture_output=True, env=_plugin_path())
    texts = {"featherwire/__init__.py": _DOC, "featherwire/v1/__init__.py": _DOC}
    for path in sorted(folder.rglob("*.py*")):
        name = path.relative_to(folder).as_posix()
        if name not in _WITHOUT_SERVICE:
            texts[name] = _rewrite_imports(path.read_text())
    return texts


def _plugin_path() -> dict[str, str]:
    """An environment in which protoc finds mypy-protobuf's plug-ins beside this interpreter."""
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def _rewrite_imports(text: str) -> str:
    """Point imports of ``featherwire.v1`` at ``shared.proto``."""
    lines = []
    for line in text.splitlines():
        if re.match(r"\s*(from|import) featherwire\.v1\b", line):
            line = line.replace("featherwire.v1", "shared.proto.featherwire.v1", 1)
        lines.append(line)
    return "\n".join(lines) + "\n"


def _report_differences(fresh: dict[str, str]) -> int:
    committed = {
        path.relative_to(STUB_ROOT).as_posix(): path.read_text()
        for path in sorted((STUB_ROOT / "featherwire").rglob("*.py*"))
        if path.suffix in {".py", ".pyi"}
    }
    differing = [
        name for name in sorted({*fresh, *committed}) if fresh.get(name) != committed.get(name)
    ]
    for name in differing:
        before, after = committed.get(name, ""), fresh.get(name, "")
        diff = difflib.unified_diff(
            before.splitlines(),
            after.splitlines(),
            f"committed/{name}",
            f"fresh/{name}",
            lineterm="",
            n=1,
        )
        print("\n".join(list(diff)[:20]), file=sys.stderr)
    if differing:
        print("stubs are stale: run python -m shared.proto.generate", file=sys.stderr)
    return 1 if differing else 0


def _write(fresh: dict[str, str]) -> None:
    for name, text in fresh.items():
        path = STUB_ROOT / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


if __name__ == "__main__":
    raise SystemExit(main())
