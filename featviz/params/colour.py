"""The colour space in which natural images' channels do not correlate."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

_CORRELATION_SQRT = ((0.26, 0.09, 0.02), (0.27, 0.00, -0.05), (0.27, -0.09, 0.03))
"""The square root of ImageNet's colour correlation (lucid, `color.py`)."""


def correlate(planes: Tensor) -> Tensor:
    """Decorrelated planes `(b, 3, h, w)` -> RGB, by M over its largest column norm."""
    rgb: Tensor = torch.einsum("rc,bchw->brhw", _matrix(planes.device), planes)
    return rgb


def decorrelate(rgb: Tensor) -> Tensor:
    """RGB `(b, 3, h, w)` -> decorrelated planes, the inverse of `correlate`."""
    planes: Tensor = torch.einsum("cr,brhw->bchw", _inverse(rgb.device), rgb)
    return planes


@lru_cache(maxsize=8)
def _matrix(device: torch.device) -> Tensor:
    matrix = torch.tensor(_CORRELATION_SQRT)
    scaled: Tensor = matrix / matrix.norm(dim=0).max()
    return scaled.to(device)


@lru_cache(maxsize=8)
def _inverse(device: torch.device) -> Tensor:
    inverse: Tensor = torch.linalg.inv(_matrix(torch.device("cpu")))
    return inverse.to(device)
