"""The image's spectrum in decorrelated colours: steps are spread evenly over scales and hues."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from featviz.params.colour import correlate, decorrelate
from featviz.types import Parameterization

EDGE = 1e-4
"""A sigmoid reaches neither 0 nor 1: what goes into its inverse stays so far inside."""


def fourier(image: Tensor, decay: float = 1.0, contrast: float | None = None) -> Parameterization:
    """Optimise the Fourier coefficients of an image `(b, 3, h, w)`, of any height and width.

    image = sigmoid(M · irfft2(s(f) · z) / 4) with s(f) = 1 / max(f, 1/max(h, w))^decay, f in cycles
    per pixel, and M the colour correlation (Olah et al. 2017; constants from lucid). The transform is
    orthonormal, which takes the place of lucid's factor sqrt(h·w). With `contrast`, what goes into the
    sigmoid is shrunk wherever its deviation exceeds that, so that no ascent burns the picture out.
    """
    h, w = image.shape[2:]
    scale = frequencies(h, w).pow(-decay).to(image.device)  # (h, w // 2 + 1)
    values = torch.empty(*image.shape[:2], *scale.shape, 2, dtype=torch.float32, device=image.device)

    @torch.no_grad()
    def assign(new: Tensor) -> None:
        values.copy_(torch.view_as_real(4 * to_spectrum(new) / scale))

    def decode() -> Tensor:
        with full_precision(image.device.type):
            return from_spectrum(torch.view_as_complex(values) * (scale / 4), (h, w), contrast)

    assign(image)
    values.requires_grad_(True)
    return Parameterization((values,), decode, assign)


def to_spectrum(image: Tensor) -> Tensor:
    """The spectrum `(b, 3, h, w // 2 + 1)` of an image's logits in decorrelated colour."""
    logits = torch.logit(image.float().clamp(EDGE, 1 - EDGE))
    spectrum: Tensor = torch.fft.rfft2(decorrelate(logits), norm="ortho")
    return spectrum


def from_spectrum(spectrum: Tensor, size: tuple[int, int], contrast: float | None = None) -> Tensor:
    """The image `(b, 3, h, w)` of a spectrum, its logits' deviation held at `contrast`."""
    logits = correlate(torch.fft.irfft2(spectrum, s=size, norm="ortho"))
    if contrast:
        spread = logits.std((1, 2, 3), keepdim=True)
        logits = logits * (contrast / spread.clamp(min=contrast))
    return torch.sigmoid(logits)


def full_precision(device: str) -> AbstractContextManager[object]:
    """No autocast within: a spectrum outruns half precision."""
    available = torch.amp.is_autocast_available(device)  # not for the meta device
    return torch.autocast(device, enabled=False) if available else nullcontext()


def frequencies(h: int, w: int) -> Tensor:
    """`(h, w // 2 + 1)` frequencies in cycles per pixel, none below 1 / max(h, w)."""
    rows = torch.fft.fftfreq(h).view(-1, 1)
    columns = torch.fft.rfftfreq(w).view(1, -1)
    found: Tensor = (rows.square() + columns.square()).sqrt().clamp(min=1 / max(h, w))
    return found
