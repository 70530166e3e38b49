"""Averages made afterwards, against those that were taken along."""

import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

import fromnoise
from fromnoise import runs
from fromnoise.checkpoints import read_tensors
from fromnoise.config.errors import ConfigError
from fromnoise.config.schema import Training
from fromnoise.model.spec import read_spec
from fromnoise.training import loop
from fromnoise.training.ema import PowerEMA, reconstruct, save_snapshots
from fromnoise.training.precision import Computation
from fromnoise.training.state import TrainingState

TRACKED = (0.05, 0.1)
STEPS = 200


def flat(file: Path) -> torch.Tensor:
    """All weights of a model file, float64 (N,)."""
    return joined(read_tensors(file).tensors)


def joined(tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([tensors[name].flatten().double() for name in sorted(tensors)])


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / b.norm())


@pytest.fixture(scope="module")
def walked(tmp_path_factory, tiny_tree):
    """A run folder whose network goes on a random walk of 200 steps; averages, by length.

    Snapshots of two lengths are stored every 10 steps. Also the average of 0.07 until step 105.
    """
    run = tmp_path_factory.mktemp("walked")
    recipe = fromnoise.config.recipe.parse_recipe(tiny_tree, "tiny")
    (run / "recipe.yaml").write_text(recipe.to_yaml())
    spec = fromnoise.model.model.ModelSpec(
        network=recipe.network,
        diffusion=recipe.diffusion,
        sampling=recipe.sampling,
        channels=1,
        size=(8, 8),
    )
    torch.manual_seed(0)
    network = fromnoise.model.model.build_denoiser(spec).network
    averages = {length: PowerEMA(network, length) for length in (*TRACKED, 0.03, 0.07, 0.15, 0.2)}
    tracked = [averages[length] for length in TRACKED]
    parameters = list(network.parameters())
    found = {}
    for n in range(STEPS):
        with torch.no_grad():
            for parameter in parameters:
                parameter += torch.randn_like(parameter)
        for average in averages.values():
            average.update(network, n)
        if (n + 1) % 10 == 0:
            save_snapshots(tracked, spec, run, step=n + 1, updates=n + 1)
        if n + 1 == 105:
            found["0.07 at 105"] = joined(averages[0.07].module.state_dict())
    ends = {str(length): joined(a.module.state_dict()) for length, a in averages.items()}
    return run, found | ends


# ---- the oracle ---------------------------------------------------------------------------------


@pytest.mark.parametrize("length", TRACKED)
@pytest.mark.parametrize("step", [50, 200])
def test_a_length_that_was_tracked_is_its_snapshot(walked, tmp_path, length, step):
    run, _ = walked
    made = reconstruct(run, length, step=step, out=tmp_path / "out.safetensors")
    snapshot = flat(run / "ema" / f"{step:06d}-{length:g}.safetensors")
    assert distance(flat(made.file), snapshot) < 1e-6
    assert made.error < 1e-6
    other = TRACKED[1 - TRACKED.index(length)]
    assert distance(flat(run / "ema" / f"{step:06d}-{other:g}.safetensors"), snapshot) > 0.1


@pytest.mark.parametrize(("length", "within"), [(0.03, 2e-3), (0.07, 2e-4), (0.15, 2e-4)])
def test_another_length_is_the_average_that_was_not_stored(walked, tmp_path, length, within):
    run, averages = walked
    made = reconstruct(run, length, out=tmp_path / "out.safetensors")
    expected = averages[str(length)]
    assert distance(flat(made.file), expected) < within
    nearest = min(distance(averages[str(tracked)], expected) for tracked in TRACKED)
    assert nearest > 20 * within
    assert (made.step, made.snapshots) == (200, 40)
    assert 0 < made.error < 0.05


def test_an_end_between_two_snapshots_is_poor_and_said_to_be_so(walked, tmp_path, caplog):
    """A profile ends at its highest, and there is no edge in those of the snapshots at step 105."""
    run, averages = walked
    made = reconstruct(run, 0.07, step=105, out=tmp_path / "out.safetensors")
    assert made.snapshots == 22  # until step 110
    assert 0.2 < made.error < 0.5
    assert caplog.text.endswith("profile. Step 105 has no snapshot, step 110 has one\n")
    wrong = averages["0.07"]  # the end of the walk
    expected = averages["0.07 at 105"]
    assert distance(flat(made.file), expected) < 0.1 * distance(wrong, expected)


