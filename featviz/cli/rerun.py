"""featviz rerun: make a picture again from the recipe inside it."""

from __future__ import annotations

import hashlib
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from featviz.cli.making import is_film, make
from featviz.cli.options import OutputOptions, with_options
from featviz.errors import InvalidValue, ModelError, PhotoError, nearest

if TYPE_CHECKING:
    from featviz.output import Photo
    from featviz.recipes import Recipe
    from featviz.types import Model


@with_options(output=OutputOptions)
def rerun(
    picture: Annotated[str, typer.Argument(help="a picture or film that featviz made")],
    change: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="change a setting, or target=… ; may repeat"),
    ] = None,
    photo: Annotated[str | None, typer.Option(help="where the photo is now, if it moved")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps")] = "auto",
    trust: Annotated[bool, typer.Option("--trust", help="run the network's FILE.py unasked")] = False,
    *,
    output: OutputOptions,
) -> None:
    """Make a picture again from its own record, and say whether it came out the same.

    featviz rerun dream.png --set steps=40
    """
    import torch

    from featviz.output import VIDEO_SUFFIXES, check_output, read_recipe
    from featviz.recipes import Recipe, load_model, recipe_for

    source = Path(picture)
    old = Recipe.of(read_recipe(source))
    if not trust:
        _ask(str(dict(old.model["source"]).get("name", "")))
    settings, target = _changed(old, change or [])
    place = Path(output.out) if output.out else _beside(source, settings)
    check_output(place, output.overwrite, VIDEO_SUFFIXES if is_film(settings) else None)
    torch.set_num_threads(int(old.versions.get("threads", torch.get_num_threads())))
    model = load_model(old, device)
    inputs = {name: _find(name, one, source, photo) for name, one in old.inputs.items()}
    new = recipe_for(old.command, model, target, settings, inputs)
    new = replace(
        new, inputs={name: {**new.inputs[name], "path": old.inputs[name]["path"]} for name in inputs}
    )
    make(new, place, output, model=model, inputs=inputs)
    if not output.quiet and not change:
        for line in _compare(old, new, source, place, model):
            print(line)


def _ask(name: str) -> None:
    """Ask before a file that the picture names is run; without a terminal, refuse."""
    if ":" not in name or not name.partition(":")[0].endswith(".py"):
        return
    file = name.partition(":")[0]
    question = f"This picture's network is made by running {file}. Run it?"
    if not sys.stdin.isatty() or not typer.confirm(question, err=True):
        raise ModelError(f"the recipe's network runs {file}: --trust runs it unasked")


def _beside(source: Path, settings: Any) -> Path:
    """`dream.png` -> `dream_rerun.png`, with another suffix where a picture becomes a film or a film one."""
    from featviz.output import VIDEO_SUFFIXES

    was_film = source.suffix.lower() in VIDEO_SUFFIXES
    new = {(False, True): ".mp4", (True, False): ".png"}.get((was_film, is_film(settings)), source.suffix)
    return source.with_name(f"{source.stem}_rerun{new}")


def _changed(old: Recipe, changes: list[str]) -> tuple[Any, str]:
    """The settings and the target of a recipe with the --set changes."""
    from featviz.recipes import SETTINGS

    values, target = dict(old.settings), old.target
    for change in changes:
        name, sign, text = change.partition("=")
        name = name.strip().replace("-", "_")
        if not sign:
            raise InvalidValue(f"--set {change!r}: NAME=VALUE")
        if name == "target":
            target = text
        elif name not in values:
            raise InvalidValue(f"--set {name}: no such setting{nearest(name, values)}")
        else:
            values[name] = SETTINGS[old.command].read(name, text)
    return SETTINGS[old.command].make(**values), target


def _find(name: str, one: Any, source: Path, photo: str | None) -> Photo:
    """A recipe's input: where it was, beside the picture, or where --photo says."""
    from featviz.output import read_photo

    if name == "photo" and photo is not None:
        return read_photo(photo)
    if not one["path"]:
        raise PhotoError(f"the {name} of this recipe was in memory only; --photo FILE names it")
    for path in (Path(one["path"]), source.parent / one["path"], source.parent / Path(one["path"]).name):
        if path.is_file():
            return read_photo(path)
    return read_photo(one["path"])


def _compare(old: Recipe, new: Recipe, source: Path, place: Path, model: Model) -> list[str]:
    """What differs between the old run and the new, and by how much."""
    if _digest(source) == _digest(place):
        return [f"the same, byte for byte, as {source}"]
    lines = [
        f"{name}: {was} then, {new.versions.get(name)} now"
        for name, was in old.versions.items()
        if new.versions.get(name) != was
    ]
    if old.device != new.device:
        lines.append(f"device: {old.device} then, {new.device} now")
    if old.model["digest"] != model.digest:
        lines.append(f"weights: {old.model['digest'][:12]} then, {model.digest[:12]} now")
    for name, one in old.inputs.items():
        if one["digest"] != new.inputs[name]["digest"]:
            lines.append(f"{name}: {one['digest'][:12]} then, {new.inputs[name]['digest'][:12]} now")
    if old.status != new.status:
        lines.append(f"the old run was {old.status}")
    return [*lines, _difference(source, place)]


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _difference(source: Path, place: Path) -> str:
    from featviz.output import VIDEO_SUFFIXES, read_photo

    if source.suffix.lower() in VIDEO_SUFFIXES:
        return f"{place} differs from {source}"
    before, after = read_photo(source).image, read_photo(place).image
    if before.shape != after.shape:
        return f"size: {tuple(before.shape[2:])} then, {tuple(after.shape[2:])} now"
    largest = round(255 * float((before - after).abs().max()))
    return f"largest pixel difference: {largest} of 255" + ("" if largest else " (only the record differs)")
