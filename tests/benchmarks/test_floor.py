"""The floor has all the products of the work, and nothing else: counted by torch's own counter."""

import sys
from pathlib import Path
from types import SimpleNamespace

import floor
import ours
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from utilisation import counter
from work import Work, forget_peak
from worker import peak_gib

NETWORKS = [
    ("ddpm", {"channels": 8, "multipliers": [1, 2], "groups": 4, "attention_levels": [1]}, 16),
    ("linear_attention", {"dim": 8, "multipliers": [1, 2]}, 16),
    ("context", {"features": 8, "cond_dim": 3}, 32),
]
AGAIN = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


def counts(work: Work) -> dict:
    with counter() as counting:
        work.round()
    return counting.get_flop_counts()["Global"]


def needed(work: Work) -> float:
    """Without the fifth product of a fused gradient of attention, the scores computed again."""
    found = counts(work)
    return sum(found.values()) - found.get(AGAIN, 0) / 5


class Everything(nn.Module):
    """Each kind of product once."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1, stride=2)
        self.grouped = nn.Conv2d(8, 8, 3, padding=1, groups=4)
        self.transposed = nn.ConvTranspose2d(8, 4, 4, stride=2, padding=1)
        self.linear = nn.Linear(4, 12)
        self.bare = nn.Linear(4, 4, bias=False)

    def forward(self, x):
        h = F.silu(self.transposed(self.grouped(self.conv(x))))
        q, k, v = self.linear(h.flatten(2).mT).unflatten(2, (3, 2, 2)).permute(2, 0, 3, 1, 4)
        h = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        h = h @ h.mT @ self.bare(h)
        return torch.baddbmm(h, torch.einsum("bnd,bmd->bnm", h, h), h, beta=0.5, alpha=2)


def everything(*, training: bool, bf16: bool) -> Work:
    torch.manual_seed(0)
    network, x = Everything(), torch.randn(2, 3, 8, 8)

    def once() -> None:
        with torch.inference_mode(not training), torch.autocast("cpu", torch.bfloat16, bf16):
            loss = network(x).float().square().mean()
        if training:
            loss.backward()

    return Work("all", 2, once)


@pytest.fixture(autouse=True)
def _named(monkeypatch):
    monkeypatch.setitem(sys.modules, "everything", SimpleNamespace(work=everything))


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_every_kind_of_product_is_counted_and_none_twice(training, bf16):
    options = {"training": training, "bf16": bf16}
    found = counts(floor.under(work="everything:work", options=options))
    assert sum(found.values()) == needed(everything(**options)) > 0
    assert all("scaled_dot_product" not in str(operation) for operation in found)


def test_the_products_of_a_forward_pass_by_hand():
    """2·B·H·W·C·C'·k² of a convolution (H·W of the input, if transposed); 2·n·m·k of others."""
    n, wide, narrow = 2, 64, 16  # images, pixels
    conv = 2 * n * narrow * 3 * 8 * 9
    grouped = 2 * n * narrow * 2 * 8 * 9
    transposed = 2 * n * narrow * 8 * 4 * 16
    linear, bare = 2 * n * wide * 4 * 12, 2 * n * wide * 4 * 4
    attention = 2 * (2 * n * 2 * wide * wide * 2)
    rest = 4 * (2 * n * wide * wide * 4)
    total = conv + grouped + transposed + linear + bare + attention + rest
    options = {"training": False, "bf16": False}
    made = floor.under(work="everything:work", options=options)
    assert sum(counts(made).values()) == total
    assert made.how == f"all: 11 products, {total / 1e9:.3g} Gflop"


@pytest.mark.parametrize("work", ["training_step", "forward"])
@pytest.mark.parametrize(("network", "options", "side"), NETWORKS)
def test_the_floor_of_a_network_has_its_operations(network, options, side, work):
    given = {"network": network, "options": options, "batch_size": 2, "side": side}
    whole = getattr(ours, work)(**given)
    whole.round()
    made = floor.under(work=f"ours:{work}", options=given, chosen=whole.chosen)
    assert sum(counts(made).values()) == needed(whole) > 0
    assert made.images == 2
    assert made.how.startswith(f"{whole.how}: ")


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_floor_of_a_step_is_computed_as_it_was_chosen(precision, channels_last):
    network, options, side = NETWORKS[0]
    given = {"network": network, "options": options, "batch_size": 2, "side": side}
    chosen = {"precision": precision, "channels_last": channels_last}
    made = floor.under(work="ours:training_step", options=given, chosen=chosen)
    layout = "channels last" if channels_last else "channels first"
    assert made.how.startswith(f"{precision}, {layout}: ")


def test_what_the_work_itself_held_is_no_memory_of_the_floor(monkeypatch):
    """Neither is it kept, nor has it a part in the peak."""
    held = []

    class Large(nn.Linear):
        def __del__(self):
            held.remove(id(self))

    def large() -> Work:
        layer = Large(4, 4)
        held.append(id(layer))
        return Work("large", 1, lambda: layer(torch.ones(1, 4)))

    def forget(device):
        assert device == "cpu"
        assert not held, "it is still there when its peak is forgotten"
        held.append("forgotten")

    monkeypatch.setitem(sys.modules, "large", SimpleNamespace(work=large))
    monkeypatch.setattr(floor, "forget_peak", forget)
    floor.under(work="large:work", options={})
    assert held == ["forgotten"]


@pytest.mark.skipif(not Path("/proc/self/clear_refs").is_file(), reason="only Linux has it")
def test_a_peak_that_is_forgotten_does_not_count():
    size = 256 << 20
    held = bytearray(b"x" * size)
    while_held = peak_gib("cpu")
    del held
    forget_peak("cpu")
    assert peak_gib("cpu") < while_held - 0.2
