"""The U-Net of improved- and guided-diffusion, written once more, and files of its weights."""

import pytest
import torch
from torch.nn import functional as F

import fromnoise
from fromnoise.checkpoints import CheckpointError
from fromnoise.interop import import_model

MC = 32  # of 32 groups


def weights_of(
    *, mults=(1, 2), blocks=1, attention=(1,), c_in=3, c_out=3, updown=False, shift=True, classes=0
):
    """Random weights under the names there, of a network with these options."""
    torch.manual_seed(0)
    state, time = {}, 4 * MC

    def layer(name, *shape):
        state[f"{name}.weight"] = torch.randn(shape) * (0.5 / max(shape[1], 1) ** 0.5)
        state[f"{name}.bias"] = torch.randn(shape[0]) * 0.3

    def norm(name, c):
        state[f"{name}.weight"], state[f"{name}.bias"] = torch.randn(2, c)

    def residual(name, a, b):
        norm(f"{name}.in_layers.0", a)
        layer(f"{name}.in_layers.2", b, a, 3, 3)
        layer(f"{name}.emb_layers.1", b * (1 + shift), time)
        norm(f"{name}.out_layers.0", b)
        layer(f"{name}.out_layers.3", b, b, 3, 3)
        if a != b:
            layer(f"{name}.skip_connection", b, a, 1, 1)

    def attend(name, c):
        norm(f"{name}.norm", c)
        layer(f"{name}.qkv", 3 * c, c, 1)
        layer(f"{name}.proj_out", c, c, 1)

    layer("time_embed.0", time, MC)
    layer("time_embed.2", time, time)
    if classes:
        state["label_emb.weight"] = torch.randn(classes, time)
    layer("input_blocks.0.0", MC, c_in, 3, 3)
    i, c, widths = 1, MC, [MC]
    for level, mult in enumerate(mults):
        for _ in range(blocks):
            residual(f"input_blocks.{i}.0", c, mult * MC)
            c = mult * MC
            if level in attention:
                attend(f"input_blocks.{i}.1", c)
            widths.append(c)
            i += 1
        if level < len(mults) - 1:
            if updown:
                residual(f"input_blocks.{i}.0", c, c)
            else:
                layer(f"input_blocks.{i}.0.op", c, c, 3, 3)
            widths.append(c)
            i += 1
    residual("middle_block.0", c, c)
    attend("middle_block.1", c)
    residual("middle_block.2", c, c)
    i = 0
    for level, mult in reversed(list(enumerate(mults))):
        for j in range(blocks + 1):
            residual(f"output_blocks.{i}.0", c + widths.pop(), mult * MC)
            c, after = mult * MC, 1
            if level in attention:
                attend(f"output_blocks.{i}.1", c)
                after = 2
            if level and j == blocks:
                if updown:
                    residual(f"output_blocks.{i}.{after}", c, c)
                else:
                    layer(f"output_blocks.{i}.{after}.conv", c, c, 3, 3)
            i += 1
    norm("out.0", c)
    layer("out.2", c_out, c, 3, 3)
    return state


