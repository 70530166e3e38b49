"""`data.depth`: 16 bits and floats from the files through the cache and the training to samples."""

import io
import json
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

import fromnoise
from fromnoise import runs
from fromnoise.checkpoints import read_tensors
from fromnoise.config.errors import ConfigError
from fromnoise.config.recipe import parse_recipe
from fromnoise.data import DataError, open_images
from fromnoise.data.dataset import cache_key
from fromnoise.data.holdout import split_holdout
from fromnoise.data.levels import BYTES, Levels
from fromnoise.data.loader import load_batch, to_float
from fromnoise.diffusion import Step
from fromnoise.evaluation.images import read_images, run_images_of
from fromnoise.generation.edits import inpaint_to_folder
from fromnoise.generation.request import Request
from fromnoise.generation.samples import sample_to_folder
from fromnoise.model import model as model_module
from fromnoise.model.model import load
from fromnoise.pictures import samples_in
from fromnoise.rng import BatchDraws
from fromnoise.training import run as running
from fromnoise.training.step import sample_images


def deep(count=5, channels=1, seed=0, white=65535):
    """uint16 (N, 8, 8, C) with both ends and values whose low bytes matter."""
    values = np.random.default_rng(seed).integers(0, white + 1, (count, 8, 8, channels))
    values[0, 0, :2, 0] = 0, white
    return values.astype(np.uint16)


