"""What batch norm remembers of the images a network learned from: the mean and variance of every channel."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode

FAINT = 1e-2
"""A channel scaled by less than this has little say in the network, and counts by its share of it."""


class _Moments(torch.autograd.Function):
    """`(b, c, ...)` -> means and variances `(b, c)` over positions; the backward is one pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        variance, mean = torch.var_mean(x.flatten(2), 2, correction=0)
        ctx.save_for_backward(x, mean)
        return mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *slopes: Tensor) -> Tensor:
        x, mean = ctx.saved_tensors
        of_mean, of_variance = slopes
        shape, count = (*mean.shape, *[1] * (x.dim() - 2)), x[0, 0].numel()
        steep = 2 / count * of_variance
        return torch.addcmul((of_mean / count - steep * mean).view(shape), steep.view(shape), x)


class NormStatistics(TorchFunctionMode):
    """Within it every batch norm in eval mode notes how far each image is from what it remembers.

    With μ(x), σ(x) the mean and deviation of an image's channel over its positions, before the norm, and
    μ, σ those remembered, a norm's distance is the mean over channels of |μ(x) - μ| / σ + |σ(x) / σ - 1|
    (after the regularizer of DeepInversion, Yin et al. 2020, eq. 4, here per image). A norm that remembers
    mean 0 and variance 1 alone, as one folded into its convolution, has nothing to say.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: list[Tensor] = []
        self._telling: dict[int, bool] = {}

    def away(self) -> Tensor | float:
        """`(b,)` the mean distance over the norms seen since last asked; 0 where none had anything to say."""
        found, self.found = self.found, []
        return torch.stack(found).mean(0) if found else 0.0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") == "batch_norm" and torch.is_grad_enabled():
            self._note(*args, **kwargs)
        return func(*args, **kwargs)

    def _note(
        self,
        input: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> None:
        if (
            training
            or running_mean is None
            or running_var is None
            or not self._tells(running_mean, running_var)
        ):
            return
        deviation = (running_var + eps).sqrt()
        mean, variance = _Moments.apply(input)
        distance = (mean - running_mean).abs() / deviation + ((variance + eps).sqrt() / deviation - 1).abs()
        share = 1.0 if weight is None else (weight.abs() / FAINT).clamp(max=1)
        self.found.append((distance * share).mean(1))

    def _tells(self, mean: Tensor, variance: Tensor) -> bool:
        """Whether a norm remembers anything, looked up once: on a GPU it has to be waited for."""
        if id(mean) not in self._telling:
            self._telling[id(mean)] = bool((mean != 0).any() or (variance != 1).any())
        return self._telling[id(mean)]
