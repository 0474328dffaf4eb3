"""What MkDocs does besides: files that lie outside of docs/, diagrams, and nothing from elsewhere.

Pages quote Markdown of the repository by snippets (``--8<--``); pictures of benchmark results and
the changelog are copied into the site here. A state diagram in Mermaid, which GitHub draws, is a
table of its transitions on the site, as no script is loaded for it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"
_MERMAID = re.compile(r"^```mermaid\nstateDiagram-v2\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_PICTURE = re.compile(r"(!\[[^\]]*\]\()\.\./((?:\.\./)*)benchmarks/results/")
_TRANSITION = re.compile(r"^\s*(\S+) --> (\S+?)(?:: (.*))?$")
_LOADED = re.compile(
    r"<(?:script|img|link|iframe|source|video)\b[^>]*?\b(?:src|href)=[\"']?((?:https?:)?//[^\"'\s>]+)"
    r"[^>]*>",
    re.IGNORECASE,
)
_HARMLESS = re.compile(r"<link\b[^>]*\brel=[\"']?(?:canonical|edit|next|prev)\b", re.IGNORECASE)


def on_files(files: Files, config: Any) -> Files:
    """Add the pictures of benchmark results, under results/."""
    for path in sorted(RESULTS.rglob("*")):
        if path.suffix in {".svg", ".webp", ".png"}:
            name = f"results/{path.relative_to(RESULTS)}"
            files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Diagrams as tables, and pictures of results where ``on_files`` has put them."""
    markdown = _PICTURE.sub(r"\1\2results/", markdown)
    return _MERMAID.sub(lambda found: transitions(found[1]), markdown)


def transitions(diagram: str) -> str:
    """A Mermaid state diagram as a table: from, to, when."""
    rows = ["| from | to | when |", "| --- | --- | --- |"]
    for line in diagram.splitlines():
        if not line.strip():
            continue
        found = _TRANSITION.match(line)
        if found is None:
            raise PluginError(f"a state diagram has a line that is no transition: {line}")
        start = "(begin)" if found[1] == "[*]" else found[1]
        end = "(end)" if found[2] == "[*]" else found[2]
        rows.append(f"| {start} | {end} | {found[3] or ''} |")
    return "\n".join(rows)


def on_post_build(config: Any) -> None:
    """Fail where a page would load something from another host."""
    site = Path(config["site_dir"])
    for page in sorted(site.rglob("*.html")):
        for found in _LOADED.finditer(page.read_text(encoding="utf-8")):
            if not _HARMLESS.match(found[0]):
                raise PluginError(f"{page.relative_to(site)} loads {found[1]}")
