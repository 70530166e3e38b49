import errno
import math

import numpy as np
import pytest
import torch

import fromnoise
from fromnoise.config.errors import ConfigError
from fromnoise.data import open_images
from fromnoise.data.loader import image_indices, load_conditions
from fromnoise.rng import BatchDraws
from fromnoise.training import run as running
from fromnoise.training import trackers
from fromnoise.training.log import read_log
from fromnoise.training.previews import progress_figure, write_preview


@pytest.fixture
def digits():
    return open_images("digits")


def conditions(data, *, dropout, label_dropout=0.0, images=20_000, step=3):
    return load_conditions(
        data, BatchDraws.of(1, step, images), dropout=dropout, label_dropout=label_dropout
    )


def test_labels_are_those_of_the_images(digits):
    cond = conditions(digits, dropout=0.0, images=50)
    indices = image_indices(BatchDraws.of(1, 3, 50), len(digits))
    np.testing.assert_array_equal(cond.numpy(), digits.labels[indices])


@pytest.mark.parametrize("num_labels", [1, 2, 10])
@pytest.mark.parametrize("dropout", [0.1, 0.5])
def test_the_share_of_empty_conditions_is_the_setting_whatever_the_number_of_labels(
    digits, num_labels, dropout
):
    labels = digits.labels[:, :num_labels]
    data = fromnoise.ImageSet(digits.images, labels, (), "", (), "digits")
    cond = conditions(data, dropout=dropout)
    share = (cond == 0).all(dim=1).double().mean().item()
    assert abs(share - dropout) < 3 * math.sqrt(dropout * (1 - dropout) / len(cond))


def test_a_share_of_the_images_says_a_part_and_any_part_alike(digits):
    cond = conditions(digits, dropout=0.0, label_dropout=0.4)
    present, absent = (cond > 0).sum(dim=1), (cond < 0).sum(dim=1)
    counts = torch.bincount(present * 10 + absent, minlength=20).double() / len(cond)
    # a share uniform in [0, 1] makes every number of kept labels equally likely (Bayes's billiard):
    # 0 or 1 of the present one, times 0 to 9 of the absent nine
    expected = torch.full((20,), 0.4 / 20).double()
    expected[19] += 0.6
    error = 4 * (expected * (1 - expected) / len(cond)).sqrt()
    assert ((counts - expected).abs() < error).all()
    assert (cond.sum(dim=0).abs() > 0).all()  # no label is never said


def test_both_kinds_are_a_function_of_seed_and_step(digits):
    first = conditions(digits, dropout=0.3, label_dropout=0.3, images=64)
    torch.manual_seed(9)
    again = conditions(digits, dropout=0.3, label_dropout=0.3, images=64)
    other = conditions(digits, dropout=0.3, label_dropout=0.3, images=64, step=4)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.fixture(scope="module")
def labelled_run(tmp_path_factory):
    """Digits by class, four steps: enough to be asked for classes, not to draw them."""
    tree = {
        "data": {"source": "digits", "labels": True},
        "network": {"name": "ddpm", "channels": 8, "multipliers": [1, 2], "groups": 4},
        "diffusion": {"T": 20, "schedule": "cosine"},
        "training": {"steps": 4, "batch_size": 8, "learning_rate": 0.01, "precision": "fp32"},
        "sampling": {"steps": 5, "guidance": 2.0},
    }
    return fromnoise.train(tree, out=tmp_path_factory.mktemp("labelled") / "run")


def test_a_model_knows_its_labels_and_answers_to_them(labelled_run):
    model = labelled_run.model("raw")
    assert model.spec.label_names == tuple("0123456789")
    assert model.sampling_config().guidance == 2.0
    cond = torch.eye(10)[:2] * 2 - 1
    of_0, of_1 = model.sample([5, 5], cond=cond)
    assert not torch.equal(of_0, of_1)
    assert not torch.equal(of_0, model.sample([5])[0])


