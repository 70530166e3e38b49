"""The state that a training step changes, its files, the optimiser and the learning rate."""

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fromnoise.checkpoints import TensorFile, load_weights, read_state, read_tensors
from fromnoise.config.schema import Training
from fromnoise.diffusion import Denoiser
from fromnoise.model.spec import FILE_OF, ModelSpec
from fromnoise.networks.recomputation import checkpoint_regions
from fromnoise.rng import DRAWS
from fromnoise.training.ema import EMA, PowerEMA
from fromnoise.training.log import EpochLoss, LogWindow
from fromnoise.training.muon import Muon
from fromnoise.training.noise_levels import LossHistory
from fromnoise.training.precision import Computation, compile_regions, set_memory_layout

POWER_FILE = "ema-{:g}.safetensors"
OPTIMIZER_FILE = "optimizer.safetensors"
HISTORY_FILE = "loss_history.safetensors"
OLD_HISTORY_FILE = "times.safetensors"  # the name in checkpoints of earlier versions
COUNTERS = ("updates", "skipped_in_a_row", "seconds")
LATER = ("held_out", "held_out_count", "ended")  # older checkpoints have none
OLD_WINDOW_FIELDS = {  # in older checkpoints: the current name
    "loss": "loss_sums",
    "count": "loss_counts",
    "norm": "norm_sum",
    "norms": "norm_count",
    "empty": "unconditional",
    "partial": "partly_labelled",
}


