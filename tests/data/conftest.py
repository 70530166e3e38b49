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
    """tiff(integers (h, w), bits, white_is_zero): a grey TIFF whose samples have 12 or 16 bits."""

    def encode(samples: np.ndarray, bits: int, *, white_is_zero: bool = False) -> bytes:
        height, width = samples.shape
        packed = [np.unpackbits(row.astype(">u2").view(np.uint8)) for row in samples]
        packed = [row.reshape(width, 16)[:, 16 - bits :].reshape(-1) for row in packed]
        data = b"".join(np.packbits(row).tobytes() for row in packed)
        if bits == 16:
            data = samples.astype("<u2").tobytes()
        tags = {256: width, 257: height, 258: bits, 259: 1, 262: int(not white_is_zero), 273: 8}
        tags |= {277: 1, 278: height, 279: len(data)}
        head = struct.pack("<2sHI", b"II", 42, 8 + len(data))
        entries = [struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items()]
        return head + data + struct.pack("<H", len(tags)) + b"".join(entries) + bytes(4)

    return encode
