import numpy as np
import pytest
import torch
from PIL import Image

import fromnoise
from fromnoise.config.errors import ConfigError
from fromnoise.data.labels.names import exact_labels, one_label_each, parse_labels
from fromnoise.generation import samples as sampling
from fromnoise.generation.samples import default_folder, sample_to_folder
from fromnoise.model.model import Autoguidance, Model, build_denoiser, to_uint8
from fromnoise.model.precision import default_precision
from fromnoise.model.spec import PowerAverage

SEEDS = [4, 0, 9, 10, 2]


@pytest.fixture(scope="module")
def model(finished_run):
    return fromnoise.load(finished_run, device="cpu")


# ---- files --------------------------------------------------------------------------------------


def test_images_alone(model, tmp_path):
    files = sample_to_folder(model, SEEDS, tmp_path, batch_size=2, grid=False)
    names = ["000004.png", "000000.png", "000009.png", "000010.png", "000002.png"]
    assert files == [tmp_path / name for name in names]
    assert set(tmp_path.iterdir()) == set(files)
    expected = model.sample(SEEDS, batch_size=2)
    for file, image in zip(files, expected, strict=True):
        assert np.array_equal(np.asarray(Image.open(file)), image[0].numpy())


def test_an_image_says_how_it_was_made(model, tmp_path):
    [file] = sample_to_folder(model, [7], tmp_path, grid=False, steps=3, eta=0.5)
    with Image.open(file) as image:
        said = image.text
    assert said == {
        "sampler": "ddim",
        "clamp": "True",
        "eta": "0.5",
        "steps": "3",
        "timesteps": "trailing",
        "weights": "ema",
        "precision": model.precision,
        "trained steps": "6",
        "seed": "7",
        "software": "fromnoise",
    }


def test_everything_that_can_be_asked_for(model, tmp_path):
    done = []
    files = sample_to_folder(
        model,
        SEEDS,
        tmp_path,
        batch_size=2,
        npz=True,
        gif=True,
        trajectory=True,
        noise=True,
        progress=lambda *numbers: done.append(numbers),
    )
    others = ["denoising.gif", "trajectory.png", "grid.png", "noise.png", "samples_5x8x8x1.npz"]
    assert [file.name for file in files[len(SEEDS) :]] == others
    assert set(tmp_path.iterdir()) == set(files)
    assert done == [(2, 5), (4, 5), (5, 5)]
    for file in files[:-1]:
        with Image.open(file) as image:
            image.load()


def test_the_array_holds_all_images_channels_last(model, tmp_path):
    *_, file = sample_to_folder(model, SEEDS, tmp_path, batch_size=3, grid=False, npz=True)
    with np.load(file) as arrays:
        assert list(arrays) == ["arr_0"]
        images = arrays["arr_0"]
    assert (images.dtype, images.shape) == (np.uint8, (5, 8, 8, 1))
    expected = model.sample(SEEDS, batch_size=3).permute(0, 2, 3, 1).numpy()
    assert np.array_equal(images, expected)


@pytest.mark.parametrize(("steps", "frames"), [(1, 2), (5, 6), (100, 60)])
def test_the_animation_goes_from_the_noise_to_the_finished_images(
    model, tmp_path, steps, frames, monkeypatch
):
    saved = []
    monkeypatch.setattr(sampling, "save_gif", lambda frames, path: saved.extend(frames) or path)
    sample_to_folder(model, [1, 2], tmp_path, grid=False, gif=True, steps=steps)
    assert len(saved) == frames
    finished = model.sample([1, 2], steps=steps)
    for frame, images in ((0, to_uint8(model.start([1, 2]))), (-1, finished)):
        assert np.array_equal(saved[frame], sampling.tile(images.numpy()))


def test_the_strip_shows_what_it_says(model, tmp_path, monkeypatch):
    """Each pair of rows is one seed: x_t, and the x̂_0 predicted from that x_t."""
    shown = {}

    def strip(rows, times, path, title):
        shown.update(rows=rows, times=times)
        return path

    monkeypatch.setattr(sampling, "strip_figure", strip)
    sample_to_folder(model, [1, 2], tmp_path, grid=False, trajectory=True, steps=4)
    steps = list(model.denoise([1, 2], steps=4))
    assert shown["times"] == [100, 75, 50, 25, 0]
    x = torch.stack([model.start([1, 2]), *(step.x for step in steps)])
    x0 = torch.stack([*(step.x0 for step in steps), steps[-1].x])
    labels, pictures = zip(*shown["rows"], strict=True)
    assert labels == ("$x_t$", r"predicted $x_0$") * 2
    for image in (0, 1):
        assert np.array_equal(pictures[2 * image], to_uint8(x[:, image]).numpy())
        assert np.array_equal(pictures[2 * image + 1], to_uint8(x0[:, image]).numpy())


