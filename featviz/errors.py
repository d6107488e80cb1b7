"""Every error that featviz raises on purpose.

FeatvizError                 caught once, by the command line, and shown as one line
├── InvalidValue             a setting outside its range                       exit 2
│   ├── TargetSyntax         a target that does not parse, with its column
│   ├── UnknownName          a name nobody has, with the nearest that exist
│   │   ├── ModelNotFound
│   │   ├── LayerNotFound
│   │   ├── ClassNotFound
│   │   └── MethodNotFound
│   ├── AmbiguousName        a name that several things answer to
│   ├── ChannelOutOfRange
│   ├── PositionOutOfRange
│   ├── ImageTooSmall
│   └── ImageMisfit          an image of another size than a network's only one
├── PhotoError               a photo that cannot be read                       exit 1
├── OutputError              a file that cannot be written                     exit 1
│   └── OutputExists
├── ModelError               a model that cannot be built or run               exit 1
│   ├── WeightsUnavailable
│   ├── WeightsMismatch
│   ├── NoActivations        a backward rule that found nothing to rewrite
│   └── NotApplicable        an explanation that has no meaning on this model
├── NonFiniteScore           the ascent met NaN or infinity                    exit 1
└── RecipeError              a picture without a readable recipe               exit 1
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Any


class FeatvizError(Exception):
    """The root of the tree; the message is one line that names the bad value."""

    exit_code = 1


class InvalidValue(FeatvizError):
    """A setting outside its range."""

    exit_code = 2


class TargetSyntax(InvalidValue):
    """A target that does not parse; `column` counts from 1."""

    def __init__(self, text: str, column: int, problem: str) -> None:
        marked = f"{text[: column - 1]}⟨here⟩{text[column - 1 :]}"
        super().__init__(f"target {text!r}, column {column}: {problem} — {marked}")
        self.column = column


class UnknownName(InvalidValue):
    """A name nobody has."""

    kind = "name"

    def __init__(self, name: str, choices: Iterable[str] = (), hint: str = "") -> None:
        super().__init__(f"no {self.kind} {name!r}{nearest(name, choices)}{hint and '; ' + hint}")


class ModelNotFound(UnknownName):
    """No model of that name."""

    kind = "model"


class LayerNotFound(UnknownName):
    """No layer at that address."""

    kind = "layer"


class ClassNotFound(UnknownName):
    """No class of that name or number."""

    kind = "class"


class MethodNotFound(UnknownName):
    """No explanation method of that name."""

    kind = "method"


class AmbiguousName(InvalidValue):
    """A name that several things answer to."""

    def __init__(self, kind: str, name: str, candidates: Sequence[str]) -> None:
        shown = ", ".join(candidates[:6]) + (", …" if len(candidates) > 6 else "")
        super().__init__(f"{kind} {name!r} names {len(candidates)}: {shown}")


class ChannelOutOfRange(InvalidValue):
    """A channel number that the layer does not have."""

    def __init__(self, layer: str, channel: int, count: int) -> None:
        super().__init__(f"channel {channel} of {layer}: it has {count}, so 0 to {count - 1}")


class PositionOutOfRange(InvalidValue):
    """A (row, col) outside the layer's map."""

    def __init__(self, layer: str, position: tuple[int, int], size: tuple[int, int]) -> None:
        row, col = position
        super().__init__(
            f"neuron @{row},{col} of {layer}: its map is {size[0]} rows by {size[1]} columns, "
            f"so @0,0 to @{size[0] - 1},{size[1] - 1}"
        )


class ImageTooSmall(InvalidValue):
    """An image smaller than the layer can take."""

    def __init__(self, size: tuple[int, int], layer: str, smallest: int | None) -> None:
        need = f"; it needs at least {smallest} on the shorter side" if smallest else ""
        super().__init__(f"an image of {size[0]}x{size[1]} is too small for {layer}{need}")


class ImageMisfit(InvalidValue):
    """An image of another size than the only one that the network takes."""

    def __init__(self, size: tuple[int, int], layer: str, only: tuple[int, int]) -> None:
        super().__init__(
            f"an image of {size[0]}x{size[1]} does not suit {layer}: "
            f"this network takes {only[0]}x{only[1]} and no other size"
        )


class PhotoError(FeatvizError):
    """A photo that cannot be read."""


class OutputError(FeatvizError):
    """A file that cannot be written."""


class OutputExists(OutputError):
    """The output stands already, and nobody asked to replace it."""

    def __init__(self, path: object) -> None:
        super().__init__(f"{path} exists; --overwrite replaces it, --out names another")


class ModelError(FeatvizError):
    """A model that cannot be built or run."""


class WeightsUnavailable(ModelError):
    """Pretrained weights that could not be had."""


class WeightsMismatch(ModelError):
    """A weights file that does not fit its network."""


class NoActivations(ModelError):
    """A backward rule that found nothing to rewrite: its result would be the plain gradient."""

    def __init__(self, rule: str) -> None:
        super().__init__(
            f"the {rule} rule rewrote no activation call: none that it knows ran with a gradient "
            "(a compiled or scripted network hides its own)"
        )


class NotApplicable(ModelError):
    """An explanation that has no meaning on this model."""


class NonFiniteScore(FeatvizError):
    """The ascent met NaN or infinity; `image` is the last good picture."""

    def __init__(self, step: int, image: Any = None) -> None:
        super().__init__(f"the score became NaN or infinite at step {step}; kept the picture before it")
        self.step = step
        self.image = image


class RecipeError(FeatvizError):
    """A picture without a readable recipe."""


def nearest(name: str, choices: Iterable[str], count: int = 3) -> str:
    """'; nearest: a, b' for the choices most like `name`, or nothing."""
    known = {choice.lower(): choice for choice in choices}
    found = difflib.get_close_matches(name.lower(), known, n=count, cutoff=0.5)
    return f"; nearest: {', '.join(known[match] for match in found)}" if found else ""