def test_the_file_says_what_it_is(walked, tmp_path):
    run, _ = walked
    file = reconstruct(run, 0.07, step=105, out=tmp_path / "out.safetensors").file
    spec = read_spec(read_tensors(file).metadata, file)
    assert (spec.step, spec.weights, spec.weights_name) == (105, "ema", "ema0.07")
    assert spec.power_average.length == 0.07
    assert spec.power_average.updates == 105
    assert spec.power_average.error > 0
    assert fromnoise.load(file).sample([0], steps=2).shape == (1, 1, 8, 8)


def test_a_poor_one_is_said_to_be_so(walked, tmp_path, caplog):
    run, _ = walked
    reconstruct(run, 0.1, out=tmp_path / "good.safetensors")
    assert caplog.text == ""
    reconstruct(run, 0.01, out=tmp_path / "poor.safetensors")
    assert "length 0.01 has a relative error of 30 %" in caplog.text


def test_a_useless_one_is_not_written(walked, tmp_path):
    run, _ = walked
    out = tmp_path / "out.safetensors"
    said = r"error of \d\d % in its profile, .+ Give a --length nearer to those of"
    with pytest.raises(ConfigError, match=said):
        reconstruct(run, 0.002, out=out)
    with pytest.raises(ConfigError, match="Give a --step with a snapshot, such as 110, a --length"):
        reconstruct(run, 0.005, step=101, out=out)
    assert not out.exists()


# ---- a run --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny_tree) -> Path:
    """A run of 6 steps with snapshots of two lengths at steps 4 and 6. Not to be written to."""
    training = {**tiny_tree["training"], "ema_lengths": [0.05, 0.1], "ema_snapshot_every": 4}
    out = tmp_path_factory.mktemp("trained") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "draw_pictures", lambda *_, **__: None)
        return fromnoise.train({**tiny_tree, "training": training}, out=out).folder


@pytest.fixture
def run(trained, tmp_path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


def test_snapshots_are_those_of_the_checkpoint_and_at_the_end_too(run):
    files = {path.name for path in (run / "ema").iterdir()}
    assert files == {f"{step}-{length}.safetensors" for step in ("000004", "000006")
                     for length in (0.05, 0.1)}  # fmt: skip
    for length in (0.05, 0.1):
        stored = run / "ema" / f"000006-{length}.safetensors"
        kept = run / "checkpoints" / "000006" / f"ema-{length}.safetensors"
        (tensors, metadata), (others, described) = map(read_tensors, (stored, kept))
        assert metadata == described
        assert all(torch.equal(tensors[name], others[name]) for name in tensors | others)
        spec = read_spec(read_tensors(stored).metadata, stored)
        assert (spec.step, spec.power_average.updates) == (6, 6)
        assert spec.power_average.length == length


def test_without_lengths_nothing_is_stored(finished_run):
    assert not (finished_run / "ema").exists()
    names = {path.name for path in (finished_run / "checkpoints" / "000006").iterdir()}
    tensors = {"model.safetensors", "ema.safetensors", "optimizer.safetensors"}
    assert names == {*tensors, "state.json"}


def test_skipped_steps_are_no_updates(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "draw_pictures", lambda *_, **__: None)
    real = loop.sample_batch

    def draw(recipe, data, step, *others, **where):
        batch = real(recipe, data, step, *others, **where)
        return batch._replace(eps=batch.eps * (float("nan") if step in (0, 3) else 1))

    monkeypatch.setattr(loop, "sample_batch", draw)
    tiny["training"] |= {"ema_lengths": [0.1], "ema_snapshot_every": 1}
    run = fromnoise.train(tiny, out=tmp_path / "run").folder
    found = {}
    for path in sorted((run / "ema").iterdir()):
        spec = read_spec(read_tensors(path).metadata, path)
        found[spec.step] = spec.power_average.updates
    assert found == {2: 1, 3: 2, 4: 2, 5: 3, 6: 4}  # before the first update there is no average
    made = reconstruct(run, 0.1)
    assert distance(flat(made.file), flat(run / "ema" / "000006-0.1.safetensors")) < 1e-6
    assert read_spec(read_tensors(made.file).metadata, made.file).power_average.updates == 4


def test_a_death_right_after_a_checkpoint_costs_no_snapshot(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "draw_pictures", lambda *_, **__: None)
    real = loop.save_checkpoint

    def save_and_die(*arguments):
        real(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "save_checkpoint", save_and_die)
    tiny["training"] |= {"ema_lengths": [0.1], "ema_snapshot_every": 3}
    with pytest.raises(KeyboardInterrupt):
        fromnoise.train(tiny, out=tmp_path / "run")
    assert (tmp_path / "run" / "checkpoints" / "000003").is_dir()
    assert (tmp_path / "run" / "ema" / "000003-0.1.safetensors").is_file()


def test_a_checkpoint_has_a_file_more_for_each_length(start):
    state, spec = start({})
    assert state.power_emas == []
    other, _ = start({"training.ema_lengths": [0.1]})
    assert [average.length for average in other.power_emas] == [0.1]
    assert set(other.files(spec)) - set(state.files(spec)) == {"ema-0.1.safetensors"}


def test_start_takes_the_lengths_of_the_recipe(start):
    state, _ = start({})
    settings = Training(steps=1, batch_size=1, ema_lengths=(0.2, 0.05))
    begun = TrainingState.start(state.denoiser, settings, Computation("fp32", False))
    assert [average.length for average in begun.power_emas] == [0.2, 0.05]


# ---- the command --------------------------------------------------------------------------------


def test_from_the_command_to_a_picture(run, cli):
    code, out, _ = cli("ema", run, "--length", 0.07)
    assert code == 0
    file = run / "ema" / "length-0.07.safetensors"
    path, line = out.splitlines()
    assert path == str(file)
    assert line.startswith(
        "length 0.07 at step 6, from 4 snapshots, relative error of its profile "
    )
    code, out, _ = cli("sample", file, "--num", 1)
    assert code == 0
    assert (run / "samples" / "000006-ema0.07-ddim-5" / "000000.png").is_file()
    assert cli("ema", run, "--length", 0.07).code == 0  # written anew
    assert cli("ema", run, "--length", 0.07, "--step", 4).code == 0
    assert (run / "ema" / "length-0.07-step-000004.safetensors").is_file()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--length", 0.3], "Give more than 0 and less than 0.2887"),
        (["--length", 0], "Give more than 0 and less than 0.2887"),
        (["--length", "nan"], "Give more than 0 and less than 0.2887"),
        (["--length", 0.1, "--step", 7], "step 7 is not within 1–6, the steps of the snapshots of"),
        (["--length", 0.1, "--step", 0], "step 0 is not within 1–6, the steps of the snapshots of"),
        (
            ["--length", 0.07, "--step", 5],
            " % in its profile, and the limit is 50 %. Give a --step with a",
        ),
        (
            ["--length", 0.1, "--out", "x.pt"],
            "--out is x.pt. Give a name that ends with .safetensors",
        ),
    ],
)
def test_what_cannot_be_made(trained, cli, options, said):
    before = set(trained.rglob("*"))
    code, out, err = cli("ema", trained, *options)
    assert (code, out) == (2, "")
    [line] = err.splitlines()
    assert said in line
    assert set(trained.rglob("*")) == before


