"""Colour maps: from numbers in [0, 1] to RGB."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from featviz.errors import InvalidValue, nearest

COLOURMAPS: Mapping[str, tuple[str, ...]] = {
    # nine even steps each; viridis and inferno by van der Walt and Smith (CC0), blue-red from ColorBrewer
    "viridis": ("440154", "472d7b", "3b528b", "2c728e", "21918c", "28ae80", "5ec962", "addc30", "fde725"),
    "inferno": ("000004", "210c4a", "57106e", "8a226a", "bc3754", "e45a31", "f98e09", "f9cb35", "fcffa4"),
    "blue-red": ("2166ac", "4393c3", "92c5de", "d1e5f0", "f7f7f7", "fddbc7", "f4a582", "d6604d", "b2182b"),
    "grey": ("000000", "202020", "404040", "606060", "808080", "a0a0a0", "c0c0c0", "e0e0e0", "ffffff"),
}
"""Name -> hexadecimal colours from 0 to 1. blue-red is for signed maps, white in the middle."""


def colourise(values: Tensor, name: str) -> Tensor:
    """Values `(h, w)` in [0, 1] -> RGB `(1, 3, h, w)`, linear between the map's colours."""
    if name not in COLOURMAPS:
        raise InvalidValue(f"cmap {name!r}{nearest(name, COLOURMAPS)}; one of {', '.join(COLOURMAPS)}")
    table = torch.tensor([list(bytes.fromhex(code)) for code in COLOURMAPS[name]]) / 255  # (9, 3)
    at = values.clamp(0, 1).cpu().float() * (len(table) - 1)
    low = at.floor().long().clamp(max=len(table) - 2)
    share = (at - low).unsqueeze(-1)
    return torch.lerp(table[low], table[low + 1], share).permute(2, 0, 1).unsqueeze(0)
