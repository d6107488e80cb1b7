"""Command-line options made from settings, so that names, defaults and help are written once."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import wraps
from typing import Any

import typer

from featviz.settings import Settings, option


@dataclass(frozen=True)
class ModelOptions(Settings):
    """Which network, and what replaces its own data."""

    model: str = option("efficientnet_lite0", "a model's name, or FILE.py:FACTORY (see featviz models)")
    weights: str | None = option(None, "weights file, .safetensors or .pth", panel="Model")
    untrained: bool = option(False, "random weights, asked for openly", panel="Model")
    mean: str | None = option(None, "the network's input mean: .5 or .485,.456,.406", panel="Model")
    std: str | None = option(None, "the network's input deviation, as --mean", panel="Model")
    input_size: str | None = option(None, "the network's input size: PIXELS or ROWSxCOLUMNS", panel="Model")
    labels: str | None = option(None, "file of class names, or the word imagenet", panel="Model")
    device: str = option("auto", "auto, cpu, cuda, cuda:1, mps", panel="Model")


@dataclass(frozen=True)
class OutputOptions(Settings):
    """Where a result goes, and how much is told."""

    out: str | None = option(None, "file, or folder for several; its suffix sets the format", short="-o")
    overwrite: bool = option(False, "replace what stands there")
    quiet: bool = option(False, "print nothing but errors", short="-q")


def with_options(**groups: type[Settings]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a command every field of each settings class as an option; it receives the settings made.

    `@with_options(settings=DreamSettings)` calls the command with `settings=DreamSettings(...)`.
    """

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        many = {
            setting.name
            for group in groups.values()
            for setting in fields(group)  # type: ignore[arg-type]
            if setting.metadata.get("many")
        }
        owner = {name: key for key, group in groups.items() for name in _types(group)}

        @wraps(command)
        def called(*args: Any, **values: Any) -> Any:
            made: dict[str, dict[str, Any]] = {key: {} for key in groups}
            for name in [name for name in values if name in owner]:
                value = values.pop(name)
                if isinstance(value, list):  # an option that may repeat is one setting, with commas
                    value = ",".join(value)
                if value is not None or name not in many:
                    made[owner[name]][name] = value
            return command(*args, **values, **{key: groups[key](**made[key]) for key in groups})

        own = inspect.signature(command, eval_str=True).parameters.values()
        parameters = [p for p in own if p.name not in groups]
        parameters += [p for group in groups.values() for p in _parameters(group)]
        called.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        called.__annotations__ = {p.name: p.annotation for p in parameters}
        return called

    return decorate


def _types(group: type[Settings]) -> dict[str, Any]:
    hints = typing.get_type_hints(group)
    return {setting.name: hints[setting.name] for setting in fields(group)}  # type: ignore[arg-type]


def _parameters(group: type[Settings]) -> list[inspect.Parameter]:
    types = _types(group)
    made = []
    for setting in fields(group):  # type: ignore[arg-type]
        name = setting.name.replace("_", "-")
        either = setting.default is True or types[setting.name] == bool | None
        names = [f"--{name}/--no-{name}" if either else f"--{name}"]
        names += [setting.metadata["short"]] if "short" in setting.metadata else []
        shown = typer.Option(
            *names, help=setting.metadata["about"], rich_help_panel=setting.metadata.get("panel")
        )
        many = setting.metadata.get("many", False)
        made.append(
            inspect.Parameter(
                setting.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=None if many else setting.default,
                annotation=typing.Annotated[list[str] | None if many else types[setting.name], shown],
            )
        )
    return made