def png(pixels):
    """A PNG of 16 bits, grey or RGB, as its specification says: another writer than Pillow's."""
    height, width, channels = pixels.shape

    def chunk(kind, content):
        body = kind + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    kind = {1: 0, 3: 2}[channels]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def read_png(content):
    """The samples of a 16-bit grey PNG, another reader than Pillow's: uint16 (h, w)."""
    place, parts = 8, {}
    while place < len(content):
        size, kind = struct.unpack(">I4s", content[place : place + 8])
        parts[kind] = parts.get(kind, b"") + content[place + 8 : place + 8 + size]
        place += size + 12
    width, height, bits, colour, *_ = struct.unpack(">IIBBBBB", parts[b"IHDR"])
    assert (bits, colour) == (16, 0)
    data, stride = zlib.decompress(parts[b"IDAT"]), 2 * width
    rows, above = [], bytes(stride)
    for y in range(height):
        start = y * (stride + 1)
        filtered, row = data[start + 1 : start + 1 + stride], bytearray()
        for i, byte in enumerate(filtered):
            left, up = row[i - 2] if i >= 2 else 0, above[i]
            corner = above[i - 2] if i >= 2 else 0
            guess = left + up - corner
            nearest = min((left, up, corner), key=lambda each: abs(guess - each))
            added = [0, left, up, (left + up) // 2, nearest][data[start]]
            row.append((byte + added) & 255)
        rows.append(np.frombuffer(bytes(row), ">u2"))
        above = bytes(row)
    return np.stack(rows).astype(np.uint16)


def tiff(pixels):
    """A file of Pillow's, grey: uint16 or float32."""
    content = io.BytesIO()
    Image.fromarray(pixels[..., 0]).save(content, "TIFF")
    return content.getvalue()


def pgm(pixels):
    return b"P5 8 8 65535\n" + pixels.astype(">u2").tobytes()


def write(folder, files):
    folder.mkdir(exist_ok=True)
    for i, content in enumerate(files):
        ending = {b"\x89P": "png", b"P5": "pgm"}.get(content[:2], "tif")
        (folder / f"{i}.{ending}").write_bytes(content)
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FROMNOISE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


# ---- from files to the network ------------------------------------------------------------------


def test_16_bits_are_kept_from_every_kind_of_file(tmp_path):
    grey, colour = deep(), deep(channels=3)
    cases = {
        "png": (write(tmp_path / "png", map(png, grey)), "folder", grey),
        "tiff": (write(tmp_path / "tiff", map(tiff, grey)), "folder", grey),
        "pgm": (write(tmp_path / "pgm", map(pgm, grey)), "folder", grey),
        "rgb": (write(tmp_path / "rgb", map(png, colour)), "folder", colour),
    }
    np.savez(tmp_path / "a.npz", images=colour)
    cases["npz"] = tmp_path / "a.npz", "npz", colour
    for name, (path, source, pixels) in cases.items():
        for _ in range(2):  # the second time from the cache
            opened = open_images(source, path, depth=16)
            assert opened.images.dtype == np.uint16, name
            assert np.array_equal(opened.images, pixels.transpose(0, 3, 1, 2)), name
        assert opened.levels == Levels(16, 0, 65535)
        # 8 bits are what they were, with a line that says so
        bytes_ = open_images(source, path)
        assert bytes_.images.dtype == np.uint8
        assert np.array_equal(bytes_.images, np.rint(opened.images / 257)), name
        assert np.array_equal(opened.as_bytes().images, bytes_.images), name
        line = "5 images of 16 bits are rounded to 8. To keep them: data.depth=16"
        assert bytes_.notes == (line,)
        assert opened.notes == ()


def test_the_cache_of_8_bits_is_what_it_was(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(128, dtype=np.uint8).reshape(2, 8, 8))
    opened = open_images("npz", tmp_path / "a.npy")
    (entry,) = (tmp_path / "cache").iterdir()
    stat = (tmp_path / "a.npy").stat()
    stamp = ["a.npy", stat.st_size, stat.st_mtime_ns]
    where = str((tmp_path / "a.npy").resolve())
    key = ["npz", where, "train", None, None, "crop", [255, 255, 255], None, stamp]
    assert entry.name == cache_key(key)
    assert json.loads((entry / "meta.json").read_text())["notes"] == []
    header = b"\x93NUMPY\x01\x00v\x00{'descr': '|u1', 'fortran_order': False, "
    assert (entry / "images.npy").read_bytes().startswith(header)
    assert opened.levels == BYTES


def test_white_of_12_bits_is_the_end_of_the_range(tmp_path):
    pixels = deep(white=4095)
    folder = write(tmp_path / "png", map(png, pixels))
    opened = open_images("folder", folder, depth=16, white=4095)
    assert np.array_equal(opened.images[:, 0], pixels[..., 0])
    x = to_float(torch.from_numpy(np.array(opened.images)), opened.levels)
    assert (x.min(), x.max()) == (-1, 1)
    assert np.array_equal(
        opened.as_bytes().images, open_images("folder", folder, white=4095).images
    )


def test_floats_are_kept_as_they_are(tmp_path):
    values = np.random.default_rng(0).uniform(-300, 700, (4, 8, 8, 1)).astype(np.float32)
    values[0, 0, :2, 0] = -300, 700
    np.save(tmp_path / "a.npy", values.astype(np.float64))
    cases = [("npz", tmp_path / "a.npy"), ("folder", write(tmp_path / "t", map(tiff, values)))]
    for source, path in cases:
        opened = open_images(source, path, depth="float", range=(-300, 700))
        assert opened.images.dtype == np.float32
        assert np.array_equal(opened.images[:, 0], values[..., 0])
        x = to_float(torch.from_numpy(np.array(opened.images)), opened.levels).double().numpy()
        stated = (opened.images.astype(np.float64) + 300) / 500 - 1
        np.testing.assert_allclose(x, stated, atol=3e-7)
        assert (x.min(), x.max()) == (-1, 1)
        levels = np.rint((opened.images.astype(np.float64) + 300) / 1000 * 255)
        assert np.array_equal(opened.as_bytes().images, levels)


def test_other_sizes_are_resampled_in_their_depth(tmp_path):
    """A ramp at half its size has its own means, which 8 bits cannot hold."""
    ramp = np.arange(256).reshape(1, 16, 16) * 37 + 1000
    np.save(tmp_path / "a.npy", ramp.astype(np.uint16))
    half = open_images("npz", tmp_path / "a.npy", depth=16, size=(8, 8)).images[0, 0]
    means = ramp[0].reshape(8, 2, 8, 2).mean(axis=(1, 3))
    assert np.abs(half[3:5, 2:-2] - means[3:5, 2:-2]).max() <= 0.5
    padded = open_images("npz", tmp_path / "a.npy", depth=16, size=(20, 16), fit="pad").images
    assert (padded[0, 0, 0] == 65535).all()
    np.save(tmp_path / "b.npy", ramp.astype(np.float32))
    how = {"depth": "float", "range": (0, 20000), "size": (20, 16), "fit": "pad"}
    assert (open_images("npz", tmp_path / "b.npy", **how).images[0, 0, 0] == 20000).all()


def test_a_batch_is_float_in_the_range_of_the_network(tmp_path):
    pixels = deep(count=4)
    np.savez(tmp_path / "a.npz", images=pixels)
    data = open_images("npz", tmp_path / "a.npz", depth=16)
    batch = load_batch(data, BatchDraws.of(0, 0, 4), flip=True)
    assert batch.dtype == torch.float32
    assert to_float(batch) is batch
    values = ((batch.double() + 1) * 32767.5).round().numpy()
    mirrored = {pixels[i, :, ::d, 0].astype(int).tobytes() for i in range(4) for d in (1, -1)}
    assert all(image[0].astype(int).tobytes() in mirrored for image in values)


def test_augmented_and_held_out_images_keep_their_depth(tiny, tmp_path):
    """Augmented they are those of 8 bits, to the rounding; scores hold out the same ones."""
    np.save(tmp_path / "a.npy", deep(count=30))
    tiny["training"]["augment"] = 0.9
    tiny["data"] = {"source": "npz", "path": str(tmp_path / "a.npy"), "holdout": 0.2}
    of = {}
    for depth in (8, 16):
        recipe = parse_recipe(tiny, "tiny", {"data.depth": depth})
        x0, _ = sample_images(recipe, running.open_data(recipe), 0)
        of[depth] = to_float(x0)
    assert of[16].dtype == torch.float32
    assert (of[16] - of[8]).abs().max() <= 1.5 / 127.5
    assert (of[16] != of[8]).any()
    trained, held = split_holdout(running.open_data(recipe), 0.2)
    (tmp_path / "recipe.yaml").write_text(recipe.to_yaml())
    found = run_images_of(tmp_path)
    for real, own in ((found.training, trained), (found.held_out, held)):
        assert np.array_equal(real.images.images, np.rint(own.images / 257))


# ---- bad input ----------------------------------------------------------------------------------


def test_bad_input_is_one_line(tmp_path):
    eight = Image.fromarray(np.zeros((8, 8), np.uint8))
    (tmp_path / "8").mkdir()
    eight.save(tmp_path / "8" / "a.png")
    floats = np.linspace(0, 2, 128, dtype=np.float32).reshape(2, 8, 8)
    np.save(tmp_path / "f.npy", floats)
    np.save(tmp_path / "1.npy", floats / 2)
    floats[1, 3, 3] = np.nan
    np.save(tmp_path / "nan.npy", floats)
    np.save(tmp_path / "16.npy", deep()[..., 0])
    cases = [
        ("folder", "8", {"depth": 16}, "a.png has 8 bits, but data.depth = 16. Set data.depth=8, "),
        ("npz", "16.npy", {"depth": "float"}, "image 0 has 16 bits, but data.depth = float. Set "),
        (
            "npz",
            "1.npy",
            {"depth": 16},
            "image 0 has floats, but data.depth = 16. Set data.depth=f",
        ),
        (
            *("npz", "f.npy", {"depth": "float", "range": (0, 0.5)}),
            "image 0: its values are 0..0.99",
        ),
        ("npz", "f.npy", {}, "or set data.depth=float and data.range."),
    ]
    for source, name, how, text in cases:
        with pytest.raises(DataError) as caught:
            open_images(source, tmp_path / name, **how)
        assert text in str(caught.value), name
        assert "\n" not in str(caught.value)
    for how in ({"depth": 12}, {"range": (0, 1)}, {"depth": "float", "range": (1, 1)}):
        with pytest.raises(DataError, match=r"^data\.(depth|range) is .*\.$"):
            open_images("npz", tmp_path / "f.npy", **how)
    some = open_images("npz", tmp_path / "f.npy", depth="float")
    assert len(some) == 1
    assert some.skipped == ("image 1: its values are 1.00787..2, outside data.range = [0, 1]",)
    some = open_images("npz", tmp_path / "nan.npy", depth="float", range=(0, 2))
    assert (len(some), some.skipped) == (1, ("image 1: it has NaN",))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"data.range": [0, 1]}, "range is for floats, but depth = 8. Set depth=float"),
        ({"data.depth": "float", "data.range": [1, 0]}, "range = [1.0, 0.0] is empty"),
        ({"data.depth": 12}, "data.depth"),
    ],
)
def test_a_recipe_that_does_not_fit_is_refused(tiny, changes, text):
    with pytest.raises(ConfigError, match="data") as caught:
        parse_recipe(tiny, "tiny", changes)
    assert text in str(caught.value)


