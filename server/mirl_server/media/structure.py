"""Checks of a file's structure that refuse small files with a long decoding time, before any decoder runs.

Pillow and the libraries below it decode such files. A progressive JPEG may contain ten thousand scans of 80
bytes, each of which costs a pass over all pixels: hours for a megabyte. EXIF in a hundred thousand pieces is
joined in quadratic time. Run-length BMP and millions of empty chunks are parsed in Python.
"""

from __future__ import annotations

import re
import zlib

FORMATS = {
    "image/png": "PNG",
    "image/jpeg": "JPEG",
    "image/webp": "WEBP",
    "image/gif": "GIF",
    "image/bmp": "BMP",
}
"""The accepted media types with Pillow's names."""
MAX_SEGMENTS = 1000
"""Most markers of a JPEG besides scans. ICC profiles take at most 255, depth maps of phones some 100."""
MAX_JUNK = 2**16
"""Most bytes between the segments of a JPEG, which Pillow skips byte by byte."""
MAX_CHUNKS = 20_000
"""Most chunks of a PNG. 20 MiB in libpng's default of 8 KiB are 2,560."""
MAX_PREFACE = 2**18
"""Most bytes of a GIF before its first frame: palette, comments, XMP."""
MAX_TEXT = 2**20
"""Most bytes of a PNG's texts on its rotation, expanded."""
_RUN_LENGTH = (1, 2)
_KEPT = (b"tRNS", b"eXIf")
"""Chunks of a PNG that Pillow could do without, and that change the picture."""
_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_ORIENTATION = (b"Raw profile type ", b"XML:com.adobe.xmp")
"""Beginnings of the texts in a PNG that may say how it is turned."""
_JPEG_MARKER = re.compile(rb"\xff([\x01-\xcf\xd8-\xfe])")
_STANDALONE = (b"\x01", b"\xd8")


class UnreasonableError(ValueError):
    """A file with a structure that no camera and no program writes."""


def media_type(head: bytes) -> str | None:
    """Return the media type of a file by its first 16 bytes; None if it is none of `FORMATS`."""
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
    """Return how many passes over all pixels a decoder makes. Damaged files are left to the decoder.

    Raises:
        ValueError: the file is a JPEG without a scan.
        UnreasonableError: opening the file would take long, for any size in pixels.
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
    # Byte stuffing keeps markers out of a scan's data: the search finds the next segment, as libjpeg does.
    while match := _JPEG_MARKER.search(raw, position):
        # Bytes between segments; after a scan they are picture data.
        junk += 0 if scans else match.start() - position
        if junk > MAX_JUNK:
            raise UnreasonableError("junk")
        position = match.end()
        if match[1] == b"\xd9":
            break
        if match[1] == b"\xda":
            scans += 1
        else:
            segments += 1
            # Each scan may have its tables.
            if segments > MAX_SEGMENTS + 8 * scans:
                raise UnreasonableError("segments")
        if match[1] not in _STANDALONE:
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


def without_metadata(raw: bytes) -> bytes:
    """Return a PNG with only what its picture needs: pixels, palette, transparency and rotation.

    Programs store colour profiles and histories of many megabytes. Pillow refuses a file where one expands to
    more than a megabyte or is damaged.
    """
    kept, position, begin, texts = [], 8, 0, 0
    while position + 8 <= len(raw):
        length, kind = int.from_bytes(raw[position : position + 4], "big"), raw[position + 4 : position + 8]
        end = position + 12 + length
        if kind == b"IEND":
            break
        size = _text_size(kind, raw[position + 8 : end - 4]) if kind in _TEXTS else None
        if size is not None and texts + size <= MAX_TEXT:
            texts += size
        elif kind[:1].islower() and kind not in _KEPT:
            kept.append(raw[begin:position])
            begin = end
        position = end
    return b"".join([*kept, raw[begin:]]) if kept else raw


def _text_size(kind: bytes, body: bytes) -> int | None:
    """Return the expanded size of a PNG's text about rotation; None if it is another text, or too long."""
    keyword, _, rest = body.partition(b"\0")
    if not keyword.startswith(_ORIENTATION):
        return None
    if kind == b"iTXt":
        compressed = rest[:1] == b"\1"
        rest = rest[2:].split(b"\0", 2)[-1]
    else:
        compressed, rest = kind == b"zTXt", rest[kind == b"zTXt" :]
    if not compressed:
        return len(rest)
    expander = zlib.decompressobj()
    try:
        size = len(expander.decompress(rest, MAX_TEXT + 1))
    except zlib.error:
        return None
    return size if size <= MAX_TEXT else None


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
