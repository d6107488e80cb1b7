"""Layer addresses, and the capture of what layers put out, stopping at the last one needed."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor, nn

from featviz.errors import AmbiguousName, ImageMisfit, ImageTooSmall, LayerNotFound, ModelError
from featviz.frozen import frozen as frozen
from featviz.layer_table import ALIASES, Layer, layer_table, run_on_meta
from featviz.receptive_field import first_tensor
from featviz.types import OUTPUT, Model, Objective, Score


class _Reached(BaseException):
    """Ends a forward at its last needed layer; no network's `except Exception` swallows it."""


def find_layer(model: Model, name: str) -> Layer:
    """The layer at an address: a dotted path, `path#call` where it runs more than once, or a stage alias.

    Raises `LayerNotFound` with the nearest addresses, `AmbiguousName` for a module that runs
    more than once and whose call was not named.
    """
    table = layer_table(model)
    named = {row.address: row for row in table if row.address}
    named |= {row.alias: row for row in table if row.alias}
    if name in named:
        return named[name]
    calls = [row.address for row in table if re.fullmatch(re.escape(name) + r"#\d+", row.address)]
    if calls:
        raise AmbiguousName("layer", name, calls)
    if name in ALIASES:
        raise LayerNotFound(name, hint=f"{model.name} has no stage of that depth (see featviz layers)")
    if name in dict(model.net.named_modules()):
        raise LayerNotFound(name, named, hint="it is a module of the network, but one that puts out no map")
    raise LayerNotFound(name, named)


def activations(model: Model, image: Tensor, addresses: Sequence[str]) -> dict[str, Tensor]:
    """What the layers at `addresses` put out for an image `(b, 3, h, w)`.

    The forward ends after the last of them. What is captured stays as the layer left it, also
    where a later layer works in place.
    """
    captured: dict[str, Tensor] = {}
    channels_last = {row.address for row in layer_table(model) if row.channels_last}
    handles = [
        _hook(model.net, address, captured, address in channels_last, len(set(addresses)))
        for address in set(addresses)
    ]
    try:
        model(image)
    except _Reached:
        pass
    finally:
        for handle in handles:
            handle.remove()
    missing = [address for address in addresses if address not in captured]
    if missing:
        raise ModelError(f"{model.name} did not reach {', '.join(missing)} in this forward")
    return captured


def _hook(
    net: nn.Module, address: str, captured: dict[str, Tensor], channels_last: bool, stop_at: int
) -> Any:
    """Capture one address; the forward ends when `stop_at` addresses are captured."""
    path, _, call = address.partition("#")
    calls = itertools.count()

    def keep(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        if next(calls) != int(call or 0):
            return None
        tensor = first_tensor(output)
        if tensor is None:
            raise ModelError(f"{address or 'the network'} puts out no tensor")
        captured[address] = tensor.permute(0, 3, 1, 2) if channels_last else tensor
        if len(captured) == stop_at and address != OUTPUT:
            raise _Reached
        if address == OUTPUT:
            return None
        # a copy goes on, so that an in-place ReLU next door cannot overwrite what was captured; it is
        # made of what was captured, so that a later score has its gradient there
        onward = captured[address].clone()
        return _with_copy(output, tensor, onward.permute(0, 2, 3, 1) if channels_last else onward)

    return net.get_submodule(path).register_forward_hook(keep)


def _with_copy(output: Any, tensor: Tensor, copy: Tensor) -> Any:
    """A module's output with a copy in the place of one tensor."""
    if output is tensor:
        return copy
    if isinstance(output, dict):
        return type(output)({key: _with_copy(value, tensor, copy) for key, value in output.items()})
    if isinstance(output, (list, tuple)):
        items = [_with_copy(item, tensor, copy) for item in output]
        return type(output)(*items) if hasattr(output, "_fields") else type(output)(items)
    return output


def score(model: Model, objective: Objective) -> Score:
    """Image `(b, 3, h, w)` -> the objective's `(b,)` scores on this model."""

    def measured(image: Tensor) -> Tensor:
        return objective.measure(activations(model, image, objective.layers))

    return measured


def check_size(model: Model, layers: Sequence[str], size: tuple[int, int]) -> None:
    """Raise `ImageTooSmall` where an image of `size` (rows, columns) does not reach the layers.

    Raises `ImageMisfit` where they are reached by images of the network's input size alone.
    """
    if size != model.input_size and _takes_one_size(model, layers):
        raise ImageMisfit(size, _named(layers), model.input_size)
    if min(size) >= min(model.input_size) or fits(model, layers, size):
        return
    sides = range(1, min(model.input_size) + 1)
    smallest = _first(lambda side: fits(model, layers, (side, side)), sides)
    if smallest is not None:  # otherwise the network cannot be tried without data, and the run will tell
        raise ImageTooSmall(size, _named(layers), smallest)


def _named(layers: Sequence[str]) -> str:
    return " and ".join(layer or "the output" for layer in layers)


def _takes_one_size(model: Model, layers: Sequence[str]) -> bool:
    """Whether the layers are reached at the input size but not at twice it."""
    rows, columns = model.input_size
    return fits(model, layers, (rows, columns)) and not fits(model, layers, (2 * rows, 2 * columns))


def _first(holds: Callable[[int], bool], numbers: range) -> int | None:
    """The least number that holds, by bisection; None where the last does not."""
    low, high = 0, len(numbers) - 1
    if not holds(numbers[high]):
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(numbers[middle]) else (middle + 1, high)
    return numbers[low]


def fits(model: Model, layers: Sequence[str], size: tuple[int, int]) -> bool:
    """Whether an image of `size` (rows, columns) reaches the layers, tried without data, once."""
    known, key = _fitting.setdefault(model.net, {}), (tuple(layers), size)
    if key not in known:
        known[key] = _reaches(model, layers, size)
    return known[key]


_fitting: WeakKeyDictionary[nn.Module, dict[tuple[tuple[str, ...], tuple[int, int]], bool]] = (
    WeakKeyDictionary()
)


def _reaches(model: Model, layers: Sequence[str], size: tuple[int, int]) -> bool:
    paths = {name: name.partition("#") for name in layers}
    calls = {path: 0 for path, _, _ in paths.values()}

    def count(path: str) -> None:
        calls[path] += 1

    handles = [
        model.net.get_submodule(path).register_forward_hook(lambda *_, path=path: count(path))
        for path in calls
    ]
    try:
        run_on_meta(model, size)
    except Exception:  # how far it came is the answer
        pass
    finally:
        for handle in handles:
            handle.remove()
    return all(calls[path] > int(call or 0) for path, _, call in paths.values())
