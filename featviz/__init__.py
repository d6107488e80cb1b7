"""featviz shows what a vision network has learned and why it decided as it did.

Importing it loads nothing; each name below comes with what it needs at its first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from featviz.api import accentuate, caricature, dream, explain, invert, render
    from featviz.backward import relu_rule
    from featviz.layer_table import Layer
    from featviz.models import load
    from featviz.objectives import channel, class_, direction, layer, neuron
    from featviz.output.results import Film, Picture
    from featviz.params import fourier, pixels
    from featviz.recipes import Recipe
    from featviz.render_settings import RenderSettings
    from featviz.runs import run
    from featviz.settings import DreamSettings
    from featviz.targets import objective_of
    from featviz.types import Model, Objective

_HOMES = {
    "featviz.api": ("accentuate", "caricature", "dream", "explain", "invert", "render"),
    "featviz.backward": ("relu_rule",),
    "featviz.layer_table": ("Layer",),
    "featviz.models": ("load",),
    "featviz.objectives": ("channel", "class_", "direction", "layer", "neuron"),
    "featviz.output.results": ("Film", "Picture"),
    "featviz.params": ("fourier", "pixels"),
    "featviz.recipes": ("Recipe",),
    "featviz.runs": ("run",),
    "featviz.render_settings": ("RenderSettings",),
    "featviz.settings": ("DreamSettings",),
    "featviz.targets": ("objective_of",),
    "featviz.types": ("Model", "Objective"),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}
__all__ = [  # noqa: RUF022 — in the order of the table above
    "accentuate", "caricature", "dream", "explain", "invert", "render",
    "relu_rule", "Layer", "load", "channel", "class_", "direction", "layer", "neuron",
    "Film", "Picture", "fourier", "pixels", "Recipe", "run",
    "DreamSettings", "RenderSettings", "objective_of", "Model", "Objective",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'featviz' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
