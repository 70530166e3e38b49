import math

import pytest
import torch

from fromnoise.training.log import LogWindow

hypothesis = pytest.importorskip("hypothesis")
given, st = hypothesis.given, hypothesis.strategies

LOSSES = st.floats(0, 100, width=32) | st.just(math.nan) | st.just(math.inf)


@given(
    T=st.integers(1, 50),
    steps=st.lists(st.lists(st.tuples(LOSSES, st.integers(0, 999)), min_size=1), min_size=1),
)
def test_a_window_is_the_mean_of_what_was_finite(T, steps):
    window, plain = LogWindow(), []
    for step in steps:
        losses, times = zip(*((loss, 1 + t % T) for loss, t in step), strict=True)
        window.add(torch.tensor(losses), torch.tensor(times), T, 2.0, 0.5)
        plain += [
            (loss, math.ceil(t * 4 / T) if T % 4 == 0 else (t - 1) * 4 // T + 1)
            for loss, t in zip(losses, times, strict=True)
            if math.isfinite(loss)
        ]
    means = window.means()
    for key, quarters in {"loss": {1, 2, 3, 4}, **{f"loss_q{q}": {q} for q in range(1, 5)}}.items():
        chosen = [loss for loss, quarter in plain if quarter in quarters]
        expected = sum(chosen) / len(chosen) if chosen else None
        assert means[key] == (None if expected is None else pytest.approx(expected, abs=1e-4))
    assert means["gradient_norm"] == 2
    images = sum(len(step) for step in steps)
    assert means["images_per_second"] == pytest.approx(images / (0.5 * len(steps)))


@pytest.mark.parametrize(
    ("t", "quarter"), [(1, 1), (25, 1), (26, 2), (50, 2), (75, 3), (76, 4), (100, 4)]
)
def test_quarters_are_of_the_noise_levels(t, quarter):
    window = LogWindow()
    window.add(torch.ones(1), torch.tensor([t]), 100, 0.0, 1.0)
    means = window.means()
    assert [q for q in range(1, 5) if means[f"loss_q{q}"] is not None] == [quarter]


def test_a_window_counts_what_the_network_was_told():
    window = LogWindow()
    window.add(torch.ones(1), torch.ones(1).int(), 9, 0.0, 1.0)
    assert not [key for key in window.means() if key.startswith("conditions")]
    of_each = torch.tensor([[0, 0], [1, 0], [1, -1], [0, 0]])
    for cond in (of_each, of_each[:2]):
        window.add(torch.ones(len(cond)), torch.ones(len(cond)).int(), 9, 0.0, 1.0, cond)
    means = window.means()
    assert (means["conditions_empty"], means["conditions_partial"]) == (3 / 6, 2 / 6)
