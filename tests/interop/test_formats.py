import os
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import fromnoise
from fromnoise.checkpoints import CheckpointError, FolderNotEmpty
from fromnoise.config.errors import ConfigError
from fromnoise.interop import FORMATS, import_model


@pytest.fixture
def network(foreign_checkpoint):
    return foreign_checkpoint.network


@pytest.fixture
def file(foreign_checkpoint):
    return foreign_checkpoint.file


def test_an_imported_model_is_loaded_sampled_and_trained_on(network, file, tmp_path, cli, tiny):
    code, out, _ = cli("import", file, "--out", tmp_path / "model", "size=[8,8]")
    assert code == 0
    assert "imported: zoubohao" in out
    assert "schedule: {name: linear" in out  # which one was assumed is message
    model = fromnoise.load(tmp_path / "model")
    x, t = torch.randn(2, 1, 8, 8), torch.tensor([0, 6])
    torch.testing.assert_close(model.denoiser.network(x, t), network(x, t), rtol=1e-5, atol=1e-5)
    assert cli("sample", tmp_path / "model", "--num", 2).code == 0
    assert (tmp_path / "model/samples").is_dir()

    tiny["network"] = model.spec.network.model_dump()
    tiny["diffusion"]["T"] = 7
    tiny["training"] |= {"steps": 1, "start_from": str(tmp_path / "model")}
    fromnoise.train(tiny, out=tmp_path / "run")


def test_overrides_set_what_the_file_lacks(file, tmp_path):
    changes = {"size": 16, "diffusion.schedule.beta_T": 0.3, "sampling.sampler": "ddim"}
    spec, _ = import_model(file, tmp_path / "model", overrides=changes)
    assert spec == fromnoise.load(tmp_path / "model").spec
    assert (spec.size, spec.diffusion.schedule.options["beta_T"]) == ((16, 16), 0.3)
    assert spec.sampling.sampler.name == "ddim"
    changes = {"sampling.timesteps": [300, 60, 1], "diffusion.T": 400}
    spec, _ = import_model(file, tmp_path / "listed", overrides=changes)
    assert (spec.sampling.steps, spec.sampling.timesteps) == (3, (300, 60, 1))


def lines(out, kind):
    return [line for line in out.splitlines() if line.startswith(f"{kind}: ")]


def test_only_what_neither_the_file_nor_you_said_is_assumed(file, tmp_path, cli):
    out = cli("import", file, "--out", tmp_path / "a").out
    assumed = lines(out, "assumed")
    assert [line.split()[1] for line in assumed] == [
        "diffusion.schedule=linear",
        "diffusion.schedule.beta_1=0.0001",
        "diffusion.schedule.beta_T=0.02",
        "network.groups=32",
        "sampling.clamp=false",
        "size=32",
    ]
    given = ["size=[8,8]", "sampling.clamp=true", "diffusion.schedule.beta_T=0.03"]
    assumed = lines(cli("import", file, "--out", tmp_path / "b", *given).out, "assumed")
    assert [line.split()[1] for line in assumed] == [
        "diffusion.schedule=linear",
        "diffusion.schedule.beta_1=0.0001",
        "network.groups=32",
    ]
    given = ["diffusion.schedule=cosine", "size=8"]
    assumed = lines(cli("import", file, "--out", tmp_path / "c", *given).out, "assumed")
    assert [line.split()[1] for line in assumed] == ["network.groups=32", "sampling.clamp=false"]


def test_what_you_say_against_the_file_is_said(state_of, tmp_path, cli):
    torch.save(state_of("lucidrains"), tmp_path / "model-1.pt")
    given = ["diffusion.T=500", "diffusion.schedule=cosine", "diffusion.prediction=eps", "size=64"]
    out = cli("import", tmp_path / "model-1.pt", "--out", tmp_path / "model", *given).out
    assert lines(out, "note") == [
        "note: diffusion.T is 500, as you set it, and not 1000 as in the file",
        "note: diffusion.schedule is cosine, as you set it, and not linear as in the file",
    ]
    assert [line.split()[1] for line in lines(out, "assumed")] == ["data_range=[-1.0,1.0]"]
    assert "imported: lucidrains, raw weights. Sample with: " in out


