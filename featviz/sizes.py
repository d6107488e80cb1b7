"""Sizes of pictures, and resampling to them."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def fitted(size: tuple[int, int], longest: int) -> tuple[int, int]:
    """A size in the same proportions whose longer side is `longest`."""
    return _scaled(size, longest / max(size))


def shortened(size: tuple[int, int], shortest: int) -> tuple[int, int]:
    """A size in the same proportions whose shorter side is `shortest`."""
    return _scaled(size, shortest / min(size))


def _scaled(size: tuple[int, int], factor: float) -> tuple[int, int]:
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Resample `(b, c, h, w)` to (rows, columns), bilinear with anti-aliasing; itself where it fits."""
    if tuple(image.shape[2:]) == size:
        return image
    return F.interpolate(image, size, mode="bilinear", antialias=True, align_corners=False)
