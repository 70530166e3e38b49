import pytest
import torch
from torch import nn

from fromnoise.training.ema import EMA


def walk(decay: float, updates: int) -> tuple[EMA, list[torch.Tensor]]:
    """The average of a weight that goes on a random walk, and the walk itself."""
    torch.manual_seed(0)
    module = nn.Linear(3, 2)
    ema = EMA(module, decay)
    weights = [module.weight.detach().clone()]
    for n in range(updates):
        with torch.no_grad():
            module.weight += torch.randn(2, 3)
        weights.append(module.weight.detach().clone())
        ema.update(module, n)
    return ema, weights


@pytest.mark.parametrize("decay", [0.0, 0.05, 0.5, 0.9, 0.9999])
def test_the_average_is_the_weighted_sum_of_all_weights(decay):
    ema, weights = walk(decay, 40)
    decays = [min(decay, (1 + n) / (10 + n)) for n in range(40)]
    expected = weights[0].double()
    for d, weight in zip(decays, weights[1:], strict=True):
        expected = d * expected + (1 - d) * weight
    torch.testing.assert_close(ema.module.weight.double(), expected, rtol=0, atol=1e-5)


def test_the_first_update_nearly_forgets_the_random_start():
    ema, (start, first) = walk(0.9999, 1)
    torch.testing.assert_close(ema.module.weight, 0.1 * start + 0.9 * first)


def test_an_old_average_has_the_full_decay():
    module = nn.Linear(1, 1, bias=False)
    ema = EMA(module, 0.9)
    nn.init.zeros_(ema.module.weight)
    nn.init.ones_(module.weight)
    ema.update(module, 10**6)
    assert ema.module.weight.item() == pytest.approx(0.1)


def test_the_average_is_apart_and_in_evaluation_mode():
    module = nn.Sequential(nn.Linear(2, 2), nn.Dropout())
    ema = EMA(module, 0.9)
    assert module.training
    assert not any(part.training for part in ema.module.modules())
    assert not any(parameter.requires_grad for parameter in ema.module.parameters())
    assert all(parameter.requires_grad for parameter in module.parameters())
    before = ema.module[0].weight.clone()
    nn.init.ones_(module[0].weight)
    assert torch.equal(ema.module[0].weight, before)


def test_buffers_are_copied_and_not_averaged():
    module = nn.BatchNorm1d(2)
    ema = EMA(module, 0.9)
    module(torch.randn(8, 2) + 5)
    ema.update(module, 1000)
    for average, buffer in zip(ema.module.buffers(), module.buffers(), strict=True):
        assert torch.equal(average, buffer)