def test_each_assumption_is_a_setting_that_can_be_given(known, tmp_path):
    """With all of them given back, none is assumed, and the model is the same."""
    torch.save(known[1], tmp_path / "file.pt")
    spec, notes = import_model(tmp_path / "file.pt", tmp_path / "a")
    settings = [note.split()[1] for note in notes if note.startswith("assumed: ")]
    tree = spec.model_dump(mode="json")
    overrides = {}
    for setting in settings:
        key, value = setting.split("=")
        parts, node = key.split("."), tree
        for part in parts:
            node = node[part]
        assert "…" in value or value != "null"
        overrides[key] = node["name"] if isinstance(node, dict) else node
    if "schedule" in str(overrides) and tree["diffusion"]["schedule"]["name"] == "custom":
        overrides.pop("diffusion.schedule")
    again, rest = import_model(tmp_path / "file.pt", tmp_path / "b", overrides=overrides)
    assert again == spec
    assert not [note for note in rest if note.startswith("assumed: ")]


def test_what_the_file_holds_is_not_assumed(state_of, tmp_path):
    state = state_of("zoubohao")
    payload = {"net_model": state, "ema_model": state, "x_T": torch.zeros(1, 3, 16, 16)}
    torch.save(payload, tmp_path / "ckpt.pt")
    spec, notes = import_model(tmp_path / "ckpt.pt", tmp_path / "model")
    assert spec.size == (16, 16)
    assert not [note for note in notes if "size=" in note or "diffusion.T=" in note]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_imported_and_said(known, dtype, tmp_path):
    name, state = known
    half = {k: v.to(dtype) if v.is_floating_point() else v for k, v in state.items()}
    torch.save(half, tmp_path / "half.pt")
    torch.save(state, tmp_path / "whole.pt")
    spec, notes = import_model(tmp_path / "half.pt", tmp_path / "half")
    whole, others = import_model(tmp_path / "whole.pt", tmp_path / "whole")
    said = f"note: the file has weights in {str(dtype).removeprefix('torch.')}, with few digits"
    assert said in notes
    assert [note for note in notes if note != said] == others
    schedules = [each.diffusion.noise_schedule().alpha_bar for each in (spec, whole)]
    torch.testing.assert_close(*schedules, rtol=1e-4, atol=0)
    assert spec.model_copy(update={"diffusion": whole.diffusion}) == whole, name
    models = [fromnoise.load(tmp_path / each) for each in ("half", "whole")]
    for a, b in zip(*(model.denoiser.network.parameters() for model in models), strict=True):
        torch.testing.assert_close(a, b, rtol=8e-3, atol=1e-6)


def test_a_safetensors_file_is_imported(file, tmp_path):
    state = torch.load(file, weights_only=True)
    state = {name: tensor.contiguous() for name, tensor in state.items()}
    save_file(state, tmp_path / "weights.safetensors")
    spec, _ = import_model(tmp_path / "weights.safetensors", tmp_path / "model")
    assert spec.channels == 1


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"channels": 3}, "unknown key channels. Keys of an import are network., diffusion."),
        ({"size": "big"}, "size"),
        ({"size": 7}, None),
        ({"data_range": [0, 0]}, r"data_range is \[0.0, 0.0\]. The first number must be smaller"),
        ({"sampling.timesteps": "foo"}, "sampling.timesteps = 'foo' is unknown"),
        ({"sampling.guidance": 3}, "needs a model with labels"),
        ({"diffusion.T": 0}, "diffusion.T = 0 is too small. Give at least 1"),
        ({"network.chanels": 3}, "did you mean network.channels"),
        ({"network.channels": 64}, "its raw weights do not fit"),
    ],
)
def test_invalid_overrides_are_refused(file, tmp_path, overrides, message):
    if message is None:  # any size fits a network of one level
        assert import_model(file, tmp_path / "model", overrides=overrides)[0].size == (7, 7)
        return
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        import_model(file, tmp_path / "model", overrides=overrides)
    assert not (tmp_path / "model").exists()


class Payload:
    def __reduce__(self):
        return print, ("this ran",)


def test_a_pickle_that_would_execute_code_is_refused(tmp_path, cli, capsys):
    torch.save({"net_model": Payload()}, tmp_path / "evil.pt")
    (tmp_path / "old.pkl").write_bytes(pickle.dumps(Payload(), protocol=2))
    (tmp_path / "new.pkl").write_bytes(pickle.dumps(Payload(), protocol=4))
    for name in ("evil.pt", "old.pkl", "new.pkl"):
        code, out, err = cli("import", tmp_path / name, "--out", tmp_path / "model")
        assert code == 2
        assert f"{name} was not loaded, because its pickle " in err
        assert name == "new.pkl" or "its pickle would run code" in err
        assert "this ran" not in out + err
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"a": torch.zeros(2), "b.c": torch.zeros(1)},
            r"has no known format\. Its keys are: a, b\.c\.",
        ),
        ({}, r"Its keys are: \."),
        ([1, 2], r"holds a list\. Give a state dict"),
        (torch.zeros(3), r"holds a Tensor\. Give a state dict"),
    ],
)
def test_an_unknown_format_lists_keys_and_formats(tmp_path, content, message):
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match=message) as refused:
        import_model(tmp_path / "other.pt", tmp_path / "model")
    if "keys are" in message:
        assert all(name in str(refused.value) for name in FORMATS)


