"""Profiles: against the equations of their curves and primaries, in numpy."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from fromnoise.data.decoding.decode import read_header, read_picture

# ICC.1:2010, relative to D50: columns are the XYZ of red, green and blue
SRGB = np.array(
    [[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.7141]]
)
ADOBE = np.array(
    [[0.60974, 0.20528, 0.14919], [0.31111, 0.62567, 0.06322], [0.01947, 0.06087, 0.74457]]
)
GAMMA = 563 / 256


def profile(space: str, gamma: float, primaries: np.ndarray = ADOBE) -> bytes:
    """Return an ICC profile, version 2, of a display: space is "RGB " or "GRAY"."""

    def xyz(values) -> bytes:
        return b"XYZ " + bytes(4) + struct.pack(">3i", *(round(v * 65536) for v in values))

    curve = b"curv" + bytes(4) + struct.pack(">IHH", 1, round(gamma * 256), 0)
    tags = {b"wtpt": xyz((0.9642, 1, 0.8249))}
    if space == "GRAY":
        tags[b"kTRC"] = curve
    else:
        for name, column in zip("rgb", primaries.T, strict=True):
            tags |= {f"{name}XYZ".encode(): xyz(column), f"{name}TRC".encode(): curve}
    table, body, at = b"", b"", 128 + 4 + 12 * len(tags)
    for name, content in tags.items():
        table += name + struct.pack(">II", at + len(body), len(content))
        body += content
    head = struct.pack(
        ">I4sI4s4s4s", at + len(body), b"", 0x02400000, b"mntr", space.encode(), b"XYZ "
    )
    head += struct.pack(">6H4s", 2020, 1, 1, 0, 0, 0, b"acsp") + bytes(28)
    head += struct.pack(">3i", *(round(v * 65536) for v in (0.9642, 1, 0.8249)))
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


def encoded(linear: np.ndarray) -> np.ndarray:
    """IEC 61966-2-1: linear light in 0..1 to levels in 0..255."""
    linear = np.clip(linear, 0, 1)
    low, high = 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055
    return 255 * np.where(linear <= 0.0031308, low, high)


def expected(levels: np.ndarray, gamma: float = GAMMA) -> np.ndarray:
    """Levels in 0..255 of the profile, (…, 3) or grey (…, 1), to those of sRGB."""
    linear = (levels / 255.0) ** gamma
    if levels.shape[-1] == 3:
        linear = linear @ (np.linalg.inv(SRGB) @ ADOBE).T
    return encoded(linear)


def saved(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def read(data: bytes, background=(0, 0, 0)):
    return read_picture(data, background=background)


@pytest.fixture
def colours() -> np.ndarray:
    """Colours that both spaces contain."""
    return np.random.default_rng(0).integers(60, 180, (9, 9, 3), dtype=np.uint8)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_colours_are_those_of_the_profile(colours, kind):
    data = saved(Image.fromarray(colours), kind, icc_profile=profile("RGB ", GAMMA), lossless=True)
    assert read_header(io.BytesIO(data)).profile
    found = read(data)
    assert np.abs(expected(colours) - colours).mean() > 4  # it matters
    np.testing.assert_allclose(found.pixels, expected(colours), atol=1.5)
    assert found.remarks == ()


def test_a_palette_and_alpha_too(colours):
    icc = profile("RGB ", GAMMA)
    image = Image.fromarray(colours).quantize(16)
    stored = np.asarray(image.convert("RGB"))
    np.testing.assert_allclose(
        read(saved(image, icc_profile=icc)).pixels, expected(stored), atol=1.5
    )
    alpha = np.full((9, 9, 1), 51, np.uint8)  # a fifth
    data = saved(Image.fromarray(np.concatenate([colours, alpha], axis=2)), icc_profile=icc)
    np.testing.assert_allclose(read(data).pixels, expected(colours) / 5, atol=1.5)


@pytest.mark.parametrize("space", ["GRAY", "RGB "])  # that of a profile of colour fits grey, too
@pytest.mark.parametrize("alpha", [False, True])
def test_grey_stays_grey(space, alpha):
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
    stored = np.concatenate([grey, np.full_like(grey, 255)], axis=2) if alpha else grey[..., 0]
    found = read(saved(Image.fromarray(stored), icc_profile=profile(space, 1.0))).pixels
    assert found.shape == (16, 16, 1)
    np.testing.assert_allclose(found, expected(grey, 1.0), atol=1.5)


@pytest.mark.parametrize("channels", [1, 3])
def test_16_bits_have_profiles_too(png16, channels):
    samples = np.random.default_rng(1).integers(16000, 46000, (5, 5, channels), dtype=np.uint16)
    space = "GRAY" if channels == 1 else "RGB "
    chunk = b"own\0\0" + zlib.compress(profile(space, GAMMA))
    found = read(png16(samples, iCCP=chunk))
    assert found.peak == 65535
    np.testing.assert_allclose(found.pixels / 257, expected(samples / 257), atol=2)


def test_srgb_is_left_as_it_is():
    every = np.random.default_rng(2).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    data = saved(Image.fromarray(every), icc_profile=srgb)
    assert not read_header(io.BytesIO(data)).profile
    np.testing.assert_array_equal(read(data).pixels, every)


@pytest.mark.parametrize("icc", [b"nonsense", profile("GRAY", 2.2), profile("RGB ", 2.2)[:200]])
def test_a_profile_that_cannot_be_used_is_said(colours, icc):
    found = read(saved(Image.fromarray(colours), icc_profile=icc))
    np.testing.assert_array_equal(found.pixels, colours)
    (remark,) = found.remarks
    assert remark.startswith("its ICC profile is not applied: ")


def test_lab_becomes_rgb():
    lab = Image.new("LAB", (2, 2), (136, 128, 128))  # L* = 53.3, without colour
    grey = encoded(np.array(((136 / 2.55 + 16) / 116) ** 3))
    np.testing.assert_allclose(read(saved(lab, "TIFF")).pixels, np.full((2, 2, 3), grey), atol=2)


def test_a_gamma_is_said(png16):
    grey = np.full((2, 2, 1), 9, np.uint16)
    assert read(png16(grey, gAMA=struct.pack(">I", 45455))).remarks == ()
    assert read(png16(grey, gAMA=struct.pack(">I", 100000))).remarks == (
        "its gamma of 1 (gAMA) is not applied",
    )
