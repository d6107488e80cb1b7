"""Phase alone: the magnitudes of the spectrum stay as they are, so no ascent can leave natural images."""

from __future__ import annotations

import torch
from torch import Tensor

from featviz.params.fourier import from_spectrum, full_precision, to_spectrum
from featviz.types import Parameterization


def maco(image: Tensor, magnitude: Tensor | None = None) -> Parameterization:
    """Optimise the phases of an image's spectrum `(b, 3, h, w)` (Fel et al. 2023, eq. 3).

    image = sigmoid(M · irfft2(r · exp(iφ))) in decorrelated colour, with r fixed to `magnitude`
    `(3, h, w // 2 + 1)`, that of natural images for instance, or the image's own where it is None.
    """
    spectrum = to_spectrum(image)
    held = spectrum.abs() if magnitude is None else magnitude.to(image.device).expand_as(spectrum)
    phase = spectrum.angle().requires_grad_(True)

    @torch.no_grad()
    def assign(new: Tensor) -> None:
        nonlocal held
        given = to_spectrum(new)
        phase.copy_(given.angle())
        if magnitude is None:
            held = given.abs()

    def decode() -> Tensor:
        with full_precision(image.device.type):
            return from_spectrum(torch.polar(held, phase), (image.shape[2], image.shape[3]))

    return Parameterization((phase,), decode, assign)
