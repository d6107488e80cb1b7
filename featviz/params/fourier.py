"""The image's spectrum in decorrelated colours: steps are spread evenly over scales and hues."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from featviz.params.colour import correlate, decorrelate
from featviz.types import Parameterization

_EDGE = 1e-4  # a sigmoid reaches neither 0 nor 1


def fourier(image: Tensor, decay: float = 1.0, contrast: float | None = None) -> Parameterization:
    """Optimise the Fourier coefficients of an image `(b, 3, h, w)`, of any height and width.

    image = sigmoid(M · irfft2(s(f) · z) / 4) with s(f) = 1 / max(f, 1/max(h, w))^decay, f in cycles
    per pixel, and M the colour correlation (Olah et al. 2017; constants from lucid). The transform is
    orthonormal, which takes the place of lucid's factor sqrt(h·w). With `contrast`, what goes into the
    sigmoid is shrunk wherever its deviation exceeds that, so that no ascent burns the picture out.
    """
    h, w = image.shape[2:]
    scale = _scale(h, w, decay).to(image.device)  # (h, w // 2 + 1)
    values = torch.empty(*image.shape[:2], *scale.shape, 2, dtype=torch.float32, device=image.device)

    @torch.no_grad()
    def assign(new: Tensor) -> None:
        logits = torch.logit(new.float().clamp(_EDGE, 1 - _EDGE))
        spectrum = torch.fft.rfft2(4 * decorrelate(logits), norm="ortho") / scale
        values.copy_(torch.view_as_real(spectrum))

    def decode() -> Tensor:
        with _full_precision(image.device.type):
            planes = torch.fft.irfft2(torch.view_as_complex(values) * scale, s=(h, w), norm="ortho")
            logits = correlate(planes / 4)
            if contrast:
                spread = logits.std((1, 2, 3), keepdim=True)
                logits = logits * (contrast / spread.clamp(min=contrast))
            return torch.sigmoid(logits)

    assign(image)
    values.requires_grad_(True)
    return Parameterization((values,), decode, assign)


def _full_precision(device: str) -> AbstractContextManager[object]:
    """No autocast within: a spectrum outruns half precision."""
    available = torch.amp.is_autocast_available(device)  # not for the meta device
    return torch.autocast(device, enabled=False) if available else nullcontext()


def _scale(h: int, w: int, decay: float) -> Tensor:
    rows = torch.fft.fftfreq(h).view(-1, 1)
    columns = torch.fft.rfftfreq(w).view(1, -1)
    scale: Tensor = (rows.square() + columns.square()).sqrt().clamp(min=1 / max(h, w)).pow(-decay)
    return scale
