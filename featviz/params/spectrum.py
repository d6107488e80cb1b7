"""The mean spectrum of natural images: measured from photos, kept small, resampled to any size."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from featviz.errors import InvalidValue, PhotoError
from featviz.params.colour import correlate
from featviz.params.fourier import frequencies, to_spectrum

SIDE = 64
"""Side of the squares that the photos are cut into, at each of their scales."""

KEPT = Path(__file__).with_name("natural_spectrum.safetensors")


def measure_spectrum(photos: Iterable[Tensor]) -> Tensor:
    """The mean of f · |spectrum| `(3, 64, 33)` over the squares of photos `(1, 3, h, w)`.

    Photos count at all their halved sizes, too. A square has a cosine window, so that its borders make no
    cross. The factor f is there because natural images fall as 1 / f: what is kept is nearly flat and can
    be resampled. Raises `PhotoError` where no photo is as large as a square.
    """
    window = torch.hann_window(SIDE, periodic=False)
    window = (window.view(-1, 1) * window) / (window.square().mean())
    total, count = torch.zeros(3, SIDE, SIDE // 2 + 1), 0
    for photo in photos:
        while min(photo.shape[2:]) >= SIDE:
            squares = photo.unfold(2, SIDE, SIDE).unfold(3, SIDE, SIDE)  # (1, 3, rows, columns, 64, 64)
            squares = squares.permute(0, 2, 3, 1, 4, 5).flatten(0, 2)
            total += (_windowed(squares, window) * frequencies(SIDE, SIDE)).sum(0)
            count += len(squares)
            photo = F.avg_pool2d(photo, 2)
    if not count:
        raise PhotoError(f"no photo of at least {SIDE}x{SIDE} pixels to measure a spectrum from")
    return total / count


def _windowed(squares: Tensor, window: Tensor) -> Tensor:
    """Magnitudes of each square's spectrum, its border faded to the square's mean."""
    mean = squares.mean((2, 3), keepdim=True)
    # what is burnt out has no logit: an edge of .05 lets none outrun three
    return to_spectrum((mean + (squares - mean) * window).clamp(0.05, 0.95)).abs()


def magnitude(size: tuple[int, int], kept: Tensor | None = None) -> Tensor:
    """The natural magnitude `(3, h, w // 2 + 1)` for an image of `size`; by default as stored here.

    Scaled so that the image's logits deviate by about 1 from grey, as xplique's.
    """
    flat = natural_spectrum() if kept is None else kept
    h, w = size
    rows = torch.fft.fftfreq(h).view(-1, 1).expand(h, w // 2 + 1)
    columns = torch.fft.rfftfreq(w).view(1, -1).expand(h, w // 2 + 1)
    upright = torch.fft.fftshift(flat, dim=1)  # rows from -.5 to just below .5, columns from 0 to .5
    places = torch.stack([4 * columns - 1, 2 * (rows + 0.5) * SIDE / (SIDE - 1) - 1], -1)
    found = F.grid_sample(upright[None], places[None], padding_mode="border", align_corners=True)[0]
    found = found / frequencies(h, w)
    found[:, 0, 0] = 0  # a photo's mean light and hue are its own: the mean of all is grey
    planes = torch.fft.irfft2(torch.polar(found, torch.zeros_like(found)), s=size, norm="ortho")
    deviation: Tensor = correlate(planes[None]).square().mean().sqrt()
    return found / deviation


@lru_cache(maxsize=1)
def natural_spectrum() -> Tensor:
    """The spectrum measured from the photos of `gallery/photos` (`featviz spectrum gallery/photos`)."""
    return load_spectrum(KEPT)


def load_spectrum(path: Path) -> Tensor:
    """What `measure_spectrum` gave and `featviz spectrum` wrote; raises `InvalidValue` for anything else."""
    try:
        found: Tensor | None = load_file(path).get("spectrum")
    except (OSError, SafetensorError) as problem:
        raise InvalidValue(f"spectrum {str(path)!r} cannot be read: {problem}") from problem
    if found is None or found.shape != (3, SIDE, SIDE // 2 + 1):
        raise InvalidValue(f"{path} holds no spectrum that featviz spectrum wrote")
    return found.float()