def their_output(p, x, t, y=None, *, blocks, levels, heads, new_order=False):
    """Their network as a function of its weights. heads: width → number of heads."""

    def conv(name, h, **how):
        return F.conv2d(h, p[f"{name}.weight"], p[f"{name}.bias"], **how)

    def linear(name, h):
        return h @ p[f"{name}.weight"].T + p[f"{name}.bias"]

    def norm(name, h):
        return F.group_norm(h, 32, p[f"{name}.weight"], p[f"{name}.bias"], eps=1e-5)

    def residual(name, h, resized=lambda h: h):
        r = conv(f"{name}.in_layers.2", resized(F.silu(norm(f"{name}.in_layers.0", h))), padding=1)
        told = linear(f"{name}.emb_layers.1", F.silu(emb))[:, :, None, None]
        if told.shape[1] == 2 * r.shape[1]:
            scale, shift = told.split(r.shape[1], dim=1)
            r = norm(f"{name}.out_layers.0", r) * (1 + scale) + shift
        else:
            r = norm(f"{name}.out_layers.0", r + told)
        r = conv(f"{name}.out_layers.3", F.silu(r), padding=1)
        h = resized(h)
        return r + (
            conv(f"{name}.skip_connection", h) if f"{name}.skip_connection.bias" in p else h
        )

    def attention(name, h):
        b, c = h.shape[:2]
        n = heads(c)
        rows = norm(f"{name}.norm", h).flatten(2)
        rows = p[f"{name}.qkv.weight"][:, :, 0] @ rows + p[f"{name}.qkv.bias"][:, None]
        if new_order:  # q, k, v, and in each of them the heads
            q, k, v = rows.view(b, 3, n, c // n, -1).unbind(1)
        else:  # the heads, and in each of them q, k, v
            q, k, v = rows.view(b, n, 3, c // n, -1).unbind(2)
        shares = torch.softmax(q.mT @ k / (c // n) ** 0.5, dim=-1)
        out = (v @ shares.mT).flatten(1, 2)
        out = p[f"{name}.proj_out.weight"][:, :, 0] @ out + p[f"{name}.proj_out.bias"][:, None]
        return h + out.view(h.shape)

    def doubled(h):
        return F.interpolate(h, scale_factor=2, mode="nearest")

    def halved(h):
        return F.avg_pool2d(h, 2)

    def sequence(name, h, smaller=False):
        for j in range(3):
            part = f"{name}.{j}"
            if f"{part}.qkv.weight" in p:
                h = attention(part, h)
            elif f"{part}.conv.weight" in p:
                h = conv(f"{part}.conv", doubled(h), padding=1)
            elif f"{part}.op.weight" in p:
                h = conv(f"{part}.op", h, stride=2, padding=1)
            elif f"{part}.in_layers.0.weight" in p:
                resized = [doubled] if j else [halved] if smaller else []
                h = residual(part, h, *resized)
            elif f"{part}.weight" in p:
                h = conv(part, h, padding=1)
        return h

    frequencies = torch.exp(-torch.arange(MC // 2) / (MC // 2) * torch.log(torch.tensor(1e4)))
    angles = t[:, None].float() * frequencies
    emb = torch.cat([angles.cos(), angles.sin()], dim=1)
    emb = linear("time_embed.2", F.silu(linear("time_embed.0", emb)))
    if y is not None:
        emb = emb + p["label_emb.weight"][y]
    h, skips = x, []
    for i in range(levels * (blocks + 1)):
        h = sequence(f"input_blocks.{i}", h, smaller=i > 0 and i % (blocks + 1) == 0)
        skips.append(h)
    h = residual("middle_block.2", attention("middle_block.1", residual("middle_block.0", h)))
    for i in range(levels * (blocks + 1)):
        h = sequence(f"output_blocks.{i}", torch.cat([h, skips.pop()], dim=1))
    return conv("out.2", F.silu(norm("out.0", h)), padding=1)


def four(width):
    return 4


def of_16(width):
    return width // 16


KINDS = {  # options of the weights, overrides, format, heads
    "improved": ({"c_out": 6}, {}, None, four),
    "improved, without scale and shift": (
        {
            "mults": (1, 2, 2),
            "blocks": 2,
            "attention": (0, 2),
            "c_in": 1,
            "c_out": 1,
            "shift": False,
        },
        {},
        None,
        four,
    ),
    "guided": ({"updown": True, "classes": 3, "c_out": 6}, {}, None, lambda width: width // 64),
    "guided, narrow heads": (
        {"updown": True, "mults": (1, 2, 3), "attention": (1, 2)},
        {"network.head_channels": 16},
        None,
        of_16,
    ),
    "guided, new attention": (
        {"updown": True, "blocks": 2, "attention": (0, 1), "classes": 2},
        {"network.head_channels": 16},
        "openai-new-attention",
        of_16,
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_output_is_that_of_the_program(kind, tmp_path):
    options, overrides, format, heads = KINDS[kind]
    state = weights_of(**options)
    torch.save(state, tmp_path / "ema_0.9999_100.pt")
    given = {"overrides": {"size": 8, **overrides}, "format": format}
    spec, notes = import_model(tmp_path / "ema_0.9999_100.pt", tmp_path / "model", **given)
    model = fromnoise.load(tmp_path / "model", device="cpu")
    x, t = torch.randn(2, options.get("c_in", 3), 8, 8), torch.tensor([3, 950])
    y = torch.tensor([1, 0]) if "classes" in options else None
    shape = {"blocks": options.get("blocks", 1), "levels": len(options.get("mults", (1, 2)))}
    new = format is not None
    expected = their_output(state, x, t, y, **shape, heads=heads, new_order=new)
    cond = None if y is None else 2 * torch.eye(options["classes"])[y] - 1
    got = model.denoiser.network(x, t, cond)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))
    assert any("use_new_attention_order" in note for note in notes) != new
    learned = spec.sampling.sampler.options == {"variance": "learned"}
    assert learned == (options.get("c_out") == 6)


def test_all_that_the_file_does_not_tell_is_assumed(tmp_path):
    torch.save(weights_of(classes=2), tmp_path / "model.pt")
    _, notes = import_model(tmp_path / "model.pt", tmp_path / "model")
    assert [note.split()[1] for note in notes if note.startswith("assumed")] == [
        "diffusion.T=1000",
        "diffusion.schedule=linear",
        "diffusion.schedule.beta_1=0.0001",
        "diffusion.schedule.beta_T=0.02",
        "diffusion.prediction=eps",
        "size=64",
        "network.dropout=0.0",
        "network.head_channels=[8,16]",
        "sampling.clamp=true",
        "label_names=[class_0,class_1]",
    ]


def test_what_has_no_counterpart_is_refused(tmp_path):
    def more(state, name, factor):
        wider = torch.cat([state[name]] * factor, dim=1)
        return {**state, name: wider}

    state = weights_of()
    latent = {f"model.diffusion_model.{name}": tensor for name, tensor in state.items()}
    short = {k: v for k, v in state.items() if not k.startswith("output_blocks.3.")}
    refused = {
        "is a part of a latent diffusion model": latent,
        "has 6 input and 3 output channels": more(state, "input_blocks.0.0.weight", 2),
        "has 4 input and 3 output blocks": short,
        "begins with 32 channels instead of 64": more(state, "time_embed.0.weight", 2)
        | {"input_blocks.1.0.in_layers.2.weight": torch.zeros(64, 32, 3, 3)},
        "not multiples of 32": state | {"input_blocks.3.0.in_layers.2.weight": torch.zeros(48, 1)},
    }
    for problem, content in refused.items():
        torch.save(content, tmp_path / "file.pt")
        with pytest.raises(CheckpointError, match=problem):
            import_model(tmp_path / "file.pt", tmp_path / "model")
        assert not (tmp_path / "model").exists()


def test_head_channels_that_do_not_divide_are_refused(tmp_path, cli):
    torch.save(weights_of(), tmp_path / "file.pt")
    given = ("size=8", "network.head_channels=5")
    code, _, err = cli("import", tmp_path / "file.pt", "--out", tmp_path / "model", *given)
    assert code == 2
    assert "head_channels is 5, but the width 64 with attention" in err