def refused(run: Path, cli) -> str:
    code, out, err = cli("ema", run, "--length", 0.1)
    assert (code, out) == (2, "")
    [line] = err.splitlines()
    return line


def test_a_run_without_snapshots_names_the_key(finished_run, tmp_path, cli):
    said = "To write them, train with a setting such as training.ema_lengths=[0.05,0.1]"
    assert f"has no snapshots in ema/. {said}" in refused(finished_run, cli)
    assert "is not a run: it has no recipe.yaml" in refused(tmp_path, cli)


def test_one_snapshot_is_too_few(run, cli):
    for path in (run / "ema").glob("*"):
        if path.name != "000004-0.1.safetensors":
            path.unlink()
    assert "has one snapshot up to step 4, but two are needed" in refused(run, cli)


def test_a_file_that_is_there_is_not_written_over(run, cli):
    snapshot = run / "ema" / "000004-0.1.safetensors"
    before = snapshot.read_bytes()
    code, _, err = cli("ema", run, "--length", 0.1, "--out", snapshot)
    assert code == 2
    assert "exists already. Give --out a new name" in err
    assert snapshot.read_bytes() == before


def test_snapshots_of_another_network_are_told(run, tiny, tmp_path, cli, monkeypatch):
    monkeypatch.setattr(runs, "draw_pictures", lambda *_, **__: None)
    tiny["network"]["channels"] = 16
    tiny["training"] |= {"ema_lengths": [0.1], "ema_snapshot_every": 2, "steps": 2}
    other = fromnoise.train(tiny, out=tmp_path / "other").folder
    shutil.copy(other / "ema" / "000002-0.1.safetensors", run / "ema")
    line = refused(run, cli)
    assert "000002-0.1.safetensors has another network than 000006-0.1.safetensors" in line


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\x08", "000004-0.1.safetensors is not a valid .safetensors file"),
        (None, "000004-0.1.safetensors is not a snapshot of a power-function average"),
    ],
)
def test_what_is_no_snapshot_is_named(run, cli, content, said):
    content = content or (run / "checkpoints" / "000006" / "ema.safetensors").read_bytes()
    (run / "ema" / "000004-0.1.safetensors").write_bytes(content)
    assert said in refused(run, cli)
