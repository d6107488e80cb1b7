"""Backward rules: how an activation function passes its gradient back.

With R the gradient that arrives at y = f(x), the rules pass back

    plain       R · f′(x)
    deconvnet   R · [R > 0]                              Zeiler and Fergus 2014
    guided      R · f′(x) · [R > 0] · [f′(x) > 0]        Springenberg et al. 2014
    redirected  R · f′(x), but R where it leads out of the flat part, for a picture at which
                a gate lets nothing through                  after the dead-ReLU redirect of lucid

For ReLU f′ is [x > 0], closed at 0, so that guided is the paper's (f > 0) · (R > 0) · R. ReLU6, hardtanh
and `clamp(min=0, max=…)` are gates of the same kind, open strictly between their bounds. SiLU, GELU,
hardswish, mish, softplus, leaky ReLU, PReLU, ELU, CELU and SELU pass by their own derivative.
Sigmoid and tanh are left alone: they gate and squash, and are not rectifiers.

The rules act on functions, not on modules, so that modules, functional calls, in-place calls and
modules that run more than once are all alike.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from featviz.errors import InvalidValue, ModelError, NoActivations, nearest


@dataclass(frozen=True)
class Activated:
    """What a rule may know of the call y = f(x).

    A gate has slope 1 where its output lies strictly between `low` and `high`, and is flat elsewhere. Other
    functions have no bounds, and `slope` is their f′(x).
    """

    output: Tensor
    low: float = -math.inf
    high: float = math.inf
    slope: Tensor | None = None

    def times_slope(self, gradient: Tensor) -> Tensor:
        """R · f′(x), with a gate's borders closed."""
        if self.slope is not None:
            return gradient * self.slope
        # the fused kernel of hardtanh: a mask and a product of floats and booleans take many times as long
        passed: Tensor = torch.ops.aten.hardtanh_backward(gradient, self.output, self.low, self.high)
        return passed


Rule: TypeAlias = Callable[[Tensor, Activated], Tensor]
"""The gradient R that arrives at a function's output, and the call -> the gradient passed on."""


def plain(gradient: Tensor, call: Activated) -> Tensor:
    """R · f′, the true gradient."""
    return call.times_slope(gradient)


def deconvnet(gradient: Tensor, call: Activated) -> Tensor:
    """R · [R > 0], whatever the forward pass was (Zeiler and Fergus 2014)."""
    return gradient.clamp(min=0)


def guided(gradient: Tensor, call: Activated) -> Tensor:
    """R · f′ · [R > 0] · [f′ > 0] (Springenberg et al. 2014)."""
    passed = call.times_slope(gradient.clamp(min=0))
    return passed if call.slope is None else passed.clamp_(min=0)


def redirected(gradient: Tensor, call: Activated) -> Tensor:
    """R · f′, or where a gate lets nothing of a picture through, the R that leads out of its flat part.

    The score is maximised, so a unit moves along R: one that is flat below its range may rise, one
    that is flat above it may sink. What is no gate passes R · f′.
    """
    passed = call.times_slope(gradient)
    if call.slope is not None:
        return passed
    deeper = ((call.output <= call.low) & (gradient < 0)) | ((call.output >= call.high) & (gradient > 0))
    blocked = (passed == 0).flatten(1).all(1).view(-1, *[1] * (gradient.dim() - 1))
    return torch.where(blocked, gradient.masked_fill(deeper, 0), passed)


RULES: dict[str, Rule] = {
    "plain": plain,
    "deconvnet": deconvnet,
    "guided": guided,
    "redirected": redirected,
}


class ReluRule(TorchFunctionMode):
    """Within it every activation function passes its gradient back by a rule.

    `calls` is how many calls were rewritten, `seen` how many of each function. A call whose input carries
    no gradient is left alone and not counted.
    """

    def __init__(self, rule: Rule) -> None:
        super().__init__()
        self.rule = rule
        self.seen: Counter[str] = Counter()

    @property
    def calls(self) -> int:
        """How many activation calls were rewritten."""
        return self.seen.total()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name not in ACTIVATIONS or not torch.is_grad_enabled():
            return func(*args, **kwargs)
        named = {"input": args[0]} | kwargs if args else kwargs
        given, rest = named.get("input"), {key: kwargs[key] for key in kwargs if key != "input"}
        bounds = ACTIVATIONS[name](args[1:], rest)
        if bounds is None or not isinstance(given, Tensor) or not given.requires_grad:
            return func(*args, **kwargs)
        self.seen[name] += 1
        return _Ruled.apply(given, lambda x: func(x, *args[1:], **rest), self.rule, *bounds)


