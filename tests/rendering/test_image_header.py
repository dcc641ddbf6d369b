"""Format and size by our own reading, against Pillow's decoder."""

import io

import numpy as np
import pytest
from PIL import Image

from rendering.image_header import BadImage, image_header

WAYS = {
    "PNG": ("PNG", "RGB", {}),
    "PNG grey with alpha": ("PNG", "LA", {}),
    "JPEG": ("JPEG", "RGB", {}),
    "JPEG progressive": ("JPEG", "RGB", {"progressive": True}),
    "JPEG grey with long comments": (
        "JPEG",
        "L",
        {"exif": b"Exif\0\0" + bytes(60_000), "icc_profile": bytes(100_000), "comment": b"x" * 1000},
    ),
    "JPEG CMYK": ("JPEG", "CMYK", {}),
    "WebP lossy": ("WEBP", "RGB", {}),
    "WebP lossless": ("WEBP", "RGB", {"lossless": True}),
    "WebP lossy with alpha": ("WEBP", "RGBA", {}),
    "WebP with metadata": ("WEBP", "RGB", {"icc_profile": bytes(500), "exif": b"Exif\0\0" + bytes(50)}),
}


def encoded(way: str, width: int, height: int) -> bytes:
    kind, mode, options = WAYS[way]
    noise = np.random.default_rng(width).integers(0, 256, (height, width, 4), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(noise, "RGBA").convert("RGB" if mode == "CMYK" else "RGBA").convert(mode).save(stream, kind, **options)
    return stream.getvalue()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("width", "height"), [(1, 1), (3, 700), (300, 2), (257, 129)])
def test_sizes_are_those_that_a_decoder_finds(way, width, height):
    data = encoded(way, width, height)
    found = image_header(lambda start, length: data[start : start + length], len(data))
    with Image.open(io.BytesIO(data)) as image:
        assert found is not None and (found.width, found.height, found.mime) == (*image.size, image.get_format_mimetype())


@pytest.mark.parametrize("way", WAYS)
def test_a_header_cut_anywhere_is_bad_or_unknown_or_whole(way):
    data = encoded(way, 21, 9)
    for end in range(min(len(data), 1200)):
        cut = data[:end]
        try:
            found = image_header(lambda start, length, cut=cut: cut[start : start + length], len(cut))
        except BadImage:
            continue
        assert found is None or (found.width, found.height) == (21, 9)
