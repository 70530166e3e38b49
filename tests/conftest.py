"""What many tests share: a cache of their own, a tiny recipe and run, and the command line."""

import copy
import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import yaml
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import fromnoise
from fromnoise.cli import main
from fromnoise.evaluation import result
from fromnoise.model import model
from fromnoise.networks import DDPM
from fromnoise.networks.layers import Dropout
from fromnoise.training import previews

try:
    from hypothesis import settings
except ImportError:  # then its tests are skipped
    pass
else:
    settings.register_profile("untimed", deadline=None)
    settings.load_profile("untimed")

TINY = {
    "data": {"source": "digits", "flip": True},
    "network": {
        "name": "ddpm",
        "channels": 8,
        "multipliers": [1, 2],
        "num_res_blocks": 1,
        "dropout": 0.2,
        "groups": 4,
    },
    "diffusion": {"T": 100, "schedule": "cosine"},
    "training": {
        "steps": 6,
        "batch_size": 8,
        "learning_rate": 1e-3,
        "precision": "fp32",
        "channels_last": False,
        "device": "cpu",
        "log_every": 2,
        "checkpoint_every": 3,
    },
    "sampling": {"steps": 5},
}


DEFINITIONS = Path(__file__).parent / "networks" / "definitions"
FOREIGN_WIDTH = 32  # a multiple of the 32 groups that are a constant of that program


class Result(NamedTuple):
    """How a command ended, and what it said."""

    code: int
    out: str
    err: str


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FROMNOISE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def _short_previews() -> Iterator[None]:
    """Of 3 steps, and few samples at the end: the usual ones would be most of a tiny training."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(previews, "STEPS", 3)
        patch.setattr(result, "COUNT", 4)
        patch.setattr(result, "PAIRS", 2)
        yield


@pytest.fixture
def tiny() -> dict[str, Any]:
    """A recipe of milliseconds, free to be changed."""
    return copy.deepcopy(TINY)


@pytest.fixture(scope="session")
def tiny_tree() -> dict[str, Any]:
    """The same, for fixtures that last longer; to be copied."""
    return TINY


@pytest.fixture
def recipe_file(tiny: dict[str, Any], tmp_path: Path) -> Path:
    """The tiny recipe as a file."""
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(tiny))
    return path


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the tiny recipe with checkpoints 000003 and 000006. Not to be written to."""
    return fromnoise.train(TINY, out=tmp_path_factory.mktemp("finished") / "run").folder


@pytest.fixture
def run(finished_run: Path, tmp_path: Path) -> Path:
    """A copy of the finished run, free to be changed."""
    return Path(shutil.copytree(finished_run, tmp_path / "run"))


@pytest.fixture
def nan_seeds(monkeypatch: pytest.MonkeyPatch) -> tuple[int, ...]:
    """Make the noise of these seeds NaN, and so their images."""
    broken, draw = (5, 6), model.image_noise

    def noise(seeds: Sequence[int], *arguments: Any) -> Tensor:
        drawn = draw(seeds, *arguments)
        drawn[torch.tensor([seed in broken for seed in seeds], dtype=torch.bool)] = torch.nan
        return drawn

    monkeypatch.setattr(model, "image_noise", noise)
    return broken


