"""From model options to a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from featviz.cli.options import ModelOptions
from featviz.errors import InvalidValue

if TYPE_CHECKING:
    from featviz.types import Model


def load_from(options: ModelOptions) -> Model:
    """The model that the options name."""
    from featviz.models import load

    return load(
        options.model,
        weights=options.weights,
        untrained=options.untrained,
        mean=_numbers("--mean", options.mean),
        std=_numbers("--std", options.std),
        input_size=_size(options.input_size),
        labels=options.labels,
        device=options.device,
    )


def _numbers(name: str, text: str | None) -> list[float] | float | None:
    """One number for each channel, or one for all of them."""
    if text is None:
        return None
    try:
        numbers = [float(part) for part in text.replace(",", " ").split()]
        return numbers[0] if len(numbers) == 1 else numbers
    except ValueError:
        raise InvalidValue(f"{name} {text!r}: numbers with commas between, one a channel") from None


def _size(text: str | None) -> list[int] | None:
    if text is None:
        return None
    parts = text.lower().split("x")
    if not all(part.isdigit() for part in parts) or len(parts) > 2:
        raise InvalidValue(f"--input-size {text!r}: PIXELS or ROWSxCOLUMNS")
    return [int(part) for part in parts] * (3 - len(parts))