class _Ruled(torch.autograd.Function):
    """An activation function with a backward of its own; in place where the function is."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, function: Callable[[Tensor], Tensor], rule: Rule, low: float, high: float
    ) -> Tensor:
        ctx.rule, ctx.low, ctx.high = rule, low, high
        if low > -math.inf:
            y = function(x)
            ctx.save_for_backward(y)
            in_place = y is x
        else:
            y, slope, in_place = _with_slope(function, x)
            y = x.copy_(y) if in_place else y
            ctx.save_for_backward(y, slope)
        if in_place:
            ctx.mark_dirty(x)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        y, *slope = ctx.saved_tensors
        call = Activated(y, ctx.low, ctx.high, *slope)
        return ctx.rule(gradients[0], call), None, None, None, None


def _with_slope(function: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor, bool]:
    """f(x), f′(x) by autograd, and whether the function works in place; x stays as it is."""
    with torch.enable_grad():
        leaf = x.detach().requires_grad_(True)
        copy = leaf.clone()
        y = function(copy)
        (slope,) = torch.autograd.grad(y, leaf, torch.ones_like(y))
    return y.detach(), slope, y is copy


Bounds: TypeAlias = "tuple[float, float] | None"
"""A gate's low and high; both infinite for a function that passes by its own derivative; None for none."""


def _gate(low: float, high: float = math.inf) -> Callable[[Any, Any], Bounds]:
    return lambda args, kwargs: (low, high)


def _smooth(args: Any, kwargs: Any) -> Bounds:
    return -math.inf, math.inf


def _hardtanh(args: Any, kwargs: Any) -> Bounds:
    low = args[0] if args else kwargs.get("min_val", -1.0)
    return float(low), float(args[1] if len(args) > 1 else kwargs.get("max_val", 1.0))


def _clamp(args: Any, kwargs: Any) -> Bounds:
    """A clamp is a rectifier where its lower bound is the number 0."""
    low = args[0] if args else kwargs.get("min")
    high = args[1] if len(args) > 1 else kwargs.get("max")
    if isinstance(low, Tensor) or isinstance(high, Tensor) or low != 0:
        return None
    return 0.0, math.inf if high is None else float(high)


ACTIVATIONS: Mapping[str, Callable[[Any, Any], Bounds]] = {
    **dict.fromkeys(("relu", "relu_"), _gate(0.0)),
    **dict.fromkeys(("relu6", "relu6_"), _gate(0.0, 6.0)),
    **dict.fromkeys(("hardtanh", "hardtanh_"), _hardtanh),
    **dict.fromkeys(("clamp", "clamp_", "clip", "clip_", "clamp_min", "clamp_min_"), _clamp),
    **dict.fromkeys(("silu", "silu_", "gelu", "hardswish", "hardswish_", "mish", "mish_"), _smooth),
    **dict.fromkeys(("leaky_relu", "leaky_relu_", "prelu", "softplus"), _smooth),
    **dict.fromkeys(("elu", "elu_", "celu", "celu_", "selu", "selu_"), _smooth),
}
"""A torch function's name -> its bounds, from the arguments after its input."""


@contextmanager
def relu_rule(rule: str, net: nn.Module | None = None) -> Iterator[ReluRule]:
    """Within it the forwards of any network build gradients by a backward rule.

    `with relu_rule("guided") as rule: net(image)[0, 281].backward()`; then `rule.calls` tells how many
    activation calls were rewritten. The rule acts where the forward runs: the backward may come later.
    Raises `InvalidValue` for a rule that is not there, `ModelError` for a `net` that is compiled
    or scripted, and at the end `NoActivations` where nothing was rewritten
    (the plain rule changes nothing anyway).
    """
    if rule not in RULES:
        raise InvalidValue(f"backward rule {rule!r}{nearest(rule, RULES)}; one of {', '.join(RULES)}")
    if net is not None:
        refuse_compiled(net)
    with ReluRule(RULES[rule]) as mode:
        yield mode
    if not mode.calls and rule != "plain":
        raise NoActivations(rule)


def refuse_compiled(net: nn.Module) -> None:
    """Raise `ModelError` for a network whose activation functions Python does not see."""
    for path, module in net.named_modules():
        name = f"{type(net).__name__}{path and '.' + path}"
        if isinstance(module, torch.jit.ScriptModule):
            raise ModelError(
                f"{name} is scripted or traced: its activations cannot be rewritten; give the plain network"
            )
        if type(module).__name__ == "OptimizedModule" or module._compiled_call_impl is not None:
            raise ModelError(
                f"{name} is compiled: its activations cannot be rewritten; give the network that was compiled"
            )
