"""quality.py on a run of a few steps: what it says of its samples."""

import sys

import pytest
import quality
import report


@pytest.mark.slow
def test_a_recipe_is_trained_sampled_and_compared(recipe_file, monkeypatch, tmp_path, capsys):
    kept = {}
    monkeypatch.setattr(quality, "save", kept.__setitem__)
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    line = ["quality.py", "--recipe", str(recipe_file), "--num", "64"]
    monkeypatch.setattr(sys, "argv", line)
    quality.main()
    [figures] = kept.values()
    assert figures["samples"] == 64
    assert figures["frechet_distance"] > figures["real_frechet_distance"] > 0
    assert 0.6 < figures["one_nearest_neighbour_accuracy"] <= 1  # little was learned
    assert f"{figures['frechet_distance']:10.3f}" in capsys.readouterr().out
