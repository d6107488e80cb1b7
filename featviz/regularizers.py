"""The two kinds of regularizer: penalties, subtracted from the score, and projections after a step.

Images are `(b, 3, h, w)` in [0, 1]. Projections work about `center`, the value that stands for
"nothing" (the mean image, which is 0 in the papers' mean-subtracted space).
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from featviz.errors import InvalidValue
from featviz.types import Penalty, Projection

CENTER = 0.45
"""The mean of ImageNet's three channel means (.485, .456, .406)."""


def tv(weight: float) -> Penalty:
    """Total variation: weight · the mean absolute difference of neighbours (Mahendran & Vedaldi 2015)."""

    def penalty(image: Tensor) -> Tensor:
        down = (image[:, :, 1:] - image[:, :, :-1]).abs().mean((1, 2, 3))
        across = (image[..., 1:] - image[..., :-1]).abs().mean((1, 2, 3))
        return weight * (down + across)

    return penalty


def l1(weight: float, center: float = CENTER) -> Penalty:
    """Weight · the mean absolute distance from `center`."""
    return lambda image: weight * (image - center).abs().mean((1, 2, 3))


def l2(weight: float, center: float = CENTER) -> Penalty:
    """Weight · the mean squared distance from `center`."""
    return lambda image: weight * (image - center).square().mean((1, 2, 3))


def blur(radius: float, every: int = 1) -> Projection:
    """Gaussian blur of standard deviation `radius` pixels, every so many steps (Yosinski et al. 2015)."""

    def projection(image: Tensor, gradient: Tensor, step: int) -> Tensor:
        return gaussian_blur(image, radius) if step % every == 0 else image

    return projection


def decay(rate: float, center: float = CENTER) -> Projection:
    """x ← center + (1 - rate)·(x - center), the L2 decay of Yosinski et al. (2015)."""
    return lambda image, gradient, step: image.lerp(image.new_full((), center), rate)


def norm_clip(percentile: float, center: float = CENTER) -> Projection:
    """Pixels whose norm over colours lies below the image's `percentile` become `center` (Yosinski 2015)."""
    _check_percentile(percentile)

    def projection(image: Tensor, gradient: Tensor, step: int) -> Tensor:
        norm = (image - center).norm(dim=1, keepdim=True)
        return image.where(norm >= _percentile(norm, percentile), image.new_full((), center))

    return projection


def contribution_clip(percentile: float, center: float = CENTER) -> Projection:
    """Pixels that contribute least become `center`: |Σ_colours (x - center)·∂score/∂x| (Yosinski 2015)."""
    _check_percentile(percentile)

    def projection(image: Tensor, gradient: Tensor, step: int) -> Tensor:
        contribution = ((image - center) * gradient).sum(1, keepdim=True).abs()
        return image.where(contribution >= _percentile(contribution, percentile), image.new_full((), center))

    return projection


def gaussian_blur(image: Tensor, radius: float) -> Tensor:
    """Gaussian blur of standard deviation `radius` in pixels, borders mirrored, at any image size."""
    from kornia.filters import gaussian_blur2d

    if radius < 0:
        raise InvalidValue(f"blur radius {radius} is below 0")
    reach = min(int(4 * radius + 0.5), min(image.shape[2:]) - 1)  # mirroring ends at the image's own size
    if radius == 0 or reach < 1:
        return image
    blurred: Tensor = gaussian_blur2d(image, 2 * reach + 1, (radius, radius), border_type="reflect")
    return blurred


def _check_percentile(percentile: float) -> None:
    if not 0 <= percentile <= 100:
        raise InvalidValue(f"percentile {percentile}: from 0 to 100")


def _percentile(values: Tensor, percentile: float) -> Tensor:
    """Per image, the value below which `percentile` percent of the pixels lie: `(b, 1, 1, 1)`."""
    flat = values.flatten(1)
    rank = min(int(flat.shape[1] * percentile / 100) + 1, flat.shape[1])
    return flat.kthvalue(rank, dim=1).values.view(-1, 1, 1, 1)  # quantile() ends at 16 million pixels


PENALTIES: dict[str, Callable[..., Penalty]] = {"tv": tv, "l1": l1, "l2": l2}
PROJECTIONS: dict[str, Callable[..., Projection]] = {
    "blur": blur,
    "decay": decay,
    "norm_clip": norm_clip,
    "contribution_clip": contribution_clip,
}
