"""The optimiser and the learning rate of each step."""

import math

import torch
from torch import nn

from fromnoise.config.schema import Training


def build_optimizer(module: nn.Module, settings: Training) -> torch.optim.Optimizer:
    """Return Adam or AdamW over all parameters of `module`, as one fused kernel."""
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
