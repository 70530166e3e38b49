"""Pictures of the trajectory: the animation, the strip, a grid of every step."""

import numpy as np
import pytest
import torch

from fromnoise.config.errors import ConfigError
from fromnoise.generation import samples
from fromnoise.model.model import to_uint8

SEEDS = [4, 0, 9, 10, 2]


@pytest.mark.parametrize(("steps", "frames"), [(1, 2), (5, 6), (100, 60)])
def test_the_animation_goes_from_the_noise_to_the_finished_images(
    model, tmp_path, steps, frames, monkeypatch, write_samples
):
    saved = []
    monkeypatch.setattr(samples, "save_gif", lambda frames, path: saved.extend(frames) or path)
    write_samples(model, [1, 2], tmp_path, gif=True, steps=steps)
    assert len(saved) == frames
    finished = model.sample([1, 2], steps=steps)
    for frame, images in ((0, to_uint8(model.start([1, 2]))), (-1, finished)):
        assert np.array_equal(saved[frame], samples.tile(images.numpy()))


def test_the_strip_shows_what_it_says(model, tmp_path, monkeypatch, write_samples):
    """Each pair of rows is one seed: x_t, and the x̂_0 predicted from that x_t."""
    shown = {}

    def strip(rows, times, path, title):
        shown.update(rows=rows, times=times)
        return path

    monkeypatch.setattr(samples, "strip_figure", strip)
    write_samples(model, [1, 2], tmp_path, trajectory=True, steps=4)
    steps = list(model.denoise([1, 2], steps=4))
    assert shown["times"] == [100, 75, 50, 25, 0]
    x = torch.stack([model.start([1, 2]), *(step.x for step in steps)])
    x0 = torch.stack([*(step.x0 for step in steps), steps[-1].x])
    labels, pictures = zip(*shown["rows"], strict=True)
    assert labels == ("$x_t$", r"predicted $x_0$") * 2
    for image in (0, 1):
        assert np.array_equal(pictures[2 * image], to_uint8(x[:, image]).numpy())
        assert np.array_equal(pictures[2 * image + 1], to_uint8(x0[:, image]).numpy())


def test_the_strip_shows_the_nearest_times_that_are_visited(
    model, tmp_path, monkeypatch, write_samples
):
    shown = []
    monkeypatch.setattr(samples, "strip_figure", lambda _, times, path, title: shown.extend(times))
    write_samples(model, [1], tmp_path, trajectory=True, steps=4, times=[0, 99, 60, 52, 48])
    assert shown == [100, 50, 0]


def test_a_time_that_is_none_is_refused(model, tmp_path, write_samples):
    with pytest.raises(ConfigError, match=r"^times = 101 is out of range\. Use 0 to 100\.$"):
        write_samples(model, [1], tmp_path, trajectory=True, times=[5, 101])
    assert list(tmp_path.iterdir()) == []


def test_each_step_is_a_grid_of_its_own_time(model, tmp_path, monkeypatch, write_samples):
    shown = {}

    def grid(images, path, **_):
        shown[path.name] = images
        return path

    monkeypatch.setattr(samples, "grid_figure", grid)
    write_samples(model, SEEDS, tmp_path, each_step=True, steps=3)
    steps = list(model.denoise(SEEDS, steps=3))
    assert shown.keys() == {"x_t-0100.png"} | {
        name
        for step in steps
        for name in (f"x_t-{step.s:04d}.png", f"predicted_x0-{step.t:04d}.png")
    }
    for step in steps:
        assert np.array_equal(shown[f"x_t-{step.s:04d}.png"], to_uint8(step.x).numpy())
        assert np.array_equal(shown[f"predicted_x0-{step.t:04d}.png"], to_uint8(step.x0).numpy())
