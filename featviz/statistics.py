"""What batch norm remembers of the images a network learned from: the mean and variance of every channel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode

from featviz.arrangement import done_to
from featviz.backward.bits import lie
from featviz.norms import Norm, is_norm, norm_call

FAINT = 1e-2
"""A channel scaled by less than this has little say in the network, and counts by its share of it."""

MEANS, DEVIATIONS = (-0.6, 0.1), (-0.4, 0.0)
"""Between what a channel's mean and its deviation may be away in one image, in deviations remembered.

Of single photos the median channel's deviation is up to .3 below, and in deep layers its mean up to .24: one
image lacks most of what a thousand have.
"""

TINY = 1e-6
"""The least deviation that is divided by."""


class _Moments(torch.autograd.Function):
    """`(b, c, ...)` -> means and variances `(b, c)` over positions; the backward is one pass.

    The variance is the mean square less the squared mean: a hundred times as fast as `var_mean` on a CPU.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        kind = torch.promote_types(x.dtype, torch.float32)
        if lie(x) == torch.channels_last:
            flat, positions = x.permute(0, 2, 3, 1).flatten(1, 2).to(kind), 1
            square = flat.square().mean(1)  # a norm across rows is five times as slow
        else:
            flat, positions = x.flatten(2), 2
            square = torch.linalg.vector_norm(flat, dim=2, dtype=kind).square_() / flat.shape[2]
        mean = flat.mean(positions, dtype=kind)
        ctx.save_for_backward(x, mean)
        return mean, (square - mean.square()).clamp_(min=0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *slopes: Tensor) -> Tensor:
        x, mean = ctx.saved_tensors
        of_mean, of_variance = slopes
        shape, count = (*mean.shape, *[1] * (x.dim() - 2)), x[0, 0].numel()
        steep = 2 / count * of_variance
        slope = torch.addcmul((of_mean / count - steep * mean).view(shape), steep.view(shape), x)
        return slope.to(x.dtype)


class NormStatistics(TorchFunctionMode):
    """Within it the batch norms of one network note the mean and variance of each image's channels.

    With μ(x), σ(x) those of a channel over its positions, before the norm, and μ, σ those
    remembered, the distance is the mean over channels, then over norms, of |μ(x) - μ| / σ + |σ(x) / σ - 1|
    (after the regularizer of DeepInversion, Yin et al. 2020, eq. 4, there of a batch), each term counted from
    where it leaves `slack` times `MEANS` or `DEVIATIONS`. A norm that remembers mean 0 and variance 1 alone,
    as one folded into its convolution, counts for nothing. Norms that a forward ends before, of `count` in
    all, are at no distance: so a shallow unit, which has few before it, is not outweighed by them. To look at
    them all costs half a gradient, so that they may take `turns`: of three, each forward looks at every third
    norm, and counts it three times.
    """

    def __init__(self, count: int = 0, turns: int = 1, slack: float = 0.0) -> None:
        super().__init__()
        self._count, self._turns, self._slack = count, turns, slack
        self._turn = self._passed = 0
        self._found: list[tuple[Tensor, Tensor]] = []
        self._norms: list[Norm] = []
        self._done: list[bool] = []
        self._remembered: dict[tuple[int, ...], tuple[Tensor, ...]] = {}

    def away(self) -> Tensor | None:
        """`(b,)` how far the images seen since last asked are away; None where there was no norm."""
        found, norms, key = self._found, self._norms, (self._turn, *self._done)
        weight = self._turns / max(self._count, self._passed, 1)
        self._found, self._norms, self._done = [], [], []
        self._turn, self._passed = (self._turn + 1) % self._turns, 0
        if not found:
            return None
        # a compiler takes what was remembered for a constant
        if key not in self._remembered or torch.compiler.is_compiling():
            self._remembered[key] = _remembered(norms, key[1:], weight)
        mean, deviation, extra, share = self._remembered[key]
        means, variances = (torch.cat(each, 1) for each in zip(*found, strict=True))
        spread = (variances + extra).sqrt()
        level, width = (means - mean) / deviation, spread / deviation - 1
        away: Tensor = (_beyond(level, MEANS, self._slack) + _beyond(width, DEVIATIONS, self._slack)) @ share
        return away

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not is_norm(func) or not torch.is_grad_enabled():
            return func(*args, **kwargs)
        given, norm = norm_call(*args, **kwargs)
        told = norm.remembers and given.dim() > 2  # one position has no deviation
        self._passed += told
        if not told or self._passed % self._turns != self._turn:
            return func(*args, **kwargs)
        with torch._C.DisableTorchFunction():  # to look at it is not to use it
            self._found.append(_Moments.apply(given))
        self._norms.append(norm)
        self._done.append(done_to(given) is not None)
        made = func(*args, **kwargs)
        return made.clone() if made is given else made  # the next may work in place, and the moments need it


def remembering(net: nn.Module) -> int:
    """How many batch norms of a network remember anything; those without data are taken at their word."""
    norms = [each for each in net.modules() if isinstance(each, nn.modules.batchnorm._BatchNorm)]
    return sum(
        norm.running_mean.is_meta or bool((norm.running_mean != 0).any() or (norm.running_var != 1).any())
        for norm in norms
        if norm.running_mean is not None and norm.running_var is not None
    )


def _beyond(away: Tensor, range_: tuple[float, float], slack: float) -> Tensor:
    """How far each is outside of a range, widened or narrowed by a factor."""
    least, most = range_
    return (away - slack * most).clamp(min=0) - (away - slack * least).clamp(max=0)


def _remembered(norms: Sequence[Norm], done: Sequence[int], weight: float) -> tuple[Tensor, ...]:
    """Means, deviations, what is added to variances, and each channel's share, of all norms in a row.

    Where a norm is done already, to y = (x - μ) · γ / √(σ² + ε) + β, the mean is β and the deviation |γ|.
    """
    found = []
    for norm, already in zip(norms, done, strict=True):
        mean, variance = norm.running_mean, norm.running_var
        assert mean is not None and variance is not None
        gamma = torch.ones_like(mean) if norm.weight is None else norm.weight.abs()
        told = (mean != 0).any() | (variance != 1).any()
        share = (gamma / FAINT).clamp(max=1) * told / mean.numel() * weight
        extra = torch.full_like(variance, norm.eps)
        deviation = (variance + norm.eps).sqrt()
        if already:
            mean = torch.zeros_like(mean) if norm.bias is None else norm.bias
            extra, deviation = (
                (extra * (gamma / deviation).square()).clamp(min=TINY**2),
                gamma.clamp(min=TINY),
            )
        found.append((mean, deviation, extra, share))
    return tuple(torch.cat(each) for each in zip(*found, strict=True))
