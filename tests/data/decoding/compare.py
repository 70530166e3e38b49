"""Compare every image below a folder with what other programs decode, and print the counts.

    python tests/data/decoding/compare.py FOLDER

The others are ffmpeg (`pip install imageio-ffmpeg`), OpenCV and libvips (`pip install
opencv-python-headless pyvips-binary pyvips`), as far as they are installed. An image is equal to
one of them if no level differs by more than 1.5, and close if the mean differs by less than 1, as
that of a lossy file does. For every other image you see the means, and may explain them.
"""

import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from fromnoise.data.decoding.decode import EXTENSIONS, read_picture
from fromnoise.data.errors import BrokenImage

WHITE = (255, 255, 255)
PEAKS = {"uint8": 255, "uint16": 65535, "float32": 1, "float64": 255}


def with_vips(path: Path) -> np.ndarray:
    import pyvips

    image = pyvips.Image.new_from_file(str(path)).autorot()
    bits = 16 if image.format == "ushort" else 8
    if "icc-profile-data" in image.get_fields():
        image = image.icc_transform("srgb", embedded=True, intent="perceptual", depth=bits)
    elif image.interpretation == "cmyk":
        image = image.colourspace("srgb")
    return image.numpy()


def with_opencv(path: Path) -> np.ndarray:
    import cv2

    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    colour = image.ndim == 3 and image.shape[2] > 2
    return image[..., [2, 1, 0, 3][: image.shape[2]]] if colour else image


def with_ffmpeg(path: Path) -> np.ndarray:
    import cv2
    import imageio_ffmpeg

    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", str(path), "-frames:v", "1"]
    command += ["-f", "image2pipe", "-c:v", "png", "-pix_fmt", "rgba64be", "-"]
    png = subprocess.run(command, capture_output=True, timeout=60, stdin=subprocess.DEVNULL).stdout
    return cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED)[..., [2, 1, 0, 3]]


OTHERS: tuple[Callable[[Path], np.ndarray], ...] = (with_vips, with_opencv, with_ffmpeg)


def in_colour(pixels: np.ndarray, peak: float) -> np.ndarray:
    """Return levels (h, w, 3) in 0..255, on white, of 1 to 4 channels."""
    pixels = np.atleast_3d(pixels).astype(np.float64) * 255 / peak
    colours = pixels[..., : 1 if pixels.shape[2] < 3 else 3]
    alpha = pixels[..., -1:] / 255 if pixels.shape[2] in (2, 4) else 1
    return np.broadcast_to(colours * alpha + 255 * (1 - alpha), (*pixels.shape[:2], 3))


def compare(path: Path) -> str:
    """Return "equal" or "close", or "other", "alone" or "broken" with the reason."""
    try:
        picture = read_picture(path.read_bytes(), background=WHITE)
    except BrokenImage as error:
        return f"broken: {error}"
    ours, means = in_colour(picture.pixels, picture.peak), {}
    for decode in OTHERS:
        try:
            pixels = decode(path)
            theirs = in_colour(pixels, PEAKS[str(pixels.dtype)])
        except Exception:  # it cannot read the file
            continue
        difference = np.abs(ours - theirs) if ours.shape == theirs.shape else np.array([255.0])
        if difference.max() <= 1.5:
            return "equal"
        means[decode.__name__] = round(float(difference.mean()), 2)
    if not means:
        return "alone: no other program reads it"
    return "close" if min(means.values()) < 1 else f"other: {means}"


if __name__ == "__main__":
    files = [path for path in sorted(Path(sys.argv[1]).rglob("*")) if path.is_file()]
    results = {f: compare(f) for f in files if f.suffix.lower() in EXTENSIONS}
    for file, result in results.items():
        if ":" in result:
            print(f"{file}: {result}")
    print(dict(Counter(result.partition(":")[0] for result in results.values())))
