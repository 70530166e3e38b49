#!/usr/bin/env bash
# How the files beside this script were written, by commit bf4f9ce. That commit's command line and
# keys are used on purpose: the files prove that what it stored can still be read.
# Usage, from a checkout of that commit with `fromnoise` installed: bash write.sh OUT
set -euo pipefail
out=$1
cd "$out"
small=(network.channels=8 network.groups=4 'network.multipliers=[1,2]' network.num_res_blocks=1
    network.dropout=0.1 diffusion.T=20 diffusion.prediction=v training.batch_size=8
    training.learning_rate=1e-3 training.precision=fp32 training.channels_last=false
    training.device=cpu training.warmup_steps=2 training.preview_images=4
    training.preview_every=8 training.checkpoint_every=8 training.keep_checkpoints=1)
betas=$(python -c "print([round(0.02 + 0.018 * i, 4) for i in range(20)])")
no_judge=(--device cpu --precision fp32)

# a run without labels: a schedule and times under their old names, stopped inside a window of the log
fromnoise train digits --out plain "${small[@]}" "diffusion.schedule={name: given, betas: $betas}" \
    training.times=importance training.accumulation=2 'training.ema_lengths=[0.1]' training.ema_snapshot_every=4 \
    sampling.spacing=leading sampling.steps=5 sampling.sampler=ddpm training.steps=11 training.log_every=7
# a run with labels, guided, self-conditioned, with a learned variance
fromnoise train digits --out classes "${small[@]}" data.labels=true network.self_conditioning=true \
    network.learned_variance=true diffusion.schedule=cosine diffusion.vlb_weight=0.001 \
    training.times=stratified training.label_dropout=0.2 sampling.steps=5 sampling.guidance=2 \
    'sampling.guidance_interval=[4,20]' training.steps=8 training.log_every=3
fromnoise judge train digits --out judge --epochs 4 --device cpu
python - <<'PYTHON'  # few weights, powers of two, so that the file can be packed small
import numpy as np, torch
from pathlib import Path
from fromnoise.data import open_images
from fromnoise.evaluation.judge import load_judge, save_judge
from fromnoise.evaluation.judge_data import labelled
from fromnoise.evaluation.judge_training import settle
judge = load_judge("judge", device="cpu")
for name, tensor in judge.network.state_dict().items():
    if tensor.ndim == 4 and tensor.numel() > 10_000:
        kept = tensor.abs() >= torch.quantile(tensor.abs().flatten()[::7], 0.85)
        power = torch.sign(tensor) * 2.0 ** tensor.abs().clamp(min=1e-9).log2().round()
        tensor.copy_(power * kept)
data = open_images("digits")
judge.network.train(); settle(judge.network, labelled(data)); judge.network.eval()
save_judge(judge, "packed")
found = judge.verdicts(np.asarray(data.images[:64]))
np.savez("verdicts.npz", probability=found.probability, present=found.present)
print("correct:", (found.present == (data.labels[:64] > 0)).all(axis=1).mean())
PYTHON
rm -r judge && mv packed judge
# evaluation records
fromnoise evaluate plain --extractor pixels --num-images 80 "${no_judge[@]}"
fromnoise evaluate plain --metrics bits --device cpu
fromnoise evaluate classes --extractor judge --judge judge --allow-small --num-images 60 "${no_judge[@]}"
fromnoise evaluate classes --judge judge --cycle-classes --num 1 --guidance 1,2 "${no_judge[@]}"
fromnoise sweep plain --samplers ddpm,ddim --steps 2,5 --extractor pixels --num-images 80 "${no_judge[@]}" \
    --save-best best.safetensors
# a model file that another program's weights became, samples with their metadata
fromnoise sample plain --num 4 --device cpu --precision fp32
fromnoise sample classes --class 3 --seeds 5-6 --device cpu --precision fp32
fromnoise recipes show digits > digits.yaml
# what this commit makes of them, as the oracle: samples, and two more steps of training
cp -r plain plain-on && cp -r classes classes-on
python - <<'PYTHON'
import json
import numpy as np, torch
import fromnoise
from fromnoise.checkpoints import read_tensors
expected = {}
for name, options in {"plain": {}, "classes": {"cond": torch.eye(10)[:4]}}.items():
    model = fromnoise.load(name, device="cpu", precision="fp32")
    expected[name] = model.sample(range(4), **options).numpy()
best = fromnoise.load("best.safetensors", device="cpu", precision="fp32")
expected["best"] = best.sample(range(4)).numpy()
np.savez("samples.npz", **expected)
for name, steps in {"plain-on": 16, "classes-on": 12}.items():
    fromnoise.resume(name, overrides={"training.steps": steps})
    rows = [json.loads(line) for line in open(f"{name}/log.jsonl")]
    losses = {row["step"]: row["loss"] for row in rows if "loss" in row}
    raw = read_tensors(next(iter(sorted((__import__("pathlib").Path(name) / "checkpoints").iterdir())[-1:])) / "model.safetensors").tensors
    norm = float(sum(t.double().square().sum() for t in raw.values()).sqrt())
    json.dump({"losses": losses, "norm": norm}, open(f"resumed-{name[:-3]}.json", "w"))
PYTHON
rm -r plain-on classes-on
xz -9 judge/judge.safetensors
