"""What a score is: a class's output itself, its probability, its lead; and reading objectives off outputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from featviz.errors import InvalidValue, UnknownName
from featviz.types import OUTPUT, Objective


def _margin(outputs: Tensor) -> Tensor:
    """Each output less the best of the others."""
    if outputs.shape[1] < 2:
        raise InvalidValue("score margin: this network has one output, so no other to lead")
    best = outputs.topk(2, dim=1)
    rival = best.values[:, :1].expand_as(outputs).clone()
    rival.scatter_(1, best.indices[:, :1], best.values[:, 1:])
    return outputs - rival


SCORES: dict[str, Callable[[Tensor], Tensor]] = {
    "logit": lambda outputs: outputs,
    "prob": lambda outputs: outputs.softmax(1),
    "logprob": lambda outputs: outputs.log_softmax(1),
    "margin": _margin,
    "inverse": lambda outputs: outputs,
}
"""Name -> what a class's score is, from outputs `(b, n)`; `inverse` is for occlusion, which then adds 1/s."""


def check_score(score: str, choices: Sequence[str]) -> None:
    """Raise `UnknownName` for a score that is none of the choices."""
    if score not in choices:
        raise UnknownName(score, choices, hint=f"the scores are {', '.join(choices)}")


def read(objectives: Sequence[Objective], score: str, numbers: Tensor) -> Tensor:
    """Each objective's scores `(m, k)`, in float64.

    `numbers` `(m, l + n)` holds the l objectives that are not of outputs alone, in their order, and then
    the n outputs, which may be missing where no objective reads them.
    """
    numbers = numbers.double()
    others = beyond_outputs(objectives)
    outputs = numbers[:, len(others) :]
    acts = {OUTPUT: SCORES[score](outputs) if outputs.shape[1] else outputs}
    columns = iter(numbers[:, : len(others)].T)
    return torch.stack([o.measure(acts) if o.layers == (OUTPUT,) else next(columns) for o in objectives], 1)


def beyond_outputs(objectives: Sequence[Objective]) -> list[Objective]:
    """The objectives that need more than the network's outputs."""
    return [objective for objective in objectives if objective.layers != (OUTPUT,)]
