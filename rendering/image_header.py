"""Format and size of a picture from its first bytes, without decoding it."""

import struct
from collections.abc import Callable
from dataclasses import dataclass

PNG, JPEG, WEBP, KTX, KTX2 = "image/png", "image/jpeg", "image/webp", "image/ktx", "image/ktx2"
_MOST_SEGMENTS = 1000  # of a JPEG before its frame; real files have tens
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_WITHOUT_LENGTH = frozenset((0x01, *range(0xD0, 0xD8)))

Read = Callable[[int, int], bytes]


class BadImage(ValueError):
    """The bytes begin as a picture of a known format and go on as none."""


@dataclass(frozen=True)
class ImageHeader:
    """Media type by content, and size in pixels (0, 0 where the format is known but not read)."""

    mime: str
    width: int
    height: int


def image_header(read: Read, size: int) -> ImageHeader | None:
    """The header of a picture of `size` bytes that `read(offset, length)` gives; None when the format is unknown.

    Raises BadImage.
    """
    start = read(0, 32)
    if start.startswith(b"\x89PNG\r\n\x1a\n"):
        return _png(start)
    if start.startswith(b"\xff\xd8\xff"):
        return _jpeg(read, size)
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return _webp(start, size)
    for mark, mime in ((b"\xabKTX 20\xbb", KTX2), (b"\xabKTX 11\xbb", KTX)):
        if start.startswith(mark):
            return ImageHeader(mime, 0, 0)
    return None


def _png(start: bytes) -> ImageHeader:
    if len(start) < 26 or start[8:16] != b"\0\0\0\rIHDR":
        raise BadImage("the PNG has no IHDR chunk")
    return _checked(PNG, *struct.unpack(">II", start[16:24]))


def _jpeg(read: Read, size: int) -> ImageHeader:
    at = 2
    for _ in range(_MOST_SEGMENTS):
        head = read(at, 9)
        if len(head) < 9 or head[0] != 0xFF:
            raise BadImage("the JPEG has no frame header")
        marker, length = head[1], struct.unpack(">H", head[2:4])[0]
        if marker == 0xFF:
            at += 1  # fill byte
        elif marker in _WITHOUT_LENGTH:
            at += 2
        elif marker in _FRAMES:
            height, width = struct.unpack(">HH", head[5:9])
            return _checked(JPEG, width, height)
        elif length < 2 or marker in (0x00, 0xD9, 0xDA) or at + 2 + length > size:
            raise BadImage("the JPEG has no frame header")
        else:
            at += 2 + length
    raise BadImage(f"the JPEG has more than {_MOST_SEGMENTS} segments before its frame")


def _webp(start: bytes, size: int) -> ImageHeader:
    if len(start) < 30 or struct.unpack("<I", start[4:8])[0] + 8 > size + 1:
        raise BadImage("the WebP is shorter than its header says")
    kind, body = start[12:16], start[20:]
    if kind == b"VP8X":
        width, height = (1 + int.from_bytes(body[at : at + 3], "little") for at in (4, 7))
    elif kind == b"VP8L" and body[0] == 0x2F:
        bits = int.from_bytes(body[1:5], "little")
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    elif kind == b"VP8 " and body[3:6] == b"\x9d\x01\x2a":
        width, height = (side & 0x3FFF for side in struct.unpack("<HH", body[6:10]))
    else:
        raise BadImage(f"the WebP starts with a chunk {kind!r}")
    return _checked(WEBP, width, height)


def _checked(mime: str, width: int, height: int) -> ImageHeader:
    if not width or not height:
        raise BadImage(f"a picture of {width} x {height} pixels")
    return ImageHeader(mime, width, height)
