"""Random transforms of the image, drawn anew at each step, so that the score holds for all of them.

Each function takes its range and returns a `Transform`: image `(b, 3, h, w)` and `Draws` -> image.
Every sample of a batch has draws of its own. (Transformation robustness: Olah et al. 2017.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from featviz.errors import InvalidValue
from featviz.types import Draws, Transform


def jitter(pixels: int) -> Transform:
    """Crop at a random offset: `pixels` fewer rows and columns, as lucid and Distill do."""

    def transform(image: Tensor, draws: Draws) -> Tensor:
        rows, columns = image.shape[2] - pixels, image.shape[3] - pixels
        if min(rows, columns) < 1:
            raise InvalidValue(f"jitter {pixels} leaves nothing of an image of {_size(image)}")
        offsets = draws.integers(0, pixels, 2).tolist()
        if len(image) == 1:  # a view will do, which a large picture is glad of
            ((top, left),) = offsets
            return image[..., top : top + rows, left : left + columns]
        crops = [
            one[:, top : top + rows, left : left + columns]
            for one, (top, left) in zip(image, offsets, strict=True)
        ]
        return torch.stack(crops)

    return transform


def roll(pixels: int) -> Transform:
    """Shift by up to `pixels` either way, around the borders (DeepDream's jitter)."""

    def transform(image: Tensor, draws: Draws) -> Tensor:
        offsets = draws.integers(-pixels, pixels, 2).tolist()
        return torch.stack([one.roll(shift, (1, 2)) for one, shift in zip(image, offsets, strict=True)])

    return transform


def scale(factors: Sequence[float]) -> Transform:
    """Magnify by one of `factors` about the middle, the size of the image staying as it is."""

    def transform(image: Tensor, draws: Draws) -> Tensor:
        chosen = draws.integers(0, len(factors) - 1, 1)[:, 0].tolist()
        return _affine(image, [(factors[i], 0.0) for i in chosen])

    return transform


def rotate(degrees: float) -> Transform:
    """Turn about the middle by up to `degrees` either way."""

    def transform(image: Tensor, draws: Draws) -> Tensor:
        angles = draws.uniform(-degrees, degrees, 1)[:, 0].tolist()
        return _affine(image, [(1.0, math.radians(angle)) for angle in angles])

    return transform


def pad(pixels: int, value: float | None = 0.5) -> Transform:
    """Add a border of one grey `value`, or the image mirrored where it is None."""

    def transform(image: Tensor, draws: Draws) -> Tensor:
        border = (pixels,) * 4
        if value is None:
            return F.pad(image, border, mode="reflect")
        return F.pad(image, border, value=value)

    return transform


def crop(low: float, high: float) -> Transform:
    """A window of `low` to `high` times both sides at a random place, resampled to full size."""

    def transform(image: Tensor, draws: Draws) -> Tensor:
        size = draws.uniform(low, high, 1)[:, 0].tolist()
        places = draws.uniform(-1.0, 1.0, 2).tolist()
        shifts = [(row * (1 - s), col * (1 - s)) for s, (row, col) in zip(size, places, strict=True)]
        return _affine(image, [(1 / s, 0.0) for s in size], shifts)

    return transform


def view(
    low: float,
    high: float,
    degrees: float = 0.0,
    factors: Sequence[float] = (1.0,),
    size: float = 1.0,
    count: int = 1,
    shifts: tuple[int, int] = (0, 0),
) -> Transform:
    """See `count` parts of `low` to `high` times both sides at random places, `size` times as large.

    Parts larger than the picture see it mirrored. With `shifts`, of pixels before and after it is turned, a
    border as wide as their sum is seen as well, and what is beyond the picture is grey, as lucid pads it. One
    resampling does it all; the parts of one image stand together: `(b · count, 3, h', w')`. Wide parts make
    whole objects appear, since each must do alone.
    """
    edge = sum(shifts)

    def transform(image: Tensor, draws: Draws) -> Tensor:
        part = draws.uniform(low, high, count)
        zoom = torch.tensor(factors)[draws.integers(0, len(factors) - 1, count)]
        angle = draws.uniform(-degrees, degrees, count) * math.pi / 180
        place = draws.uniform(-1.0, 1.0, count, 2) * (1 - part).abs().unsqueeze(-1)
        moved = list(zip((zoom / part).flatten().tolist(), angle.flatten().tolist(), strict=True))
        h, w = image.shape[2:]
        seen = (max(1, round((h + edge) * size)), max(1, round((w + edge) * size)))
        many = image.repeat_interleave(count, 0) if count > 1 else image
        if not edge:
            return _affine(many, moved, place.flatten(0, 1).tolist(), seen)
        before, after = (draws.uniform(-each / 2, each / 2, count, 2) for each in shifts)
        turned = _turned(after, zoom / part, angle) + before
        place = place + 2 * turned / torch.tensor([h, w])
        return _affine(many - 0.5, moved, place.flatten(0, 1).tolist(), seen, (h + edge, w + edge)) + 0.5

    return transform


def noise(sd: float) -> Transform:
    """Add gaussian noise of standard deviation `sd`."""

    def transform(image: Tensor, draws: Draws) -> Tensor:
        views = len(image) // len(draws.generators)  # several of one image stand together
        return image + sd * draws.normal(views, *image.shape[1:]).flatten(0, 1).to(image)

    return transform


def compose(transforms: Sequence[Transform]) -> Transform:
    """One transform after the other."""

    def transform(image: Tensor, draws: Draws) -> Tensor:
        for each in transforms:
            image = each(image, draws)
        return image

    return transform


def _affine(
    image: Tensor,
    zoom_and_angle: Sequence[tuple[float, float]],
    shifts: Sequence[Sequence[float]] | None = None,
    size: tuple[int, int] | None = None,
    extent: tuple[int, int] | None = None,
) -> Tensor:
    """Resample each magnified, turned and shifted (rows, columns in half-sizes), borders mirrored.

    With an `extent` in pixels so much about the middle, zeros beyond the picture.
    """
    h, w = image.shape[2:]
    rows, columns = extent or (h, w)
    shifts = shifts or [(0.0, 0.0)] * len(image)
    matrices = []
    for (zoom, angle), (down, right) in zip(zoom_and_angle, shifts, strict=True):
        cos, sin = math.cos(angle) / zoom, math.sin(angle) / zoom
        # normalised coordinates stretch with the sides, so a turn needs their ratio
        matrices.append(
            [[cos * columns / w, -sin * rows / w, right], [sin * columns / h, cos * rows / h, down]]
        )
    theta = torch.tensor(matrices, dtype=image.dtype).to(image.device)
    grid = F.affine_grid(theta, [*image.shape[:2], *(size or (h, w))], align_corners=False)
    beyond = "zeros" if extent else "reflection"
    return F.grid_sample(image, grid, mode="bilinear", padding_mode=beyond, align_corners=False)


def _turned(offsets: Tensor, zoom: Tensor, angle: Tensor) -> Tensor:
    """Offsets `(…, 2)` of rows and columns in what is seen, in the picture's own pixels."""
    rows, columns = offsets.unbind(-1)
    cos, sin = angle.cos() / zoom, angle.sin() / zoom
    return torch.stack([sin * columns + cos * rows, cos * columns - sin * rows], -1)


def _size(image: Tensor) -> str:
    return f"{image.shape[2]}x{image.shape[3]}"


TRANSFORMS: dict[str, Callable[..., Transform]] = {
    "jitter": jitter,
    "roll": roll,
    "scale": scale,
    "rotate": rotate,
    "pad": pad,
    "crop": crop,
    "view": view,
    "noise": noise,
}