@dataclass
class TrainingState:
    """Weights, EMA, optimiser, and counters. `step` counts finished steps."""

    denoiser: Denoiser
    ema: EMA  # of denoiser.network
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler  # disabled unless the precision is fp16
    computation: Computation
    step: int = 0
    updates: int = 0  # finished steps without the skipped ones
    skipped_in_a_row: int = 0
    seconds: float = 0.0  # spent in training steps, over all sessions
    window: LogWindow = field(default_factory=LogWindow)
    epoch: EpochLoss = field(default_factory=EpochLoss)
    power_emas: list[PowerEMA] = field(default_factory=list)  # of denoiser.network, beside `ema`
    held_out: list[tuple[int, float]] = field(default_factory=list)  # (step, loss), `data.holdout`
    held_out_count: int = 0  # losses in each of these; fixed by the first
    ended: str = ""  # the reason, if the training ended before its last step
    history: LossHistory | None = None  # only if `training.noise_levels` is importance

    @classmethod
    def start(
        cls, denoiser: Denoiser, settings: Training, computation: Computation
    ) -> "TrainingState":
        """Return the state before the first step."""
        set_memory_layout(denoiser, computation.channels_last)
        if computation.compiled:
            compile_regions(denoiser.network)
        if settings.checkpoint_gradients:
            checkpoint_regions(denoiser.network)
        device = next(denoiser.parameters()).device
        state = cls(
            denoiser,
            EMA(denoiser.network, settings.ema_decay),
            build_optimizer(denoiser.network, settings),
            torch.amp.GradScaler(device.type, enabled=computation.precision == "fp16"),
            computation,
            power_emas=[PowerEMA(denoiser.network, length) for length in settings.ema_lengths],
        )
        if settings.noise_levels.name == "importance":
            state.history = LossHistory.empty(denoiser.schedule.T)
        return state

    def files(self, spec: ModelSpec) -> dict[str, TensorFile]:
        """Return the .safetensors files of a checkpoint."""
        network, files = self.denoiser.network, {}
        for weights, module in (("raw", network), ("ema", self.ema.module)):
            described = spec.model_copy(update={"weights": weights, "step": self.step})
            files[FILE_OF[weights]] = TensorFile(module.state_dict(), described.metadata())
        for average in self.power_emas:
            files[POWER_FILE.format(average.length)] = average.file(spec, self.step, self.updates)
        moments = {
            f"{kind}/{name}": tensor
            for name, parameter in network.named_parameters()
            for kind, tensor in self.optimizer.state.get(parameter, {}).items()
        }
        files[OPTIMIZER_FILE] = TensorFile(moments, {})
        if self.history is not None:
            files[HISTORY_FILE] = TensorFile(vars(self.history), {})
        return files

    def numbers(self) -> dict[str, Any]:
        """Return the values for state.json."""
        return {
            "device": next(self.denoiser.parameters()).device.type,
            "computation": self.computation._asdict(),
            "tf32": False,  # fp32 is IEEE float32
            "draws": DRAWS,
            **{name: getattr(self, name) for name in (*COUNTERS, *LATER)},
            "window": asdict(self.window),
            "epoch": asdict(self.epoch),
            "scaler": self.scaler.state_dict(),
        }

    def restore(self, checkpoint: Path) -> None:
        """Load a checkpoint. Raises CheckpointError if its weights are those of another network."""
        saved = read_state(checkpoint)
        modules = {FILE_OF["raw"]: self.denoiser.network, FILE_OF["ema"]: self.ema.module}
        modules |= {
            POWER_FILE.format(average.length): average.module for average in self.power_emas
        }
        for name, module in modules.items():
            load_weights(module, read_tensors(checkpoint / name).tensors, checkpoint / name)
        parameters = dict(self.denoiser.network.named_parameters())
        for key, tensor in read_tensors(checkpoint / OPTIMIZER_FILE).tensors.items():
            kind, name = key.split("/", 1)
            parameter = parameters[name]
            # moments have the parameter's memory layout, as the optimiser creates them. All
            # tensors are copied, because one that is read from the file keeps it open
            moment = tensor.shape == parameter.shape
            like = torch.empty_like(parameter if moment else tensor, device=parameter.device)
            self.optimizer.state[parameter][kind] = like.copy_(tensor)
        for file in (checkpoint / HISTORY_FILE, checkpoint / OLD_HISTORY_FILE):
            if self.history is not None and file.is_file():
                tensors = read_tensors(file).tensors
                self.history = LossHistory(**{name: t.clone() for name, t in tensors.items()})
        if saved["scaler"]:  # empty unless it was saved in fp16
            self.scaler.load_state_dict(saved["scaler"])
        for name in ("step", *COUNTERS):
            setattr(self, name, saved[name])
        self.held_out = [(step, loss) for step, loss in saved.get("held_out", [])]
        self.held_out_count = saved.get("held_out_count", 0)
        self.ended = saved.get("ended", "")
        window: dict[str, Any] = saved["window"]
        self.window = LogWindow(**{OLD_WINDOW_FIELDS.get(k, k): v for k, v in window.items()})
        self.epoch = EpochLoss(**saved.get("epoch", {}))  # older checkpoints have none


def build_optimizer(module: nn.Module, settings: Training) -> torch.optim.Optimizer:
    """Return Adam or AdamW over all parameters of `module`, as one fused kernel, or `Muon`."""
    if settings.optimizer == "muon":
        return Muon(module, lr=settings.learning_rate, weight_decay=settings.weight_decay)
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[settings.optimizer]
    rate, decay = settings.learning_rate, settings.weight_decay
    return kind(module.parameters(), lr=rate, weight_decay=decay, fused=True)


def learning_rate(settings: Training, step: int) -> float:
    """Return the learning rate of optimiser step `step`, counted from 0.

    It rises linearly over the `warmup_steps`. Then it is constant, or falls to 0 at the last step:
    `linear`, or `cosine` as (1 + cos πp)/2 over the progress p of the steps after the warm-up.
    """
    if step < settings.warmup_steps:
        return settings.learning_rate * (step + 1) / settings.warmup_steps
    progress = (step - settings.warmup_steps) / max(settings.steps - settings.warmup_steps, 1)
    match settings.lr_schedule:
        case "constant":
            return settings.learning_rate
        case "linear":
            return settings.learning_rate * (1 - progress)
        case "cosine":
            return settings.learning_rate * (1 + math.cos(math.pi * progress)) / 2
