"""Whether a map depends on what the network learned: cascading randomisation (Adebayo et al. 2018)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from featviz.types import Model, derive_seed

STAGES, DRAWS = 5, 3


@dataclass(frozen=True)
class Stage:
    """How like the first map the map is, with all weights from the output down to `module` shuffled.

    `rank_correlation` is Spearman's, from -1 to 1; `ssim` the structural similarity, 1 for the same map.
    """

    module: str
    rank_correlation: float
    ssim: float


def randomised(model: Model, seed: int = 0, stages: int = STAGES) -> Iterator[tuple[str, Model]]:
    """Copies of a model with more and more of its weights shuffled, from the output down.

    The first stage is the last module with weights, the others are of equally many modules each. Within
    a tensor the values change places, so that each layer keeps its own distribution of weights; the
    running statistics of batch norms stay. The same copy is given each time, and the model is left alone.
    """
    net = copy.deepcopy(model.net)
    holding = [(name, each) for name, each in net.named_modules() if list(each.parameters(recurse=False))]
    holding.reverse()
    stages = min(stages, len(holding))
    done = 0
    for stage in range(stages):
        end = 1 + round((len(holding) - 1) * stage / max(1, stages - 1))
        for name, module in holding[done:end]:
            _shuffle(module, name, seed)
        done = end
        # a copy of the network's data, not of the model: its digest must not come along
        yield (
            holding[end - 1][0],
            Model(net, model.name, model.mean, model.std, model.input_size, model.labels),
        )


@torch.no_grad()
def _shuffle(module: nn.Module, name: str, seed: int) -> None:
    for own, parameter in module.named_parameters(recurse=False):
        generator = torch.Generator().manual_seed(derive_seed(seed, "randomised", name, own))
        places = torch.randperm(parameter.numel(), generator=generator).to(parameter.device)
        parameter.copy_(parameter.flatten()[places].view_as(parameter))


def cascade(
    model: Model,
    explain: Callable[[Model], Sequence[Tensor]],
    *,
    draws: int = DRAWS,
    seed: int = 0,
    stages: int = STAGES,
) -> list[list[Stage]]:
    """Of each map `(h, w)` that `explain` makes of a model, how like the first they stay, stage by stage.

    A shuffled network's map is a matter of chance, so the likeness is the mean over several `draws`.
    """
    first = explain(model)
    found: list[list[list[Stage]]] = [[] for _ in first]  # map, draw, stage
    for draw in range(draws):
        for each in found:
            each.append([])
        for name, other in randomised(model, derive_seed(seed, "draw", draw), stages):
            for each, before, after in zip(found, first, explain(other), strict=True):
                each[-1].append(Stage(name, rank_correlation(before, after), ssim(before, after)))
    return [[_mean(same) for same in zip(*each, strict=True)] for each in found]


def _mean(stages: Sequence[Stage]) -> Stage:
    ranks, likeness = ([getattr(each, key) for each in stages] for key in ("rank_correlation", "ssim"))
    return Stage(stages[0].module, sum(ranks) / len(ranks), sum(likeness) / len(likeness))


def rank_correlation(first: Tensor, second: Tensor) -> float:
    """Spearman's: the correlation of ranks, equal values sharing theirs; 0 where a map is constant."""
    a, b = (_ranks(each) for each in (first, second))
    a, b = a - a.mean(), b - b.mean()
    length = a.norm() * b.norm()
    return float((a @ b) / length) if length > 0 else 0.0


def _ranks(values: Tensor) -> Tensor:
    flat = values.detach().cpu().double().flatten()
    _, places, counts = torch.unique(flat, return_inverse=True, return_counts=True)
    ranks: Tensor = (counts.cumsum(0).double() - (counts - 1) / 2)[places]
    return ranks


def ssim(first: Tensor, second: Tensor) -> float:
    """Structural similarity of two maps `(h, w)`, each brought to [0, 1] (Wang et al. 2004)."""
    from kornia.metrics import ssim as similarity

    a, b = (_unit(each)[None, None] for each in (first, second))
    return float(similarity(a, b, 11, 1.0).mean())


def _unit(values: Tensor) -> Tensor:
    values = values.detach().cpu().double()
    low, high = values.aminmax()
    return (values - low) / (high - low) if high > low else torch.zeros_like(values)
