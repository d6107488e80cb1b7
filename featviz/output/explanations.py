"""An explanation as a thing to look at and keep: overlay, figure, numbers."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from PIL import ImageDraw
from torch import Tensor

from featviz.output.display import Display, ranges
from featviz.output.files import placed
from featviz.output.layouts import explanation_figure
from featviz.output.overlays import Region, heatmap, limits, overlay, signed
from featviz.output.pictures import check_output, recipe_text, write_picture
from featviz.output.pil import to_pil
from featviz.output.sheets import beside
from featviz.types import Attribution

BOX = (255, 196, 0)
"""The colour of boxes."""


@dataclass(frozen=True, eq=False)
class Explanation(Attribution):
    """One target's map with the photo it explains, `(1, 3, h, w)`, and its recipe; a notebook shows it."""

    photo: Tensor = field(default_factory=lambda: torch.zeros(1, 3, 1, 1))
    recipe: Mapping[str, Any] = field(default_factory=dict)
    display: Display = field(default_factory=Display)

    @classmethod
    def of(
        cls, attribution: Attribution, photo: Tensor, recipe: Mapping[str, Any], display: Display
    ) -> Explanation:
        """An attribution with what showing it takes."""
        own = {f.name: getattr(attribution, f.name) for f in fields(Attribution)}
        return cls(**own, photo=photo, recipe=recipe, display=display.of(attribution))

    def heatmap(self, within: tuple[float, float] | None = None) -> Tensor:
        """The map in colours `(1, 3, h, w)`, over its own range or the one given."""
        shown = signed(self.map.float().cpu(), self.display.sign)
        low, high = within or limits([shown], self.display.sign, self.display.norm)[0]
        name = f"the {self.method} map of {self.target}"
        return heatmap(shown, self.display.sign, low, high, self.display.cmap, name)

    @cached_property
    def region(self) -> Region:
        """Where the map is strong in favour of its target: mask `(h, w)` and box."""
        return self.display.region(self.map.float().cpu())

    def overlay(self, within: tuple[float, float] | None = None) -> PIL.Image.Image:
        """The map over the photo, or with `mask` the strong part of it; with `boxes` a box around that."""
        photo = self.photo.cpu()
        if self.display.mask:
            picture = to_pil(torch.where(self.region.mask, photo, 0.85 + 0.15 * photo.mean(1, keepdim=True)))
        else:
            picture = to_pil(overlay(photo, self.heatmap(within), self.display.alpha))
        if self.display.boxes and self.region.box is not None:
            top, left, bottom, right = self.region.box
            width = max(2, picture.width // 112)
            ImageDraw.Draw(picture).rectangle((left, top, right - 1, bottom - 1), outline=BOX, width=width)
        return picture

    def picture(self, within: tuple[float, float]) -> PIL.Image.Image:
        """What `show` asks for: the overlay, the map alone, or the binary mask."""
        if self.display.show == "mask":
            return to_pil(self.region.mask.float().expand(1, 3, -1, -1))
        return to_pil(self.heatmap(within)) if self.display.show == "heatmap" else self.overlay(within)

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write the figure, or the numbers as .npy, .npz or .json."""
        return Explanations((self,)).save(path, overwrite=overwrite)

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.overlay().save(buffer, "png")
        return buffer.getvalue()


@dataclass(frozen=True, eq=False)
class Explanations:
    """The maps of one run: several methods, targets, layers or percentiles on one photo.

    `missing` says of methods why they have no map here, `seconds` how long each took.
    """

    maps: tuple[Explanation, ...]
    norm: str = "auto"
    missing: Mapping[str, str] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)

    @property
    def recipe(self) -> Mapping[str, Any]:
        """The run's recipe."""
        return self.maps[0].recipe

    def to_pil(self) -> PIL.Image.Image:
        """One figure with captions and colour bars, or side by side whatever else the settings show."""
        within = ranges(self.maps, [each.display for each in self.maps], self.norm)
        if self.maps[0].display.show == "figure":
            return explanation_figure(self, within)
        return beside([each.picture(own) for each, own in zip(self.maps, within, strict=True)])

    def data(self) -> dict[str, Any]:
        """Scores, targets, layers, boxes, notes, seconds and the recipe, as plain data."""
        return {
            "explanations": [_told(each) for each in self.maps],
            "missing": dict(self.missing),
            "seconds": dict(self.seconds),
            "recipe": dict(self.recipe),
        }

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write the figure (.png, .jpg, .webp, .tif), the raw maps (.npy, .npz) or the data (.json)."""
        path = Path(path)
        write = NUMBER_WRITERS.get(path.suffix.lower())
        if write is None:
            pixels = np.asarray(self.to_pil())
            image = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 255
            return write_picture(path, image, self.recipe, overwrite=overwrite)
        check_output(path, overwrite, NUMBER_WRITERS)
        with placed(path, overwrite) as file:
            write(self, file)
        return path


def _told(each: Explanation) -> dict[str, Any]:
    return {
        "method": each.method,
        "target": each.target,
        "score": each.score,
        "layer": each.layer,
        "box": each.region.box,
        "threshold": each.display.threshold,
        "notes": dict(each.notes),
    }


def _write_npy(explanations: Explanations, file: Path) -> None:
    raw = [each.raw.cpu().numpy() for each in explanations.maps]
    np.save(file, raw[0] if len(raw) == 1 else np.stack(raw))


def _write_npz(explanations: Explanations, file: Path) -> None:
    arrays: dict[str, Any] = {f"raw_{i}": each.raw.cpu().numpy() for i, each in enumerate(explanations.maps)}
    arrays |= {f"map_{i}": each.map.cpu().numpy() for i, each in enumerate(explanations.maps)}
    arrays |= {f"mask_{i}": each.region.mask.numpy() for i, each in enumerate(explanations.maps)}
    np.savez_compressed(file, about=recipe_text(explanations.data()), **arrays)


def _write_json(explanations: Explanations, file: Path) -> None:
    file.write_text(
        json.dumps(explanations.data(), indent=2, sort_keys=True, ensure_ascii=False) + "\n", "utf-8"
    )


NUMBER_WRITERS: Mapping[str, Callable[[Explanations, Path], None]] = {
    ".npy": _write_npy,
    ".npz": _write_npz,
    ".json": _write_json,
}
"""Suffix -> what writes an explanation's numbers; .npy takes maps of one shape."""