def test_one_seed_and_label_is_one_image_at_any_batch_size(labelled_run):
    model = labelled_run.model()
    cond = torch.eye(10)[:6] * 2 - 1
    together = model.sample(range(6), cond=cond).int()
    for size in (1, 4):
        apart = model.sample(range(6), cond=cond, batch_size=size).int()
        assert (together - apart).abs().max() <= 1


def test_the_log_shows_how_many_conditions_were_empty(tmp_path):
    tree = {
        "data": {"source": "digits", "labels": True},
        "network": {"name": "ddpm", "channels": 8, "multipliers": [1, 1], "groups": 4},
        "training": {"steps": 3, "batch_size": 40, "log_every": 2, "precision": "fp32"},
    }
    tree["training"] |= {"condition_dropout": 0.4, "label_dropout": 0.5}
    run = fromnoise.train(tree, out=tmp_path / "run")
    digits = open_images("digits")
    told = [
        load_conditions(digits, BatchDraws.of(0, i, 40), dropout=0.4, label_dropout=0.5)
        for i in range(3)
    ]
    rows = [row for row in read_log(run.folder) if "loss" in row]
    for row, cond in zip(rows, (torch.cat(told[:2]), told[2]), strict=True):
        said = (cond != 0).sum(dim=1)
        assert row["conditions_empty"] == (said == 0).double().mean()
        assert row["conditions_partial"] == ((said > 0) & (said < 10)).double().mean()


def test_a_composition_is_of_single_labels_and_guides_as_one(labelled_run):
    model = labelled_run.model("raw")
    one = torch.zeros(2, 10)
    one[:, 3] = 1
    torch.testing.assert_close(
        next(iter(model.denoise([5, 6], compose={"3": 2.5}))).x,
        next(iter(model.denoise([5, 6], cond=one, guidance=2.5))).x,
    )
    both = model.sample([5], compose={"3": 2.0, "4": -2.0})
    assert not torch.equal(both, model.sample([5], compose={"3": 2.0}))


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"cond": torch.ones(2, 10), "compose": {"3": 1.0}}, "cond and compose exclude each"),
        (
            {"compose": {"3": 1.0}, "guidance": 2.0},
            r"guidance has no effect: .*not a composition, or remove guidance",
        ),
        ({"compose": {"eleven": 1.0}}, "'eleven' is not a label. Labels: 0, 1"),
        (
            {"guidance_interval": (1, 5)},
            r"guidance_interval has no effect: ε = ε_∅ \+ s·.* needs ε_c",
        ),
        ({"cond": torch.ones(2, 10), "guidance_interval": (9, 3)}, r"1 ≤ first ≤ last ≤ T = 20"),
        (
            {"cond": torch.ones(2, 10), "guidance_interval": (9, 21)},
            r"9-21 is out of range\. .* 1 ≤ first ≤ last ≤ T = 20",
        ),
        (
            {"cond": torch.ones(2, 10), "guidance_rescale": 2.0},
            r"guidance_rescale = 2\.0 is too large. Give at most 1",
        ),
        (
            {"cond": torch.ones(2, 10), "guidance_interval": (0, 3)},
            r"guidance_interval.0 = 0 is too small",
        ),
        ({"cond": torch.ones(2, 10), "clamp": "Dynamic"}, "clamp = 'Dynamic' is unknown"),
        ({"cond": torch.ones(2, 3)}, r"cond has shape \(2, 3\)\. Give \(2, 10\)"),
        ({"cond": torch.ones(2, 10), "guidance": -0.5}, r"guidance = -0.5: use s ≥ 0 in ε = ε_∅"),
    ],
)
def test_what_cannot_be_asked_of_a_model_with_labels(labelled_run, how, said):
    with pytest.raises(ValueError, match=said):
        labelled_run.model().sample([0, 1], **how)