# ---- training and samples -----------------------------------------------------------------------


@pytest.fixture
def trained(tiny, tmp_path, monkeypatch):
    """trained(array, depth=16): the folder of a run of two steps."""
    monkeypatch.setattr(runs, "draw_pictures", lambda *_, **__: None)
    numbers = iter(range(99))

    def train(images, **data):
        recipe = {**tiny, "training": tiny["training"] | {"steps": 2, "checkpoint_every": 2}}
        overrides = {f"data.{key}": value for key, value in data.items()}
        out = tmp_path / f"run{next(numbers)}"
        return fromnoise.train(recipe, out=out, data=images, overrides=overrides).folder

    return train


def as_if_sampled(model, images, monkeypatch):
    """Let the model sample these images, stored values, for the seeds 0, 1, …"""

    def denoise(seeds, *_, **__):
        x = model.x0_of(torch.from_numpy(images[list(seeds)]))
        yield Step(1, 0, x, x)

    monkeypatch.setattr(model, "denoise", denoise)
    return model


def test_what_comes_in_comes_out(trained, tmp_path, monkeypatch):
    """Files → cache → x_0 of the network → samples, bit for bit."""
    grid = np.random.default_rng(0).integers(0, 2**12, (5, 8, 8, 1))
    floats = (grid / 2**12 * 8 - 4).astype(np.float32)  # exact in float32 as x_0 too
    cases = [
        (deep(), {"depth": 16}, True),
        (deep(white=4095), {"depth": 16, "white": 4095}, True),
        (deep(channels=3), {"depth": 16}, False),
        (floats, {"depth": "float", "range": [-4, 4]}, False),
    ]
    for i, (pixels, options, whole) in enumerate(cases):
        np.save(tmp_path / f"{i}.npy", pixels)
        run = trained(tmp_path / f"{i}.npy", **options)
        model = load(run, device="cpu")
        cached = running.open_data(runs.load_recipe(run / "recipe.yaml"))
        assert model.spec.levels == cached.levels
        x = to_float(torch.from_numpy(np.array(cached.images)), cached.levels)
        assert model.pixels(x).numpy().tobytes() == cached.images.tobytes()
        assert torch.equal(model.x0_of(model.pixels(x)), x)
        stored = np.array(cached.images)
        as_if_sampled(model, stored, monkeypatch)
        assert model.sample(range(5)).numpy().tobytes() == stored.tobytes()
        folder = tmp_path / f"samples{i}"
        files = sample_to_folder(Request(model, model.sampling_config(), folder), range(5))
        if whole:
            for file, image in zip(files[:5], stored, strict=True):
                assert np.array_equal(read_png(file.read_bytes()), image[0])
            how = {"depth": 16, "white": options.get("white")}
            again = open_images("folder", folder, only=[f.name for f in files[:5]], **how)
            assert np.array_equal(again.images, stored)
            assert not list(folder.glob("*.npz"))
            assert all(texts["depth"] == "16" for texts in samples_in(folder).values())
        else:
            with np.load(next(folder.glob("samples_*.npz"))) as arrays:
                assert arrays["arr_0"].dtype == stored.dtype
                assert np.array_equal(arrays["arr_0"], stored.transpose(0, 2, 3, 1))
            shown = np.stack([np.atleast_3d(np.asarray(Image.open(f))) for f in files[:5]])
            assert np.array_equal(shown.transpose(0, 3, 1, 2), cached.as_bytes().images)


