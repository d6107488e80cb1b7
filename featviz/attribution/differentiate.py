"""One forward for several scores, and each score's gradient to the image or to a layer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn

from featviz.backward.rules import RULES, ReluRule, refuse_compiled, relu_rule
from featviz.errors import InvalidValue
from featviz.layer_table import Layer
from featviz.layers import activations, check_size, frozen
from featviz.receptive_field import first_tensor
from featviz.types import Model, Objective


@dataclass(frozen=True)
class Gradients:
    """Of k scores of b images: `scores` `(k, b)`, `values` `(k, b, …)`, and what they are the gradients to.

    `calls` is how many activation calls a backward rule rewrote.
    """

    scores: Tensor
    values: Tensor
    at: Tensor
    calls: int = 0


@contextmanager
def differentiable(net: nn.Module) -> Iterator[None]:
    """Gradients on, whatever is around, the network in eval mode and frozen; all as found afterwards."""
    with torch.inference_mode(False), torch.enable_grad(), frozen(net):
        yield


def checked(model: Model, image: Tensor, objectives: Sequence[Objective], *layers: str) -> Tensor:
    """The image on the model's device, as a tensor that autograd takes; `(1, 3, h, w)` in [0, 1].

    Raises `InvalidValue` for another shape or no objectives, `ImageTooSmall`.
    """
    if image.dim() != 4 or image.shape[:2] != (1, 3):
        raise InvalidValue(f"an image to explain is (1, 3, h, w) in [0, 1], not {tuple(image.shape)}")
    if not objectives:
        raise InvalidValue("nothing to explain: give at least one target")
    check_size(model, [*needed(objectives), *layers], (image.shape[2], image.shape[3]))
    with torch.inference_mode(False):
        # a clone, because autograd refuses tensors made in inference mode
        return image.detach().clone().to(model.device)


def needed(objectives: Sequence[Objective]) -> list[str]:
    """The layers that the objectives read, each once."""
    return list(dict.fromkeys(address for objective in objectives for address in objective.layers))


def scores_of(model: Model, images: Tensor, objectives: Sequence[Objective]) -> Tensor:
    """The scores `(k, b)` of a batch, without gradients."""
    with torch.inference_mode(False), torch.no_grad(), frozen(model.net):
        found = activations(model, images, needed(objectives))
        return torch.stack([objective.measure(found) for objective in objectives])


def image_gradients(
    model: Model, images: Tensor, objectives: Sequence[Objective], rule: str = "plain"
) -> Gradients:
    """d score / d image for images `(b, 3, h, w)` in [0, 1], through the normalisation."""
    with differentiable(model.net):
        leaf = images.detach().clone().requires_grad_(True)
        with nullcontext() if rule == "plain" else relu_rule(rule, model.net) as rewritten:
            found = activations(model, leaf, needed(objectives))
        scores = [objective.measure(found) for objective in objectives]
        values = _backwards(scores, leaf)
        if any(value is None for value in values):
            raise InvalidValue(f"{_named(objectives)}: no gradient reaches the image")
        return _together(scores, values, leaf, rewritten)


def layer_gradients(
    model: Model, image: Tensor, objectives: Sequence[Objective], layer: Layer, rule: str = "plain"
) -> Gradients:
    """d score / d A for what a layer puts out, both `(b, c, h, w)` for maps and `(b, n, d)` for tokens.

    The forward builds no graph before the layer, so only what lies between it and the target is
    differentiated. Raises `InvalidValue` where the layer does not lie before a target's own.
    """
    with differentiable(model.net):
        with _lenient(rule, model.net) as rewritten, _cut(model.net, layer.address) as cut:
            read = activations(model, image, needed(objectives))
        scores = [objective.measure(read) for objective in objectives]
        reached = bool(cut) and all(score.requires_grad for score in scores)
        values = _backwards(scores, cut[0]) if reached else [None]
        for objective, value in zip(objectives, values * len(objectives), strict=False):
            if value is None or layer.address in objective.layers:
                raise InvalidValue(
                    f"layer {layer.address} does not lie before {objective.name}: take an earlier layer"
                )
        found = _together(scores, values, cut[0], rewritten)
    return _channels_first(found) if layer.channels_last else found


def _channels_first(found: Gradients) -> Gradients:
    return replace(found, values=found.values.permute(0, 1, 4, 2, 3), at=found.at.permute(0, 3, 1, 2))


def _backwards(scores: Sequence[Tensor], leaf: Tensor) -> list[Tensor | None]:
    """Each score's gradient, summed over the batch: an image's own is untouched by the others'."""
    last = len(scores) - 1
    return [
        torch.autograd.grad(score.sum(), leaf, retain_graph=i < last, allow_unused=True)[0]
        for i, score in enumerate(scores)
    ]


def _together(
    scores: Sequence[Tensor], values: Sequence[Tensor | None], at: Tensor, rule: ReluRule | None
) -> Gradients:
    made = [value for value in values if value is not None]
    return Gradients(
        torch.stack(list(scores)).detach(), torch.stack(made), at.detach(), rule.calls if rule else 0
    )


def _lenient(rule: str, net: nn.Module) -> AbstractContextManager[ReluRule | None]:
    """A backward rule that may find nothing: between a network's last layers no activation need stand."""
    if rule == "plain":
        return nullcontext()
    refuse_compiled(net)
    return ReluRule(RULES[rule])


@contextmanager
def _cut(net: nn.Module, address: str) -> Iterator[list[Tensor]]:
    """Gives a list that holds the layer's output, as the leaf from which the forward went on."""
    path, _, call = address.partition("#")
    calls, found = count(), list[Tensor]()

    def cut(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        tensor = first_tensor(output)
        if next(calls) != int(call or 0) or tensor is None:
            return None
        found.append(tensor.detach().clone().requires_grad_(True))
        # a copy goes on: an in-place ReLU next door may neither touch a leaf nor what was captured
        return _with_first(output, tensor, found[0].clone())

    handle = net.get_submodule(path).register_forward_hook(cut)
    try:
        yield found
    finally:
        handle.remove()


def _with_first(output: Any, old: Tensor, new: Tensor) -> Any:
    """A module's output with one tensor in it replaced."""
    if output is old:
        return new
    if isinstance(output, dict):
        return type(output)((key, _with_first(value, old, new)) for key, value in output.items())
    if isinstance(output, (list, tuple)):
        items = [_with_first(item, old, new) for item in output]
        return type(output)(*items) if hasattr(output, "_fields") else type(output)(items)
    return output


def _named(objectives: Sequence[Objective]) -> str:
    return ", ".join(objective.name for objective in objectives)
