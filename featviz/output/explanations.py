"""An explanation as a thing to look at and keep: overlay, figure, numbers."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from torch import Tensor

from featviz.output.figures import Panel, figure
from featviz.output.files import placed
from featviz.output.overlays import heatmap, limits, overlay, signed
from featviz.output.pictures import check_output, recipe_text, write_picture
from featviz.output.pil import to_pil
from featviz.types import Attribution


@dataclass(frozen=True)
class Display:
    """How a map is shown: which sign, over which range, in which colours, how thick."""

    sign: str = "auto"
    norm: str = "auto"
    cmap: str = ""
    alpha: float = 0.6

    def of(self, attribution: Attribution) -> Display:
        """What auto means: gradients by magnitude up to the 99th percentile, maps by their positive part."""
        gradient = attribution.raw.dim() == 3
        occlusion = attribution.method in {"occlusion", "rise"}
        sign = ("abs" if gradient else "both" if occlusion else "pos") if self.sign == "auto" else self.sign
        norm = ("p99" if gradient else "minmax") if self.norm == "auto" else self.norm
        return Display(sign, norm, self.cmap, self.alpha)


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

    def overlay(self, within: tuple[float, float] | None = None) -> PIL.Image.Image:
        """The map over the photo."""
        return to_pil(overlay(self.photo.cpu(), self.heatmap(within), self.display.alpha))

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write the figure, or the numbers as .npy, .npz or .json."""
        return Explanations((self,)).save(path, overwrite=overwrite)

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.overlay().save(buffer, "png")
        return buffer.getvalue()


@dataclass(frozen=True, eq=False)
class Explanations:
    """The maps of one run: several targets, layers or percentiles of one method on one photo."""

    maps: tuple[Explanation, ...]

    @property
    def recipe(self) -> Mapping[str, Any]:
        """The run's recipe."""
        return self.maps[0].recipe

    def to_pil(self) -> PIL.Image.Image:
        """One figure: the photo, then every map over it with its target, score and range."""
        display = self.maps[0].display
        shown = [signed(each.map.float().cpu(), display.sign) for each in self.maps]
        ranges = limits(shown, display.sign, display.norm)
        first = Panel(to_pil(self.maps[0].photo), [Path(self._photo_name()).name or "photo"])
        panels = [
            Panel(each.overlay(within), _caption(each), within, display.sign, display.cmap)
            for each, within in zip(self.maps, ranges, strict=True)
        ]
        targets = len({each.target for each in self.maps})
        columns = targets if targets > 1 else min(len(panels), 4)
        rows = [panels[i : i + columns] for i in range(0, len(panels), columns)]
        return figure(self.maps[0].method, [[first, *rows[0]], *([None, *row] for row in rows[1:])])

    def _photo_name(self) -> str:
        return str(self.recipe.get("inputs", {}).get("photo", {}).get("path", ""))

    def data(self) -> dict[str, Any]:
        """Scores, targets, layers, notes and the recipe, as plain data."""
        made = [
            {
                "method": each.method,
                "target": each.target,
                "score": each.score,
                "layer": each.layer,
                "notes": dict(each.notes),
            }
            for each in self.maps
        ]
        return {"explanations": made, "recipe": dict(self.recipe)}

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


def _caption(each: Explanation) -> list[str]:
    lines = [each.target, f"score {each.score:.3g}"]
    if "probability" in each.notes:
        lines[1] += f", p {each.notes['probability']:.3g}"
    where = f"at {each.layer}" if each.layer else ""
    if "percentile" in each.notes:
        where += f", percentile {each.notes['percentile']:g}"
    return [*lines, where] if where else lines


def _write_npy(explanations: Explanations, file: Path) -> None:
    raw = [each.raw.cpu().numpy() for each in explanations.maps]
    np.save(file, raw[0] if len(raw) == 1 else np.stack(raw))


def _write_npz(explanations: Explanations, file: Path) -> None:
    arrays: dict[str, Any] = {f"raw_{i}": each.raw.cpu().numpy() for i, each in enumerate(explanations.maps)}
    arrays |= {f"map_{i}": each.map.cpu().numpy() for i, each in enumerate(explanations.maps)}
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
