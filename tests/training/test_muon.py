"""Muon: the step of its equations, for the weights that are its own."""

import json

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import fromnoise
from fromnoise.checkpoints import read_tensors
from fromnoise.networks import NETWORKS
from fromnoise.training.muon import Muon, hidden_weights, orthogonalised


def test_singular_values_become_about_one_and_vectors_stay():
    torch.manual_seed(0)
    for rows, columns in ((8, 8), (16, 100), (100, 16)):
        matrices = torch.randn(3, rows, columns) * torch.tensor([1e-3, 1.0, 1e3])[:, None, None]
        got = orthogonalised(matrices)
        values = torch.linalg.svdvals(got)
        assert values.max() < 1.25
        left, singular, right = torch.linalg.svd(matrices, full_matrices=False)
        kept = singular > 0.05 * singular[:, :1]
        assert values[kept].min() > 0.6
        of_vectors = left.mT @ got @ right.mT
        diagonal = of_vectors.diagonal(dim1=1, dim2=2)
        assert (diagonal[kept] - 1).abs().max() < 0.4
        assert (of_vectors - torch.diag_embed(diagonal)).abs().max() < 1e-3
    assert torch.equal(orthogonalised(torch.zeros(1, 3, 4)), torch.zeros(1, 3, 4))


@pytest.mark.parametrize("size", [2.0**-118, 2.0**-80, 2.0**100])
def test_matrices_of_any_size_have_the_same_direction(size):
    torch.manual_seed(0)
    matrix = torch.randn(1, 6, 20)
    assert torch.equal(orthogonalised(matrix * size), orthogonalised(matrix))


def plain_orthogonal(matrix):
    """The same iteration, one matrix at a time, as its authors write it."""
    x = matrix
    x = x.T if x.shape[0] > x.shape[1] else x
    x = x / x.norm()
    for _ in range(5):
        a = x @ x.T
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return x.T if matrix.shape[0] > matrix.shape[1] else x


