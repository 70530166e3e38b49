import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from fromnoise.data.decoding.decode import Picture, read_header, read_picture
from fromnoise.data.errors import BrokenImage

WHITE, GREEN = (255, 255, 255), (0, 200, 0)


def encode(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def picture(data: bytes, background=WHITE) -> Picture:
    return read_picture(data, background=background)


def pixels(data: bytes, background=WHITE) -> np.ndarray:
    return picture(data, background).pixels


def colours(height: int = 6, width: int = 9) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
def test_lossless_colour_is_exact(kind):
    np.testing.assert_array_equal(pixels(encode(Image.fromarray(colours()), kind)), colours())


def test_lossless_webp_is_exact():
    data = encode(Image.fromarray(colours()), "WEBP", lossless=True)
    np.testing.assert_array_equal(pixels(data), colours())


@pytest.mark.parametrize("mode", ["1", "L"])
def test_grey_stays_grey(mode):
    image = Image.fromarray(np.array([[0, 255], [255, 0]], np.uint8)).convert(mode)
    out = pixels(encode(image, "PNG"))
    assert out.shape == (2, 2, 1)
    np.testing.assert_array_equal(out[..., 0], [[0, 255], [255, 0]])


def test_the_first_frame_of_a_gif():
    frames = [Image.new("RGB", (3, 2), colour) for colour in ("red", "blue")]
    out = pixels(encode(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    assert (out == (255, 0, 0)).all()


def test_a_palette_becomes_its_colours():
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 0), 1)
    np.testing.assert_array_equal(pixels(encode(image, "PNG"))[0], [[10, 20, 30], [200, 100, 50]])


def test_cmyk_jpeg_becomes_rgb():
    data = encode(Image.new("RGB", (16, 16), (200, 40, 90)).convert("CMYK"), "JPEG", quality=95)
    assert read_header(io.BytesIO(data)).mode == "CMYK"
    np.testing.assert_allclose(pixels(data), np.full((16, 16, 3), (200, 40, 90)), atol=6)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_colours_hidden_by_alpha_never_leak(kind):
    rgba = np.zeros((4, 4, 4), np.uint8)
    rgba[..., :3] = (255, 0, 255)  # hidden magenta
    rgba[:2] = (10, 20, 30, 255)
    out = pixels(encode(Image.fromarray(rgba), kind, lossless=True, exact=True), GREEN)
    assert (out[:2] == (10, 20, 30)).all()
    assert (out[2:] == GREEN).all()


def test_half_alpha_is_half_background():
    data = encode(Image.new("RGBA", (2, 2), (200, 0, 100, 51)), "PNG")  # 51 = a fifth of 255
    np.testing.assert_array_equal(pixels(data, (100, 50, 0))[0, 0], [120, 40, 20])


@pytest.mark.parametrize(("background", "expected"), [(WHITE, [255]), (GREEN, [0, 200, 0])])
def test_transparent_grey_shows_the_background(background, expected):
    data = encode(Image.new("LA", (2, 2), (77, 0)), "PNG")
    np.testing.assert_array_equal(pixels(data, background)[0, 0], expected)


def test_transparent_palette():
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 255, 10, 20, 30])
    image.putpixel((1, 0), 1)
    out = pixels(encode(image, "PNG", transparency=0), GREEN)
    np.testing.assert_array_equal(out[0], [GREEN, (10, 20, 30)])


