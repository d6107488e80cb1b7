"""The colour space in which natural images' channels do not correlate."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

_CORRELATION_SQRT = ((0.26, 0.09, 0.02), (0.27, 0.00, -0.05), (0.27, -0.09, 0.03))
"""The square root of ImageNet's colour correlation (lucid, `color.py`)."""


def correlate(planes: Tensor) -> Tensor:
    """Decorrelated planes `(b, 3, h, w)` -> RGB, by M over its largest column norm."""
    return torch.einsum("rc,bchw->brhw", _matrix(planes.device), planes)


def decorrelate(rgb: Tensor) -> Tensor:
    """RGB `(b, 3, h, w)` -> decorrelated planes, the inverse of `correlate`."""
    return torch.einsum("cr,brhw->bchw", _inverse(rgb.device), rgb)


@lru_cache(maxsize=8)
def _matrix(device: torch.device) -> Tensor:
    matrix = torch.tensor(_CORRELATION_SQRT)
    return (matrix / matrix.norm(dim=0).max()).to(device)


@lru_cache(maxsize=8)
def _inverse(device: torch.device) -> Tensor:
    return torch.linalg.inv(_matrix(torch.device("cpu"))).to(device)
