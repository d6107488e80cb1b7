"""A user's own network: `package.module:factory` or `path/to/file.py:factory`."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from featviz.errors import FeatvizError, InvalidValue, ModelError, ModelNotFound
from featviz.models.quiet import one_line
from featviz.models.weights import fit, match_names, read_weights
from featviz.types import Model


def own_model(name: str, weights: str | None, untrained: bool, input_size: tuple[int, int] | None) -> Model:
    """What the factory returns when called without arguments: a torch module, or a featviz `Model`.

    Raises `ModelNotFound` for a file, module or attribute that is not there, and `ModelError`
    where its code raises or gives something else.
    """
    if untrained:
        raise InvalidValue(f"--untrained with {name}: the factory decides its own weights")
    place, _, attribute = name.rpartition(":")
    if not place or not attribute:
        raise InvalidValue(f"model {name!r}: say package.module:factory or path/to/file.py:factory")
    is_file = place.endswith(".py") or "/" in place or "\\" in place
    folder = Path(place).resolve().parent if is_file else Path.cwd()
    with _importable(folder, is_file), _explained(name):
        module = _run_file(place) if is_file else _import(place)
        made = _make(module, attribute, place)
    if not isinstance(made, (nn.Module, Model)):
        raise ModelError(f"{name} gave a {type(made).__name__}, not a torch.nn.Module")
    model = dataclasses.replace(made, name=name) if isinstance(made, Model) else Model(made, name)
    if weights is not None:
        fit(model.net, match_names(read_weights(weights), model.net.state_dict()), weights, name)
    return model


def _make(module: ModuleType, attribute: str, place: str) -> Any:
    if not hasattr(module, attribute):
        public = [name for name, value in vars(module).items() if callable(value) and name[0] != "_"]
        raise ModelNotFound(attribute, public, hint=f"looked in {place}")
    factory = getattr(module, attribute)
    if isinstance(factory, (nn.Module, Model)):
        return factory
    if not callable(factory):
        raise ModelError(f"{attribute} in {place} is a {type(factory).__name__}, not a factory")
    return factory()


def _import(place: str) -> ModuleType:
    try:
        return importlib.import_module(place)
    except ModuleNotFoundError as error:
        if error.name and (place == error.name or place.startswith(error.name + ".")):
            raise ModelNotFound(place, hint=f"no module {error.name!r} here or installed") from error
        raise


def _run_file(place: str) -> ModuleType:
    path = Path(place)
    if not path.is_file():
        beside = [str(path.parent / entry.name) for entry in path.parent.glob("*.py")]
        raise ModelNotFound(place, beside, hint="there is no such file")
    # a name of its own, so that two files called model.py do not take each other's place
    unique = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]
    spec = importlib.util.spec_from_file_location(f"featviz_own_{unique}_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ModelNotFound(place, hint="it is no Python file (.py)")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[spec.name]
        raise
    return module


_siblings: dict[str, Path] = {}  # modules that own files imported from beside them, and their folders


def _forget_siblings(folder: Path) -> None:
    """Drop modules that came from another own file's folder, lest its `blocks.py` serve this one."""
    for name, origin in list(_siblings.items()):
        if origin != folder:
            sys.modules.pop(name, None)
            del _siblings[name]


@contextlib.contextmanager
def _importable(folder: Path, of_a_file: bool) -> Iterator[None]:
    if of_a_file:
        _forget_siblings(folder)
    before = set(sys.modules)
    importlib.invalidate_caches()
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(str(folder))
        for name in set(sys.modules) - before if of_a_file else ():
            if _stands_in(folder, name):
                _siblings[name] = folder


def _stands_in(folder: Path, name: str) -> bool:
    top = folder / name.partition(".")[0]
    file = getattr(sys.modules[name], "__file__", None)
    beside = top.is_dir() or top.with_suffix(".py").is_file()
    return bool(file) and beside and folder in Path(str(file)).parents


@contextlib.contextmanager
def _explained(name: str) -> Iterator[None]:
    """What the user's code raises becomes one line that names the place."""
    try:
        yield
    except FeatvizError:
        raise
    except (Exception, SystemExit) as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        raise ModelError(
            f"{name} raised {type(error).__name__}: {one_line(error)} "
            f"({Path(frame.filename).name}, line {frame.lineno})"
        ) from error
