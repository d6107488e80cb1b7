"""The image itself, pixel by pixel."""

from __future__ import annotations

import torch
from torch import Tensor

from featviz.types import Parameterization


def pixels(image: Tensor) -> Parameterization:
    """Optimise the pixels of an image `(b, 3, h, w)` as they are, clipped to [0, 1] by `assign`."""
    values = image.detach().clone().requires_grad_(True)

    @torch.no_grad()
    def assign(new: Tensor) -> None:
        values.copy_(new.clamp(0, 1))

    return Parameterization((values,), lambda: values, assign)
