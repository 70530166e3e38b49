"""What lies around the weights of a file: wrappers, prefixes, and objects of other programs."""

import argparse
import dataclasses
import enum
import functools
import pickle
import traceback
from collections import defaultdict, deque
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import fromnoise
from fromnoise.checkpoints import CheckpointError
from fromnoise.interop import FORMATS, import_model
from fromnoise.interop.torch_files import find_networks, read_payload

PREFIXES = (
    "module.",
    "_orig_mod.",
    "model._orig_mod.",
    "model.module.",
    "_orig_mod.module.",
    "module._orig_mod.module.",
    "diffusion.model.net._orig_mod.",
    "_fsdp_wrapped_module.",
)
KEYS = (
    ("state_dict",),
    ("model_state_dict",),
    ("net",),
    ("checkpoint", "state_dict"),
    ("module",),
    ("state", "model", "module", "network"),
)


def below(keys, content):
    for key in reversed(keys):
        content = {key: content, "epoch": 3}
    return content


def test_every_format_is_found_under_any_wrapper_and_prefix(known):
    name, state = known
    plain = FORMATS[name](state)
    wrapped = [{prefix + k: v for k, v in state.items()} for prefix in PREFIXES]
    wrapped += [below(keys, state) for keys in KEYS]
    wrapped += [below(KEYS[3], each) for each in wrapped[:3]]
    for payload in wrapped:
        model = FORMATS[name](payload)
        assert model is not None, (list(payload)[:1], name)
        assert model.spec == plain.spec
        torch.testing.assert_close(model.raw, plain.raw, rtol=0, atol=0)
        assert model.ema is None


def test_compiled_and_parallel_parts_inside_the_names(state_of):
    state = state_of("explainingai")
    inner = {k.replace("downs.0.", "downs.0._orig_mod.module."): v for k, v in state.items()}
    plain, model = (FORMATS["explainingai"](each) for each in (state, inner))
    assert model.raw.keys() == plain.raw.keys()


def test_an_average_is_told_from_raw_weights_by_its_place(known):
    name, state = known
    if name == "zoubohao":
        name = "w86763777"  # the program of this network that has an average
    average = {k: v + 1 if v.is_floating_point() else v for k, v in state.items()}
    both = {
        "a dict of each": {"model": state, "ema": average},
        "lightning": {
            "state_dict": {f"model.{k}": v for k, v in state.items()}
            | {f"model_ema.{k}": v for k, v in average.items()}
        },
        "torch": {
            "model": state,
            "averaged": {f"module.{k}": v for k, v in average.items()}
            | {"n_averaged": torch.tensor(9)},
        },
    }
    outer = {"lucidrains": {"betas": state.get("betas")}}.get(name, {})
    expected = FORMATS[name]({"ema": {**average, **outer}})
    for payload in both.values():
        if name == "lucidrains":  # its tables are no weights
            for part in (payload.get("ema"), payload.get("averaged")):
                for table in ("betas", "sqrt_alphas_cumprod"):
                    if part and table in part:
                        part[table] = state[table]
        model = FORMATS[name](payload)
        torch.testing.assert_close(model.ema, expected.ema, rtol=0, atol=0)
        assert not torch.equal(next(iter(model.raw.values())), next(iter(model.ema.values())))


def test_two_networks_that_differ_are_refused_and_one_under_two_names_is_not(state_of, tmp_path):
    state = state_of("zoubohao")
    other = {k: v + 1 for k, v in state.items()}
    names = {"head.weight"}
    assert find_networks({"net": state, "model": dict(state)}, names).raw is not None
    torch.save({"net": state, "model": other}, tmp_path / "two.pt")
    with pytest.raises(CheckpointError, match=r"two\.pt: holds 2 such networks, in net, model\."):
        import_model(tmp_path / "two.pt", tmp_path / "model")


def test_tensors_that_are_left_out_are_named(known, tmp_path):
    name, state = known
    payload = {
        "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}},
        "state_dict": {f"net.{k}": v for k, v in state.items()} | {"lpips.a.b": torch.ones(1)},
        "epoch": 3,
    }
    torch.save(payload, tmp_path / "file.pt")
    spec, notes = import_model(tmp_path / "file.pt", tmp_path / "model")
    assert spec.source == f"imported: {name}"
    [line] = [note for note in notes if note.startswith("note: other tensors were left out")]
    assert line.endswith(": optimizer, state_dict.lpips")


class AttributeDict(dict):
    """As Lightning stores hyper-parameters."""

    def __getattr__(self, key):
        return self[key]


class Mode(enum.Enum):
    FAST = "fast"


class Thing:
    """An object with a state of its own, and one in slots."""

    __slots__ = ("a", "b")

    def __init__(self):
        self.a, self.b = 1, [2]


@dataclasses.dataclass
class Settings:
    """Options of a run."""

    lr: float = 1e-4
    sizes: list = dataclasses.field(default_factory=lambda: [1, 2])


OBJECTS = {
    "namespace": argparse.Namespace(lr=1e-4, widths=[1, 2]),
    "attributes": AttributeDict(lr=1e-4, inner=AttributeDict(T=3)),
    "enum": Mode.FAST,
    "path": Path("runs/x"),
    "number": np.float64(0.5),
    "array": np.arange(3),
    "slots": Thing(),
    "class": Thing,
    "loss": nn.L1Loss(),
    "window": deque([1.0, 2.0], maxlen=9),
    "counts": defaultdict(list, a=[1]),
    "date": datetime(2022, 6, 14, tzinfo=UTC),
    "random": np.random.default_rng(0),
    "device": torch.device("cpu"),
    "function": torch.nn.functional.relu,
    "lambda-like": functools.partial(np.clip, a_min=0),
    "dataclass": Settings(),
}