def test_the_strip_shows_the_nearest_times_that_are_visited(model, tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(sampling, "strip_figure", lambda _, times, path, title: shown.extend(times))
    sample_to_folder(
        model, [1], tmp_path, grid=False, trajectory=True, steps=4, times=[0, 99, 60, 52, 48]
    )
    assert shown == [100, 50, 0]


def test_a_time_that_is_none_is_refused(model, tmp_path):
    with pytest.raises(ConfigError, match=r"times must lie in 0\.\.100, not 101"):
        sample_to_folder(model, [1], tmp_path, trajectory=True, times=[5, 101])
    assert list(tmp_path.iterdir()) == []


def test_samples_go_into_the_run_and_never_into_a_checkpoint(model, finished_run, tmp_path):
    expected = finished_run / "samples" / "000006-ema-ddim-5"
    assert default_folder(model, finished_run) == expected
    assert default_folder(model, finished_run / "checkpoints" / "000006") == expected
    file = finished_run / "checkpoints" / "000006" / "ema.safetensors"
    assert default_folder(model, file) == expected
    alone = model.save(tmp_path / "x.safetensors")
    folder = default_folder(model, alone, steps=9, eta=0.5, timesteps="leading")
    assert folder == tmp_path / "samples" / "x-000006-ema-ddim-9-eta0.5-leading"


def test_two_files_in_a_folder_and_two_precisions_do_not_mix(model, tmp_path):
    cats, dogs = (model.save(tmp_path / f"{name}.safetensors") for name in ("cats", "dogs"))
    other = {"fp32": "bf16", "bf16": "fp32"}[default_precision(model.device)]
    ways = [default_folder(model, cats), default_folder(model, dogs)]
    ways += [default_folder(fromnoise.load(cats, device="cpu", precision=other), cats)]
    assert len(set(ways)) == 3
    assert ways[2].name == f"{ways[0].name}-{other}"


def test_grid_and_noise_are_of_the_same_seeds(model, tmp_path, monkeypatch):
    shown = {}

    def grid(images, path, **_):
        shown[path.name] = images
        return path

    monkeypatch.setattr(sampling, "GRID_IMAGES", 3)
    monkeypatch.setattr(sampling, "grid_figure", grid)
    monkeypatch.setattr(sampling, "grids_side_by_side", grid)
    sample_to_folder(model, SEEDS, tmp_path, noise=True)
    assert np.array_equal(shown["grid.png"], model.sample(SEEDS)[:3].numpy())
    (_, start), (_, result) = shown["noise.png"]
    assert np.array_equal(start, to_uint8(model.start(SEEDS[:3])).numpy())
    assert np.array_equal(result, shown["grid.png"])


def test_a_title_tells_two_ways_apart(model, tmp_path, monkeypatch):
    titles = []
    monkeypatch.setattr(sampling, "grid_figure", lambda *_, title, **__: titles.append(title))
    average = PowerAverage(length=0.07, updates=6)
    other = Model(model.denoiser, model.spec.model_copy(update={"power_average": average}))
    for one, how in ((model, {}), (model, {"timesteps": "karras"}), (other, {})):
        sample_to_folder(one, [7], tmp_path, steps=2, **how)
    assert titles == [
        "2 DDIM steps, EMA weights",
        "2 DDIM steps spaced karras, EMA weights",
        "2 DDIM steps, EMA weights of length 0.07",
    ]


def test_each_step_is_a_grid_of_its_own_time(model, tmp_path, monkeypatch):
    shown = {}

    def grid(images, path, **_):
        shown[path.name] = images
        return path

    monkeypatch.setattr(sampling, "grid_figure", grid)
    sample_to_folder(model, SEEDS, tmp_path, each_step=True, grid=False, steps=3)
    steps = list(model.denoise(SEEDS, steps=3))
    assert shown.keys() == {"x_t-0100.png"} | {
        name
        for step in steps
        for name in (f"x_t-{step.s:04d}.png", f"predicted_x0-{step.t:04d}.png")
    }
    for step in steps:
        assert np.array_equal(shown[f"x_t-{step.s:04d}.png"], to_uint8(step.x).numpy())
        assert np.array_equal(shown[f"predicted_x0-{step.t:04d}.png"], to_uint8(step.x0).numpy())


# ---- labels -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def labelled(finished_run):
    """The finished run's network with three labels, untrained: to see what goes where."""
    trained = fromnoise.load(finished_run, device="cpu")
    spec = trained.spec.model_copy(update={"label_names": ("red cube", "a/b", "sphere")})
    torch.manual_seed(0)
    return Model(build_denoiser(spec).eval(), spec)


def test_labels_go_into_names_metadata_and_arrays(labelled, tmp_path):
    cond = one_label_each(labelled.spec.label_names, 4)
    files = sample_to_folder(labelled, [0, 1, 2, 3], tmp_path, cond=cond, npz=True, guidance=3.0)
    assert [file.stem for file in files[:4]] == [
        "000000-red cube",
        "000001-a_b",
        "000002-sphere",
        "000003-red cube",
    ]
    with Image.open(files[1]) as image:
        assert (image.text["labels"], image.text["guidance"]) == ("a/b", "3")
    with np.load(tmp_path / "samples_4x8x8x1.npz") as arrays:
        np.testing.assert_array_equal(arrays["arr_1"], cond)


def test_a_composition_goes_into_names_and_metadata(labelled, tmp_path):
    compose = {"red cube": 3.0, "sphere": -0.5}
    files = sample_to_folder(labelled, [4, 5], tmp_path, compose=compose, npz=True)
    assert [file.stem for file in files[:2]] == [
        f"{seed:06d}-red cube=3, sphere=-0.5" for seed in (4, 5)
    ]
    with Image.open(files[0]) as image:
        assert image.text["labels"] == "red cube=3, sphere=-0.5"
        assert "guidance" not in image.text
    with np.load(tmp_path / "samples_2x8x8x1.npz") as arrays:
        assert arrays.files == ["arr_0"]


def test_the_metadata_say_how_it_was_guided(labelled, tmp_path):
    cond = one_label_each(labelled.spec.label_names, 1)
    how = {"guidance": 2.0, "guidance_interval": (10, 60), "guidance_rescale": 0.7}
    file = sample_to_folder(labelled, [0], tmp_path, cond=cond, clamp="dynamic", **how)[0]
    with Image.open(file) as image:
        said = {key: image.text[key] for key in image.text if key.startswith(("guidance", "clamp"))}
    assert said == {
        "clamp": "dynamic",
        "guidance": "2",
        "guidance interval": "10-60",
        "guidance rescale": "0.7",
    }


def test_guidance_towards_nothing_is_refused(labelled, tmp_path):
    with pytest.raises(ValueError, match=r"nothing to guide towards: ε = ε_∅ \+ s"):
        sample_to_folder(labelled, [0], tmp_path / "out", guidance=3.0)
    assert not (tmp_path / "out").exists()


def test_names_that_are_cut_stay_apart():
    a, b = (sampling._safe("ü" * 60 + end) for end in "ab")
    assert a != b
    assert max(len(a.encode()), len(b.encode())) < 120


def test_other_labels_and_guidance_go_to_other_folders(labelled, tmp_path):
    names = labelled.spec.label_names
    spheres = np.repeat(exact_labels(["sphere"], names)[None], 2, axis=0)
    others = one_label_each(names, 2)[::-1].copy()
    ways = [
        {},
        {"clamp": "dynamic"},
        {"clamp": False},
        {"cond": spheres},
        {"cond": spheres, "guidance": 2.0},
        {"cond": spheres, "guidance": 2.0, "guidance_interval": (10, 60)},
        {"cond": spheres, "guidance": 2.0, "guidance_rescale": 0.5},
        {"cond": np.repeat(parse_labels("sphere", names)[None], 2, axis=0)},
        {"cond": one_label_each(names, 2)},
        {"cond": others},
        {"compose": {"sphere": 2.0}},
        {"compose": {"sphere": -2.0}},
    ]
    assert len({default_folder(labelled, tmp_path, **way) for way in ways}) == len(ways)


# ---- autoguidance -------------------------------------------------------------------------------


def earlier(model, step=3, **changes):
    """The same network before training, which says that it is of `step`."""
    spec = model.spec.model_copy(update={"step": step, **changes})
    torch.manual_seed(1)
    return Model(build_denoiser(spec).eval(), spec)


def test_autoguidance_goes_into_metadata_title_and_folder(model, tmp_path):
    auto = Autoguidance(earlier(model), 2.0)
    [file] = sample_to_folder(model, [7], tmp_path, grid=False, autoguidance=auto)
    with Image.open(file) as image:
        said = (image.text["autoguidance"], image.text["autoguidance steps"])
    assert said == ("2", "3")
    assert default_folder(model, tmp_path, autoguidance=auto).name.endswith("auto2by000003")
    changed = model.sample([7], autoguidance=auto)
    assert not torch.equal(changed, model.sample([7]))
    assert torch.equal(model.sample([7], autoguidance=auto._replace(scale=1.0)), model.sample([7]))


def test_autoguidance_asks_the_weaker_model_for_the_same_labels(labelled):
    cond = torch.from_numpy(one_label_each(labelled.spec.label_names, 2))
    weak = earlier(labelled)
    seen = []
    weak.denoiser.network.register_forward_pre_hook(lambda _, args: seen.append(args[2]))
    labelled.sample([0, 1], cond=cond, steps=1, guidance=3.0, autoguidance=Autoguidance(weak, 2.0))
    [asked] = seen  # once, without the half that asks for nothing
    assert torch.equal(asked, cond)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"size": (4, 4)}, r"its size is \(4, 4\), and here it is \(8, 8\)"),
        ({"channels": 3}, "its channels is 3, and here it is 1"),
        ({"label_names": ("a",)}, r"its label_names is \('a',\), and here it is \(\)"),
    ],
)
def test_autoguidance_by_a_model_of_another_kind_is_refused(model, changes, said):
    with pytest.raises(ValueError, match=said):
        model.sample([0], autoguidance=Autoguidance(earlier(model, **changes), 2.0))


