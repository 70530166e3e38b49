"""Names, titles, metadata and folders of samples."""

import numpy as np
import torch
from PIL import Image

from fromnoise.data.labels import exact_labels, one_label_each, parse_labels
from fromnoise.generation import samples
from fromnoise.generation.request import Conditioning
from fromnoise.generation.samples import default_folder
from fromnoise.model.model import Autoguidance, Model
from fromnoise.model.precision import default_precision
from fromnoise.model.spec import PowerAverage


def folder_of(model, path, cond=None, compose=None, autoguidance=None, **overrides):
    """The default folder of samples with these settings."""
    config = model.sampling_config(**overrides)
    return default_folder(model, path, config, Conditioning(cond, compose, autoguidance))


def test_samples_go_into_the_run_and_never_into_a_checkpoint(model, finished_run, tmp_path):
    expected = finished_run / "samples" / "000006-ema-ddim-5"
    assert folder_of(model, finished_run) == expected
    assert folder_of(model, finished_run / "checkpoints" / "000006") == expected
    file = finished_run / "checkpoints" / "000006" / "ema.safetensors"
    assert folder_of(model, file) == expected
    alone = model.save(tmp_path / "x.safetensors")
    folder = folder_of(model, alone, steps=9, eta=0.5, timesteps="leading")
    assert folder == tmp_path / "samples" / "x-000006-ema-ddim-9-eta0.5-leading"


def test_two_files_in_a_folder_and_two_precisions_do_not_mix(model, tmp_path):
    cats, dogs = (model.save(tmp_path / f"{name}.safetensors") for name in ("cats", "dogs"))
    other = {"fp32": "bf16", "bf16": "fp32"}[default_precision(model.device)]
    ways = [folder_of(model, cats), folder_of(model, dogs)]
    ways += [folder_of(model, cats, precision=other)]
    assert len(set(ways)) == 3
    assert ways[2].name == f"{ways[0].name}-{other}"


def test_labels_that_look_alike_in_files_have_folders_of_their_own(labelled, finished_run):
    names = ("a/b", "a:b", "A:B", ".", "..", "c")
    model = Model(labelled.denoiser, labelled.spec.model_copy(update={"label_names": names}))
    ways = [folder_of(model, finished_run, exact_labels([name], names)[None]) for name in names]
    ways += [folder_of(model, finished_run, compose={name: 1.0}) for name in names]
    assert len({way.name.casefold() for way in ways}) == 2 * len(names)


def test_a_title_tells_two_ways_apart(model, tmp_path, monkeypatch, write_samples):
    titles = []
    monkeypatch.setattr(samples, "grid_figure", lambda *_, title, **__: titles.append(title))
    average = PowerAverage(length=0.07, updates=6)
    other = Model(model.denoiser, model.spec.model_copy(update={"power_average": average}))
    for i, (one, how) in enumerate(((model, {}), (model, {"timesteps": "karras"}), (other, {}))):
        write_samples(one, [7], tmp_path / str(i), grid=True, steps=2, **how)
    assert titles == [
        "2 DDIM steps, EMA weights",
        "2 DDIM steps at karras timesteps, EMA weights",
        "2 DDIM steps, EMA weights of length 0.07",
    ]


def test_labels_go_into_names_metadata_and_arrays(labelled, tmp_path, write_samples):
    cond = one_label_each(labelled.spec.label_names, 4)
    files = write_samples(labelled, [0, 1, 2, 3], tmp_path, cond=cond, npz=True, guidance=3.0)
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


def test_a_composition_goes_into_names_and_metadata(labelled, tmp_path, write_samples):
    compose = {"red cube": 3.0, "sphere": -0.5}
    files = write_samples(labelled, [4, 5], tmp_path, compose=compose, npz=True)
    assert [file.stem for file in files[:2]] == [
        f"{seed:06d}-red cube=3, sphere=-0.5" for seed in (4, 5)
    ]
    with Image.open(files[0]) as image:
        assert image.text["labels"] == "red cube=3, sphere=-0.5"
        assert "guidance" not in image.text
    with np.load(tmp_path / "samples_2x8x8x1.npz") as arrays:
        assert arrays.files == ["arr_0"]


def test_the_metadata_say_how_it_was_guided(labelled, tmp_path, write_samples):
    cond = one_label_each(labelled.spec.label_names, 1)
    how = {"guidance": 2.0, "guidance_interval": (10, 60), "guidance_rescale": 0.7}
    file = write_samples(labelled, [0], tmp_path, cond=cond, clamp="dynamic", **how)[0]
    with Image.open(file) as image:
        said = {key: image.text[key] for key in image.text if key.startswith(("guidance", "clamp"))}
    assert said == {
        "clamp": "dynamic",
        "guidance": "2",
        "guidance interval": "10-60",
        "guidance rescale": "0.7",
    }


def test_names_that_are_cut_stay_apart():
    a, b = (samples._safe("ü" * 60 + end) for end in "ab")
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
    assert len({folder_of(labelled, tmp_path, **way) for way in ways}) == len(ways)


def test_autoguidance_goes_into_metadata_title_and_folder(model, tmp_path, write_samples, earlier):
    auto = Autoguidance(earlier(model), 2.0)
    [file] = write_samples(model, [7], tmp_path, autoguidance=auto)
    with Image.open(file) as image:
        said = (image.text["autoguidance"], image.text["autoguidance steps"])
    assert said == ("2", "3")
    assert folder_of(model, tmp_path, autoguidance=auto).name.endswith("auto2by000003")
    changed = model.sample([7], autoguidance=auto)
    assert not torch.equal(changed, model.sample([7]))
    assert torch.equal(model.sample([7], autoguidance=auto._replace(scale=1.0)), model.sample([7]))
