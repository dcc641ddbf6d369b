"""Environment maps with known content."""

import struct
from pathlib import Path

import numpy as np


def write_hdr(path: Path, pixels: np.ndarray) -> Path:
    """Radiance `.hdr` (flat scanlines) of linear RGB `[H, W, 3]`, values 0 or powers of two times (1/256 .. 255/256)."""
    height, width = pixels.shape[:2]
    largest = pixels.max(-1)
    exponent = np.where(largest > 0, np.ceil(np.log2(np.maximum(largest, 1e-9) + 1e-12)), 0).astype(int)
    mantissa = np.clip(np.round(pixels / 2.0 ** exponent[..., None] * 256), 0, 255).astype(np.uint8)
    shared = np.where(largest > 0, exponent + 128, 0).astype(np.uint8)
    header = f"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y {height} +X {width}\n".encode()
    path.write_bytes(header + np.concatenate([mantissa, shared[..., None]], -1).tobytes())
    return path


def spot(path: Path, column: int, row: int, width: int = 64, radiance: float = 64.0) -> Path:
    """A black map, twice as wide as high, with one bright white pixel."""
    pixels = np.zeros((width // 2, width, 3))
    pixels[row, column] = radiance
    return write_hdr(path, pixels)


def exr_header(width: int, height: int) -> bytes:
    """The first attributes of an OpenEXR file of that size."""
    window = struct.pack("<4i", 0, 0, width - 1, height - 1)
    channels = b"channels\0chlist\0" + struct.pack("<i", 1) + b"\0"
    return b"\x76\x2f\x31\x01\x02\0\0\0" + channels + b"dataWindow\0box2i\0" + struct.pack("<i", 16) + window + b"\0"
