"""Collect the pages of the site: `python docs/site/pages.py build/docs`, from which `make docs` builds it.

The pages are those of docs/ and those from outside it (PAGES). Files link to each other by their paths in the
repository, so that links work on GitHub. Here each link becomes the path of a page. A link to a file that is
no page (source code) becomes its text. No generator is needed, and any can build the result.
"""

from __future__ import annotations

import posixpath
import re
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
README, OVERVIEW, QUICKSTART = "README.md", "index.md", "quickstart.md"
PAGES = {
    README: OVERVIEW,
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
    "clients/python/README.md": "clients/python.md",
    "clients/typescript/README.md": "clients/typescript.md",
    "clients/playground/README.md": "clients/playground.md",
    "deploy/compose/README.md": "deploy/compose.md",
    "deploy/docker/README.md": "deploy/docker.md",
    "deploy/grafana/README.md": "deploy/grafana.md",
    "deploy/prometheus/README.md": "deploy/prometheus.md",
    "deploy/systemd/README.md": "deploy/systemd.md",
    "deploy/training/README.md": "deploy/training.md",
    "deploy/README.md": "deploy/overview.md",
    "deploy/helm/mirl/README.md": "deploy/helm.md",
    "deploy/kubernetes/README.md": "deploy/kubernetes.md",
    "deploy/platforms/README.md": "deploy/platforms.md",
}
"""Files outside docs/ and their pages."""
ALIASES = {"clients/playground": "clients/playground/README.md"}
"""Folders that documents link to, and the file that describes each."""
STARTING = ("The first minute", "Serve")
"""The README's sections that are the quickstart."""
LEFT_OUT = ("Documents", "Where things are")
"""The README's sections that list files; the site has its navigation."""
LEAD = "[Quickstart](README.md#serve) · [Concepts](docs/concepts.md) · [Tutorial](docs/tutorial.md)\n\n"
"""What the overview has before its picture."""
_CODE = re.compile(r"^```.*?^```", re.M | re.S)
_LINK = re.compile(
    r"`[^`\n]*`|\[(?P<text>(?:[^\[\]`]|`[^`]*`)*)\]\((?!\w+:|#)(?P<path>[^)#\s]+)(?P<anchor>#[^)\s]*)?\)"
)


def collect(target: Path) -> None:
    """Write all pages and their pictures into a folder, in place of what it holds."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(ROOT / "docs", target, ignore=shutil.ignore_patterns("*.py", "SHA256SUMS", "__pycache__"))
    shutil.copy(ROOT / "clients/playground/icon.svg", target / "site/icon.svg")
    sources = {path.relative_to(ROOT).as_posix(): page_of(path) for path in (ROOT / "docs").glob("*.md")}
    for source, page in {**sources, **PAGES}.items():
        assert page is not None, source
        text = (ROOT / source).read_text(encoding="utf-8")
        (target / page).parent.mkdir(parents=True, exist_ok=True)
        if source == README:
            text, start = split_readme(text)
            (target / QUICKSTART).write_text(fitted(start, README, QUICKSTART), encoding="utf-8")
        (target / page).write_text(fitted(text, source, page), encoding="utf-8")


def fitted(text: str, source: str, page: str) -> str:
    """Return a text with links that lead to pages.

    Args:
        source: the path in the repository of the file that the text is from.
        page: the path of its page.
    """

    def link(match: re.Match[str]) -> str:
        if match["path"] is None:
            return match[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), match["path"]))
        anchor = match["anchor"] or ""
        target = page_of(ROOT / path, anchor)
        if target is None:
            return match["text"] if (ROOT / path).exists() else match[0]
        name = match["text"]
        if name in (match["path"], path, path.removesuffix("/README.md")):
            name = title_of(path)
        return f"[{name}]({posixpath.relpath(target, posixpath.dirname(page) or '.')}{anchor})"

    parts, end = [], 0
    for block in _CODE.finditer(text):
        parts += [_LINK.sub(link, text[end : block.start()]), block[0]]
        end = block.end()
    return "".join([*parts, _LINK.sub(link, text[end:])])


def page_of(file: Path, anchor: str = "") -> str | None:
    """Return the page of a file of the repository; None: the site does not have it."""
    path = file.relative_to(ROOT).as_posix()
    path = ALIASES.get(path, path)
    if path == README and anchor.removeprefix("#") in {name.lower().replace(" ", "-") for name in STARTING}:
        return QUICKSTART
    if path.startswith("docs/") and file.is_file():
        return path.removeprefix("docs/")
    return PAGES.get(path)


def title_of(path: str) -> str:
    """Return the first heading of a file of the repository."""
    text = (ROOT / ALIASES.get(path, path)).read_text(encoding="utf-8")
    return text.partition("\n")[0].removeprefix("# ")


def split_readme(text: str) -> tuple[str, str]:
    """Return the overview and the quickstart, which together are the README without its lists of files.

    Raises:
        ValueError: a section that this file names is not in the README.
    """
    head, *sections = re.split(r"^(?=## )", text, flags=re.M)
    named = {section.partition("\n")[0].removeprefix("## "): section for section in sections}
    missing = [name for name in (*STARTING, *LEFT_OUT) if name not in named]
    if missing:
        raise ValueError(f"docs/site/pages.py names sections that README.md lacks: {missing}")
    start = "# Quickstart\n\n" + "".join(named[name] for name in STARTING)
    rest = [section for name, section in named.items() if name not in (*STARTING, *LEFT_OUT)]
    words, picture, explanation = head.partition("![")
    return "".join([words, LEAD, picture, explanation, *rest]), start


if __name__ == "__main__":
    collect(Path(sys.argv[1]))
