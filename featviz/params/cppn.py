"""A picture painted by a small network of each point's coordinates: smooth at any size."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from featviz.params.fourier import EDGE, full_precision
from featviz.types import Draws, Parameterization

LAYERS, HIDDEN, REACH = 8, 24, math.sqrt(3)
"""Depth, width, and where the coordinates of the border lie (lucid)."""


def cppn(image: Tensor, seeds: Sequence[int] | None = None) -> Parameterization:
    """Optimise the weights of a compositional pattern-producing network, one for each image `(b, 3, h, w)`.

    image = sigmoid(logit(start) + f(y, x)), f of 8 layers of 24 units, each passed on as
    atan(z) / .67 beside atan(z)² / .6 (Mordvintsev et al. 2018; lucid). f starts at 0, so that the picture
    starts as the image.
    """
    b, _, h, w = image.shape
    draws = Draws(seeds or [0] * b, "cppn")
    widths = [2] + [2 * HIDDEN] * (LAYERS - 1)
    values = []
    for width in widths:  # uniform of variance 1 / width
        weight = draws.uniform(-1, 1, width, HIDDEN) * math.sqrt(3 / width)
        values += [weight.to(image.device), torch.zeros(b, 1, HIDDEN, device=image.device)]
    values += [torch.zeros(b, 2 * HIDDEN, 3, device=image.device), torch.zeros(b, 1, 3, device=image.device)]
    y, x = (torch.linspace(-REACH, REACH, side) if side > 1 else torch.zeros(1) for side in (h, w))
    points = torch.stack(torch.meshgrid(y, x, indexing="ij"), -1).view(1, h * w, 2).to(image.device)
    start = torch.logit(image.float().clamp(EDGE, 1 - EDGE))

    @torch.no_grad()
    def assign(new: Tensor) -> None:
        start.copy_(torch.logit(new.float().clamp(EDGE, 1 - EDGE)))
        values[-2].zero_()
        values[-1].zero_()

    def decode() -> Tensor:
        with full_precision(image.device.type):
            out = points.expand(b, -1, -1)
            for weight, bias in zip(values[:-2:2], values[1:-2:2], strict=True):
                bent = torch.atan(torch.baddbmm(bias, out, weight))
                out = torch.cat([bent / 0.67, bent.square() / 0.6], 2)
            painted = torch.baddbmm(values[-1], out, values[-2])  # (b, h · w, 3)
            return torch.sigmoid(start + painted.transpose(1, 2).view(b, 3, h, w))

    for value in values:
        value.requires_grad_(True)
    return Parameterization(tuple(values), decode, assign)
