"""The Fréchet distance of the race, on little: all contestants come to the same."""

import ours
import peers
import pytest


def test_all_come_to_the_same_distance():
    pytest.importorskip("torch_fidelity")
    given = {"count": 1100, "width": 8}
    works = [
        ours.frechet(**given),
        ours.frechet_intervals(**given),
        peers.fidelity_frechet(**given),
    ]
    distance, with_intervals, theirs = (work.round() for work in works)
    assert with_intervals == pytest.approx(distance, rel=1e-9)
    assert theirs == pytest.approx(distance, rel=1e-6)
    assert distance > 0.01
    assert {work.images for work in works} == {1100}
