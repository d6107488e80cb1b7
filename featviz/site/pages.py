"""The pages of a gallery: the network, its layers, its units, from templates and what each picture tells."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from featviz.cards import below
from featviz.errors import FeatvizError
from featviz.layer_table import Layer, layer_table
from featviz.layers import find_layer
from featviz.output.files import placed
from featviz.output.pictures import read_recipe
from featviz.presets import resolved
from featviz.render_settings import RenderSettings
from featviz.site.exciting import Exciting
from featviz.site.plan import Plan, Unit

HERE = Path(__file__).parent
MAP = 28
"""Layers drawn in the map of the network, at most, besides those of the gallery."""


def write_pages(plan: Plan, found: dict[str, list[Exciting]], title: str = "") -> None:
    """Write every page of a gallery, and remove those of an earlier one that it has no more."""
    pages = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pages.filters["short"] = lambda number: f"{number:.3g}"
    told = {unit.slug: _told(plan, unit, found.get(unit.slug, [])) for unit in plan.units}
    groups = _groups(plan)
    shared = {
        "title": title or f"What {plan.model.name} has learned",
        "model": plan.model,
        "groups": groups,
        "told": told,
        "count": len(plan.units),
    }
    written = {"index.html": pages.get_template("index.html").render(root="", map=_map(plan), **shared)}
    for group, units in plan.groups().items():
        one = {"root": "../", "group": groups[group], "units": units, **shared}
        written[_layer_page(group)] = pages.get_template("layer.html").render(**one)
        for k, unit in enumerate(units):
            after = units[k + 1] if k + 1 < len(units) else None
            card = {
                "unit": unit,
                "one": told[unit.slug],
                "before": units[k - 1] if k else None,
                "after": after,
            }
            written[unit.page] = pages.get_template("unit.html").render(**one, **card)
    written |= {f"assets/{each.name}": each.read_text() for each in (HERE / "assets").iterdir()}
    written["assets/units.js"] = _search(plan, told)
    _replace(plan.folder, written)


def _replace(folder: Path, written: dict[str, str]) -> None:
    """Put every page in place whole; only a gallery's own pages stand in these folders."""
    old = {f"{kind}/{page.name}" for kind in ("unit", "layer") for page in (folder / kind).glob("*.html")}
    for name, text in written.items():
        with placed(folder / name, True) as file:
            file.write_text(text, encoding="utf-8")
    for name in old - set(written):
        (folder / name).unlink(missing_ok=True)


def _layer_page(group: str) -> str:
    return f"layer/{group.replace('-', '--').replace('.', '-').replace('#', '-call-')}.html"


def _groups(plan: Plan) -> dict[str, dict[str, Any]]:
    """By group: its heading, what it is, its page and its units."""
    made = {}
    for group, units in plan.groups().items():
        about = "what the network would most like to see for each class"
        if group not in ("classes", "others"):
            row = find_layer(plan.model, group)
            about = _about(row)
        made[group] = {"name": group, "about": about, "page": _layer_page(group), "units": units}
    return made


def _about(row: Layer) -> str:
    field, seen = row.receptive_field, ""
    if field is not None:
        seen = f", sees {field:.0f} pixels" if math.isfinite(field) else ", sees the whole picture"
    stride = "" if row.stride is None else f", stride {row.stride}"
    return f"{row.address}: {row.kind}, {row.channels} channels{stride}{seen}"


def _told(plan: Plan, unit: Unit, photos: Sequence[Exciting]) -> dict[str, Any]:
    """What a unit's page says: its card and recipe, its faces, its photos and the command that makes it."""
    recipe = _recipe(plan.folder / unit.picture)
    card = dict(recipe["cards"][0]) if recipe else {}
    if card and photos:
        card["photos"] = photos[0].score
        card["flag"] = card["flag"] or below(card["activation"], photos[0].score)
    faces = [unit.face(k + 1) for k in range(plan.faces)] if plan.faces > 1 else []
    return {
        "made": bool(recipe),
        "card": card,
        "faces": [face for face in faces if (plan.folder / face).is_file()],
        "photos": photos,
        "recipe": json.dumps({k: v for k, v in recipe.items() if k != "cards"}, indent=1) if recipe else "",
        "command": command(plan, unit),
        "alt": f"{unit.name}: what excites it, made from noise",
    }


def _recipe(file: Path) -> dict[str, Any]:
    try:
        return read_recipe(file) if file.is_file() else {}
    except FeatvizError:
        return {}


def command(plan: Plan, unit: Unit) -> str:
    """The command line that makes a unit's picture."""
    if unit.group == "classes":
        words = ["featviz", "class", str(unit.number)]
    else:
        words = ["featviz", "channel" if unit.number is not None else "neuron", unit.target]
    source = dict(plan.model.source)
    options = {"model": source.pop("name", plan.model.name), **source}
    if options["model"] == "efficientnet_lite0":
        del options["model"]
    usual = resolved(RenderSettings(preset=plan.settings.preset)).plain()
    own = {k: v for k, v in plan.settings.plain().items() if v != usual[k]}
    if plan.settings.preset != resolved(RenderSettings()).preset:
        own["preset"] = plan.settings.preset
    for name, value in {**options, **own}.items():
        flag = f"--{name.replace('_', '-')}"
        if isinstance(value, bool):
            words += [flag] if value else []
        elif value is not None:
            between = "x" if name == "input_size" else ","
            words += [flag, between.join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)]
    return shlex.join([*words, "--out", f"{unit.slug}.png"])


def _map(plan: Plan) -> list[dict[str, Any]]:
    """The network from left to right: boxes as high as its maps are large, as wide as they have channels."""
    groups = {find_layer(plan.model, g).address: g for g in plan.groups() if g not in ("classes", "others")}
    boxes: list[dict[str, Any]] = []
    left = 10
    for row in _drawn(plan, groups):
        width = 10 + 3 * (row.channels - 1).bit_length()
        height = 16 + 10 * (row.shape[2] - 1).bit_length()
        group = groups.get(row.address, "")
        box = {"x": left, "w": width, "h": height, "name": group or row.alias, "about": _about(row)}
        boxes.append({**box, "page": _layer_page(group) if group else ""})
        left += width + 8
    if "classes" in plan.groups():
        box = {"x": left, "w": 40, "h": 40, "name": "classes", "about": "the output, one neuron a class"}
        boxes.append({**box, "page": _layer_page("classes")})
    return boxes


def _drawn(plan: Plan, groups: dict[str, str]) -> list[Layer]:
    """The gallery's layers and the network's stages; of networks with few blocks those, too."""
    rows = [row for row in layer_table(plan.model) if row.address and len(row.shape) == 4 and row.spatial]
    depth = min((row.address.count(".") for row in rows), default=0)
    blocks = [row for row in rows if row.address.count(".") <= depth + 1]
    few = blocks if len(blocks) <= MAP else []
    return [row for row in rows if row.address in groups or row.alias or row in few]


def _search(plan: Plan, told: dict[str, dict[str, Any]]) -> str:
    """What the search looks through, as a script: a page opened from disk may not read other files."""
    units = [
        [
            each.slug,
            each.name,
            each.group,
            "" if each.number is None else each.number,
            told[each.slug]["made"],
        ]
        for each in plan.units
    ]
    return "window.UNITS = " + json.dumps(units, separators=(",", ":")) + ";\n"