def test_one_transparent_colour_of_rgb():
    image = Image.fromarray(np.array([[[255, 0, 255], [1, 2, 3]]], np.uint8))
    out = pixels(encode(image, "PNG", transparency=(255, 0, 255)), GREEN)
    np.testing.assert_array_equal(out[0], [GREEN, (1, 2, 3)])


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_exif_rotation_is_applied(kind):
    corner = {1: (0, 0), 2: (0, -1), 3: (-1, -1), 4: (-1, 0)}  # EXIF 2.3, 4.6.4 A
    corner |= {5: (0, 0), 6: (0, -1), 7: (-1, -1), 8: (-1, 0)}
    for turn, lit in corner.items():
        image = Image.new("RGB", (32, 16), "black")
        image.paste("white", (0, 0, 8, 8))  # the top left corner as it is stored
        exif = image.getexif()
        exif[0x0112] = turn
        data = encode(image, kind, exif=exif)
        header, out = read_header(io.BytesIO(data)), pixels(data)
        assert out.shape == ((16, 32, 3) if turn < 5 else (32, 16, 3)), turn
        assert (header.height, header.width) == out.shape[:2], turn
        assert header.rotated == (turn > 1), turn
        bright = {c: out[c].mean() for c in ((0, 0), (0, -1), (-1, -1), (-1, 0))}
        assert max(bright, key=lambda c: bright[c]) == lit, turn


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_damaged_exif_is_no_damaged_image(kind):
    """Its resolution (282) is a text."""
    entries = struct.pack("<HHIHH", 274, 3, 1, 6, 0) + struct.pack("<HHII", 282, 2, 2, 97)
    exif = b"Exif\0\0II*\0\x08\0\0\0\x02\0" + entries + bytes(4)
    data = encode(Image.new("RGB", (16, 8)), kind, exif=exif)
    assert pixels(data).shape == (16, 8, 3)


def test_a_damaged_second_frame_does_not_matter():
    frames = [Image.fromarray(colours()).quantize(8), Image.fromarray(colours()).quantize(4)]
    data = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    found = picture(data[: len(data) - 60])
    np.testing.assert_array_equal(found.pixels, np.asarray(frames[0].convert("RGB")))
    assert found.remarks == ("frames after the first are not used",)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_16_bit_png_keeps_every_bit(png16, channels):
    samples = np.random.default_rng(2).integers(0, 65536, (5, 7, channels), dtype=np.uint16)
    if channels in (2, 4):
        samples[..., -1] = 65535
    data = png16(samples)
    found = picture(data)
    assert found.peak == 65535
    colour = samples if channels in (1, 3) else samples[..., :-1]
    np.testing.assert_array_equal(found.pixels, colour)
    header = read_header(io.BytesIO(data))
    assert header.deep
    assert header.channels == (1 if channels < 3 else 3)
    assert header.alpha == (channels in (2, 4))


def test_16_bit_alpha_is_composited(png16):
    samples = np.zeros((1, 2, 4), np.uint16)
    samples[0, 0] = (65535, 0, 65535, 0)  # hidden
    samples[0, 1] = (65535, 0, 0, 13107)  # a fifth
    out = pixels(png16(samples), GREEN)
    np.testing.assert_allclose(out[0, 0], np.array(GREEN) * 257, rtol=1e-6)
    np.testing.assert_allclose(out[0, 1], [13107, 0.8 * 200 * 257, 0], rtol=1e-5)


@pytest.mark.parametrize("channels", [1, 3])
def test_one_transparent_value_of_16_bit_png(png16, channels):
    samples = np.full((1, 2, channels), 1000, np.uint16)
    samples[0, 0, 0] = 1001
    data = png16(samples, tRNS=b"".join((1000).to_bytes(2, "big") for _ in range(channels)))
    assert read_header(io.BytesIO(data)).alpha
    out = pixels(data, GREEN)
    np.testing.assert_allclose(out[0, 0], [1001, *[1001 if channels == 1 else 1000] * 2])
    np.testing.assert_allclose(out[0, 1], np.array(GREEN) * 257)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_exif_rotation_of_16_bit_png(png16, channels):
    samples = np.full((4, 6, channels), 65535, np.uint16)
    samples[..., :1] = np.arange(24).reshape(4, 6, 1)
    turned = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"
    data = png16(samples, eXIf=turned)
    header = read_header(io.BytesIO(data))
    assert (header.height, header.width, header.rotated) == (6, 4, True)
    np.testing.assert_array_equal(pixels(data)[..., 0], np.rot90(samples[..., 0], -1))


