"""The target grammar: what a user types to say what is to be seen.

    target := ['-'] term (('+' | '-') term)*
    term   := [number '*'] unit ['*' number]
    unit   := layer                      all of a layer, as DeepDream has it
            | layer ':' channel          the mean of one channel
            | layer ':' channel '@' row ',' col | layer ':' channel '@middle'     one neuron
            | layer ':' file.npy         a direction among the channels (.npy or .pt)
            | layer ':random' [number]   a random direction, the same for the same number
            | 'class:' (number | name | '"' name '"')

A layer is a dotted path, `path#call` or a stage alias; a name with spaces is quoted. A minus needs
a space before it, since class names hold hyphens.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from featviz import objectives
from featviz.errors import ChannelOutOfRange, InvalidValue, TargetSyntax
from featviz.layer_table import Layer, layer_table
from featviz.layers import find_layer
from featviz.models.labels import class_index
from featviz.types import OUTPUT, Draws, Model, Objective

BETWEEN_TARGETS = " | "
"""What stands between the targets of one recipe."""


@dataclass(frozen=True)
class Unit:
    """One term of a target: `weight` times a class, or a layer with what is asked of it."""

    weight: float = 1.0
    class_: str | None = None
    layer: str = ""
    channel: int | None = None
    position: tuple[int, int] | str | None = None
    direction: str | None = None


_NUMBER = re.compile(r"\d+(\.\d*)?([eE][+-]?\d+)?|\.\d+([eE][+-]?\d+)?")
_NAME = re.compile(r'"(?P<quoted>[^"]*)"|(?P<bare>[^\s+*:@",]+)')


class _Reader:
    """Reads a target from left to right; every refusal names its column."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def fail(self, problem: str) -> TargetSyntax:
        return TargetSyntax(self.text, self.at + 1, problem)

    def skip(self) -> None:
        while self.text[self.at : self.at + 1].isspace():
            self.at += 1

    def take(self, sign: str) -> bool:
        if self.text.startswith(sign, self.at):
            self.at += len(sign)
            return True
        return False

    def match(self, pattern: re.Pattern[str], wanted: str) -> re.Match[str]:
        found = pattern.match(self.text, self.at)
        if not found:
            what = f"found {self.text[self.at]!r}" if self.at < len(self.text) else "the target ends"
            raise self.fail(f"expected {wanted}, {what}")
        self.at = found.end()
        return found

    def name(self, wanted: str) -> str:
        found = self.match(_NAME, wanted)
        return found["bare"] if found["quoted"] is None else found["quoted"]

    def target(self) -> list[Unit]:
        self.skip()
        units = [self.term(-1.0 if self.take("-") else 1.0)]
        self.skip()
        while self.at < len(self.text):
            sign = self.match(re.compile("[+-]"), "+ or -")[0]
            units.append(self.term(-1.0 if sign == "-" else 1.0))
            self.skip()
        return units

    def term(self, weight: float) -> Unit:
        self.skip()
        found = re.compile(rf"({_NUMBER.pattern})\s*\*\s*").match(self.text, self.at)
        if found:
            weight *= float(found[1])
            self.at = found.end()
        unit = self.unit()
        before = self.at
        self.skip()
        if self.take("*"):
            self.skip()
            weight *= float(self.match(_NUMBER, "a number after *")[0])
        else:
            self.at = before
        return Unit(weight, *unit)

    def unit(self) -> tuple[str | None, str, int | None, tuple[int, int] | str | None, str | None]:
        layer = self.name("a layer or class:NAME")
        if not self.take(":"):
            return None, layer, None, None, None
        if layer == "class":
            return self.name("a class number or name"), "", None, None, None
        if re.match(r"\d+(?![^\s+*@])", self.text[self.at :]):
            channel = int(self.match(re.compile(r"\d+"), "a channel number")[0])
            return None, layer, channel, self.position() if self.take("@") else None, None
        drawn = re.compile(r"random\d*(?![^\s+*])").match(self.text, self.at)
        if drawn:
            self.at = drawn.end()
            return None, layer, None, None, drawn[0]
        start = self.at
        file = self.name("a channel number, or a direction's .npy or .pt file")
        if not file.endswith((".npy", ".pt")):
            self.at = start
            raise self.fail(f"expected a channel number or a .npy or .pt file, found {file!r}")
        return None, layer, None, None, file

    def position(self) -> tuple[int, int] | str:
        if self.take("middle"):
            return "middle"
        row = int(self.match(re.compile(r"\d+"), "a row number")[0])
        self.match(re.compile(r"\s*,\s*"), "',' between row and column")
        return row, int(self.match(re.compile(r"\d+"), "a column number")[0])