def test_autoguidance_by_a_model_of_another_schedule_is_refused(model):
    weak = earlier(model, diffusion=model.spec.diffusion.model_copy(update={"T": 50}))
    with pytest.raises(ValueError, match="the same noise schedule and T"):
        model.sample([0], autoguidance=Autoguidance(weak, 2.0))


def test_autoguidance_and_a_composition_exclude_each_other(labelled):
    auto = Autoguidance(earlier(labelled), 2.0)
    with pytest.raises(ValueError, match="autoguidance and a composition exclude each other"):
        labelled.sample([0], compose={"sphere": 2.0}, autoguidance=auto)


@pytest.mark.parametrize("scale", [-1.0, float("inf"), float("nan")])
def test_a_scale_of_autoguidance_that_is_none_is_refused(model, scale):
    with pytest.raises(ValueError, match="must be at least 0"):
        model.sample([0], autoguidance=Autoguidance(earlier(model), scale))


@pytest.mark.parametrize("how", [{"guidance_rescale": 0.5}, {"guidance_interval": (1, 50)}])
def test_what_only_guidance_uses_is_refused_without_it(labelled, how):
    cond = torch.from_numpy(one_label_each(labelled.spec.label_names, 1))
    with pytest.raises(ValueError, match="has no effect without guidance"):
        labelled.sample([0], cond=cond, guidance=1.0, **how)


def test_a_seed_that_comes_twice_is_refused(model, tmp_path):
    with pytest.raises(ValueError, match="seed 3 is given twice"):
        sample_to_folder(model, [3, 1, 3], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_seed_may_come_again_with_other_labels(labelled, tmp_path):
    cond = np.eye(len(labelled.spec.label_names), dtype=np.int8)[[0, 1]]
    made = sample_to_folder(labelled, [3, 3], tmp_path / "out", cond=cond, grid=False)
    assert len(set(made)) == 2
    with pytest.raises(ValueError, match=r"seed 3 is given twice for .*Give each seed once"):
        sample_to_folder(labelled, [3, 3], tmp_path / "no", cond=cond[[0, 0]])
