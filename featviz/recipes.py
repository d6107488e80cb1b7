"""The record of a run: everything that its output depends on, as plain data."""

from __future__ import annotations

import inspect
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from featviz.errors import ModelError, RecipeError
from featviz.explain_settings import EXPLAIN_SETTINGS, ActivationSettings, KernelSettings
from featviz.output.photos import Photo
from featviz.render_settings import (
    AccentuationSettings,
    CaricatureSettings,
    InversionSettings,
    RenderSettings,
)
from featviz.settings import DreamSettings, Settings
from featviz.types import Model

SETTINGS: dict[str, type[Settings]] = {
    "dream": DreamSettings,
    "render": RenderSettings,
    "caricature": CaricatureSettings,
    "inversion": InversionSettings,
    "accentuation": AccentuationSettings,
    "activations": ActivationSettings,
    "kernels": KernelSettings,
    **{f"explain {method}": settings for method, settings in EXPLAIN_SETTINGS.items()},
}
"""Command -> its settings."""


BEFORE: Mapping[str, Any] = {
    "statistics": 0.0,
    "slack": 0.0,
    "view_from": 0.0,
    "starts": 1,
    "fold": False,
    "channels_last": False,
}
"""Settings that recipes did not have at first, and what was done then."""

PACKAGES = ("featviz", "torch", "torchvision", "timm", "kornia", "numpy", "pillow")
"""What a result's bytes may depend on."""


@dataclass(frozen=True)
class Recipe:
    """Every input of one output, as plain data.

    `model` is {"source": what `load` was asked for, "digest": of its weights}; `inputs` maps photo,
    guide and mask to {"path", "digest"}; `status` is complete, interrupted or failed. `cards` tells what each
    unit of a visualization reached: the one part that is no input.
    """

    command: str
    model: Mapping[str, Any]
    target: str
    settings: Mapping[str, Any]
    inputs: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    device: str = "cpu"
    versions: Mapping[str, str] = field(default_factory=dict)
    status: str = "complete"
    cards: Sequence[Mapping[str, Any]] = field(default_factory=list)

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Recipe:
        """The recipe that a picture carries; raises `RecipeError` where it is not one."""
        known = {f.name for f in fields(cls)}
        missing = {"command", "model", "target", "settings"} - set(data)
        if missing or set(data) - known or not _is_whole(data):
            raise RecipeError(
                f"not a recipe of featviz {version('featviz')}: {', '.join(sorted(data))[:120]}"
            )
        known = {f.name for f in fields(SETTINGS[data["command"]])}  # type: ignore[arg-type]
        before = {name: value for name, value in BEFORE.items() if name in known}
        return cls(**{**data, "settings": {**before, **data["settings"]}})

    def plain(self) -> dict[str, Any]:
        """The recipe as plain data; cards only where there are some."""
        return {name: value for name, value in asdict(self).items() if name != "cards" or value}


def _is_whole(data: Mapping[str, Any]) -> bool:
    """Whether every part of a recipe's data has its form; what stands in it is checked where it is used."""
    model, inputs = data["model"], data.get("inputs", {})
    parts = [model, data["settings"], inputs, data.get("versions", {})]
    if not all(isinstance(part, Mapping) for part in parts) or not isinstance(data["target"], str):
        return False
    texts = [data["command"], data.get("device", ""), model.get("name"), model.get("digest")]
    for one in inputs.values():
        texts += [one.get("path"), one.get("digest")] if isinstance(one, Mapping) else [None]
    needs_photo = data["command"] not in ("render", "kernels")
    return (
        all(isinstance(text, str) for text in texts)
        and data["command"] in SETTINGS
        and isinstance(model.get("source"), Mapping)
        and ("photo" in inputs or not needs_photo)
    )


def recipe_for(
    command: str, model: Model, target: str, settings: Settings, inputs: Mapping[str, Photo] | None = None
) -> Recipe:
    """The recipe of a run on this machine, with this model and these photos."""
    found = {name: {"path": photo.path, "digest": photo.digest} for name, photo in (inputs or {}).items()}
    source = {"source": dict(model.source), "name": model.name, "digest": model.digest}
    return Recipe(command, source, target, settings.plain(), found, model.device.type, versions())


def versions() -> dict[str, str]:
    """What a result depends on besides its recipe."""
    # the number of threads decides in which order sums are taken, and so the last bit of a result
    found = {"python": platform.python_version(), "threads": str(torch.get_num_threads())}
    return found | {name: _version(name) for name in PACKAGES}


@cache
def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def load_model(recipe: Recipe, device: str = "auto") -> Model:
    """The model of a recipe; raises `ModelError` for one that only ever lived in memory."""
    from featviz.models import load

    source = recipe.model["source"]
    if not source:
        raise ModelError(
            f"this recipe's model {recipe.model['name']!r} was built in memory: hand it to run(model=…)"
        )
    unknown = set(source) - set(inspect.signature(load).parameters)
    if unknown or "name" not in source:
        raise RecipeError(f"this recipe's model cannot be loaded: {dict(source)}")
    return load(**source, device=device)
