"""Files that are small to send and long to open: found by a look at their outline, before any decoder runs.

Pillow and the libraries below it take such files as they come. A progressive JPEG may carry ten thousand
scans of 80 bytes, each of which costs a pass over all pixels: hours for a megabyte. EXIF in a hundred
thousand pieces is joined in quadratic time. Run-length BMP and millions of empty chunks are walked in Python.
"""

from __future__ import annotations

import re

FORMATS = {
    "image/png": "PNG",
    "image/jpeg": "JPEG",
    "image/webp": "WEBP",
    "image/gif": "GIF",
    "image/bmp": "BMP",
}
"""What users send, as Pillow calls it."""
MAX_SEGMENTS = 1000
"""A JPEG's markers but for scans. ICC profiles take at most 255, depth maps of phones some 100."""
MAX_JUNK = 2**16
"""Bytes between the segments of a JPEG, which Pillow skips one by one."""
MAX_CHUNKS = 20_000
"""A PNG's chunks. 20 MiB in libpng's default of 8 KiB are 2,560."""
MAX_PREFACE = 2**18
"""Bytes of a GIF before its first frame: palette, comments, XMP."""
_RUN_LENGTH = (1, 2)
_JPEG_MARKER = re.compile(rb"\xff([\x01-\xcf\xd8-\xfe])")
_STANDALONE = (b"\x01", b"\xd8")


class UnreasonableError(ValueError):
    """A file of a shape that no camera and no program makes."""


def media_type(head: bytes) -> str | None:
    """The type of a file by its first 16 bytes; None where it is none of `FORMATS`."""
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if head.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "image/webp"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "image/gif"
    return "image/bmp" if head.startswith(b"BM") else None


def passes(raw: bytes, kind: str) -> int:
    """How often decoding a file of type `kind` goes over all pixels. Damaged files are left to the decoder.

    Raises:
        ValueError: a JPEG without a scan.
        UnreasonableError: opening it would take long, whatever its size in pixels.
    """
    if kind == "image/jpeg":
        return _jpeg_scans(raw)
    if kind == "image/png":
        _check_png(raw)
    elif kind == "image/gif":
        _check_gif(raw)
    elif (
        kind == "image/bmp" and int.from_bytes(raw[30:34], "little") in _RUN_LENGTH and raw[14:15] != b"\x0c"
    ):
        raise UnreasonableError("run-length encoded")
    return 1


def _jpeg_scans(raw: bytes) -> int:
    position, scans, segments, junk = 2, 0, 0, 0
    # Byte stuffing keeps markers out of a scan's data: the search lands on the next segment, as libjpeg does.
    while found := _JPEG_MARKER.search(raw, position):
        # Between segments; within a scan it is the picture.
        junk += 0 if scans else found.start() - position
        if junk > MAX_JUNK:
            raise UnreasonableError("junk")
        position = found.end()
        if found[1] == b"\xd9":
            break
        if found[1] == b"\xda":
            scans += 1
        else:
            segments += 1
            # Each scan may bring tables of its own.
            if segments > MAX_SEGMENTS + 8 * scans:
                raise UnreasonableError("segments")
        if found[1] not in _STANDALONE:
            length = int.from_bytes(raw[position : position + 2], "big")
            if length < 2:
                break
            position += length
    if not scans:
        raise ValueError("no picture")
    return scans


def _check_png(raw: bytes) -> None:
    position = 8
    for _ in range(MAX_CHUNKS):
        if position + 8 > len(raw) or raw[position + 4 : position + 8] == b"IEND":
            return
        position += int.from_bytes(raw[position : position + 4], "big") + 12
    raise UnreasonableError("chunks")


def _check_gif(raw: bytes) -> None:
    flags = raw[10] if len(raw) > 10 else 0
    position = start = 13 + (3 * (2 << (flags & 7)) if flags & 0x80 else 0)
    while position < len(raw) and raw[position : position + 1] not in (b",", b";"):
        if raw[position : position + 1] == b"!":
            position += 2
            while position < len(raw) and raw[position] and position - start <= MAX_PREFACE:
                position += 1 + raw[position]
        position += 1
        if position - start > MAX_PREFACE:
            raise UnreasonableError("preface")