class Net(nn.Module):
    """A first and a last layer, and between them one of each kind."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(2, 6, 3, padding=1)
        self.time1 = nn.Linear(4, 6)
        self.norm = nn.GroupNorm(2, 6)
        self.conv = nn.Conv2d(6, 8, 3, padding=1)
        self.attention = nn.Module()
        self.attention.qkv = nn.Linear(8, 24)
        self.attention.interleaved = False
        self.up = nn.ConvTranspose2d(8, 6, 2)
        self.out = nn.Conv2d(6, 2, 1)

    def forward(self, x):
        h = F.silu(self.norm(self.stem(x)) + self.time1(torch.ones(4).to(x))[:, None, None])
        h = self.conv(h)
        q, k, v = self.attention.qkv(h.flatten(2).mT).chunk(3, dim=2)
        h = (q * k).sigmoid() * v
        return self.out(self.up(h.mT.unflatten(2, x.shape[2:])))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_steps_are_those_of_the_equations(layout, interleaved, decay):
    torch.manual_seed(0)
    network = Net().double().to(memory_format=layout)
    network.attention.interleaved = interleaved
    rate, x = 0.01, torch.randn(5, 2, 6, 6).double()
    plain = {
        name: p.detach().clone(memory_format=torch.contiguous_format)
        for name, p in network.named_parameters()
    }
    momentum, adam = {}, {}
    optimizer = Muon(network, lr=rate, weight_decay=decay)
    views = {  # whose rows, flattened, are those of a matrix
        "conv.weight": lambda w: [w],
        "up.weight": lambda w: [w.transpose(0, 1)],
        "attention.qkv.weight": lambda w: (
            [w[i::3] for i in range(3)] if interleaved else w.split(8)
        ),
    }
    for step in range(1, 4):
        network(x).square().mean().backward()
        for name, parameter in network.named_parameters():
            g, w = parameter.grad, plain[name]
            w *= 1 - rate * decay
            if name in views:
                momentum[name] = 0.95 * momentum.get(name, 0) + g
                directions = views[name](g + 0.95 * momentum[name])
                for part, direction in zip(views[name](w), directions, strict=True):
                    update = plain_orthogonal(direction.flatten(1))
                    part -= rate * 0.2 * max(update.shape) ** 0.5 * update.reshape(part.shape)
            else:
                m, v = adam.get(name, (0, 0))
                adam[name] = m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
                w -= rate * m / (1 - 0.9**step) / ((v / (1 - 0.999**step)).sqrt() + 1e-8)
        optimizer.step()
        optimizer.zero_grad()
        for name, parameter in network.named_parameters():
            torch.testing.assert_close(parameter.detach(), plain[name], msg=f"{name} {step}")


@pytest.mark.parametrize("name", NETWORKS)
def test_first_and_last_layers_time_condition_and_norms_are_adams(name, small_network):
    network = small_network(name)
    names = {id(p): key for key, p in network.named_parameters()}
    hidden = [names[id(each.weight)] for each in hidden_weights(network)]
    layers = [key for key, p in network.named_parameters() if p.ndim >= 2 and "weight" in key]
    of_adam = [key for key in layers if key not in hidden]
    assert len(hidden) > len(of_adam) / 2
    inner = [
        key for key in of_adam if not any(p.startswith(("time", "cond")) for p in key.split("."))
    ]
    assert len(inner) == 2  # the first and the last
    assert not any(key.startswith(("time", "cond")) for key in hidden)
    for each in hidden_weights(network):
        assert torch.equal(each.like_weight(each.matrices(each.weight)), each.weight)
        assert each.fused == ("qkv" in names[id(each.weight)])
        assert each.interleaved == (each.fused and name == "stacked")


@pytest.fixture
def small_network():
    small = {
        "ddpm": {"channels": 8, "multipliers": (1, 2), "groups": 4, "num_res_blocks": 1},
        "linear_attention": {"dim": 8, "multipliers": (1, 2), "heads": 2, "head_dim": 4},
        "stacked": {
            "channels": (8, 16), "attention": (True, False), "upscale": (False, True),
            "groups": 4, "heads": 2, "time": "projected",
        },
        "dense_attention": {
            "channels": (8, 16), "mid_channels": (16, 8), "downsample": (True,), "time_dim": 16,
            "num_layers": (1, 1, 1), "heads": 2, "groups": 4,
        },
        "context": {"features": 8, "pool": 2, "expand": 2},
    }  # fmt: skip

    def build(name):
        given = {"T": 10} if name in ("stacked", "context") else {}
        try:
            return NETWORKS[name](image_channels=1, cond_dim=3, **given, **small[name])
        except TypeError:
            return NETWORKS[name](image_channels=1, cond_dim=3, **small[name])

    return build


def test_an_update_has_the_size_of_one_of_adam():
    """Its root mean square is about 0.2 times the rate, whatever the shape of the matrix."""
    torch.manual_seed(0)
    for channels in ((6, 8), (32, 128)):
        network = nn.Sequential(
            nn.Linear(4, channels[0]), nn.Linear(*channels), nn.Linear(channels[1], 1)
        )
        before = network[1].weight.detach().clone()
        optimizer = Muon(network, lr=0.01)
        network(torch.randn(64, 4)).square().mean().backward()
        network[1].weight.grad = torch.randn_like(before)
        optimizer.step()
        size = (network[1].weight - before).square().mean().sqrt().item()
        assert size == pytest.approx(0.002, rel=0.2)


@pytest.mark.slow
def test_a_resumed_run_is_the_same(tiny, tmp_path):
    tiny["training"] |= {"optimizer": "muon", "checkpoint_every": 2, "weight_decay": 0.01}
    whole = fromnoise.train(tiny, out=tmp_path / "whole").folder
    begun = fromnoise.train(tiny, out=tmp_path / "begun", overrides={"training.steps": 2}).folder
    fromnoise.resume(begun, overrides={"training.steps": 6})
    for file in sorted((whole / "checkpoints" / "000006").glob("*.safetensors")):
        ours, theirs = (
            read_tensors(run / "checkpoints/000006" / file.name) for run in (whole, begun)
        )
        assert ours.tensors.keys() == theirs.tensors.keys()
        assert all(torch.equal(ours.tensors[key], theirs.tensors[key]) for key in ours.tensors)
    state = json.loads((whole / "checkpoints/000006/state.json").read_text())
    assert state["recipe"]["training"]["optimizer"] == "muon"
    kept = read_tensors(whole / "checkpoints/000006/optimizer.safetensors").tensors
    assert {key.split("/")[0] for key in kept} == {"momentum", "exp_avg", "exp_avg_sq", "step"}


def test_another_optimiser_for_a_run_is_refused(finished_run, cli):
    code, _, err = cli("resume", finished_run, "optimizer=muon", "steps=9")
    assert code == 2
    assert "training.optimizer = 'muon', but" in err
