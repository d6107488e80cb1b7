"""How a dream's gradient is shaped before the picture moves along it."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from featviz.regularizers import gaussian_blur
from featviz.settings import DreamSettings
from featviz.types import Precondition

BAND = 1024
"""Rows that are blurred at a time."""


def shaped(settings: DreamSettings, stride: int, mask: Tensor | None) -> Precondition:
    """What makes one set of settings do for every layer of every network.

    The gradient's colour is damped, since chroma is where networks tolerate noise most; it is smoothed
    over three scales, Σ_k blur(g, σ·k) for k in ½, 1, 2 with σ growing in the octave, so that forms win
    over grain; its size is evened out over the picture, g / local mean^e, so that a few strong spots do
    not take it all; and its mean size is brought to 1.
    """
    blur = stride / 16 if settings.blur is None else settings.blur

    def slope(gradient: Tensor, step: int) -> Tensor:
        _damp_colour(gradient, settings.colour)
        if blur:
            sigma = blur * (0.5 + 2 * step / settings.steps)
            gradient = _blurred(gradient, [sigma * k for k in (0.5, 1.0, 2.0)])
        if settings.even:
            _even_out(gradient, settings.even)
        if mask is not None:
            gradient.mul_(mask)
        return gradient.div_(_strength(gradient).mean((2, 3), keepdim=True) + 1e-12)

    return slope


def _damp_colour(gradient: Tensor, keep: float) -> None:
    """Bring the three colours of a gradient towards their mean, in place."""
    if keep != 1:
        grey = gradient.mean(1, keepdim=True)
        gradient.mul_(keep).add_(grey, alpha=1 - keep)


def _even_out(gradient: Tensor, share: float) -> None:
    """Divide by (local mean size / mean size)^share, in place; local means over about 64 pixels."""
    h, w = gradient.shape[2:]
    coarse = F.interpolate(_strength(gradient), (max(1, h // 16), max(1, w // 16)), mode="area")
    coarse = gaussian_blur(coarse, 2.0)
    mean = coarse.mean((2, 3), keepdim=True) + 1e-12
    uneven = (coarse / mean).clamp_(min=0.02).pow_(share)  # 0.02: what is nearly flat stays so
    gradient.div_(F.interpolate(uneven, (h, w), mode="bilinear", align_corners=False))


def _strength(gradient: Tensor) -> Tensor:
    """The mean size over colours `(b, 1, h, w)`, colour by colour: no copy of the whole."""
    total = gradient[:, :1].abs()
    for k in range(1, gradient.shape[1]):
        total = total + gradient[:, k : k + 1].abs()
    return total / gradient.shape[1]


def _blurred(gradient: Tensor, sigmas: Sequence[float]) -> Tensor:
    """The sum of several blurs, in place; colour by colour and by bands of rows, for the sake of memory."""
    halo = int(4 * max(sigmas)) + 1
    for channel in (gradient[:, k : k + 1] for k in range(gradient.shape[1])):
        source = channel.clone()
        rows = source.shape[2]
        for top in range(0, rows, BAND):
            first, last = max(0, top - halo), min(rows, top + BAND + halo)
            band = source[:, :, first:last]
            total = sum((gaussian_blur(band, sigma) for sigma in sigmas[1:]), gaussian_blur(band, sigmas[0]))
            channel[:, :, top : top + BAND] = total[:, :, top - first : top - first + BAND]
    return gradient