def test_a_model_of_8_bits_says_nothing_of_depth(run):
    for file in (run / "checkpoints").glob("*/ema.safetensors"):
        spec = json.loads(read_tensors(file).metadata["fromnoise"])
        assert not {"depth", "range"} & spec.keys()
    model = load(run, device="cpu")
    assert model.sample(range(2)).dtype == torch.uint8
    assert model_module.to_uint8(torch.tensor([-1.0, 1.0])).tolist() == [0, 255]


def test_samples_of_12_bits_are_compared_with_their_white(trained, tmp_path, monkeypatch):
    np.save(tmp_path / "a.npy", deep(white=4095))
    model = load(trained(tmp_path / "a.npy", depth=16, white=4095), device="cpu")
    stored = deep(white=4095).transpose(0, 3, 1, 2)
    as_if_sampled(model, stored, monkeypatch)
    folder = tmp_path / "samples"
    sample_to_folder(Request(model, model.sampling_config(), folder), range(5))
    read = read_images(folder).images
    assert np.array_equal(read, np.rint(stored / 4095 * 255))


def test_an_edit_keeps_the_bits_of_what_it_leaves_alone(trained, tmp_path):
    np.save(tmp_path / "a.npy", deep())
    model = load(trained(tmp_path / "a.npy", depth=16), device="cpu")
    (tmp_path / "in.png").write_bytes(png(deep()[1]))
    mask = np.zeros((8, 8), np.uint8)
    mask[:, 4:] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    config = model.sampling_config(sampler="ddpm", steps=3)
    request = Request(model, config, tmp_path / "out")
    out = inpaint_to_folder(request, tmp_path / "in.png", tmp_path / "mask.png", [0], resample=1)
    found = read_png(out[0].read_bytes())
    assert np.array_equal(found[:, :4], deep()[1, :, :4, 0])
    assert (found[:, 4:] != deep()[1, :, 4:, 0]).any()


