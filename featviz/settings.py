"""The settings of every kind of run, with their defaults, ranges and one-line explanations.

Plain data without torch: the library takes them as keywords, the command line makes its options
of them, recipes keep them. Each is written once, here.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from featviz.errors import InvalidValue, UnknownName


class SettingNotFound(UnknownName):
    """No setting of that name."""

    kind = "setting"


def option(
    default: Any,
    about: str,
    *,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    **more: Any,
) -> Any:
    """A setting with its explanation and its range; `more` goes to the command line."""
    limits = {"at_least": at_least, "above": above, "at_most": at_most}
    return field(default=default, metadata={"about": about, **limits, **more})


_KINDS: dict[str, tuple[str, tuple[type, ...]]] = {
    "int": ("a whole number", (int,)),
    "float": ("a number", (int, float)),
    "str": ("a text", (str,)),
    "bool": ("true or false", (bool,)),
}


def _check_kind(name: str, value: Any, declared: str) -> None:
    """Refuse what is not of the declared type, such as `int | None`, and what is not finite."""
    told, kinds = _KINDS[declared.split(" ")[0]]
    if value is None and "None" in declared:
        return
    fits = isinstance(value, kinds) and (isinstance(value, bool) == (bool in kinds))
    if not fits or (isinstance(value, float) and not math.isfinite(value)):
        raise InvalidValue(f"{name} {value}: {told}")


class Settings:
    """What all settings share: made by name, checked on entry, turned into plain data."""

    @classmethod
    def make(cls, **values: Any) -> Any:
        """The settings with these values; an unknown name raises `SettingNotFound`."""
        known = [setting.name for setting in fields(cls)]  # type: ignore[arg-type]
        for name in values:
            if name not in known:
                raise SettingNotFound(name, known)
        return cls(**values)

    @classmethod
    def read(cls, name: str, text: str) -> Any:
        """The value of one setting from text: `40`, `0.5`, `true`, `none`."""
        kind = str(next(f.type for f in fields(cls) if f.name == name))  # type: ignore[arg-type]
        if text.lower() == "none" and "None" in kind:
            return None
        if kind == "bool":
            if text.lower() not in ("true", "false", "yes", "no", "1", "0"):
                raise InvalidValue(f"{name} {text!r}: true or false")
            return text.lower() in ("true", "yes", "1")
        try:
            return {"int": int, "float": float, "str": str}[kind.split(" ")[0]](text)
        except ValueError:
            raise InvalidValue(f"{name} {text!r}: a {'whole ' * kind.startswith('int')}number") from None

    def __post_init__(self) -> None:
        for setting in fields(self):  # type: ignore[arg-type]
            value, limits = getattr(self, setting.name), setting.metadata
            _check_kind(setting.name, value, str(setting.type))
            if value is None or isinstance(value, (str, bool)):
                continue
            if limits["at_least"] is not None and value < limits["at_least"]:
                raise InvalidValue(f"{setting.name} {value}: at least {limits['at_least']}")
            if limits["above"] is not None and value <= limits["above"]:
                raise InvalidValue(f"{setting.name} {value}: more than {limits['above']}")
            if limits["at_most"] is not None and value > limits["at_most"]:
                raise InvalidValue(f"{setting.name} {value}: at most {limits['at_most']}")

    def changed(self) -> dict[str, Any]:
        """The values that differ from their defaults."""
        values = asdict(self)  # type: ignore[call-overload]
        return {s.name: values[s.name] for s in fields(self) if values[s.name] != s.default}  # type: ignore[arg-type]

    def plain(self) -> dict[str, Any]:
        """Every value by name."""
        return asdict(self)  # type: ignore[call-overload, no-any-return]


@dataclass(frozen=True)
class EngineSettings(Settings):
    """How gradients are computed."""

    seed: int = option(0, "the same seed gives the same picture", at_least=0)
    precision: str = option("float32", "float32, or bfloat16 or float16 by autocast", panel="Engine")
    lean: bool = option(True, "keep only what the image's gradient needs, to save memory", panel="Engine")
    fold: bool | None = option(
        None,
        "run batch norms within their convolutions, by default where a short trial finds it faster",
        panel="Engine",
    )
    channels_last: bool | None = option(
        None,
        "lay the channels last in memory, by default where a short trial finds it faster",
        panel="Engine",
    )
    compile: bool = option(False, "compile the network first: slow to start, faster steps", panel="Engine")
    tile: str = option("auto", "side of the tiles for large pictures: auto, none, or pixels", panel="Engine")


DECIDED = ("fold", "channels_last")
"""What a run decides where it is left open; its recipe then tells."""


def decided(settings: EngineSettings) -> dict[str, Any]:
    """By name what was decided."""
    return {name: getattr(settings, name) for name in DECIDED}


@dataclass(frozen=True)
class DreamSettings(EngineSettings):
    """A DeepDream."""

    strength: float = option(1.0, "how far to go: 0.5 a hint, 2 a fever", above=0)
    size: int | None = option(
        None, "longest side of the result in pixels, instead of the photo's", at_least=1
    )
    steps: int = option(12, "gradient steps in each octave", at_least=1)
    octaves: int | None = option(
        None, "scales to dream at, by default 4, and more for large photos", at_least=1
    )
    octave_scale: float = option(1.4, "ratio between one octave and the next", above=1)
    step_size: float = option(0.007, "mean change of a pixel in one step, of a range of 1", above=0)
    jitter: int = option(24, "random shift before each step, in pixels", at_least=0)
    blur: float | None = option(
        None,
        "gaussian smoothing of the gradient in pixels, by default 1/16 of the layer's stride",
        at_least=0,
    )
    colour: float = option(0.5, "how much of the gradient's colour is kept", at_least=0)
    even: float = option(0.8, "how far the dream is spread over the picture, 0 to 1", at_least=0, at_most=1)
    decay: float = option(0.0, "share of the dream that fades at each step", at_least=0, at_most=1)
    tv: float = option(0.0, "total-variation penalty, against noise", at_least=0)
    keep_color: bool = option(False, "keep the photo's colours, dream in its light and dark only")
    zoom: int = option(0, "make a film of so many frames, zooming into the dream", at_least=0, panel="Film")
    zoom_rate: float = option(0.04, "how much each frame zooms in", at_least=0, panel="Film")
    animate: bool = option(False, "make a film of the dream coming about", panel="Film")
    fps: int = option(24, "frames a second of a film", at_least=1, panel="Film")
