"""The races of the networks, on little: what everyone computes, and what is said of it."""

import importlib
import json
import sys
from typing import Any

import network_speed
import ours
import peers
import plain
import pytest
import report
import table
import torch
import utilisation
from network_speed import PLAIN, Network, Rival, Sampling, diffusers, lucidrains
from race import Contestant, Measured
from work import Work
from worker import seconds_of

from fromnoise.networks import NETWORKS
from fromnoise.training.precision import Computation

SMALL: dict[str, dict[str, Any]] = {
    "ddpm": {"channels": 8, "multipliers": [1, 2], "num_res_blocks": 1, "groups": 4,
             "attention_levels": [1]},
    "linear_attention": {"dim": 8, "multipliers": [1, 2]},
    "dense_attention": {"channels": [8, 16], "mid_channels": [16, 8], "downsample": [True],
                        "num_layers": [1, 1, 1], "time_dim": 8, "groups": 4},
    "stacked": {"channels": [8, 16, 32, 32], "attention": [False, True, False, False],
                "upscale": [False, False, True, True], "groups": 4},
    "context": {"features": 8},
}  # fmt: skip


def small(device: str) -> list[Network]:
    """Every network of the races, as small as they can be."""
    rivals = {
        "ddpm": tuple(
            diffusers(SMALL["ddpm"], bf16=half, channels_last=last)
            for half, last in ((False, False), (True, False), (True, True))
        ),
        "linear_attention": tuple(
            rival._replace(own={**(rival.own or {}), "options": {"dim": 8, "dim_mults": [1, 2]}})
            for rival in (lucidrains(bf16=False), lucidrains(bf16=True))
        ),
    }
    patches = {"network": "ddpm", "options": {**SMALL["ddpm"], "patch": 2}}

    def rivals_of(one: Network) -> tuple[Rival, ...]:
        if one.rivals and one.rivals[0].work.startswith("ours:"):
            return tuple(rival._replace(own=patches) for rival in one.rivals)
        return rivals.get(one.network, one.rivals) if one.rivals else ()

    return [
        one._replace(
            options={**{k: v for k, v in one.options.items() if k not in SMALL["ddpm"]},
                     **SMALL[one.network]},
            batch_size=2,
            side=32 if one.network == "context" else 16,
            rivals=rivals_of(one),
        )
        for one in NORMAL(device)
    ]  # fmt: skip


NORMAL, NORMALLY_DRAWN = network_speed.networks, network_speed.samplings


def few(device: str) -> list[Sampling]:
    """Three images in two steps from each network that is sampled."""
    return [drawn._replace(images=3, steps=2) for drawn in NORMALLY_DRAWN(device)]


@pytest.fixture
def little(monkeypatch):
    monkeypatch.setattr(network_speed, "networks", small)
    monkeypatch.setattr(network_speed, "samplings", few)


def at_once(contestants: list[Contestant], *, rounds: int) -> dict[str, Measured]:
    """A race in this process, with options that have been through JSON as in any other."""
    found, chosen = {}, {}
    for one in contestants:
        module, function = one.work.split(":")
        build = getattr(importlib.import_module(module), function)
        more = {"chosen": chosen[one.like]} if one.like else {}
        work = build(**json.loads(json.dumps({**one.options, **more})))
        chosen[one.name] = work.chosen
        seconds = [seconds_of(work, one.times) for _ in range(rounds)]
        found[one.name] = Measured(work.how, work.images, seconds, 0.5)
    return found