@pytest.fixture
def cli(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Result]:
    """cli("sample", path, "--num", 2): the command line in this process; log lines go to caplog."""

    def call(*arguments: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["fromnoise", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            main()
        assert isinstance(exit_.value.code, int)
        return Result(exit_.value.code, *capsys.readouterr())

    return call


@pytest.fixture(scope="session")
def shell() -> Callable[..., Result]:
    """shell("sample", path): the command line in a process of its own."""

    def call(*arguments: object) -> Result:
        command = [sys.executable, "-m", "fromnoise", *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        return Result(done.returncode, done.stdout, done.stderr)

    return call


@pytest.fixture(scope="session")
def definition_of() -> Callable[[str], Callable[..., Tensor]]:
    """definition_of("name"): a network by its equations, written a second time.

    It is `definition(p, x, t, cond=None, **options)` of networks/definitions/name.py.
    """

    def load(name: str) -> Callable[..., Tensor]:
        spec = importlib.util.spec_from_file_location(name, DEFINITIONS / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module.definition

    return load


@pytest.fixture
def same_elements_drop_out(monkeypatch):
    """The definitions say `F.dropout`; here it draws as `Dropout`, which has tests of its own."""

    def dropout(x: Tensor, p: float, training: bool = True, inplace: bool = False) -> Tensor:
        return Dropout(p).train(training)(x)

    monkeypatch.setattr(F, "dropout", dropout)


class Crossings(TorchDispatchMode):
    """A context that records what crosses between the CPU and torch's device without data, `meta`.

    The CPU waits for a GPU in its place where it reads a number or copies from there, and where it
    copies memory that is not page-locked. What comes from there is ones.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
        name, kwargs = func.overloadpacket.__name__, kwargs or {}
        if name == "_local_scalar_dense" and given[0].device.type == "meta":
            self.found.append(f"read by {name}")
        if name in ("_to_copy", "copy_"):
            source = given[-1].device.type
            target = given[0].device if name == "copy_" else kwargs.get("device") or given[0].device
            if torch.device(target).type != source:
                target = torch.device(target).type
                self.found.append(f"{source} → {target}: {tuple(given[-1].shape)}")
                if source == "meta":
                    return torch.ones(given[-1].shape, dtype=kwargs.get("dtype", given[-1].dtype))
        return func(*args, **kwargs)


@pytest.fixture
def crossings() -> type[Crossings]:
    """crossings(): a context in which `found` records what crosses to and from a GPU."""
    return Crossings


class ForeignCheckpoint(NamedTuple):
    """A file as another program writes it, and the network of ours that has the same weights."""

    file: Path
    network: DDPM


@pytest.fixture
def foreign_checkpoint(tmp_path: Path) -> ForeignCheckpoint:
    """The smallest network of ours, of one level, written as format `zoubohao` lays it out."""
    torch.manual_seed(0)
    network = DDPM(
        image_channels=1,
        channels=FOREIGN_WIDTH,
        multipliers=(1,),
        num_res_blocks=1,
        attention_levels=(),
        dropout=0.0,
        embedding="interleaved",
        downsample="symmetric",
        norm_eps=1e-5,
    ).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    torch.save(_flat_state(network), tmp_path / "ckpt.pt")
    return ForeignCheckpoint(tmp_path / "ckpt.pt", network)


def _flat_state(network: DDPM) -> dict[str, torch.Tensor]:
    names = {
        "time1": "time_embedding.timembedding.1",
        "time2": "time_embedding.timembedding.3",
        "stem": "head",
        "norm": "tail.0",
        "out": "tail.2",
        "middle1": "middleblocks.0",
        "middle2": "middleblocks.1",
        "middle_attention.norm": "middleblocks.0.attn.group_norm",
        "middle_attention.out": "middleblocks.0.attn.proj",
        "down.0.blocks.0": "downblocks.0",
        "up.0.blocks.0": "upblocks.0",
        "up.0.blocks.1": "upblocks.1",
    }
    layers = {"norm1": "block1.0", "conv1": "block1.2", "time": "temb_proj.1"}
    layers |= {"norm2": "block2.0", "conv2": "block2.3", "shortcut": "shortcut"}
    state = {"time_embedding.timembedding.0.weight": torch.zeros(7, FOREIGN_WIDTH)}
    for name, tensor in network.state_dict().items():
        path, kind = name.rsplit(".", 1)
        if path == "middle_attention.qkv":
            for letter, part in zip("qkv", tensor.chunk(3), strict=True):
                part = part[:, :, None, None] if kind == "weight" else part
                state[f"middleblocks.0.attn.proj_{letter}.{kind}"] = part
        elif path in names:
            tensor = (
                tensor[:, :, None, None] if path.endswith("n.out") and kind == "weight" else tensor
            )
            state[f"{names[path]}.{kind}"] = tensor
        else:
            block, layer = path.rsplit(".", 1)
            state[f"{names[block]}.{layers[layer]}.{kind}"] = tensor
    return state


# ---- pages in a browser -------------------------------------------------------------------------

PATIENCE = 300_000  # milliseconds: a busy machine is no failure
CHROMIUMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CONTRASTS = """() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgba = colour => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data].map(v => v / 255);
  };
  const over = (top, below) => top.slice(0, 3).map((v, i) => v * top[3] + below[i] * (1 - top[3]));
  const behind = node => node === null
    ? [1, 1, 1]
    : over(rgba(getComputedStyle(node).backgroundColor), behind(node.parentElement));
  const linear = v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const luminance = c => [0.2126, 0.7152, 0.0722].reduce((sum, w, i) => sum + w * linear(c[i]), 0);
  const found = [];
  for (const node of document.querySelectorAll("body *")) {
    const own = [...node.childNodes].some(c => c.nodeType === 3 && c.textContent.trim());
    if (!own || node.tagName === "SCRIPT") continue;
    const style = getComputedStyle(node), below = behind(node);
    const ink = rgba(node.tagName === "text" ? style.fill : style.color);
    const lights = [luminance(over(ink, below)), luminance(below)].sort((a, b) => b - a);
    const ratio = (lights[0] + 0.05) / (lights[1] + 0.05);
    found.push([ratio, node.tagName + "." + node.getAttribute("class")]);
  }
  return found;
}"""


@pytest.fixture(scope="session")
def browser():
    """Yield a headless Chromium of the system or of playwright."""
    install = "apt-get install chromium, or playwright install chromium"
    sync_api = pytest.importorskip(
        "playwright.sync_api", reason=f"pip install playwright; {install}"
    )
    with sync_api.sync_playwright() as playwright:
        own = playwright.chromium.executable_path
        program = next(filter(None, map(shutil.which, CHROMIUMS)), own)
        if not Path(program).is_file():
            pytest.skip(f"there is no Chromium to open pages in: {install}")
        browser = playwright.chromium.launch(
            executable_path=program, args=["--no-sandbox"], timeout=PATIENCE
        )
        yield browser
        browser.close()


@pytest.fixture
def contrasts() -> str:
    """A script that returns the contrast of each text of a page with what is behind it."""
    return CONTRASTS