def test_files_that_are_not_checkpoints_are_refused(tmp_path, file):
    for text in ("hello", "step 1", "train", "beta", "error", "a b"):
        (tmp_path / f"{text}.pt").write_text(text)
    (tmp_path / "cut.pt").write_bytes(file.read_bytes()[:5000])
    torch.save({"a": torch.zeros(3)}, tmp_path / "old", _use_new_zipfile_serialization=False)
    for length in range(1, 200, 7):
        (tmp_path / f"old{length}.pt").write_bytes((tmp_path / "old").read_bytes()[:length])
    for name in sorted(path.name for path in tmp_path.glob("*.pt") if path != file):
        with pytest.raises(CheckpointError, match=name):
            import_model(tmp_path / name, tmp_path / "model")
    with pytest.raises(CheckpointError, match=r"nowhere\.pt does not exist"):
        import_model(tmp_path / "nowhere.pt", tmp_path / "model")


@pytest.mark.parametrize("spoil", ["table", "layer"])
def test_a_modified_file_is_refused(file, tmp_path, spoil):
    state = torch.load(file, weights_only=True)
    if spoil == "table":
        state["time_embedding.timembedding.0.weight"] = torch.zeros(7)
    else:
        state["downblocks.0.weird"] = torch.zeros(1)
    torch.save(state, file)
    with pytest.raises(
        CheckpointError,
        match=r"format zoubohao, but (is damaged or|its raw weights do not fit.*weird)",
    ):
        import_model(file, tmp_path / "model")


def test_leftovers_of_a_killed_import_are_not_in_the_way(file, tmp_path):
    left_over = tmp_path / ".writing-model-1-0123abcd"
    left_over.mkdir()
    (left_over / "ema.safetensors").write_text("half of it")
    os.utime(left_over, (0, 0))  # a day ago and more
    import_model(file, tmp_path / "model")
    assert not left_over.exists()
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["model.safetensors"]
    assert fromnoise.load(tmp_path / "model").spec.weights == "raw"


def test_only_the_given_format_is_tried(file, tmp_path):
    with pytest.raises(CheckpointError, match="does not have the format lucidrains"):
        import_model(file, tmp_path / "model", format="lucidrains")
    with pytest.raises(
        ConfigError, match="--format 'lucidrain' is unknown; did you mean lucidrains"
    ):
        import_model(file, tmp_path / "model", format="lucidrain")


def test_existing_files_are_not_changed(file, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.txt").write_text("mine")
    with pytest.raises(FolderNotEmpty, match=r"is not empty\. Give --out a new folder"):
        import_model(file, tmp_path / "model")
    assert (tmp_path / "model" / "mine.txt").read_text() == "mine"


def test_data_range_zero_to_one_maps_to_black_and_white(file, tmp_path):
    clamped = {"size": 8, "sampling.clamp": True}
    import_model(file, tmp_path / "a", overrides=clamped)
    import_model(
        file, tmp_path / "b", overrides={"size": 8, "data_range": [0, 1], "sampling.clamp": True}
    )
    a, b = (fromnoise.load(tmp_path / name) for name in "ab")
    settings = {"steps": 3, "sampler": "ddim"}
    for model, low in ((a, -1.0), (b, 0.0)):
        *_, last = model.denoise([0], **settings)
        expected = np.clip((last.x.numpy() - low) / (1 - low), 0, 1) * 255
        np.testing.assert_allclose(model.sample([0], **settings).numpy(), expected, atol=0.51)
        assert last.x0.min() >= low


def test_weights_that_are_not_finite_are_not_imported(file, tmp_path):
    state = torch.load(file, weights_only=True)
    next(reversed(state.values())).view(-1)[0] = torch.nan
    torch.save(state, file)
    with pytest.raises(CheckpointError, match=r"of the raw weights is not finite"):
        import_model(file, tmp_path / "model")
    assert not (tmp_path / "model").exists()