def test_training_images_are_compared_as_8_bits_which_is_said_once(trained, tmp_path, caplog):
    np.save(tmp_path / "a.npy", deep())
    run = trained(tmp_path / "a.npy", depth=16)
    caplog.clear()
    caplog.set_level("INFO")
    found = run_images_of(run)
    assert np.array_equal(found.training.images.images, np.rint(deep().transpose(0, 3, 1, 2) / 257))
    said = [line for line in caplog.messages if "compared as 8 bits" in line]
    assert said == ["images of 16 bits, black 0 and white 65535 are compared as 8 bits, 0 and 255"]


def test_weights_of_another_depth_are_a_warning(trained, tiny, tmp_path, caplog):
    first = trained(None)
    np.save(tmp_path / "a.npy", deep())
    tiny["training"]["start_from"] = str(first)
    trained(tmp_path / "a.npy", depth=16)
    line = f"{first} was trained on images of 8 bits, black 0 and white 255, and has to learn"
    assert any(text.startswith(line) for text in caplog.messages)


# ---- from memory --------------------------------------------------------------------------------


class Pairs(torch.utils.data.Dataset):
    classes = ("even", "odd")

    def __len__(self):
        return 6

    def __getitem__(self, i):
        return torch.full((1, 8, 8), i / 8), i % 2


@pytest.mark.slow
def test_arrays_are_trained_on_and_resumed_from_the_cache(trained, cache, tmp_path):
    pixels = deep()
    run = trained(pixels.transpose(0, 3, 1, 2), depth=16)
    data = runs.load_recipe(run / "recipe.yaml").data
    assert (data.source, data.path.parent) == ("npz", cache / "arrays")
    assert np.array_equal(
        running.open_data(runs.load_recipe(run / "recipe.yaml")).images[:, 0], pixels[..., 0]
    )
    assert trained(pixels.transpose(0, 3, 1, 2), depth=16)  # the same file
    assert len(list(data.path.parent.iterdir())) == 1
    runs.resume(run, overrides={"training.steps": 3})
    data.path.unlink()
    with pytest.raises(DataError, match=r"no longer in the cache\. Give them again in Python: f"):
        runs.resume(run, overrides={"training.steps": 4})
    resumed = runs.resume(run, data=pixels.transpose(0, 3, 1, 2), overrides={"training.steps": 4})
    assert resumed.finished


def test_a_data_set_of_torch_has_images_and_labels(trained):
    run = trained(Pairs(), depth="float", labels=True)
    spec = load(run, device="cpu").spec
    assert (spec.label_names, spec.levels) == (("even", "odd"), Levels("float", 0, 1))
    opened = running.open_data(runs.load_recipe(run / "recipe.yaml"))
    assert np.array_equal(opened.images[:, 0, 0, 0], np.arange(6) / 8)
    assert opened.labels.tolist() == [[1, -1], [-1, 1]] * 3


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (np.zeros((4, 8)), "data: an array of float64 (4, 8). Give (N, H, W), "),
        (np.zeros((2, 8, 8), complex), "data: an array of complex128 (2, 8, 8). Give"),
        (np.full((2, 8, 8), np.nan), "data: the array has NaN or infinite values. Remove them."),
        (7, "data: a int is no array and no map-style torch Dataset. Give"),
        ([], "data: the data set is empty. Add images."),
        ([np.zeros((8, 8)), np.zeros((8, 9))], "data: images of (8, 8) and of (8, 9). Bring them"),
    ],
)
def test_what_is_no_image_is_one_line(trained, tmp_path, data, text):
    with pytest.raises(DataError) as caught:
        trained(data)
    assert str(caught.value).startswith(text)
    assert not list(tmp_path.glob("run*"))
