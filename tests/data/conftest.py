"""Files made here, and a cache of each test's own."""

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("FROMNOISE_CACHE", str(path))
    return path


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    """save("a/b.png", pixels or image, **Pillow's options) below tmp_path/images."""

    def write(name: str, content: np.ndarray | Image.Image, **options: object) -> Path:
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image = content if isinstance(content, Image.Image) else Image.fromarray(content)
        image.save(path, **options)
        return path

    return write


@pytest.fixture
def folder(save: Callable[..., Path]) -> Path:
    """Three 4×4 grey images of 10, 20 and 30: img1, img2 and img10."""
    for number, value in ((1, 10), (2, 20), (10, 30)):
        path = save(f"img{number}.png", np.full((4, 4), value, np.uint8))
    return path.parent


@pytest.fixture
def png16() -> Callable[..., bytes]:
    """png16(uint16 (h, w, 1..4), chunk=content): a PNG, of which Pillow writes grey only."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    def encode(samples: np.ndarray, **extra: bytes) -> bytes:
        height, width, channels = samples.shape
        colour = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
        rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
        head = struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0)
        chunks = {"IHDR": head, **extra, "IDAT": zlib.compress(rows), "IEND": b""}
        body = b"".join(chunk(kind.encode(), data) for kind, data in chunks.items())
        return b"\x89PNG\r\n\x1a\n" + body

    return encode


@pytest.fixture
def tiff() -> Callable[..., bytes]:
    """tiff(integers (h, w) or (h, w, 2..4), bits, …): an uncompressed TIFF of 8, 12 or 16 bits.

    separate: one plane for each channel. white_is_zero: of grey.
    """

    def encode(
        samples: np.ndarray, bits: int, *, separate: bool = False, white_is_zero: bool = False
    ) -> bytes:
        samples = np.atleast_3d(samples)
        height, width, channels = samples.shape
        planes = np.moveaxis(samples, 2, 0) if separate else [samples.reshape(height, -1)]
        if bits == 12:
            rows = [np.unpackbits(row.astype(">u2").view(np.uint8)) for row in planes[0]]
            rows = [np.packbits(row.reshape(-1, 16)[:, 4:]) for row in rows]
            strips = [b"".join(row.tobytes() for row in rows)]
        else:
            strips = [plane.astype(f"<u{bits // 8}").tobytes() for plane in planes]
        colours = 1 if channels < 3 else 3
        tags = {256: [width], 257: [height], 258: [bits] * channels, 259: [1]}
        tags |= {262: [2 if colours == 3 else int(not white_is_zero)], 273: [], 277: [channels]}
        tags |= {278: [height], 279: [len(strip) for strip in strips], 284: [1 + separate]}
        if channels > colours:
            tags[338] = [2]  # alpha, not multiplied
        at = 8 + 2 + 12 * len(tags) + 4
        for strip in strips:
            tags[273].append(at)
            at += len(strip)
        entries, lists = b"", b""
        for tag, values in tags.items():
            packed = struct.pack(f"<{len(values)}I", *values)
            place = packed if len(values) == 1 else struct.pack("<I", at + len(lists))
            entries += struct.pack("<HHI", tag, 4, len(values)) + place
            lists += packed if len(values) > 1 else b""
        head = struct.pack("<2sHIH", b"II", 42, 8, len(tags))
        return head + entries + bytes(4) + b"".join(strips) + lists

    return encode
