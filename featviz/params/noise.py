"""Where an ascent from nothing starts."""

from __future__ import annotations

from torch import Tensor

from featviz.types import Draws


def gaussian_noise(
    seeds: list[int], size: tuple[int, int], mean: float = 0.5, sd: float = 10 / 255
) -> Tensor:
    """Images `(b, 3, h, w)` of gaussian noise, one per seed (Yosinski 2015: N(0, 10) on 0–255)."""
    return (mean + sd * Draws(seeds, "start").normal(3, *size)).clamp(0, 1)