def test_clamping_is_chosen_when_sampling(labelled_run):
    model = labelled_run.model("raw")
    free, hard, soft = (
        next(iter(model.denoise([5, 6], clamp=clamp))).x0 for clamp in (False, True, "dynamic")
    )
    assert free.abs().max() > 1
    torch.testing.assert_close(hard, free.clamp(-1, 1))
    assert soft.abs().max() <= 1
    assert not torch.equal(soft, hard)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"cond": torch.ones(1, 10)}, "this model is unconditional"),
        ({"guidance": 2.0}, r"this model is unconditional, and ε = ε_∅ \+ s·\(ε_c − ε_∅\)"),
    ],
)
def test_what_cannot_be_asked_of_a_model_without(finished_run, how, said):
    with pytest.raises(ValueError, match=said):
        fromnoise.load(finished_run).sample([0], **how)


def test_labels_that_are_not_there_cannot_be_trained_on(tiny, tmp_path):
    np.save(tmp_path / "plain.npy", np.zeros((4, 8, 8, 1), np.uint8))
    tiny["data"] = {"source": "npz", "path": str(tmp_path / "plain.npy"), "labels": True}
    with pytest.raises(ConfigError, match=r"data.labels = true, but npz has no labels"):
        fromnoise.train(tiny, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


# ---- epochs, first weights, progress -------------------------------------------------------------


def test_epochs_become_steps_and_each_leaves_its_mean_loss(tiny, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 1), np.uint8)
    np.save(tmp_path / "few.npy", images)
    del tiny["training"]["steps"]
    tiny["training"] |= {"epochs": 3, "log_every": 1}
    run = fromnoise.train(tiny, data=tmp_path / "few.npy", out=tmp_path / "run")
    assert run.recipe().training.steps == 8  # 3 * 20 / 8, to the nearest
    rows = read_log(run.folder)
    ends = {row["finished_epoch"]: row for row in rows if "finished_epoch" in row}
    assert [row["step"] for row in ends.values()] == [3, 5, 8]
    losses = {row["step"]: row["loss"] for row in rows if "loss" in row}
    assert ends[2]["epoch_loss"] == pytest.approx((losses[4] + losses[5]) / 2)


def test_a_run_starts_from_other_weights(tiny, run, tmp_path):
    tiny["training"] |= {"steps": 1, "learning_rate": 1e-12, "start_from": str(run)}
    begun = fromnoise.train(tiny, out=tmp_path / "second").model("raw")
    for name, tensor in fromnoise.load(run).denoiser.network.state_dict().items():
        torch.testing.assert_close(begun.denoiser.network.state_dict()[name], tensor)
    for section, key, value in (
        ("network", "channels", 16),
        ("network", "embedding", "interleaved"),  # of no shape, and of another meaning
        ("diffusion", "prediction", "v"),
        ("diffusion", "prediction", {"name": "edm", "sigma_data": 0.3}),
    ):
        other = {**tiny, section: {**tiny[section], key: value}}
        with pytest.raises(ConfigError, match=rf"start_from: .* has .*{key.removesuffix('s')}"):
            fromnoise.train(other, out=tmp_path / "third")
        assert not (tmp_path / "third").exists()


def test_a_preview_may_come_before_the_first_row_of_the_log(tiny, tmp_path):
    tiny["training"] |= {"steps": 4, "preview_every": 1, "log_every": 4}
    run = fromnoise.train(tiny, out=tmp_path / "run").folder
    assert sorted(file.name for file in (run / "previews").iterdir()) == [
        f"{step:06d}.{kind}" for step in (1, 2, 3, 4) for kind in ("npz", "png")
    ]
    assert (run / "loss.png").is_file()


