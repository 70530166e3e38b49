"""The script for a GPU, on a CPU: every line of it with a tiny network."""

import importlib
import json
import sys

import compiler
import gpu
import pytest
import report
import table
import torch
from race import Measured, Worker
from worker import seconds_of

from fromnoise.training import precision

# torch asks for it itself while it compiles
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")

TINY = {"channels": 8, "multipliers": [1], "num_res_blocks": 1, "groups": 4, "dropout": 0.1,
        "attention_levels": []}  # fmt: skip
LITTLE = ["--network", json.dumps(TINY), "--batches", "2", "4", "--side", "8", "--channels", "4",
          "--rounds", "1"]  # fmt: skip


@pytest.fixture
def fast(monkeypatch, tmp_path):
    """Races in this process, without the long part of compiling, and a folder for the results."""

    def at_once(contestants, *, rounds):
        found = {}
        for one in contestants:
            module, function = one.work.split(":")
            options = json.loads(json.dumps(one.options))
            work = getattr(importlib.import_module(module), function)(**options)
            found[one.name] = Measured(
                work.how, work.images, [seconds_of(work, 1) for _ in range(rounds)], 0.5
            )
        return found

    monkeypatch.setattr(gpu, "race", at_once)
    monkeypatch.setattr(precision, "BACKEND", "aot_eager")
    monkeypatch.setattr(precision, "OPTIONS", dict(precision.OPTIONS))
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def call(monkeypatch, *line):
    monkeypatch.setattr(sys, "argv", ["gpu.py", *map(str, line)])
    gpu.main()


@pytest.mark.slow
@pytest.mark.usefixtures("fast")
def test_every_work_is_measured_and_kept(monkeypatch, capsys, tmp_path):
    call(monkeypatch, "--device", "cpu", *LITTLE)
    out = capsys.readouterr().out
    kept = json.loads((tmp_path / "gpu.json").read_text())
    assert kept["machine"] == report.machine()
    ways = ["eager", "compiled", "compiled, layout forced", "compiled, loops reindexed"]
    assert {title: list(who) for title, who in kept["works"].items()} == {
        "a residual block, 4 channels, 4x4, batch 2": ways,
        "upsampling, convolution, GroupNorm and SiLU, 4 channels, 4x4, batch 2": ways,
        "GroupNorm, SiLU and convolution, 4 channels, 4x4, batch 2": [
            "eager",
            "eager, channels last after GroupNorm",
        ],
        "the paper's network, 8x8, batch 2: training step": ways[:2],
        "the paper's network, 8x8, batch 4: training step": ways[:2],
        "the paper's network, 8x8, batch 2: compiled training step": [
            "compiled",
            "layout forced",
            "loops reindexed",
        ],
    }
    for title, who in kept["works"].items():
        assert title in out
        for one in who.values():
            assert one["how"] in out
            assert one["images_per_second"][0] > 0
    for way, one in kept["works"]["a residual block, 4 channels, 4x4, batch 2"].items():
        made = "eager" if way == "eager" else "compiled"
        assert one["how"].startswith(f"{made}, gradients of the input in channels last, of the ")
    norm = kept["works"]["GroupNorm, SiLU and convolution, 4 channels, 4x4, batch 2"]
    assert norm["eager"]["how"].endswith("; GroupNorm returned channels last")
    listed = json.loads((tmp_path / "gpu_kernels.json").read_text())["kernels"]
    assert 5 < len(listed) <= gpu.KERNELS
    shares = [share for _, share in listed]
    assert shares == sorted(shares, reverse=True)
    assert 0.3 < sum(shares) <= 1
    page = table.page_with_tables("<!-- gpu -->\n<!-- end of gpu -->", tmp_path)
    assert page.count("| eager |") == 5
    assert page.count("They reach: ") == 3
    assert "flop/s" in page


@pytest.mark.slow
@pytest.mark.usefixtures("fast")
def test_no_work_is_begun_when_the_time_is_over(monkeypatch, capsys, tmp_path):
    call(monkeypatch, "--device", "cpu", *LITTLE, "--seconds", "0")
    assert capsys.readouterr().out.count("skipped, --seconds 0 are over") == 6
    assert not (tmp_path / "gpu.json").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_in_a_line(monkeypatch):
    with pytest.raises(SystemExit, match=r"^torch finds no CUDA device here\. Try the script .*$"):
        call(monkeypatch)


@pytest.mark.slow
def test_a_block_is_compiled_in_a_process_of_its_own(monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_COMPILE_THREADS", "1")  # no processes that start for it
    _, contestants = list(gpu.blocks(4, 2, 4, "cpu").items())[1]
    with Worker(contestants[1]) as worker:
        assert worker.ready["how"].startswith("compiled, gradients of the input in channels last")
        assert worker.round() > 0


@pytest.mark.slow
def test_the_options_of_the_compiler_are_set_where_torch_knows_them(monkeypatch):
    from torch._inductor import config

    computation = precision.Computation("fp32", False, compiled=True)
    monkeypatch.setattr(precision, "OPTIONS", {"max_autotune": True, "nobody_knows": 1})
    assert not config.max_autotune
    with precision.all_versions(computation):
        assert config.max_autotune
    assert not config.max_autotune
    with precision.all_versions(computation._replace(compiled=False)):
        assert not config.max_autotune


def test_layouts_are_named_in_words():
    x = torch.zeros(2, 3, 4, 4)
    assert compiler.layout_of(x) == "channels first"
    assert compiler.layout_of(x.contiguous(memory_format=torch.channels_last)) == "channels last"
    assert compiler.layout_of(x[:, :1].contiguous()) == "either layout"