@pytest.fixture
def turned_png():
    """turned_png(chunk, last): a PNG of 6×4 (W×H) with orientation 6 in such a chunk."""
    exif = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"
    profile = f"\nexif\n{len(exif) + 6:8d}\n{(b'Exif' + bytes(2) + exif).hex()}\n"
    contents = {
        "eXIf": exif,
        "zTXt": b"Raw profile type exif\0\0" + zlib.compress(profile.encode()),
    }

    def encode_(kind: str, *, last: bool) -> bytes:
        plain = encode(Image.new("RGB", (6, 4)), "PNG")
        body = kind.encode() + contents[kind]
        chunk = struct.pack(">I", len(contents[kind])) + body + struct.pack(">I", zlib.crc32(body))
        at = plain.index(b"IEND" if last else b"IDAT") - 4
        return plain[:at] + chunk + plain[at:]

    return encode_


@pytest.mark.parametrize("last", [False, True], ids=["before the pixels", "after them"])
@pytest.mark.parametrize("chunk", ["eXIf", "zTXt"])
def test_header_and_pixels_agree_wherever_a_png_says_how_it_is_turned(turned_png, chunk, last):
    data = turned_png(chunk, last=last)
    header, found = read_header(io.BytesIO(data)), pixels(data)
    assert (header.height, header.width) == found.shape[:2] == ((4, 6) if last else (6, 4))
    assert header.rotated == (not last)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_one_transparent_value_of_grey_with_few_bits(bits):
    white = 2**bits - 1
    row = bytes([0, white << (8 - bits)]) if bits < 8 else bytes([0, white])
    chunks = {
        b"IHDR": struct.pack(">IIBBBBB", 1, 1, bits, 0, 0, 0, 0),
        b"tRNS": white.to_bytes(2, "big"),
        b"IDAT": zlib.compress(row),
        b"IEND": b"",
    }
    data = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(c)) + kind + c + struct.pack(">I", zlib.crc32(kind + c))
        for kind, c in chunks.items()
    )
    assert read_header(io.BytesIO(data)).alpha
    assert pixels(data, (7, 7, 7)).tolist() == [[[7]]]


def test_16_bit_tiff_keeps_every_bit():
    samples = np.arange(0, 65536, 2048, dtype=np.uint16).reshape(4, 8) + 1
    np.testing.assert_array_equal(pixels(encode(Image.fromarray(samples), "TIFF"))[..., 0], samples)


def test_white_is_that_of_the_depth_of_a_tiff(tiff):
    samples = np.linspace(0, 4095, 45).astype(int).reshape(5, 9)
    found = picture(tiff(samples, 12))
    assert found.peak == 4095
    np.testing.assert_array_equal(found.pixels[..., 0], samples)


@pytest.mark.parametrize("bits", [12, 16])
def test_zero_may_be_white_in_a_tiff(tiff, bits):
    samples = np.linspace(0, 4095, 45).astype(int).reshape(5, 9)
    if bits == 12:
        with pytest.raises(BrokenImage):  # not known to Pillow
            picture(tiff(samples, bits, white_is_zero=True))
        return
    found = pixels(tiff(samples, bits, white_is_zero=True))
    np.testing.assert_array_equal(found[..., 0], 65535 - samples)


@pytest.mark.parametrize("separate", [False, True], ids=["together", "separate"])
@pytest.mark.parametrize("channels", [3, 4])
def test_16_bit_colour_tiff_keeps_every_bit(tiff, channels, separate):
    samples = np.random.default_rng(2).integers(0, 65536, (5, 7, channels), dtype=np.uint16)
    samples[..., 3:] = 65535
    data = tiff(samples, 16, separate=separate)
    assert read_header(io.BytesIO(data)).deep
    found = picture(data)
    assert found.peak == 65535
    np.testing.assert_array_equal(found.pixels, samples[..., :3])


