"""What is optimised: each parameterization starts from an image, so noise and photos are one case."""

from __future__ import annotations

from collections.abc import Callable

from featviz.params.cppn import cppn
from featviz.params.fourier import fourier
from featviz.params.maco import maco
from featviz.params.noise import gaussian_noise
from featviz.params.pixels import pixels
from featviz.types import Parameterization

PARAMETERIZATIONS: dict[str, Callable[..., Parameterization]] = {
    "pixels": pixels,
    "fourier": fourier,
    "maco": maco,
    "cppn": cppn,
}

__all__ = ["PARAMETERIZATIONS", "cppn", "fourier", "gaussian_noise", "maco", "pixels"]