@pytest.fixture
def measure(little, monkeypatch, tmp_path, capsys):
    """`network_speed.py` with these arguments → what it prints, and what it keeps."""
    pytest.importorskip("diffusers")
    pytest.importorskip("denoising_diffusion_pytorch")
    monkeypatch.setattr(network_speed, "race", at_once)
    monkeypatch.setattr(ours, "choose_computation", lambda *_: Computation("fp32", False))
    monkeypatch.setattr(report, "RESULTS", tmp_path)

    def call(*line: object) -> tuple[str, dict[str, Any]]:
        monkeypatch.setattr(sys, "argv", ["network_speed.py", *map(str, line)])
        network_speed.main()
        return capsys.readouterr().out, json.loads((tmp_path / "network_speed.json").read_text())

    return call


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_everyone_computes_every_work(measure, tmp_path):
    out, kept = measure("--rounds", 1)
    works = kept["works"]
    whom = {title: list(contestants) for title, contestants in works.items()}
    optimisers = [whom.pop(title) for title in list(whom) if title.endswith("of an optimiser")]
    assert optimisers == [["adam", "muon"]] * 2
    assert len(whom) == 7 * 2 + 2
    for title, contestants in whom.items():
        assert contestants[0] == "fromnoise"
        assert (contestants[1] == "floor") == ("sampling in 2 ddim steps" not in title)
        assert out.count(f"{title}; ") == 1
    assert [one for one in whom if PLAIN.name in whom[one]] == [
        f"`{name}, batch 2: {kind}"
        for name in (
            "dense_attention`, 16x16",
            "stacked`, as published, 16x16",
            "stacked`, corrected, 16x16",
            "context`, 32x32",
        )
        for kind in ("training step", "forward pass")
    ]
    assert sum("diffusers, fp32" in one for one in whom.values()) == 3
    assert sum("diffusers, bf16" in one for one in whom.values()) == 3
    assert sum("diffusers, bf16 + channels_last" in one for one in whom.values()) == 3
    assert sum("lucidrains, fp32" in one for one in whom.values()) == 3
    assert sum("lucidrains, bf16" in one for one in whom.values()) == 3
    assert out.count("time relative to the floor: ") == 14
    assert kept["notes"].keys() == works.keys()
    assert "Gflop" in works["`context`, 32x32, batch 2: forward pass"]["floor"]["how"]
    page = table.page_with_tables("<!-- network_speed -->\n<!-- end of network_speed -->", tmp_path)
    assert page.count("| floor |") == 14
    assert "At this rate 50,000 images take" in page


@pytest.mark.slow
def test_a_few_works_are_measured_again_beside_the_others(measure):
    _, before = measure("--rounds", 1, "--only", "sampling")
    _, after = measure("--rounds", 2, "--only", "`context`, 32x32, batch 2: forward")
    assert len(after["works"]) == 3
    assert before["works"].items() <= after["works"].items()


@pytest.mark.slow
def test_figures_of_another_machine_are_refused_before_anything_is_measured(
    measure, monkeypatch, capsys
):
    measure("--rounds", 1, "--only", "`context`, 32x32, batch 2: forward")
    monkeypatch.setattr(report, "machine", lambda device: "another")
    monkeypatch.setattr(network_speed, "race", None)  # it would not be called
    with pytest.raises(SystemExit):
        measure("--rounds", 1, "--only", "`context`, 32x32, batch 2: training")
    assert "was measured with another machine, so these figures" in capsys.readouterr().err


def test_a_work_that_is_not_there_is_refused(measure, capsys):
    with pytest.raises(SystemExit):
        measure("--only", "nobody")
    assert "--only 'nobody' matches no title. Titles: the paper's network" in (
        capsys.readouterr().err
    )


def test_the_works_of_a_gpu_have_its_batch_and_are_all_in_bf16(monkeypatch):
    found = network_speed.races("cuda")
    assert len(found) == 7
    *raced, drawn = found.values()
    for title, one in zip(found, raced, strict=False):
        times = 1 if "sampling" in title else 20
        assert {contestant.times for contestant in one.contestants} == {times}
        for contestant in one.contestants:
            options = contestant.options.get("options", {}) if contestant.name == "floor" else (
                contestant.options
            )  # fmt: skip
            assert (options["batch_size"], options["device"]) == (128, "cuda")
            assert options.get("bf16", True)
    assert drawn.contestants[0].options["steps"] == 20
    assert drawn.say(Measured("so", 2048, [1.0, 2.0, 4.0], 1)).endswith(" 0.8 minutes.")


@pytest.mark.slow
def test_a_profile_is_of_our_steps(little, monkeypatch, tmp_path, capsys):
    file = tmp_path / "profile.txt"
    line = ["network_speed.py", "--profile", str(file), "--only", "`context`, 32x32, batch 2: for"]
    monkeypatch.setattr(sys, "argv", line)
    network_speed.main()
    head, body = file.read_text().split("\n\n", 1)
    assert head.startswith("`context`, 32x32, batch 2: forward pass; ")
    assert "aten::convolution" in body


# ---- the published form -------------------------------------------------------------------------