def test_planes_of_a_tiff_that_pillow_mixes_up_are_refused(tiff):
    samples = np.random.default_rng(2).integers(0, 256, (5, 7, 2), dtype=np.uint8)
    np.testing.assert_array_equal(
        pixels(tiff(samples, 8), (0, 0, 0))[..., 0],
        np.asarray(Image.fromarray(samples).convert("RGBA").convert("RGBa"))[..., 0],
    )
    for read in (pixels, lambda data: read_header(io.BytesIO(data))):
        with pytest.raises(BrokenImage, match=r"its planes are separate \(LA\)\. Store them"):
            read(tiff(samples, 8, separate=True))


@pytest.mark.parametrize(("maxval", "peak"), [(100, 255), (4095, 65535), (65535, 65535)])
def test_white_is_that_of_the_depth_of_a_pgm(maxval, peak):
    samples = np.linspace(0, maxval, 12).round().astype(int)
    stored = samples.astype("u1" if maxval < 256 else ">u2").tobytes()
    found = picture(b"P5 4 3 %d\n" % maxval + stored)
    assert found.peak == peak
    np.testing.assert_allclose(found.pixels.reshape(-1), samples * peak / maxval, atol=0.5)


def test_the_significant_bits_of_a_png_change_nothing(png16):
    """The samples are of 16 bits for any sBIT (PNG, 11.3.2.7)."""
    samples = np.random.default_rng(3).integers(0, 65536, (5, 7, 3), dtype=np.uint16)
    np.testing.assert_array_equal(pixels(png16(samples, sBIT=bytes([10, 10, 10]))), samples)


@pytest.mark.parametrize("kind", ["PPM", "TGA", "ICO", "JPEG2000"])
def test_other_types_are_exact(kind):
    np.testing.assert_array_equal(
        pixels(encode(Image.fromarray(colours(32, 32)), kind)), colours(32, 32)
    )


@pytest.mark.parametrize("kind", ["AVIF", "HEIF"])
def test_types_for_photographs_are_close(kind):
    if kind == "HEIF":
        pytest.importorskip("pillow_heif")
    smooth = np.add.outer(np.arange(64), np.arange(64))[..., None].repeat(3, 2).astype(np.uint8)
    np.testing.assert_allclose(pixels(encode(Image.fromarray(smooth), kind)), smooth, atol=8)


def test_too_many_pixels_are_refused_with_a_way_out():
    with pytest.raises(BrokenImage, match=r"more than 178 megapixels, .*\. Scale it down first"):
        read_header(io.BytesIO(b"P5 14000 14000 255\n"))
    with pytest.raises(BrokenImage, match="more than 178 megapixels"):
        picture(b"P5 14000 14000 255\n")


def test_float_tiff_is_zero_to_one_or_refused():
    values = np.linspace(0, 1, 6, dtype=np.float32).reshape(2, 3)
    found = picture(encode(Image.fromarray(values), "TIFF"))
    assert (found.peak, found.pixels.shape) == (1, (2, 3, 1))
    np.testing.assert_array_equal(found.pixels[..., 0], values)
    with pytest.raises(BrokenImage, match=r"float values are 0\.\.255, not 0\.\.1"):
        picture(encode(Image.fromarray(values * 255), "TIFF"))


def test_broken_files_say_why():
    whole = encode(Image.fromarray(colours(64, 64)), "PNG")
    for data, reason in (
        (b"", "empty"),
        (b"hello", "not an image that Pillow can read"),
        (whole[: len(whole) // 2], "truncated"),
    ):
        with pytest.raises(BrokenImage, match=reason):
            picture(data)


def test_the_header_agrees_with_the_pixels():
    for image in (Image.new("LA", (5, 3)), Image.new("RGB", (5, 3)), Image.new("1", (5, 3))):
        data = encode(image, "PNG")
        header, found = read_header(io.BytesIO(data)), picture(data)
        assert found.pixels.shape == (header.height, header.width, header.channels)
