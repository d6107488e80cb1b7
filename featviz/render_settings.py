"""The settings of visualizations, which start from noise or from a photo: plain data without torch."""

from __future__ import annotations

from dataclasses import dataclass

from featviz.errors import InvalidValue
from featviz.settings import EngineSettings, option


@dataclass(frozen=True)
class RenderSettings(EngineSettings):
    """A visualization from noise; what is left open is the preset's."""

    preset: str | None = option(None, "a named way of making it (featviz presets), or all", short="-p")
    size: int | None = option(
        None, "shorter side of the picture in pixels, by default the network's input", at_least=1
    )
    aspect: float | None = option(None, "width over height, by default the network's input's", above=0)
    steps: int | None = option(None, "gradient steps", at_least=1)
    diversity: int = option(1, "faces of each unit, made as unlike one another as they can be", at_least=1)
    face: int | None = option(None, "of the faces only this one, from 1", at_least=1)
    snapshots: int = option(0, "show so many states on the way beside each other", at_least=0)
    animate: bool = option(False, "a film of the ascent (.mp4 or .gif)")
    fps: int = option(25, "frames a second of a film", at_least=1)
    batch: str = option(
        "auto",
        "pictures made at once: a number, or auto, 1 on a CPU and what a GPU's memory holds; "
        "rounding depends on it",
        panel="Engine",
    )
    starts: int | None = option(
        None,
        "without a photo begin so often, from other noise, and go on with the surest",
        at_least=1,
        panel="Making",
    )
    same_start: bool = option(False, "start every picture from the same noise", panel="Making")
    diversity_weight: float = option(1.0, "how much unlikeness counts", at_least=0, panel="Making")
    rate: float | None = option(None, "learning rate", above=0, panel="Making")
    optimizer: str | None = option(
        None, "adam, nadam, gradient (its own size, on 0 to 255), normalised (to a mean of 1)", panel="Making"
    )
    param: str | None = option(None, "what is optimised: fourier, maco, cppn or pixels", panel="Making")
    start_noise: float | None = option(None, "deviation of the starting noise", at_least=0, panel="Making")
    spectrum_from: str | None = option(
        None,
        "folder or file of the spectrum that maco holds (featviz spectrum)",
        panel="Making",
    )
    decay: float | None = option(
        None, "power by which the spectrum falls with frequency", at_least=0, panel="Making"
    )
    cooling: float | None = option(
        None, "last share of the steps, over which the rate falls", at_least=0, at_most=1, panel="Making"
    )
    view_low: float | None = option(
        None, "least part of the picture's sides that a step sees", above=0, panel="Making"
    )
    view_high: float | None = option(None, "largest part of them", above=0, panel="Making")
    view_scale: float | None = option(
        None, "size at which the network sees a part, of the picture's", above=0, panel="Making"
    )
    view_from: float | None = option(
        None,
        "that size at the first step, growing over 60 % of them; 0 starts full",
        at_least=0,
        panel="Making",
    )
    views: int | None = option(None, "parts seen in one step", at_least=1, panel="Making")
    jitter: int | None = option(None, "random shift before each step, in pixels", at_least=0, panel="Making")
    rotate: float | None = option(None, "random turn, in degrees", at_least=0, panel="Making")
    scale: float | None = option(None, "random magnification, as a share", at_least=0, panel="Making")
    noise: float | None = option(None, "deviation of noise added to what is seen", at_least=0, panel="Making")
    statistics: float | None = option(
        None,
        "how much it counts that batch norms see the statistics that they remember",
        at_least=0,
        panel="Making",
    )
    slack: float | None = option(
        None,
        "how far channels may be from them for nothing; 1 is what single photos need",
        at_least=0,
        panel="Making",
    )
    blur: float | None = option(None, "gaussian blur of the image, in pixels", at_least=0, panel="Making")
    blur_every: int | None = option(None, "steps between two blurs", at_least=1, panel="Making")
    shrink: float | None = option(
        None, "share of the picture that fades at each step", at_least=0, at_most=1, panel="Making"
    )
    norm_percentile: float | None = option(
        None, "percent of the pixels, the weakest, cleared", at_least=0, at_most=100, panel="Making"
    )
    contribution_percentile: float | None = option(
        None, "percent of the pixels, the least telling, cleared", at_least=0, at_most=100, panel="Making"
    )
    stretch: bool | None = option(
        None, "show the picture with its deviations from grey stretched to the full range", panel="Making"
    )
    contrast: float | None = option(
        None,
        "largest deviation before the sigmoid; 1 is a photo's, 0 leaves it free",
        at_least=0,
        panel="Making",
    )

    def __post_init__(self) -> None:
        if self.batch in (None, "none") or isinstance(self.batch, int):  # as calls or older recipes have it
            object.__setattr__(self, "batch", "auto" if self.batch in (None, "none") else str(self.batch))
        super().__post_init__()
        if self.batch != "auto" and not (self.batch.isdecimal() and int(self.batch)):
            raise InvalidValue(f"batch {self.batch!r}: auto, or a number from 1")


@dataclass(frozen=True)
class CaricatureSettings(RenderSettings):
    """What a layer makes of a photo, exaggerated."""

    preset: str | None = option("whole", "a named way of making it, see featviz presets", short="-p")
    power: float = option(4.0, "how much the direction counts beside the length", at_least=0)


@dataclass(frozen=True)
class InversionSettings(RenderSettings):
    """What a layer keeps of a photo."""

    preset: str | None = option("whole", "a named way of making it, see featviz presets", short="-p")


@dataclass(frozen=True)
class AccentuationSettings(RenderSettings):
    """What would make a photo more of something."""

    preset: str | None = option("whole", "a named way of making it, see featviz presets", short="-p")
    likeness: float = option(100.0, "how much staying the photo counts", at_least=0)
    likeness_layer: str = option("layer2", "the layer at which it stays the photo")