@pytest.mark.parametrize("network", ["dense_attention", "stacked", "context"])
def test_the_published_form_learns(network):
    """Its weights change with every step, and so does its gradient come to all of them."""
    seen = []
    options = {"network": network, "options": SMALL[network], "batch_size": 2, "side": 32}
    adam = torch.optim.Adam

    class Watched(adam):
        def step(self, closure=None):
            before = [p.detach().clone() for p in self.param_groups[0]["params"]]
            super().step(closure)
            pairs = zip(before, self.param_groups[0]["params"], strict=True)
            seen.append(sum(not torch.equal(a, b) for a, b in pairs) / len(before))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim, "Adam", Watched)
        work = plain.training_step(**options)
        work.round()
        work.round()
    assert min(seen) > 0.9


@pytest.mark.parametrize("training", [True, False])
def test_torchs_own_operations_change_nothing_in_the_published_form(training, monkeypatch):
    def predicted() -> torch.Tensor:
        predict, weights, _ = plain._network("context", SMALL["context"], 3, 32, "cpu")
        for weight in weights:
            torch.nn.init.normal_(weight, std=0.3)
        with torch.no_grad():
            return predict(**SMALL["context"], training=training)

    called = plain.OPERATIONS["context"]
    with_them = predicted()
    monkeypatch.setattr(plain, "OPERATIONS", {})
    torch.testing.assert_close(with_them, predicted(), rtol=1e-4, atol=1e-4)
    assert with_them.std() > 0.01
    definition = plain._definition("context")
    assert called.keys() <= definition.__globals__.keys()


def test_the_published_form_drops_nothing_when_it_is_asked_by_a_sampler():
    options = {"network": "stacked", "options": {**SMALL["stacked"], "dropout": 0.5}}
    predict, _, _ = plain._network("stacked", options["options"], 2, 32, "cpu")
    fixed = {**options["options"], "dropout": 0.0, "training": False}
    with torch.no_grad():
        assert torch.equal(predict(**fixed), predict(**fixed))
        assert not torch.equal(predict(**options["options"]), predict(**options["options"]))


# ---- operations and utilisation -----------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("network", list(SMALL))
def test_operations_are_those_of_the_network_as_it_runs(network, training):
    options = SMALL[network]
    built = NETWORKS[network](**options)
    x, t = torch.randn(2, 3, 32, 32), torch.arange(2)
    with utilisation.counter() as counter:
        output = built(x, t)
        if training:
            output.sum().backward()
    counts = counter.get_flop_counts()["Global"]
    fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
    counted = sum(counts.values()) - counts.get(fused, 0) / 5  # which computes the scores again
    given = {"network": network, "options": options, "side": 32, "training": training}
    assert utilisation.operations(**given, batch_size=2) == counted > 0


def test_utilisation_is_of_the_devices_peak_if_that_is_known(monkeypatch):
    assert utilisation.utilisation(5e11, "cpu") == "0.5 Tflop/s"
    monkeypatch.setattr(utilisation, "device_name", lambda device: "NVIDIA H100 80GB HBM3")
    assert utilisation.utilisation(346.15e12, "cuda") == (
        "346 Tflop/s; model FLOP utilisation 35.0 % of the bf16 peak of NVIDIA H100 80GB HBM3"
    )
    monkeypatch.setattr(utilisation, "device_name", lambda device: "Abacus")
    assert utilisation.utilisation(1e12, "cuda") == (
        "1 Tflop/s; model FLOP utilisation unknown: BF16_PEAK has no entry for Abacus"
    )


DRAWN = {"side": 8, "steps": 2, "batch_size": 2, "images": 3}


def check_three_images(work: Work) -> None:
    assert work.images == 3
    images = work.round()
    assert isinstance(images, torch.Tensor)
    assert images.shape == (3, 3, 8, 8)
    assert images.dtype == torch.uint8


@pytest.mark.parametrize("sampler", ["ddim", "dpm++"])
def test_ours_draws_as_many_images_as_it_says(sampler):
    given = {"network": "ddpm", "options": SMALL["ddpm"], "sampler": sampler}
    check_three_images(ours.sampling(**given, **DRAWN))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("whose", ["diffusers", "lucidrains"])
def test_theirs_draw_as_many_images_as_they_say(whose, bf16):
    if whose == "diffusers":
        pytest.importorskip("diffusers")
        own = diffusers(SMALL["ddpm"], bf16=bf16, channels_last=bf16).own or {}
        work = peers.diffusers_sampling(**own, **DRAWN)
    else:
        pytest.importorskip("denoising_diffusion_pytorch")
        options = {"dim": 8, "dim_mults": [1, 2]}
        work = peers.lucidrains_sampling(options=options, bf16=bf16, **DRAWN)
    assert work.how.startswith("bf16" if bf16 else "fp32")
    check_three_images(work)
