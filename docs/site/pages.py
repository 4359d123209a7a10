"""The hook of mkdocs.yml: pages from outside docs/, and links that work both on GitHub and on the site.

Files link to each other by their paths in the repository. Here each link becomes the path of the page on the site.
A link to a file that is no page (source code) becomes its text.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
README, OVERVIEW, QUICKSTART = "README.md", "index.md", "quickstart.md"
PAGES = {
    README: OVERVIEW,
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "clients/python/README.md": "clients/python.md",
    "clients/typescript/README.md": "clients/typescript.md",
    "clients/playground/README.md": "clients/playground.md",
    "deploy/grafana/README.md": "deploy/grafana.md",
    "deploy/training/README.md": "deploy/training.md",
}
"""Files outside docs/ and their pages."""
ALIASES = {"clients/playground": "clients/playground/README.md"}
"""Folders that documents link to, and the file that describes each."""
STARTING = ("The first minute", "Serve")
"""The README's sections that are the quickstart."""
LEFT_OUT = ("Documents", "Where things are")
"""The README's sections that list files; the site has its navigation."""
ICON = "site/icon.svg"
_CODE = re.compile(r"^```.*?^```", re.M | re.S)
_LINK = re.compile(
    r"`[^`\n]*`|\[(?P<text>(?:[^\[\]`]|`[^`]*`)*)\]\((?!\w+:|#)(?P<path>[^)#\s]+)(?P<anchor>#[^)\s]*)?\)"
)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages from outside docs/, and the icon of the playground."""
    for source, page in PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        if source == README:
            text, start = split_readme(text)
            files.append(File.generated(config, QUICKSTART, content=start))
        files.append(File.generated(config, page, content=text))
    icon = (ROOT / "clients/playground/icon.svg").read_bytes()
    files.append(File.generated(config, ICON, content=icon))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Return the page with links that lead to pages of the site."""
    sources = {uri: source for source, uri in PAGES.items()} | {QUICKSTART: README}
    here = page.file.src_uri
    source = sources.get(here, f"docs/{here}")
    titles = _titles(config.nav or [])

    def fitted(match: re.Match[str]) -> str:
        if match["path"] is None:
            return match[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), match["path"]))
        anchor = match["anchor"] or ""
        target = page_of(path, anchor)
        if target is None:
            return match["text"] if (ROOT / path).exists() else match[0]
        name = match["text"]
        if name in (match["path"], path, path.removesuffix("/README.md")):
            name = titles.get(target, name)
        return f"[{name}]({posixpath.relpath(target, posixpath.dirname(here) or '.')}{anchor})"

    parts, end = [], 0
    for block in _CODE.finditer(markdown):
        parts += [_LINK.sub(fitted, markdown[end : block.start()]), block[0]]
        end = block.end()
    return "".join([*parts, _LINK.sub(fitted, markdown[end:])])


def page_of(path: str, anchor: str = "") -> str | None:
    """Return the path below docs/ of a file of the repository; None: the site does not have it."""
    path = ALIASES.get(path, path)
    if path == README and anchor.removeprefix("#") in {_slug(name) for name in STARTING}:
        return QUICKSTART
    if path in PAGES:
        return PAGES[path]
    return path.removeprefix("docs/") if path.startswith("docs/") and (ROOT / path).is_file() else None


def split_readme(text: str) -> tuple[str, str]:
    """Return the overview and the quickstart, which together are the README without its lists of files."""
    head, *sections = re.split(r"^(?=## )", text, flags=re.M)
    named = {section.partition("\n")[0].removeprefix("## "): section for section in sections}
    missing = [name for name in (*STARTING, *LEFT_OUT) if name not in named]
    if missing:
        raise ValueError(f"docs/site/pages.py names sections that README.md lacks: {missing}")
    start = "# Quickstart\n\n" + "".join(named[name] for name in STARTING)
    rest = [section for name, section in named.items() if name not in (*STARTING, *LEFT_OUT)]
    lead = "[Quickstart](README.md#the-first-minute) has the commands. [Concepts](docs/concepts.md) says how it works.\n\n"
    return head + lead + "".join(rest), start


def _slug(heading: str) -> str:
    return heading.lower().replace(" ", "-")


def _titles(nav: list[Any]) -> dict[str, str]:
    """Return the titles of the navigation by page."""
    titles: dict[str, str] = {}
    for entry in nav:
        for title, target in entry.items():
            titles |= _titles(target) if isinstance(target, list) else {target: title}
    return titles