def test_damaged_previews_are_left_out_and_end_no_training(run, caplog):
    previews = run / "previews"
    whole = (previews / "000006.npz").read_bytes()
    (previews / "000001.npz").write_bytes(b"")
    (previews / "000002.npz").write_bytes(b"PK\x03\x04cut off")
    (previews / "000003.npz").write_bytes(whole[:60] + bytes(200) + whole[260:])
    np.savez(previews / "000004.npz", other=np.zeros(1))
    (previews / "000006.npz").unlink()  # five in all are shown
    fromnoise.resume(run, overrides={"training.steps": 7})
    for step in (1, 2, 3, 4):
        assert f"previews/00000{step}.npz cannot be read" in caplog.text
    assert (previews / "000007.png").is_file()
    for file in previews.glob("*.npz"):
        file.write_bytes(b"")
    with pytest.raises(ConfigError, match="has no readable preview"):
        progress_figure(run)


def test_a_preview_for_which_there_is_no_room_leaves_no_half_of_it(tmp_path, monkeypatch):
    def full(file, **arrays):
        file.write(b"PK")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "savez_compressed", full)
    image = np.zeros((1, 1, 8, 8), np.uint8)
    with pytest.raises(OSError, match=r"the disk is full: .*000001\.npz was not written"):
        write_preview(tmp_path / "000001.npz", {"EMA": image, "raw": image})
    assert list(tmp_path.iterdir()) == []


def test_progress_is_drawn_from_the_previews(run, cli, tmp_path):
    (run / "previews" / "000003.npz").write_bytes((run / "previews" / "000006.npz").read_bytes())
    assert cli("progress", run, "--epochs", "0").out.strip().endswith("progress.png")
    first = (run / "progress.png").read_bytes()
    progress_figure(run)
    assert (run / "progress.png").read_bytes() != first  # two moments instead of one
    for file in (run / "previews").glob("*.npz"):
        file.unlink()
    with pytest.raises(ConfigError, match="has no previews"):
        progress_figure(run)
    assert "is not a run: it has no log.jsonl" in cli("progress", tmp_path / "nowhere").err
    assert "--epochs 'x' is unreadable. Write 0,50" in cli("progress", run, "--epochs", "x").err


def test_more_epochs_make_a_run_longer(tiny, tmp_path):
    np.save(tmp_path / "few.npy", np.zeros((16, 8, 8, 1), np.uint8))
    del tiny["training"]["steps"]
    tiny["training"]["epochs"] = 1
    fromnoise.train(tiny, data=tmp_path / "few.npy", out=tmp_path / "run")
    run = fromnoise.resume(tmp_path / "run", overrides={"training.epochs": 2})
    assert run.recipe().training.steps == 4
    assert run.finished


def test_a_run_is_not_resumed_with_other_labels(tiny, tmp_path):
    from PIL import Image

    for name in ("cat", "dog"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for i in range(4):
            Image.new("L", (8, 8), 40 * i).save(tmp_path / "pets" / name / f"{i}.png")
    tiny["data"] = {"source": "folder", "path": str(tmp_path / "pets"), "labels": True}
    tiny["training"]["steps"] = 2
    fromnoise.train(tiny, out=tmp_path / "run")
    (tmp_path / "pets" / "cat").rename(tmp_path / "pets" / "zebra")
    with pytest.raises(ConfigError, match=r"labels are now dog, zebra, but .* with cat, dog"):
        fromnoise.resume(tmp_path / "run", overrides={"training.steps": 4})


@pytest.mark.parametrize("wrong", [{"training.device": "tpu"}, {"training.log_to": ["wandb"]}])
def test_what_the_machine_lacks_is_said_before_the_images_are_decoded(
    tiny, tmp_path, monkeypatch, wrong
):
    monkeypatch.setattr(trackers, "find_spec", lambda _: None)
    monkeypatch.setattr(running, "open_with_log", None)  # is not called
    with pytest.raises(ValueError, match=r"is unknown|is not installed"):
        fromnoise.train(tiny, out=tmp_path / "run", overrides=wrong)
    assert not (tmp_path / "run").exists()
