"""Files whose tensors have other names, but the order and the shapes of a known network."""

import re

import pytest
import torch

import fromnoise
from fromnoise.checkpoints import CheckpointError
from fromnoise.interop import FORMATS, import_model

MATCHED = "note: names of tensors are unknown, so they were matched by structure"
EVERY_WORD = {r"(?<![a-z_0-9])([a-z_0-9]*[a-z][a-z_0-9]*)(?=\.)": r"x\1"}
# word by word, or anywhere in a name
RENAMINGS = {
    "context-unet": [
        {r"\.model\.": ".layers."},
        {r"\.model\.": ".net.", r"^nn_model\.": "eps.", "embed": "_mlp"},
        {r"\bconv([12])\.0\.": r"conv\1.conv.", r"\bconv([12])\.1\.": r"conv\1.bn."},
        {r"\bout\.0": "head.conv1", r"\bout\.1": "head.norm", r"\bout\.3": "head.conv2"},
        {r"\bout\.3": "out.2"},
        EVERY_WORD,
        {"context": "label", "time": "step", r"\bup": "dec", r"\bdown": "enc", "init_conv": "stem"},
    ],
    "explainingai": [
        {"^downs": "encoder", "^mids": "bottleneck", "^ups": "decoder"},
        EVERY_WORD,
        {"t_proj": "time_mlp", "resnet_conv_first": "block_a", r"attentions\.": "attn."},
        {r"(resnet_conv_first\.\d+)\.0": r"\1.norm", r"(resnet_conv_first\.\d+)\.2": r"\1.conv"},
    ],
    "lucidrains": [
        EVERY_WORD,
        {"downs": "encoder", "ups": "decoder", r"downs\.(\d)\.2": r"encoder.\1.attn"},
    ],
    "lucidrains, June 2022": [
        EVERY_WORD,
        {"denoise_fn": "net", r"\bdowns": "encoder", r"\bups": "decoder", "mid_": "middle_"},
        {"mlp": "time", "res_conv": "skip", r"block([12])\.proj": r"block\1.conv", "to_": ""},
        {r"(ups|downs)\.(\d)\.0": r"\1.\2.first", r"(ups|downs)\.(\d)\.1": r"\1.\2.second"},
    ],
    "zoubohao": [
        {"downblocks": "down", "middleblocks": "mid", "upblocks": "up", "timembedding": "layers"},
        {"temb_proj": "time", "shortcut": "skip", "attn": "attention"},
        {"proj_q": "to_q", "proj_k": "to_k", "proj_v": "to_v", r"proj\.": "out."},
        EVERY_WORD,
    ],
}
CASES = [(name, i) for name, each in RENAMINGS.items() for i in range(len(each))]


def renamed(state, renaming):
    def new(name):
        for pattern, replacement in renaming.items():
            name = re.sub(pattern, replacement, name)
        return name

    result = {new(name): tensor for name, tensor in state.items()}
    assert len(result) == len(state)
    assert result.keys() != state.keys()
    return result


def same_weights(folder, expected):
    state = fromnoise.load(folder, device="cpu").denoiser.network.state_dict()
    assert state.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(state[name], tensor, rtol=0, atol=0)


@pytest.mark.parametrize(("name", "case"), CASES)
def test_renamed_components_are_paired(name, case, state_of, tmp_path):
    state = state_of(name)
    torch.save({"state_dict": renamed(state, RENAMINGS[name][case])}, tmp_path / "file.pt")
    spec, notes = import_model(tmp_path / "file.pt", tmp_path / "model")
    name = name.partition(",")[0]
    assert spec.source == f"imported: {name}"
    assert [note for note in notes if note.startswith(MATCHED)]
    model = FORMATS[name](state)
    same_weights(tmp_path / "model", model.raw)
    assert model.spec["diffusion"]["T"] == spec.diffusion.T  # of the tables beside the network


def test_the_network_of_i_clevr_gives_the_same_output(writing_of, tmp_path):
    written = writing_of("context_unet")
    theirs = written.theirs()
    state = renamed(written.payload(theirs), {r"\.model\.": ".layers."})
    torch.save(state, tmp_path / "model_299.pth")
    import_model(tmp_path / "model_299.pth", tmp_path / "model")
    network = fromnoise.load(tmp_path / "model", device="cpu").denoiser.network
    x, t, cond = torch.randn(3, 3, 64, 64), torch.tensor([1, 133, 400]), torch.zeros(3, 24)
    cond[0, 1] = cond[0, 5] = cond[1, 0] = 1
    with torch.no_grad():
        expected, out = theirs(x, -cond, t / 400), network(x, t - 1, cond)
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5 * expected.std().item())


