"""Edits as files: from images and masks to a folder, or one line and no folder."""

import weakref

import numpy as np
import pytest
import torch
from PIL import Image

import fromnoise
from fromnoise.config.errors import ConfigError
from fromnoise.data import DataError, read_image
from fromnoise.diffusion import Step, slerp
from fromnoise.generation.edits import (
    DETERMINISTIC,
    inpaint_to_folder,
    interpolate_seeds_to_folder,
    interpolate_to_folder,
    vary_to_folder,
)
from fromnoise.generation.request import Request
from fromnoise.model.model import Model, build_denoiser, from_uint8, last_x, to_uint8

SIDE = 8


@pytest.fixture
def pair(tmp_path):
    """A dark and a bright picture, larger than the model's images and of three equal channels."""
    for name, value in (("a", 30), ("b", 220)):
        Image.fromarray(np.full((20, 24, 3), value, np.uint8)).save(tmp_path / f"{name}.png")
    return tmp_path / "a.png", tmp_path / "b.png"


@pytest.fixture
def photos(tmp_path):
    """A folder of two pictures of noise, of the model's size and larger, and a mask for each."""
    rng = np.random.default_rng(0)
    for folder in ("photos", "masks"):
        (tmp_path / folder).mkdir()
    for name, side in (("one", SIDE), ("two", 20)):
        pixels = rng.integers(0, 256, (side, side, 3)).mean(axis=2).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{name}.png")
        mask = np.zeros((side, side), np.uint8)
        mask[: side // 2] = 255
        Image.fromarray(mask).save(tmp_path / "masks" / f"{name}.png")
    return tmp_path / "photos"


@pytest.fixture
def masks(photos):
    return photos.parent / "masks"


def read(file):
    with Image.open(file) as image:
        return np.asarray(image)


def seen(model, file):
    """The image as the model sees it: (H, W), for it is grey."""
    spec = model.spec
    return read_image(file, size=spec.size, channels=spec.channels)[0]


def test_a_colour_image_for_a_grey_model_is_one_line(model, cli, finished_run, tmp_path):
    pixels = np.zeros((SIDE, SIDE, 3), np.uint8)
    pixels[..., 0] = 200
    Image.fromarray(pixels).save(tmp_path / "red.png")
    code, _, err = cli(
        *("edit", "vary", finished_run, "--image", tmp_path / "red.png", "--out", tmp_path / "out")
    )
    assert code == 2
    assert "red.png is in colour (3 channels), but this model's images are grey (1" in err
    assert not (tmp_path / "out").exists()


def test_frames_do_not_depend_on_the_batch(model, pair, tmp_path):
    config = model.sampling_config(**DETERMINISTIC, steps=3)
    for size in (2, 64):
        out = tmp_path / f"{size}"
        interpolate_to_folder(Request(model, config, out, batch_size=size), *pair, frames=5)
    for i in range(5):
        few, many = (read(tmp_path / size / f"a-b-{i:03d}.png") for size in ("2", "64"))
        assert np.abs(few.astype(int) - many.astype(int)).max() <= 1


# ---- inpaint ------------------------------------------------------------------------------------


def test_known_pixels_come_back_byte_for_byte_and_the_others_are_made(
    model, photos, masks, tmp_path
):
    config = model.sampling_config(sampler="ddpm")
    request = Request(model, config, tmp_path / "out")
    files = inpaint_to_folder(request, photos, masks, [0, 7], resample=2, jump=2)
    names = [f"{name}-{seed:06d}.png" for name in ("one", "two") for seed in (0, 7)]
    assert [file.name for file in files] == [*names, "comparison.png"]
    for name in ("one", "two"):
        before = seen(model, photos / f"{name}.png")
        made = [read(tmp_path / "out" / f"{name}-{seed:06d}.png") for seed in (0, 7)]
        for image in made:
            np.testing.assert_array_equal(image[SIDE // 2 :], before[SIDE // 2 :])
            assert (image[: SIDE // 2] != before[: SIDE // 2]).mean() > 0.5
        assert (made[0] != made[1]).any()
    with Image.open(files[1]) as image:
        texts = {"edit": "inpaint", "image": "one", "seed": "7", "resample": "2", "jump": "2"}
        assert texts.items() <= image.info.items()


def test_an_image_is_made_alike_in_any_company(model, photos, masks, tmp_path):
    how = {"seeds": [0, 7], "resample": 2, "jump": 2}
    one, two = tmp_path / "1", tmp_path / "2"
    config = model.sampling_config(sampler="ddpm")
    inpaint_to_folder(Request(model, config, one), photos, masks, **how)
    alone = photos / "two.png", masks / "two.png"
    inpaint_to_folder(Request(model, config, two, batch_size=1), *alone, **how)
    for name in ("two-000000.png", "two-000007.png"):
        apart = read(one / name).astype(int) - read(two / name)
        assert np.abs(apart).max() <= 1


def test_a_mask_all_white_is_plain_sampling(model, photos, tmp_path):
    white = tmp_path / "white.png"
    Image.fromarray(np.full((SIDE, SIDE), 255, np.uint8)).save(white)
    config = model.sampling_config(sampler="ddpm", steps=7)
    request = Request(model, config, tmp_path / "out")
    inpaint_to_folder(request, photos / "one.png", white, [5], resample=1)
    plain = model.sample([5], sampler="ddpm", steps=7)[0, 0].numpy()
    np.testing.assert_array_equal(read(tmp_path / "out" / "one-000005.png"), plain)


# ---- vary ---------------------------------------------------------------------------------------


def test_without_strength_it_is_the_image_and_with_all_of_it_plain_sampling(
    model, photos, tmp_path
):
    for strength in (0, 1):
        config = model.sampling_config(sampler="ddpm" if strength else None)
        out = tmp_path / f"{strength}"
        vary_to_folder(Request(model, config, out), photos, [0, 1], strength=strength)
    plain = model.sample([0, 1, 0, 1], sampler="ddpm")[:, 0].numpy()
    for i, (name, seed) in enumerate([("one", 0), ("one", 1), ("two", 0), ("two", 1)]):
        file = f"{name}-{seed:06d}.png"
        np.testing.assert_array_equal(
            read(tmp_path / "0" / file), seen(model, photos / f"{name}.png")
        )
        np.testing.assert_array_equal(read(tmp_path / "1" / file), plain[i])


def test_a_greater_strength_leaves_less_of_the_image(model, photos, tmp_path):
    before = seen(model, photos / "one.png").astype(int)
    apart = []
    for strength in (0.02, 0.2, 0.9):
        out, config = tmp_path / f"{strength}", model.sampling_config(steps=100)
        vary_to_folder(Request(model, config, out), photos / "one.png", [0], strength=strength)
        apart.append(np.abs(read(out / "one-000000.png") - before).mean())
    assert apart == sorted(apart)
    assert apart[0] < 20
    assert apart[2] > 2 * apart[0]


# ---- interpolate --------------------------------------------------------------------------------


def test_inverted_images_come_back_at_the_ends_and_the_middle_is_between_them(
    model, photos, tmp_path
):
    """A new network predicts ε = 0, with which DDIM is exact: x_T = √ᾱ_T x_0, and back."""
    new = Model(build_denoiser(model.spec).eval().requires_grad_(False), model.spec)
    ends = [photos / "one.png", photos / "two.png"]
    config = new.sampling_config(**DETERMINISTIC)
    files = interpolate_to_folder(Request(new, config, tmp_path / "out"), *ends, frames=3)
    names = [f"one-two-{i:03d}.png" for i in range(3)]
    assert [file.name for file in files] == [*names, "comparison.png", "interpolation.gif"]
    a, b = (from_uint8(torch.tensor(seen(model, end)))[None] for end in ends)
    for file, share in zip(files, (0, 0.5, 1), strict=False):
        expected = to_uint8(slerp(a, b, share))[0].numpy()
        assert np.abs(read(file) - expected.astype(int)).max() <= 1
    with Image.open(files[-1]) as gif:
        assert gif.n_frames == 3


def test_folders_are_paired_in_their_order(model, photos, tmp_path):
    config = model.sampling_config(**DETERMINISTIC)
    request = Request(model, config, tmp_path / "out")
    files = interpolate_to_folder(request, photos, photos, frames=2)
    names = ["one-one-000", "one-one-001", "two-two-000", "two-two-001"]
    assert [file.stem for file in files[:4]] == names
    np.testing.assert_array_equal(read(files[0]), read(files[1]))  # parallel noises


def test_between_seeds_the_ends_are_what_sample_makes(model, tmp_path):
    config = model.sampling_config(**DETERMINISTIC)
    request = Request(model, config, tmp_path / "out")
    files = interpolate_seeds_to_folder(request, [3, 8, 4], frames=3)
    stems = [f"{a:06d}-{b:06d}-{i:03d}" for a, b in ((3, 8), (8, 4)) for i in range(3)]
    assert [file.stem for file in files] == [*stems, "comparison", "interpolation"]
    plain = model.sample([3, 8, 8, 4], config)[:, 0].numpy().astype(int)
    for image, i in zip(plain, (0, 2, 3, 5), strict=True):
        assert np.abs(read(files[i]) - image).max() <= 1


def test_with_a_strength_it_goes_from_the_one_to_the_other(model, pair, tmp_path):
    """So little noise that an untrained model cannot change much: the ends are the inputs."""
    out = tmp_path / "out"
    config = model.sampling_config(steps=100)
    files = interpolate_to_folder(Request(model, config, out), *pair, frames=5, strength=0.02)
    means = []
    for file in files[:5]:
        with Image.open(file) as image:
            assert image.size == (SIDE, SIDE)
            means.append(np.asarray(image).mean())
    assert means == sorted(means)
    assert means[0] == pytest.approx(30, abs=25)  # in 0..255, not in [−1, 1] or [0, 1]
    assert means[-1] == pytest.approx(220, abs=25)
    steps = np.diff(means)
    assert steps.max() < 2 * steps.min()  # evenly: neither end is left out nor said twice


# ---- the range of the images --------------------------------------------------------------------


@pytest.mark.parametrize("data_range", [(-1.0, 1.0), (0.0, 1.0), (-2.5, 0.3)])
def test_every_byte_survives_the_range_of_any_model(data_range):
    every = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    x = from_uint8(every, data_range)
    assert (x.min().item(), x.max().item()) == pytest.approx(data_range)
    assert torch.equal(to_uint8(x, data_range), every)


def test_known_pixels_come_back_from_a_model_of_another_range(model, photos, masks, tmp_path):
    other = Model(model.denoiser, model.spec.model_copy(update={"data_range": (0.0, 1.0)}))
    config = other.sampling_config(sampler="ddpm")
    inpaint_to_folder(Request(other, config, tmp_path / "out"), photos, masks, [0], resample=1)
    made, before = read(tmp_path / "out" / "two-000000.png"), seen(model, photos / "two.png")
    np.testing.assert_array_equal(made[SIDE // 2 :], before[SIDE // 2 :])


# ---- the command line ---------------------------------------------------------------------------


def test_the_commands_say_what_they_wrote(run, photos, masks, tmp_path, cli):
    image = ["--image", photos / "one.png"]
    mask = ["--mask", masks / "one.png", "--resample", 2, "--jump", 2]
    for command, written in (
        (["inpaint", run, *image, *mask], 2),
        (["vary", run, *image, "--num", 3], 4),
        (["vary", run, *image, "--seeds", "0,5"], 3),
        (["interpolate", run, "--seeds", "0,5", "--frames", 3], 5),
    ):
        out = tmp_path / f"{command[0]}{written}"
        code, said, err = cli("edit", *command, "--steps", 3, "--out", out)
        assert (code, err) == (0, "")
        assert sorted(said.splitlines()) == sorted(str(file) for file in out.iterdir())
        assert len(said.splitlines()) == written


def test_frames_and_seed_can_be_chosen_on_the_command_line(run, pair, tmp_path, cli):
    where = ("edit", "interpolate", run, "--a", pair[0], "--b", pair[1], "--frames", 3)
    where += ("--strength", 0.5, "--steps", 4)
    first = cli(*where, "--out", tmp_path / "0")
    again = cli(*where, "--out", tmp_path / "1")
    other = cli(*where, "--out", tmp_path / "2", "--seed", 1)
    assert first.code == again.code == other.code == 0
    assert len(first.out.splitlines()) == 5
    images = [(tmp_path / name / "a-b-001.png").read_bytes() for name in "012"]
    assert images[0] == images[1] != images[2]


@pytest.mark.slow
def test_labels_steer_every_edit(tiny, tmp_path, photos, masks, cli, caplog):
    caplog.set_level("INFO", "fromnoise")
    tree = tiny | {"data": {"source": "digits", "labels": True}}
    run = fromnoise.train(tree, out=tmp_path / "run").folder
    image = ["--image", photos / "one.png"]
    for command in (
        ["inpaint", run, *image, "--mask", masks / "one.png", "--resample", 1],
        ["vary", run, *image, "--num", 1, "--strength", 0.9],
        ["interpolate", run, "--a", photos / "one.png", "--b", photos / "two.png"],
    ):
        first = []
        for label in ("3", "4"):
            out = tmp_path / f"{command[0]} {label}"
            asked = ["--class", label, "--guidance", 20, "--steps", 3, "--out", out]
            assert cli("edit", *command, *asked).code == 0
            first.append(read(min(out.glob("*-*.png"))))
        assert (first[0] != first[1]).any(), command[0]
    assert "guidance: ε = ε_∅ + s·(ε_c − ε_∅) with s = 20; 1 is off" in caplog.text


@pytest.fixture
def refused(cli, tmp_path, run, photos):
    """refused("vary", "--image", …): the one line of an edit that writes nothing."""

    def call(command: str, *arguments: object) -> str:
        before = set(tmp_path.rglob("*"))
        out = [] if "--out" in arguments else ["--out", tmp_path / "out"]
        code, said, err = cli("edit", command, run, *arguments, *out)
        assert (code, said) == (2, "")
        [line] = err.splitlines()
        assert set(tmp_path.rglob("*")) == before
        return line

    return call


@pytest.mark.parametrize("strength", [-0.1, 1.01, 60])
def test_a_strength_outside_is_refused(refused, photos, strength):
    line = refused("vary", "--image", photos, "--strength", strength)
    assert line == (
        f"error: strength = {strength:g} is out of range. Use 0 (keep the image) to 1 (ignore it)."
    )


@pytest.mark.parametrize("strength", [0.0, 0.001, -1, 1.5])
def test_a_strength_that_is_none_is_refused(model, pair, tmp_path, strength):
    request = Request(model, model.sampling_config(), tmp_path / "out")
    with pytest.raises(ConfigError, match=rf"^strength = {strength} is out of range\. Use above 0"):
        interpolate_to_folder(request, *pair, strength=strength)
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_inpainted_is_one_line_and_writes_nothing(refused, photos, masks, tmp_path):
    one, mask = photos / "one.png", masks / "one.png"
    assert f"the mask {masks / 'two.png'} is 20x20 (HxW), but the image {one} is 8x8" in refused(
        "inpaint", "--image", one, "--mask", masks / "two.png"
    )
    Image.fromarray(np.zeros((SIDE, SIDE), np.uint8)).save(tmp_path / "black.png")
    assert "has no white pixel, so nothing would change" in refused(
        "inpaint", "--image", one, "--mask", tmp_path / "black.png"
    )
    for option, wrong in (("--resample", 0), ("--jump", -1)):
        assert f"{option} {wrong}: it should be greater than or equal to 1. " in refused(
            "inpaint", "--image", one, "--mask", mask, option, wrong
        )
    assert "gone.png does not exist. Give an image or a folder" in refused(
        "inpaint", "--image", one, "--mask", tmp_path / "gone.png"
    )
    (masks / "two.png").unlink()
    line = refused("inpaint", "--image", photos, "--mask", masks)
    assert "has no mask for two (1 of 2 images)" in line


def test_what_cannot_be_read_or_written_is_one_line(refused, photos, tmp_path):
    line = refused("vary", "--image", photos, "--out", photos)
    assert line == f"error: {photos} is not empty. Give --out a new folder."
    (photos / "three.png").write_text("no image")
    assert f"{photos / 'three.png'} cannot be read as an image" in refused(
        "vary", "--image", photos
    )
    assert "exclude each other" in refused("vary", "--image", photos, "--num", 1, "--seeds", "0")
    assert "this model is unconditional. Remove the label options" in refused(
        "vary", "--image", photos, "--class", "3"
    )


def test_another_sampler_than_that_of_the_edit_is_refused(model, photos, masks, pair, tmp_path):
    def request(**settings):
        return Request(model, model.sampling_config(**settings), tmp_path / "out")

    with pytest.raises(ConfigError, match="sampler = ddim cannot be used for inpainting"):
        inpaint_to_folder(request(sampler="ddim"), photos, masks, [0])
    with pytest.raises(ConfigError, match=r"eta = 0.5 cannot be used for inversion. Use eta=0"):
        interpolate_to_folder(request(eta=0.5), *pair)
    with pytest.raises(ConfigError, match="sampler = ddpm cannot be used for interpolation"):
        interpolate_seeds_to_folder(request(sampler="ddpm"), [0, 1])
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_interpolated_is_one_line(refused, photos, pair):
    a, b = ("--a", pair[0]), ("--b", pair[1])
    assert "frames = 1 is too small. Use at least 2: the first and the last" in refused(
        "interpolate", *a, *b, "--frames", 1
    )
    both = "the ends are missing or set twice. Give --a and --b, or --seeds 3,8"
    assert both in refused("interpolate", *a)
    assert both in refused("interpolate")
    assert both in refused("interpolate", *a, *b, "--seeds", "3,8")
    assert both in refused("interpolate", *a, "--seeds", "3,8")
    assert "seeds = [3] are too few. Give at least 2, as in 3,8" in refused(
        "interpolate", "--seeds", "3"
    )
    assert "--strength has no effect with --seeds" in refused(
        "interpolate", "--seeds", "3,8", "--strength", 0.5
    )
    for way in ([*a, *b], ["--seeds", "3,8"]):
        line = refused("interpolate", *way, "--seed", 5)
        assert "--seed has no effect without --strength. Remove it." in line
    assert f"{photos} has 2 images, but {pair[1]} has 1" in refused(
        "interpolate", "--a", photos, *b
    )


def test_the_steps_of_a_walk_do_not_stay_in_memory():
    alive = []

    def walk():
        for t in range(100, 0, -1):
            x = torch.full((1,), float(t))
            alive.append(weakref.ref(x))
            assert sum(ref() is not None for ref in alive) <= 3
            yield Step(t, t - 1, x, x)

    assert last_x(walk()).item() == 1


def test_one_image_is_read_as_the_model_wants_it(pair, tmp_path):
    image = read_image(pair[1], size=(8, 6), channels=1)
    assert (image.shape, image.dtype, int(image.mean())) == ((1, 8, 6), np.uint8, 220)
    (tmp_path / "text.png").write_text("no image")
    for name in ("text.png", "nowhere.png"):
        with pytest.raises(DataError, match=name):
            read_image(tmp_path / name, size=(8, 8), channels=3)


@pytest.mark.parametrize("command", ["inpaint", "vary"])
def test_a_seed_that_comes_twice_is_refused(refused, photos, masks, command):
    mask = ["--mask", masks] if command == "inpaint" else []
    line = refused(command, "--image", photos, *mask, "--seeds", "3,0-4")
    assert line == "error: seed 3 is given twice. Give each seed once."
