"""Native libraries that crash, hang or miss the GPU, each in a real child process."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.doctor import Installed, runtime
from shared.doctor.runtime import check_runtimes, probe

BOTH = Installed("1.0", {}, {"onnxruntime": "1.20", "torch": "2.6"})


@pytest.mark.parametrize(
    ("script", "error"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "crashed (signal 11)"),
        ("import no_such_library", "ModuleNotFoundError: No module named 'no_such_library'"),
        ("raise SystemExit(3)", "exit status 3"),
        ("import time; time.sleep(60)", "no answer within 2 s"),
        ("print('no JSON')", "answered nothing that could be read"),
        ("pass", "answered nothing that could be read"),
        ("print([1])", "answered no object"),
    ],
)
def test_a_library_that_fails_is_an_error_in_a_line(script: str, error: str) -> None:
    answer = probe(script, timeout_s=2)
    assert answer.values is None
    assert answer.error == error


def test_what_a_library_writes_before_its_answer_does_not_matter() -> None:
    assert probe("print('hello'); print('{\"version\": \"1\"}')").values == {"version": "1"}


def pretend(folder: Path, name: str, source: str) -> None:
    """A module in the place of a library, for the child processes."""
    (folder / f"{name}.py").write_text(source)


@pytest.fixture
def fakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path


def test_a_broken_library_is_a_problem_for_the_roles_that_need_it(fakes: Path) -> None:
    pretend(fakes, "onnxruntime", "raise ImportError('libcudart.so.12: no such file')")
    pretend(fakes, "torch", "import os; os.abort()")
    found = {one.name: one for one in check_runtimes(BOTH, ["edge"], [])}
    assert found["base packages"].state == "ok"
    assert found["onnxruntime"].state == "problem"
    assert "libcudart.so.12" in found["onnxruntime"].found
    assert found["onnxruntime"].mend == "pip install --force-reinstall onnxruntime"
    assert found["torch"].state == "warning"  # a device does not need it
    assert "crashed (signal 6)" in found["torch"].found
    assert {one.name: one for one in check_runtimes(BOTH, ["cloud"], [])}["torch"].state == (
        "problem"
    )


ONNXRUNTIME = "__version__ = '1'\ndef get_available_providers(): return {providers}"
TORCH = """
__version__ = "2"
class cuda:
    def device_count(): return {count}
    def get_device_name(number): return "H200"
"""


def test_libraries_that_do_not_reach_the_gpu_say_so(fakes: Path) -> None:
    pretend(fakes, "onnxruntime", ONNXRUNTIME.format(providers=["CPUExecutionProvider"]))
    pretend(fakes, "torch", TORCH.format(count=0))
    found = {one.name: one for one in check_runtimes(BOTH, ["cloud"], ["H200"])}
    assert found["gpu"].found == "H200"
    for name in ("onnxruntime", "torch"):
        assert found[name].state == "optional"
        assert "does not reach the GPU" in found[name].found
        assert found[name].mend is not None
    found = {one.name: one for one in check_runtimes(BOTH, ["cloud"], [])}
    assert (found["torch"].state, found["onnxruntime"].state) == ("ok", "ok")
    assert found["torch"].found == "2 (CPU alone)"


def test_libraries_that_reach_the_gpu_name_it(fakes: Path) -> None:
    providers = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    pretend(fakes, "onnxruntime", ONNXRUNTIME.format(providers=providers))
    pretend(fakes, "torch", TORCH.format(count=1))
    found = {one.name: one for one in check_runtimes(BOTH, ["cloud"], ["H200"])}
    assert (found["torch"].state, found["torch"].found) == ("ok", "2 (H200)")
    assert found["onnxruntime"].state == "ok"


def test_a_driver_is_asked_for_its_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'NVIDIA H200'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert runtime.gpus() == ["NVIDIA H200"]
    program.write_text("#!/bin/sh\necho 'NVIDIA-SMI has failed'\nexit 9\n")
    assert runtime.gpus() == []
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert runtime.gpus() == []
