"""What a gallery is to hold: a recipe for every picture, where it goes, and whether it is there already."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from featviz.errors import FeatvizError, InvalidValue, OutputError
from featviz.layer_table import layer_table
from featviz.layers import find_layer
from featviz.output.pictures import read_recipe
from featviz.presets import ALL, resolved
from featviz.recipes import Recipe, recipe_for
from featviz.render_settings import RenderSettings
from featviz.settings import DECIDED
from featviz.targets import class_number, objective_of
from featviz.types import OUTPUT, Model
from featviz.units import expand

MARK = "gallery.json"
"""The file that tells a gallery's folder from any other."""


@dataclass(frozen=True)
class Unit:
    """One unit of a gallery: its target, the group it stands in, its number there, what it is called."""

    target: str
    group: str
    number: int | None
    name: str
    slug: str

    @property
    def picture(self) -> str:
        """Where its picture stands in the gallery."""
        return f"pictures/{self.slug}.webp"

    def face(self, number: int) -> str:
        """Where one of its faces stands, numbered from 1."""
        return f"pictures/{self.slug}-face{number}.webp"

    @property
    def thumb(self) -> str:
        """Where its small picture stands."""
        return f"thumbs/{self.slug}.webp"

    @property
    def page(self) -> str:
        """Its own page."""
        return f"unit/{self.slug}.html"


@dataclass(frozen=True)
class Plan:
    """A gallery before it is made: units, and the settings of their pictures and of their faces."""

    model: Model
    units: Sequence[Unit]
    settings: RenderSettings
    faces: int
    folder: Path

    def recipes(self, unit: Unit) -> dict[str, Recipe]:
        """The recipe of each of a unit's files: its picture, and its faces where there are several."""
        files = {unit.picture: replace(self.settings, diversity=1)}
        for face in range(1, self.faces + 1) if self.faces > 1 else ():
            files[unit.face(face)] = replace(self.settings, diversity=self.faces, face=face)
        return {
            file: recipe_for("render", self.model, unit.target, settings) for file, settings in files.items()
        }

    def missing(self, unit: Unit) -> list[str]:
        """The files of a unit that are not there, or were made by another recipe."""
        return [file for file, recipe in self.recipes(unit).items() if not _made(self.folder / file, recipe)]

    def groups(self) -> dict[str, list[Unit]]:
        """The units by layer, in the order in which they were named."""
        found: dict[str, list[Unit]] = {}
        for unit in self.units:
            found.setdefault(unit.group, []).append(unit)
        return found


def _made(file: Path, recipe: Recipe) -> bool:
    """Whether a file is what a recipe makes; what the recipe leaves open may have come out either way."""
    try:
        old = Recipe.of(read_recipe(file)) if file.is_file() else None
        was = RenderSettings.make(**old.settings).plain() if old else {}
    except FeatvizError:
        return False
    was |= {name: None for name in DECIDED if recipe.settings[name] is None}
    return (
        old is not None
        and old.status == "complete"
        and (old.command, old.target, was) == (recipe.command, recipe.target, recipe.settings)
        and old.model["digest"] == recipe.model["digest"]
    )


def plan(
    model: Model, targets: Sequence[str], settings: RenderSettings, folder: Path, faces: int = 1
) -> Plan:
    """The gallery of these targets, ranges expanded.

    Raises what the targets raise, `InvalidValue` for none or for settings that make no single picture, and
    `OutputError` for a folder with other files in it.
    """
    several = settings.animate or settings.snapshots or settings.face or settings.diversity > 1
    if several or settings.preset == ALL:
        raise InvalidValue("a gallery has single pictures by one preset, and --facets: no films or sheets")
    if not (folder / MARK).is_file() and folder.exists() and (folder.is_file() or any(folder.iterdir())):
        raise OutputError(f"{folder} holds other things than a gallery; name a new folder, or an empty one")
    wanted = [unit for target in targets for unit in expand(model, target)]
    if not wanted:
        raise InvalidValue("a gallery of nothing: --class, --layer with --channels, or targets are wanted")
    units = {unit.target: unit for unit in (_unit(model, target) for target in wanted)}
    return Plan(model, _told_apart(list(units.values())), resolved(settings), faces, folder)


def _told_apart(units: Sequence[Unit]) -> list[Unit]:
    """The units with slugs of their own: where several come to the same, each gets a digest of its target."""
    count = Counter(unit.slug for unit in units)
    return [replace(u, slug=f"{u.slug}-{_digest(u.target)}") if count[u.slug] > 1 else u for u in units]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _unit(model: Model, target: str) -> Unit:
    objective = objective_of(model, target)
    if objective.layers == (OUTPUT,):
        number = class_number(objective, layer_table(model)[-1].channels)
        if number is not None:
            label = model.labels[number] if model.labels else f"class {number}"
            return Unit(f"class:{number}", "classes", number, label, f"class-{number}")
    channel = re.fullmatch(r"(.+):(\d+)", target)
    if channel:
        layer = channel[1]
        find_layer(model, layer)
        number = int(channel[2])
        return Unit(target, layer, number, f"{layer}:{number}", _slug(f"{layer}-{number}"))
    return Unit(target, "others", None, target, _slug(target))


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-").lower()[:80]