def parse_target(text: str) -> list[Unit]:
    """The terms of a target; raises `TargetSyntax` with the column."""
    return _Reader(text).target()


def objective_of(model: Model, target: str | Objective) -> Objective:
    """The objective that a target names on this model, or an objective with its layers' names resolved.

    Raises `TargetSyntax`, `LayerNotFound`, `ChannelOutOfRange`, `ClassNotFound`, `AmbiguousName`, or
    `InvalidValue` for a direction that does not fit.
    """
    if isinstance(target, Objective):
        return _addressed(model, target)
    parts = [_weighted(_objective(model, unit), unit.weight) for unit in parse_target(target)]
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def _addressed(model: Model, objective: Objective) -> Objective:
    """The same objective, reading its layers at their addresses where it names them by alias."""
    addresses = {name: name and find_layer(model, name).address for name in objective.layers}
    return replace(
        objective,
        layers=tuple(dict.fromkeys(addresses.values())),
        measure=lambda acts: objective.measure({name: acts[at] for name, at in addresses.items()}),
    )


def _weighted(objective: Objective, weight: float) -> Objective:
    return objective if weight == 1 else weight * objective


def _objective(model: Model, unit: Unit) -> Objective:
    if unit.class_ is not None:
        count = layer_table(model)[-1].channels
        index = class_index(model.labels, unit.class_, count)
        return objectives.class_(index, model.labels[index] if model.labels else "")
    found = find_layer(model, unit.layer)
    if unit.direction is not None:
        name = f"{found.address}:{unit.direction}"
        return replace(objectives.direction(found.address, _vector(unit.direction, found)), name=name)
    if unit.channel is None:
        return objectives.layer(found.address)
    if unit.channel >= found.channels:
        raise ChannelOutOfRange(found.address, unit.channel, found.channels)
    if unit.position is None:
        return objectives.channel(found.address, unit.channel)
    position = None if isinstance(unit.position, str) else unit.position
    return objectives.neuron(found.address, unit.channel, position)


def class_number(objective: Objective, classes: int) -> int | None:
    """The class whose output an objective is, of so many; None for any other objective."""
    if objective.layers != (OUTPUT,):
        return None
    # on one-hot outputs a class's objective is 1 at its own number and 0 elsewhere
    weights = objective.measure({OUTPUT: torch.eye(classes)}).double()
    one = bool(weights.max() == 1 and weights.abs().sum() == 1)
    return int(weights.argmax()) if one else None


def _vector(file: str, layer: Layer) -> Tensor:
    """A direction from a .npy or .pt file (never unpickles code), or a random one of length 1."""
    if file.startswith("random"):
        drawn = Draws([int(file[6:] or 0)], "direction").normal(layer.channels)[0]
        unit: Tensor = drawn / drawn.norm()
        return unit
    try:
        if file.endswith(".npy"):
            import numpy as np

            vector = torch.from_numpy(np.load(Path(file), allow_pickle=False)).float().squeeze()
        else:
            vector = torch.load(file, map_location="cpu", weights_only=True).float().squeeze()
    except Exception as error:
        raise InvalidValue(f"direction {file!r} cannot be read: {error}") from error
    if tuple(vector.shape) != (layer.channels,):
        shape = "x".join(map(str, vector.shape))
        raise InvalidValue(
            f"direction {file!r} has {shape} values, {layer.address} has {layer.channels} channels"
        )
    return vector
