"""Which device a model runs on."""

from __future__ import annotations

import warnings

import torch

from featviz.errors import InvalidValue


def resolve_device(text: str = "auto") -> torch.device:
    """The device of that name: `auto`, `cpu`, `cuda`, `cuda:1` or `mps`.

    `auto` is the first GPU there is, else the CPU. Raises `InvalidValue` for a device that is
    unknown or not on this machine, naming those that are.
    """
    present = devices()
    if text == "auto":
        return torch.device(present[1] if len(present) > 1 else "cpu")
    if text in present:
        return torch.device(text)
    if text == "cuda" and "cuda:0" in present:
        return torch.device("cuda", 0)
    raise InvalidValue(f"no device {text!r} on this machine; there is: auto, {', '.join(present)}")


def devices() -> list[str]:
    """The devices of this machine, the CPU first: `["cpu", "cuda:0", "cuda:1"]`."""
    with warnings.catch_warnings():  # an old or absent driver is told as a warning
        warnings.simplefilter("ignore")
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        mps = torch.backends.mps.is_available()
    return ["cpu", *(f"cuda:{index}" for index in range(count)), *(["mps"] if mps else [])]
