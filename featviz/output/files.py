"""Output files: checked before the work, put in place whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from featviz.errors import FeatvizError, OutputError, OutputExists, nearest


def check_place(path: Path, overwrite: bool) -> None:
    """Refuse a place that cannot take a new file.

    Raises OutputExists for a file that stands already, and OutputError for a directory, a missing
    folder or one that may not be written to.
    """
    try:
        _check_place(path, overwrite)
    except (OSError, ValueError) as problem:  # a folder that may not be looked into, a NUL in the name
        raise OutputError(f"{path}: {getattr(problem, 'strerror', None) or problem}") from problem


def _check_place(path: Path, overwrite: bool) -> None:
    if path.is_dir():
        raise OutputError(f"{path} is a directory; name a file in it")
    folder = path.parent
    if not folder.is_dir():
        standing = next(parent for parent in folder.absolute().parents if parent.is_dir())
        raise OutputError(f"no folder {folder} to write {path.name} to; {standing} exists")
    if os.path.lexists(path) and not overwrite:  # a dangling link counts as standing, too
        raise OutputExists(path)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"{path}: the folder {folder} may not be written to")


@contextmanager
def placed(path: Path, overwrite: bool) -> Iterator[Path]:
    """A path to write to, in a hidden folder beside `path`; what stands there afterwards moves to `path`.

    The hidden folder goes away whatever happens. Without `overwrite`, a file that appeared in the
    meantime is left alone.
    """
    try:
        # a folder rather than a file: the name keeps its suffix, and the file gets the usual permissions
        hidden = Path(tempfile.mkdtemp(prefix=f".{path.name[:40]}.", suffix=".part", dir=path.parent))
    except OSError as problem:
        raise OutputError(f"{path}: {problem.strerror}") from problem
    try:
        yield hidden / path.name
        _move(hidden / path.name, path, overwrite)
    finally:
        shutil.rmtree(hidden, ignore_errors=True)


def _move(source: Path, path: Path, overwrite: bool) -> None:
    try:
        if overwrite:
            source.replace(path)
            return
        with suppress(OSError):
            os.link(source, path)  # unlike a rename, never replaces anything
            return
        path.open("xb").close()  # no hard links on this file system: claim the name first
        source.replace(path)
    except FileExistsError:
        raise OutputExists(path) from None
    except OSError as problem:
        raise OutputError(f"{path}: {problem.strerror}") from problem


def is_folder(path: Path) -> bool:
    """Whether a folder stands there, as far as may be seen."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def require(path: Path, error: type[FeatvizError]) -> None:
    """Raise `error` unless there is something at `path`, with the names in its folder most like it."""
    try:
        if path.exists():
            return
        names = [entry.name for entry in path.parent.iterdir()]
    except FileNotFoundError:
        raise error(f"no file {path}: there is no folder {path.parent}") from None
    except (OSError, ValueError) as problem:  # ValueError: a NUL in the name
        raise error(f"{path}: {getattr(problem, 'strerror', None) or problem}") from problem
    raise error(f"no file {path}{nearest(path.name, names)}")