def test_the_six_layers_of_the_tutorial_are_paired(writing_of, tmp_path):
    stack = writing_of("mnist_tutorial")
    six = {**stack.PUBLISHED, "channels": (32, 64, 128, 256, 256, 192)}
    state = dict(stack.foreign(**six).state_dict())
    renaming = {r"Layer(\d)": r"stage\1", "gnorm": "norm", "attention_layer": "attn", "late": "pre"}
    torch.save({"model": renamed(state, renaming)}, tmp_path / "file.pt")
    spec, notes = import_model(tmp_path / "file.pt", tmp_path / "model")
    assert spec.source == "imported: mnist-tutorial"
    assert [note for note in notes if note.startswith(MATCHED)]
    same_weights(tmp_path / "model", FORMATS["mnist-tutorial"](state).raw)


def test_known_names_are_not_said_to_be_matched_by_structure(known, tmp_path):
    torch.save(known[1], tmp_path / "file.pt")
    _, notes = import_model(tmp_path / "file.pt", tmp_path / "model")
    assert not [note for note in notes if "structure" in note]


@pytest.mark.parametrize(
    ("name", "renaming"),
    [
        # q, k and v have one shape each, and other roles
        ("zoubohao", {"proj_q": "one", "proj_k": "two", "proj_v": "three"}),
        ("zoubohao", {"proj_q": "to_k", "proj_k": "to_q", "proj_v": "to_v"}),
        # gain and bias of a norm, too
        ("zoubohao", {r"group_norm\.weight": "group_norm.a", r"group_norm\.bias": "group_norm.b"}),
        # two blocks that no number orders
        (
            "context-unet",
            {r"(up\d)\.model\.1": r"\1.model.one", r"(up\d)\.model\.2": r"\1.model.x"},
        ),
        ("context-unet", {"running_mean": "m", "running_var": "v"}),
        ("context-unet", {r"\bconv1\.0": "conv1.0.inner"}),  # another tree
        ("explainingai", {r"^downs\.(\d+)": r"down\1"}),  # no list
    ],
)
def test_an_ambiguous_or_another_structure_is_refused(name, renaming, state_of, tmp_path):
    torch.save(renamed(state_of(name), renaming), tmp_path / "file.pt")
    with pytest.raises(CheckpointError, match=r"has no known format|weights do not fit"):
        import_model(tmp_path / "file.pt", tmp_path / "model")
    assert not (tmp_path / "model").exists()


def _one_less(state):
    del state["nn_model.out.3.bias"]


def _one_more(state):
    state["nn_model.out.5.bias"] = torch.zeros(3)


def _wider(state):
    state["nn_model.up1.model.1.conv1.0.weight"] = torch.zeros(8, 9, 3, 3)


@pytest.mark.parametrize("change", [_one_less, _one_more, _wider])
def test_a_renamed_file_of_another_shape_is_refused(change, state_of, tmp_path):
    state = state_of("context-unet")
    change(state)
    torch.save(renamed(state, RENAMINGS["context-unet"][0]), tmp_path / "file.pt")
    with pytest.raises(CheckpointError, match=r"has no known format|weights do not fit"):
        import_model(tmp_path / "file.pt", tmp_path / "model")


def test_numbered_parts_that_descend_are_refused(state_of, tmp_path):
    """With b2 before b1, the order says one thing and the numbers another."""
    state = state_of("context-unet")
    renaming = {r"(up\d)\.model\.1": r"\1.model.b2", r"(up\d)\.model\.2": r"\1.model.b1"}
    torch.save(renamed(state, renaming), tmp_path / "file.pt")
    with pytest.raises(CheckpointError, match=r"has no known format|weights do not fit"):
        import_model(tmp_path / "file.pt", tmp_path / "model")


def test_names_that_are_known_stand_against_the_order(state_of, tmp_path):
    """A file that was sorted by name is paired by its known names, and the one unknown word."""
    state = state_of("context-unet")
    other = renamed(state, RENAMINGS["context-unet"][0])
    torch.save(dict(sorted(other.items())), tmp_path / "file.pt")
    import_model(tmp_path / "file.pt", tmp_path / "model")
    same_weights(tmp_path / "model", FORMATS["context-unet"](state).raw)


def test_the_average_is_paired_too(state_of, tmp_path):
    state = state_of("zoubohao")
    average = {name: tensor + 1 for name, tensor in state.items()}
    renaming = RENAMINGS["zoubohao"][0]
    payload = {"net_model": renamed(state, renaming), "ema_model": renamed(average, renaming)}
    torch.save({**payload, "step": 12}, tmp_path / "file.pt")
    spec, _ = import_model(tmp_path / "file.pt", tmp_path / "model")
    assert (spec.source, spec.step) == ("imported: w86763777", 12)
    same_weights(tmp_path / "model/ema.safetensors", FORMATS["zoubohao"](average).raw)
