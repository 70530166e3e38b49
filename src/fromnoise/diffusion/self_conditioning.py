"""Self-conditioning: the network also gets an earlier estimate of the image.

Chen, Zhang and Hinton 2022 (arXiv:2208.04202), section 3. Such a network estimates
x̂_0 = f(x_t, x̃_0, t) with a `self_cond` x̃_0: zeros, or an x̂_0 of its own. It learns both: in
training half of the images get the x̂_0 of a first pass, through which no gradient flows. In
sampling it gets the x̂_0 of the step before, at no cost. The likelihood is computed with zeros.
"""

import torch
from torch import Tensor

from fromnoise.diffusion.denoiser import Denoiser, Prediction
from fromnoise.diffusion.schedule import Time


@torch.no_grad()
def estimate_x0(
    denoiser: Denoiser, x_t: Tensor, t: Tensor, cond: Tensor | None, self_conditioned: Tensor
) -> Tensor:
    """Return the x̂_0 of a pass without self_cond for some images, and zeros for the others.

    x_t: (B,C,H,W); t ∈ {1..T}: (B,); self_conditioned: bool (B,), the images to compute. The
    result is like x_t.
    """
    some = self_conditioned.nonzero().squeeze(1)
    self_cond = torch.zeros_like(x_t)
    if len(some):
        there = some.to(x_t.device)
        some_cond = None if cond is None else cond[there.to(cond.device)]
        self_cond[there] = denoiser(x_t[there], t[some.to(t.device)], some_cond).x0
    return self_cond


def with_self_conditioning(denoiser: Denoiser) -> Denoiser:
    """Return a denoiser that conditions each call on the x̂_0 of the call before.

    Make one for each trajectory from noise to image. A change of the batch size clears its memory,
    as where an interval of guidance begins. Without self-conditioning, returns `denoiser` itself.
    """
    return SelfConditionedDenoiser(denoiser) if denoiser.self_conditioning else denoiser


class SelfConditionedDenoiser(Denoiser):
    """A denoiser with the memory of one x̂_0."""

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__(
            denoiser.network,
            denoiser.schedule,
            denoiser.prediction,
            denoiser.variance_reading,
            self_conditioning=denoiser.self_conditioning,
        )
        self._last: Tensor | None = None

    def forward(
        self, x_t: Tensor, t: Time, cond: Tensor | None = None, self_cond: Tensor | None = None
    ) -> Prediction:
        """As `Denoiser.forward`; a self_cond given here overrides the remembered one."""
        if self_cond is None and self._last is not None and self._last.shape == x_t.shape:
            self_cond = self._last
        prediction = super().forward(x_t, t, cond, self_cond)
        self._last = prediction.x0.detach()
        return prediction
