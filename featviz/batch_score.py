"""The score of a batch of images, each by its own objective, held to what batch norms remember."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from featviz.errors import InvalidValue
from featviz.layer_table import layer_table
from featviz.layers import activations
from featviz.objectives import diversity
from featviz.render_settings import RenderSettings
from featviz.statistics import NormStatistics, remembering
from featviz.types import OUTPUT, Model, Objective

TURNS = 3
"""Of how many norms each step looks at one, where statistics are held, in networks of many norms."""


@dataclass(frozen=True, eq=False)
class BatchScore:
    """Images `(b · views, 3, h, w)` -> `(b,)`: each image's own objective, the mean over its views.

    An objective has `faces` images in a row. Where they are `compared`, as many views of the photo follow.
    """

    model: Model
    objectives: Sequence[Objective]
    apart: Sequence[Objective | None]
    layers: Sequence[str]
    settings: RenderSettings
    compared: bool
    natural: NormStatistics | None

    @classmethod
    def of(
        cls, model: Model, objectives: Sequence[Objective], settings: RenderSettings, compared: bool
    ) -> BatchScore:
        """The score by these settings; `compared` where a photo's views follow the images'."""
        many = settings.diversity > 1
        apart = [diversity(_texture_layer(model, each)) if many else None for each in objectives]
        layers = [layer for o in [*objectives, *apart] if o is not None for layer in o.layers]
        count = remembering(model.net) if settings.statistics else 0
        turns = 1 if settings.compile else min(TURNS, 1 + count // 16)  # few norms have no turns to take
        natural = NormStatistics(count, turns, settings.slack or 0.0) if count else None
        return cls(model, objectives, apart, list(dict.fromkeys(layers)), settings, compared, natural)

    def __call__(self, image: Tensor) -> Tensor:
        """Scores `(b,)`."""
        both = image.chunk(2) if self.compared else (image,)
        with self.natural or nullcontext():
            found = self._split(activations(self.model, both[0], self.layers))
        other: dict[str, tuple[Tensor, ...]] = {}
        if self.compared:
            with torch.no_grad():
                other = self._split(activations(self.model, both[1], self.layers))
        scores = []
        for i, objective in enumerate(self.objectives):
            own = {layer: parts[i] for layer, parts in found.items()}
            pair = {layer: parts[i] for layer, parts in other.items()}
            scores.append(self._faces(objective, self.apart[i], own, pair))
        return self._natural(torch.cat(scores))

    def _natural(self, scores: Tensor) -> Tensor:
        """The scores, and in their gradient alone how far the images are from the statistics remembered."""
        away = self.natural.away() if self.natural else None
        if away is None:
            return scores
        away = away.view(len(scores), -1).mean(1)  # over views
        against = (self.settings.statistics or 0.0) * scores.detach().abs() * away
        return scores - (against - against.detach())

    def _split(self, found: dict[str, Tensor]) -> dict[str, tuple[Tensor, ...]]:
        """Each objective's part, split at once: slices would each have a whole gradient of their own."""
        count = len(self.objectives)
        return {layer: batch.chunk(count) for layer, batch in found.items()}

    def _faces(
        self,
        objective: Objective,
        apart: Objective | None,
        own: dict[str, Tensor],
        other: dict[str, Tensor],
    ) -> Tensor:
        """`(faces,)` scores of one objective, with what their unlikeness adds, on its activations' scale."""
        faces = self.settings.diversity
        both = {layer: torch.cat([own[layer], other[layer]]) for layer in own} if other else own
        scores = objective.measure(both).view(faces, -1).mean(1)
        if apart is not None:
            unlike = apart.measure({layer: own[layer][:: self.settings.views or 1] for layer in apart.layers})
            scores = scores + self.settings.diversity_weight * scores.detach().abs() * unlike
        return scores


def _texture_layer(model: Model, objective: Objective) -> str:
    """Where faces are told apart: at the objective's own layer, for a class the last with positions."""
    for layer in objective.layers:
        if layer != OUTPUT:
            return layer
    found = [row.address for row in layer_table(model) if row.spatial or len(row.shape) == 3]
    if not found:
        raise InvalidValue(f"{model.name} has no layer with positions, so faces cannot be told apart")
    return found[-1]
