"""The end of a network that averages a map over its positions and weighs the averages: what CAM needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from featviz.errors import NotApplicable
from featviz.layers import activations, frozen
from featviz.types import OUTPUT, Model, Objective


@dataclass(frozen=True)
class PooledHead:
    """logit = W · mean over positions of A + b.

    `map` is A `(c, h, w)`, `weight` `(classes, c)`, `bias` and `logits` `(classes,)`.
    """

    map: Tensor
    weight: Tensor
    bias: Tensor
    logits: Tensor


def pooled_head(model: Model, image: Tensor) -> PooledHead:
    """The head of a network on one image, found by what it computes and proved by its logits.

    A network that ends in the pooling itself (SqueezeNet) has W = 1. Raises `NotApplicable`, naming
    grad-cam, where the logits are anything else than weighted averages of one map.
    """
    end = _End()
    with torch.inference_mode(False), torch.no_grad(), frozen(model.net), end:
        logits = activations(model, image, [OUTPUT])[OUTPUT]
    head = _read(end, logits.flatten()) if logits.dim() == 2 else None
    if head is None or not _holds(head):
        raise NotApplicable(
            "cam needs a network that ends in global average pooling and one linear layer, "
            f"which {model.name} does not; grad-cam explains it"
        )
    return head


def class_weights(head: PooledHead, objective: Objective) -> Tensor:
    """By how much the logits count in an objective, `(classes,)`.

    Raises `NotApplicable`, naming grad-cam, for one that is not a weighted sum of logits.
    """
    if objective.layers == (OUTPUT,):
        with torch.inference_mode(False), torch.enable_grad():
            leaf = head.logits.clone()[None].requires_grad_(True)
            score = objective.measure({OUTPUT: leaf})
            (weights,) = torch.autograd.grad(score.sum(), leaf)
        if _close(weights[0] @ head.logits, score.detach()[0], head.logits.abs().max()):
            return weights[0]
    raise NotApplicable(f"cam explains classes, and {objective.name} is no sum of them; grad-cam explains it")


class _End(TorchFunctionMode):
    """Keeps the last average over positions (input, output) and the last linear map (input, W, b, output)."""

    def __init__(self) -> None:
        super().__init__()
        self.pool: tuple[Tensor, Tensor] | None = None
        self.linear: tuple[Tensor, Tensor, Tensor | None, Tensor] | None = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        given = [*args[:3], *(kwargs[key] for key in ("input", "weight", "bias") if key in kwargs)]
        if name in {"adaptive_avg_pool2d", "avg_pool2d", "mean"} and given[0].dim() == 4:
            self.pool = (given[0], out)
        elif name == "linear" or (name == "conv2d" and given[1].shape[2:].numel() == 1):
            self.linear = (given[0], given[1], given[2] if len(given) > 2 else None, out)
        return out


def _read(end: _End, logits: Tensor) -> PooledHead | None:
    """The head that the kept calls make together; None where they do not follow on each other."""
    if end.pool is None:
        return None
    found, averages = end.pool
    if len(found) != 1 or averages.numel() not in {found.shape[1], found.shape[3]}:
        return None
    channels_first = averages.numel() == found.shape[1]
    map_ = found[0] if channels_first else found[0].permute(2, 0, 1)
    if averages.numel() == logits.numel() and torch.equal(averages.flatten(), logits):
        return PooledHead(map_, torch.eye(len(logits)).to(logits), torch.zeros_like(logits), logits)
    if end.linear is None:
        return None
    taken, weight, bias, made = end.linear
    if taken.numel() != averages.numel() or made.numel() != logits.numel():
        return None
    offset = torch.zeros_like(logits) if bias is None else bias.detach()
    return PooledHead(map_, weight.detach().flatten(1), offset, logits)


def _holds(head: PooledHead) -> bool:
    """Whether mean(CAM) + bias = logit for every class."""
    if head.weight.shape != (len(head.logits), len(head.map)):
        return False
    scale = head.logits.abs().max()
    return _close(head.weight @ head.map.mean((1, 2)) + head.bias, head.logits, scale)


def _close(a: Tensor, b: Tensor, scale: Tensor) -> bool:
    tolerance = 1e-4 if torch.finfo(a.dtype).bits >= 32 else 2e-2
    return bool(((a - b).abs() <= tolerance * scale).all())
