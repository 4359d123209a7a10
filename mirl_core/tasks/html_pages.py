"""HTML pages of reports: one file that holds all it needs, makes no request, and runs no text as markup.

Texts of models and data sets are escaped or, for pages with a script, carried as JSON. The page's policy
allows pictures in the page, and only the very style and script that were written into it.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["data_uri", "document", "encoded", "json_block"]

_JPEG_ABOVE = 60_000
"""A photograph as PNG is larger than this; bytes."""


def document(title: str, body: str, style: str, script: str = "") -> str:
    """Return a page.

    Args:
        title: plain text.
        body: HTML without style attributes, styles and scripts other than `json_block`.
        script: runs after the body.
    """
    policy = f"default-src 'none'; img-src data:; style-src {_digest(style)}"
    if script:
        policy += f"; script-src {_digest(script)}"
    policy += "; base-uri 'none'; form-action 'none'"
    end = f"<script>{script}</script>\n" if script else ""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{style}</style>\n</head>\n<body>\n"
        f"{body}\n{end}</body>\n</html>\n"
    )


def json_block(name: str, value: Any) -> str:
    """Return `value` as a JSON block with the id `name`, which a script reads and no browser runs."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    # No text can end the block: `<` is written by its code.
    text = text.replace("<", "\\u003c")
    return f'<script type="application/json" id="{name}">{text}</script>'


def encoded(picture: Image, largest: int) -> bytes:
    """Return the picture, at most `largest` pixels wide and high, as PNG; as JPEG where PNG is large."""
    small = picture.convert("RGB")
    small.thumbnail((largest, largest))
    file = io.BytesIO()
    small.save(file, format="PNG", optimize=True)
    if file.tell() > _JPEG_ABOVE:
        file = io.BytesIO()
        small.save(file, format="JPEG", quality=82)
    return file.getvalue()


def data_uri(picture: bytes) -> str:
    """Return a PNG or JPEG file as the source of a picture in the page."""
    kind = "jpeg" if picture.startswith(b"\xff\xd8") else "png"
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode('ascii')}"


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}'"
