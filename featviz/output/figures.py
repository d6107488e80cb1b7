"""Figures drawn with Pillow: panels with captions and colour bars."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import PIL.Image
import torch
from PIL import ImageDraw, ImageFont

from featviz.output.colour import colourise
from featviz.output.pil import to_pil

SIDE = 320
"""Panels are at least so many pixels wide."""

GAP, LINE, BAR = 20, 20, 10
INK, PAPER, FAINT = (24, 24, 27), (255, 255, 255), (110, 110, 118)


@dataclass(frozen=True, eq=False)
class Panel:
    """A picture, the lines under it, and where it shows numbers the range of its colour bar.

    A picture that is drawn for its place is a function of the size (width, height).
    """

    picture: PIL.Image.Image | Callable[[tuple[int, int]], PIL.Image.Image]
    caption: Sequence[str]
    within: tuple[float, float] | None = None
    sign: str = "both"
    cmap: str = ""


def figure(title: str, rows: Sequence[Sequence[Panel | None]]) -> PIL.Image.Image:
    """Rows of panels, all of the first picture's size; None leaves a place empty."""
    panels = [panel for row in rows for panel in row if panel is not None]
    first = next(p.picture for p in panels if isinstance(p.picture, PIL.Image.Image))
    factor = max(1.0, SIDE / first.width)
    w, h = round(first.width * factor), round(first.height * factor)
    lines = max(len(panel.caption) for panel in panels)
    cell = h + 8 + BAR + 22 + LINE * lines
    columns = max(len(row) for row in rows)
    sheet = PIL.Image.new("RGB", (GAP + columns * (w + GAP), GAP + 28 + len(rows) * (cell + GAP)), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((GAP, GAP - 6), title, fill=INK, font=ImageFont.load_default(22))
    for i, row in enumerate(rows):
        for j, panel in enumerate(row):
            if panel is not None:
                _draw(sheet, panel, (GAP + j * (w + GAP), GAP + 28 + i * (cell + GAP)), (w, h))
    return sheet


def _draw(sheet: PIL.Image.Image, panel: Panel, corner: tuple[int, int], size: tuple[int, int]) -> None:
    x, y = corner
    if isinstance(panel.picture, PIL.Image.Image):
        picture = panel.picture.convert("RGB").resize(size, PIL.Image.Resampling.BICUBIC)
    else:
        picture = panel.picture(size)
    sheet.paste(picture, corner)
    y += size[1] + 8
    draw = ImageDraw.Draw(sheet)
    if panel.within is not None:
        _draw_bar(sheet, panel, (x, y), size[0])
    y += BAR + 22 if panel.within is not None else 0
    for i, line in enumerate(panel.caption):
        font = ImageFont.load_default(15 if i == 0 else 13)
        draw.text((x, y + i * LINE), _fitting(line, font, size[0]), fill=INK if i == 0 else FAINT, font=font)


def _draw_bar(sheet: PIL.Image.Image, panel: Panel, corner: tuple[int, int], width: int) -> None:
    """A colour bar with the values at its ends."""
    assert panel.within is not None
    name = panel.cmap or ("blue-red" if panel.sign == "both" else "inferno")
    strip = torch.linspace(0, 1, width).expand(BAR, width)
    sheet.paste(to_pil(colourise(strip, name)), corner)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    low, high = (f"{value:.3g}" for value in panel.within)
    top = corner[1] + BAR + 2
    draw.text((corner[0], top), low, fill=FAINT, font=font)
    draw.text((corner[0] + width - draw.textlength(high, font=font), top), high, fill=FAINT, font=font)


def words(lines: Sequence[str]) -> Callable[[tuple[int, int]], PIL.Image.Image]:
    """Text in place of a picture, its lines broken to fit, the letters smaller where they must be."""

    def drawn(size: tuple[int, int]) -> PIL.Image.Image:
        sheet = PIL.Image.new("RGB", size, PAPER)
        draw = ImageDraw.Draw(sheet)
        for letters in (14, 13, 12, 11, 10):
            font, high = ImageFont.load_default(letters), letters + 5
            parts = [_broken(line, font, size[0]) for line in lines]
            if high * (sum(map(len, parts)) + len(parts) / 3) <= size[1]:
                break
        top = 0
        for paragraph in parts:
            for part in paragraph:
                draw.text((0, top), part, fill=INK, font=font)
                top += high
            top += high // 3
        return sheet

    return drawn


def _broken(line: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> list[str]:
    """A line as several, none wider than `width` if its words allow."""
    parts: list[str] = []
    for word in line.split():
        longer = f"{parts[-1]} {word}" if parts else word
        if parts and font.getlength(longer) <= width:
            parts[-1] = longer
        else:
            parts.append(word)
    return parts


def _fitting(line: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """A line cut off with … where it is wider than its panel."""
    if font.getlength(line) <= width:
        return line
    while line and font.getlength(line + "…") > width:
        line = line[:-1]
    return line + "…"
