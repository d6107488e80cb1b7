"""Contact sheets: many small maps or kernels in one picture, each with its caption."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from featviz.errors import InvalidValue, nearest
from featviz.output.colour import colourise
from featviz.output.overlays import limits
from featviz.output.pil import to_pil

SCALES = ("shared", "own")
GAP, LINE, LETTERS = 8, 18, 13  # pixels; smaller letters cannot be read


def contact_sheet(
    maps: Tensor,
    captions: Sequence[str],
    *,
    columns: int | None = None,
    cell: int = 128,
    scale: str = "shared",
    cmap: str = "",
    title: str = "",
) -> Image.Image:
    """Maps `(n, h, w)` in a grid, `cell` pixels on the longer side, with one scale for all or each its own.

    The scale is from the least to the largest value, or where both signs occur evenly about 0; it is
    written in the title, or in each caption. A map that is constant says so in its caption.
    """
    if scale not in SCALES:
        raise InvalidValue(f"scale {scale!r}{nearest(scale, SCALES)}; one of {', '.join(SCALES)}")
    if maps.dim() != 3 or not len(maps) or not maps.isfinite().all():
        raise InvalidValue(
            f"maps of shape {tuple(maps.shape)}: finite ones (n, h, w) are needed, at least one"
        )
    sign = "both" if bool((maps < 0).any() and (maps > 0).any()) else "pos"
    ranges = limits(list(maps), sign, "shared" if scale == "shared" else "minmax")
    if scale == "shared":
        low, high = ranges[0]
        title = f"{title}   {low:.3g} to {high:.3g}".strip()
    else:
        captions = [f"{text}  {_range(*each)}" for text, each in zip(captions, ranges, strict=True)]
    chosen = cmap or ("blue-red" if sign == "both" else "viridis")
    images = [colourise(_share(one, *each), chosen) for one, each in zip(maps, ranges, strict=True)]
    return grid(images, captions, columns=columns, cell=cell, title=title)


def kernel_sheet(
    kernels: Tensor, *, columns: int | None = None, cell: int = 64, title: str = ""
) -> Image.Image:
    """Kernels `(n, 3, k, k)` as colour images in a grid, by number: .5 + w / (2 max|w|), so 0 is mid-grey.

    Training leaves some kernels dead: one below a thousandth of the largest is plain grey and says ~ 0,
    since its own scale would blow up rounding errors.
    """
    largest = kernels.abs().amax((1, 2, 3), keepdim=True)
    dead = largest <= 1e-3 * largest.max()
    images = 0.5 + torch.where(dead, 0.0, kernels / (2 * torch.where(dead, 1.0, largest)))
    captions = [f"{i} ~ 0" if none else str(i) for i, none in enumerate(dead.flatten().tolist())]
    return grid(list(images[:, None]), captions, columns=columns, cell=cell, title=title)


def grid(
    images: Sequence[Tensor],
    captions: Sequence[str],
    *,
    columns: int | None = None,
    cell: int = 128,
    title: str = "",
) -> Image.Image:
    """Images `(1, 3, h, w)` of one size in a grid, row by row, captions below and a title above.

    A pixel becomes a square block: smoothing would show detail that is not there. A caption wider
    than its picture is cut off.
    """
    if not images or len(images) != len(captions):
        raise InvalidValue(f"{len(captions)} captions for {len(images)} pictures: one each, at least one")
    columns = columns or max(1, min(len(images), round(math.sqrt(1.5 * len(images)))))
    zoom = cell / max(images[0].shape[2:])
    height, width = (max(1, round(side * zoom)) for side in images[0].shape[2:])
    rows, head = -(-len(images) // columns), LINE + GAP if title else 0
    letters = ImageFont.load_default(LETTERS)
    span = max(columns * (width + GAP) + GAP, math.ceil(letters.getlength(title)) + 2 * GAP)
    sheet = Image.new("RGB", (span, GAP + head + rows * (height + LINE + GAP)), "white")
    ImageDraw.Draw(sheet).text((GAP, GAP), title, "black", letters)
    for i, (image, caption) in enumerate(zip(images, captions, strict=True)):
        left, top = GAP + i % columns * (width + GAP), GAP + head + i // columns * (height + LINE + GAP)
        sheet.paste(to_pil(image).resize((width, height), Image.Resampling.NEAREST), (left, top))
        label = Image.new("RGB", (width, LINE), "white")
        ImageDraw.Draw(label).text((0, 0), caption, "black", letters)
        sheet.paste(label, (left, top + height + 1))
    return sheet


def stacked(sheets: Sequence[Image.Image]) -> Image.Image:
    """Sheets one below the other, on white."""
    whole = Image.new("RGB", (max(s.width for s in sheets), sum(s.height for s in sheets)), "white")
    top = 0
    for sheet in sheets:
        whole.paste(sheet, (0, top))
        top += sheet.height
    return whole


def beside(pictures: Sequence[Image.Image]) -> Image.Image:
    """Pictures of one size side by side, without a gap."""
    whole = Image.new("RGB", (sum(each.width for each in pictures), pictures[0].height))
    left = 0
    for each in pictures:
        whole.paste(each, (left, 0))
        left += each.width
    return whole


def _range(low: float, high: float) -> str:
    return f"{low:.2g}…{high:.2g}" if low < high else f"all {low:.2g}"


def _share(values: Tensor, low: float, high: float) -> Tensor:
    return (values - low) / (high - low) if low < high else torch.zeros_like(values)
