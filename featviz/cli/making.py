"""Running recipes on photos one after the other: where results go, progress, what could not be made."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from featviz.cli.options import OutputOptions
from featviz.cli.progress import Watcher, say
from featviz.errors import FeatvizError, InvalidValue, NonFiniteScore, OutputError

if TYPE_CHECKING:
    from featviz.recipes import Recipe
    from featviz.runs import Made


def each_photo(pairs: Iterable[tuple[Path, Path]], work: Callable[[Path, Path], None]) -> None:
    """Do the work on every photo and its place; of several, one that fails is told and the rest go on."""
    photos = list(pairs)
    failed = 0
    for file, place in photos:
        try:
            work(file, place)
        except NonFiniteScore:
            raise
        except FeatvizError as error:
            if len(photos) == 1:
                raise
            failed += 1
            say(f"featviz: {error}")
    if failed:
        raise FeatvizError(f"{failed} of {len(photos)} photos could not be done")


def make(recipe: Recipe, place: Path, output: OutputOptions, **ready: Any) -> Made:
    """Run a recipe with progress and save what it gives; Ctrl-C saves it as it stands and exits 130."""
    from featviz.runs import run

    watcher = Watcher(place.name, output.quiet)
    try:
        with watcher.watching():
            made = run(recipe, watch=watcher, **ready)
            made.save(place, overwrite=output.overwrite)
    except NonFiniteScore as error:
        if hasattr(error.image, "save"):
            error.image.save(place, overwrite=output.overwrite)
            if not output.quiet:
                print(place)
        raise
    if not output.quiet:
        print(place)
    if watcher.stopped:
        raise typer.Exit(130)
    return made


def is_film(settings: Any) -> bool:
    """Whether a command's settings ask for a film."""
    return bool(getattr(settings, "zoom", 0) or getattr(settings, "animate", False))


def slug(target: str) -> str:
    """A target as part of a file name."""
    return re.sub(r"[^A-Za-z0-9.,-]+", "_", target).strip("_")[:60]


def place_outputs(files: list[Path], output: OutputOptions, kind: str, suffix: str) -> list[Path]:
    """Where each photo's result goes: --out's file, its folder (made if new), or this folder."""
    out = Path(output.out) if output.out is not None else Path()
    is_file = output.out is not None and out.suffix != "" and not out.is_dir()
    if is_file and len(files) == 1:
        return [out]
    if is_file:
        raise InvalidValue(f"--out {output.out} is one file for {len(files)} photos: name a folder")
    make_folder(out)
    places = [out / f"{file.stem}_{kind}{suffix}" for file in files]
    if len(set(places)) < len(places):  # photo.jpg beside photo.png
        places = [out / f"{file.name}_{kind}{suffix}" for file in files]
    if len(set(places)) < len(places):  # photo.jpg of several folders
        places = [out / f"{file.stem}_{n}_{kind}{suffix}" for n, file in enumerate(files, 1)]
    return places


_made: list[Path] = []


def make_folder(folder: Path) -> None:
    """Make a folder for results, and those above it; raises `OutputError`."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise OutputError(f"--out {folder} cannot be a folder: {problem.strerror}") from problem
    _made.extend(missing)


def drop_empty_folders() -> None:
    """Remove the folders that were made for results, where none came of it."""
    for folder in _made:
        with suppress(OSError):
            folder.rmdir()
    _made.clear()