def lightning(state, **hyper_parameters):
    return {
        "epoch": 1,
        "global_step": 40,
        "pytorch-lightning_version": "2.2.0",
        "state_dict": {f"net.{name}": tensor for name, tensor in state.items()},
        "loops": {"fit_loop": {"state_dict": {}}},
        "callbacks": {"ModelCheckpoint{'monitor': None}": {"best": Path("a.ckpt")}},
        "optimizer_states": [torch.optim.Adam([nn.Parameter(torch.ones(1))]).state_dict()],
        "hyper_parameters": AttributeDict(hyper_parameters),
        "hparams_name": "kwargs",
    }


def test_a_checkpoint_of_lightning_is_read_without_its_objects(tmp_path):
    state = {"a.weight": torch.ones(2)}
    for kind, value in OBJECTS.items():
        torch.save(lightning(state, value=value, more=[value]), tmp_path / "last.ckpt")
        payload, left_out = read_payload(tmp_path / "last.ckpt")
        torch.testing.assert_close(payload["state_dict"], {"net.a.weight": torch.ones(2)})
        assert any("AttributeDict" in name for name in left_out), kind


def test_a_checkpoint_of_lightning_is_imported(state_of, tmp_path, cli):
    state = state_of("zoubohao")
    torch.save(lightning(state, **OBJECTS), tmp_path / "last.ckpt")
    done = cli("import", tmp_path / "last.ckpt", "--out", tmp_path / "model")
    assert done.code == 0, done.err
    assert "objects that are not weights were left out: pathlib.PosixPath, " in done.out
    assert "weights_only" not in done.out + done.err
    model = fromnoise.load(tmp_path / "model")
    assert model.spec.step == 40
    expected = FORMATS["zoubohao"](state).raw
    torch.testing.assert_close(model.denoiser.network.state_dict(), expected, rtol=0, atol=0)


class Malicious:
    """Writes a file when it is unpickled."""

    def __init__(self, function, *arguments):
        self.made = function, arguments

    def __reduce__(self):
        return self.made


def test_objects_that_are_left_out_never_run(tmp_path):
    proof = tmp_path / "it ran"
    functions = {
        "touch": Malicious(Path.touch, proof),
        "open": Malicious(open, str(proof), "w"),
        "eval": Malicious(eval, f"open({str(proof)!r}, 'w')"),
        "system": Malicious(__import__("os").system, f"touch '{proof}'"),
        "call": Malicious(__import__("subprocess").call, ["touch", str(proof)]),
        "save": Malicious(torch.save, [], str(proof)),
    }
    for name, each in functions.items():
        for place in (lightning({"a": torch.ones(1)}, value=each), {"a": each}):
            torch.save(place, tmp_path / "file.ckpt")
            with suppress(CheckpointError):
                read_payload(tmp_path / "file.ckpt")
        assert not proof.exists(), name


def test_a_call_of_python_itself_is_refused_even_beside_weights(state_of, tmp_path):
    payload = lightning(state_of("zoubohao"), value=Malicious(eval, "1"))
    torch.save(payload, tmp_path / "file.ckpt")
    with pytest.raises(CheckpointError, match=r"its pickle would run code \(eval\)"):
        import_model(tmp_path / "file.ckpt", tmp_path / "model")


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of torch.jit
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_whole_pickled_network_is_refused_in_our_words(tmp_path, cli):
    torch.save(nn.Sequential(nn.Linear(1, 1)), tmp_path / "net.pt")
    torch.save({"model": nn.Linear(1, 1), "epoch": 3}, tmp_path / "inside.pt")
    (tmp_path / "list.pkl").write_bytes(pickle.dumps([OBJECTS["namespace"]], protocol=2))
    program = torch.jit.trace(nn.Linear(1, 1), torch.ones(1, 1))
    program.save(tmp_path / "program.pt")
    expected = {
        "net.pt": "its pickle would run code (torch.nn.modules.container.Sequential",
        "inside.pt": "its pickle would run code (torch.nn.modules.linear.Linear",
        "list.pkl": "was not loaded",
        "program.pt": "is a TorchScript program. Save the state_dict() of its network instead.",
    }
    for name, message in expected.items():
        code, out, err = cli("import", tmp_path / name, "--out", tmp_path / "model")
        assert code == 2
        assert message in err, (name, err)
        assert err.count("\n") == 1
        assert "weights_only" not in out + err
        with pytest.raises(CheckpointError) as refused:
            import_model(tmp_path / name, tmp_path / "model")
        shown = "".join(traceback.format_exception(refused.value))  # as by --debug
        assert "set to `False`" not in shown
        assert "weights_only=False" not in shown


def test_safetensors_are_known_by_their_content(known, tmp_path):
    from safetensors.torch import save_file

    name, state = known
    for file in ("model.safetensors", "model.bin"):
        save_file({k: v.contiguous() for k, v in state.items()}, tmp_path / file)
        spec, _ = import_model(tmp_path / file, tmp_path / f"as {file}")
        assert spec.source == f"imported: {name}"
