"""What tests found of a map, in plain words, also when it is bad."""

from __future__ import annotations

from collections.abc import Sequence

from featviz.attribution.faithfulness import Curves
from featviz.attribution.randomisation import Stage

INSENSITIVE = ("guided-backprop", "deconvnet", "guided-grad-cam")
"""Methods known to show the photo's edges whatever the network learned."""

CLEAR = 0.9
"""The share of random maps that a map must beat before we say that it beats chance."""

ALIKE = 0.5
"""A rank correlation with the first map above which a shuffled network's map says little of the weights."""

HARDLY = 0.8
"""The same for a network of which only the output layer was shuffled."""

WHOLE = 0.05
"""The completeness error, as a share of the score's change, above which more steps are advised."""


def verdict(
    method: str,
    own: Curves,
    chance: Sequence[Curves],
    stages: Sequence[Stage],
    completeness: float | None = None,
) -> list[str]:
    """Sentences for people; `completeness` is the error as a share of the score's change."""
    said = [_deletion(own, chance), _insertion(own, chance), _weights(stages)]
    if completeness is not None:
        fine = abs(completeness) <= WHOLE
        more = "" if fine else ": take more --steps"
        said.append(f"The map's sum misses the score's change by {abs(completeness):.1%}{more}.")
    if method in INSENSITIVE:
        said.append(
            f"{method} is known to be insensitive to the weights (Adebayo 2018, Nie 2018): "
            "it outlines the photo, and is no evidence of what the network learned."
        )
    return said


def _deletion(own: Curves, chance: Sequence[Curves]) -> str:
    areas = [each.deletion_area for each in chance]
    beaten = [own.deletion_area < area for area in areas]
    return "Deletion: " + _beside(own.deletion_area, areas, beaten, "falls")


def _insertion(own: Curves, chance: Sequence[Curves]) -> str:
    areas = [each.insertion_area for each in chance]
    return "Insertion: " + _beside(
        own.insertion_area, areas, [own.insertion_area > a for a in areas], "rises"
    )


def _beside(own: float, areas: Sequence[float], beaten: Sequence[bool], does: str) -> str:
    clear = sum(beaten) >= CLEAR * len(areas)
    said = f"the score {does} sooner than under {sum(beaten)} of {len(areas)} random maps"
    said = said if clear else f"no better than chance: {said}"
    return f"{said} (area {own:.3g}; theirs {min(areas):.3g} to {max(areas):.3g})."


def _weights(stages: Sequence[Stage]) -> str:
    first, last = stages[0].rank_correlation, stages[-1].rank_correlation
    said = f"Shuffling the output layer leaves a rank correlation of {first:.2f}, shuffling all {last:.2f}"
    if last > ALIKE:
        return f"{said}: the map tells more of the photo than of the network."
    if first > HARDLY:
        return f"{said}: the map hardly depends on what the output layer learned."
    return f"{said}: the map depends on what the network learned."
