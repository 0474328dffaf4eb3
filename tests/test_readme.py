"""The commands of the README and of the documents work: each page's blocks run, in order, in a
folder of real photos.

Blocks marked ``console`` (lines after ``$ `` are commands), ``bash``, ``sh`` and ``python`` run,
with the commands of the environment that runs the tests. ``featherwire-cloud serve`` is started in
the background on a free port, waited for by its health service, and drained at the end; port 7570
in what follows means that port. What is not run is in ``NOT_RUN``, with the reason.

The folder holds the files of ``PHOTO_FILES``, and all of them again in ``photos/``: a page that
uses other names fails here, so its examples stay within these.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.support.photos import PHOTO_FILES

ROOT = Path(__file__).resolve().parents[1]
PAGES = (
    "README.md",
    "docs/start.md",
    "docs/howto/device.md",
    "docs/howto/operator.md",
    "docs/howto/service.md",
)
"""Pages whose blocks run; the others speak of clusters, cameras and days of training."""
RUN_LANGUAGES = ("console", "bash", "sh", "python")
README_PORT = "7570"
MARKDOWN = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
COMMAND_TIMEOUT_S = 120
SERVER_START_TIMEOUT_S = 90

# A command that starts so is not run here, for this reason.
NOT_RUN = {
    "git clone": "this is the clone",
    "cd ": "the commands run in a folder of photos",
    "docker": "needs a container engine",
    "pip install": "tests/packaging installs for real",
    "python -m venv": "tests/packaging installs for real",
    "python3.11 -m venv": "tests/packaging installs for real",
    "source ": "the environment is the one that runs the tests",
    ".ci/run": "it runs these tests",
    "featherwire-cloud fleet cancel": "no command waits: a device that sends answers at once",
}


@dataclass(frozen=True)
class Block:
    language: str
    line: int  # in the page, from 1
    text: str
    page: str = "README.md"

    def commands(self) -> list[str]:
        """Shell commands of the block, continuation lines joined, comments and output left out."""
        joined = self.text.replace("\\\n", " ")
        lines = [line.strip() for line in joined.splitlines()]
        if self.language == "console":
            lines = [line[2:] for line in lines if line.startswith("$ ")]
        return [line for line in lines if line and not line.startswith("#")]


def blocks(markdown: str, page: str = "README.md") -> list[Block]:
    """The fenced blocks of a Markdown text that are meant to run."""
    found = []
    fence = re.compile(r"^```(\w+)[^\n]*\n(.*?)^```\s*$", re.MULTILINE | re.DOTALL)
    for match in fence.finditer(markdown):
        if match[1] in RUN_LANGUAGES:
            line = markdown.count("\n", 0, match.start()) + 1
            found.append(Block(match[1], line, match[2], page))
    return found


@dataclass
class Shell:
    """Runs commands in a folder; keeps the servers that they start."""

    folder: Path
    servers: list[subprocess.Popen[bytes]] = field(default_factory=list)
    port: int | None = None

    def run(self, block: Block) -> None:
        if block.language == "python":
            self._run([sys.executable, "-c", self._with_port(block.text)], block, "python block")
            return
        for command in block.commands():
            if command.startswith("make "):
                # Its targets run elsewhere and are long; here they must exist and be well formed.
                words = shlex.split(command, comments=True)
                self._run(["make", "-n", *words[1:]], block, command, cwd=ROOT)
            elif command.startswith("featherwire-cloud serve"):
                self._serve(command.removesuffix("&").strip(), block)
            elif not any(command.startswith(start) for start in NOT_RUN):
                self._run(["bash", "-euc", self._with_port(command)], block, command)

    def close(self) -> None:
        """Drain the servers as an operator would; they must end by themselves, without an error."""
        for server in self.servers:
            server.send_signal(signal.SIGTERM)
        try:
            codes = [server.wait(timeout=60) for server in self.servers]
        finally:
            for server in self.servers:
                server.kill()
        assert codes == [0] * len(codes)

    def _run(self, command: list[str], block: Block, shown: str, cwd: Path | None = None) -> None:
        done = subprocess.run(
            command,
            cwd=cwd or self.folder,
            env=self._environment(),
            capture_output=True,
            text=True,
            timeout=COMMAND_TIMEOUT_S,
        )
        assert done.returncode == 0, (
            f"{block.page}:{block.line}: `{shown}` exited with {done.returncode}\n"
            f"{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        )

    def _serve(self, command: str, block: Block) -> None:
        assert self.port is None, f"{block.page}:{block.line}: a second server"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        log = self.folder / "server.log"
        with log.open("wb") as output:
            server = subprocess.Popen(
                shlex.split(self._with_port(command)),
                cwd=self.folder,
                env={**self._environment(), "FEATHERWIRE_LISTEN": f"127.0.0.1:{self.port}"},
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        self.servers.append(server)
        check = [sys.executable, str(ROOT / "deploy/healthcheck.py"), f"localhost:{self.port}"]
        deadline = time.monotonic() + SERVER_START_TIMEOUT_S
        while subprocess.run(check, capture_output=True).returncode != 0:
            text = log.read_text(errors="replace")[-2000:]
            assert server.poll() is None, f"{block.page}:{block.line}: the server ended\n{text}"
            assert time.monotonic() < deadline, (
                f"{block.page}:{block.line}: it never served\n{text}"
            )
            time.sleep(0.2)

    def _with_port(self, text: str) -> str:
        return text if self.port is None else text.replace(README_PORT, str(self.port))

    def _environment(self) -> dict[str, str]:
        binaries = Path(sys.executable).parent
        return {**os.environ, "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}"}


@pytest.fixture
def shell(tmp_path: Path, photos: dict[str, NDArray[np.uint8]]) -> Iterator[Shell]:
    (tmp_path / "photos").mkdir()
    for file, name in PHOTO_FILES.items():
        for folder in (tmp_path, tmp_path / "photos"):
            Image.fromarray(photos[name]).save(folder / file, quality=92)
    shell = Shell(tmp_path)
    yield shell
    shell.close()


@pytest.mark.timeout(900)
@pytest.mark.parametrize("page", PAGES)
def test_commands_of_a_page_work(page: str, shell: Shell) -> None:
    found = blocks((ROOT / page).read_text(), page)
    assert found
    for block in found:
        shell.run(block)


def test_the_readme_shows_both_ends() -> None:
    shell_blocks = [
        one for one in blocks((ROOT / "README.md").read_text()) if one.language != "python"
    ]
    commands = [command for block in shell_blocks for command in block.commands()]
    for start in ("make demo", "make test", "featherwire-edge", "featherwire-cloud"):
        assert any(command.startswith(start) for command in commands)


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 110


@pytest.mark.parametrize("page", sorted(str(p.relative_to(ROOT)) for p in MARKDOWN))
def test_links_of_a_page_lead_somewhere(page: str) -> None:
    """Files of the repository alone, as one meets them without the site."""
    folder = (ROOT / page).parent
    text = re.sub(r"^```.*?^```", "", (ROOT / page).read_text(), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target) or target.startswith("#"):
            continue
        path = target.partition("#")[0]
        assert (folder / path).exists(), f"{page} links to {target}"


def test_blocks_are_found_and_read() -> None:
    markdown = (
        "# Title\n\n```console\n$ one --a \\\n    --b\noutput\n$ two\n```\n"
        "```text\n$ no\n```\n\n```bash\n# a comment\nthree\n```\n"
    )
    first, second = blocks(markdown)
    assert (first.language, first.line, second.language) == ("console", 3, "bash")
    assert [" ".join(command.split()) for command in first.commands()] == ["one --a --b", "two"]
    assert second.commands() == ["three"]


def test_a_failing_command_is_noticed(shell: Shell) -> None:
    shell.run(Block("console", 1, "$ test -f cat.jpg && test -f photos/cat.jpg\n"))
    shell.run(Block("console", 1, "$ docker nonsense\n"))
    shell.run(Block("bash", 1, "make demo\n"))
    for block in (
        Block("console", 7, "$ ls absent.jpg\n"),
        Block("python", 7, "raise SystemExit(1)\n"),
        Block("bash", 7, "make no-such-target\n"),
    ):
        with pytest.raises(AssertionError, match=r"README\.md:7"):
            shell.run(block)
