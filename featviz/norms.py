"""Batch norm as its function is called."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import batch_norm


@dataclass(frozen=True, eq=False)
class Norm:
    """What `torch.nn.functional.batch_norm` takes beside its input, in its order.

    In eval mode y = (x - μ) · γ / √(σ² + ε) + β.
    """

    running_mean: Tensor | None
    running_var: Tensor | None
    weight: Tensor | None = None
    bias: Tensor | None = None
    training: bool = False
    momentum: float = 0.1
    eps: float = 1e-5

    @property
    def remembers(self) -> bool:
        """Whether it goes by what it remembers, as in eval mode."""
        return not self.training and self.running_mean is not None and self.running_var is not None

    @property
    def lasts(self) -> bool:
        """Whether it is the same for every image: its scale and shift are parameters, which do not learn."""
        mine = [each for each in (self.weight, self.bias) if each is not None]
        return not self.learns and all(isinstance(each, nn.Parameter) for each in mine)

    def equals(self, other: Norm) -> bool:
        """Whether another call is of the same norm."""
        return self.eps == other.eps and all(
            getattr(self, name) is getattr(other, name)
            for name in ("running_mean", "running_var", "weight", "bias")
        )

    @property
    def learns(self) -> bool:
        """Whether its scale or shift takes gradients."""
        return any(each is not None and each.requires_grad for each in (self.weight, self.bias))

    @property
    def scale(self) -> Tensor:
        """γ / √(σ² + ε), one number a channel, of a norm that remembers."""
        assert self.running_var is not None
        slope = (self.running_var + self.eps).rsqrt()
        return slope if self.weight is None else slope * self.weight


def is_norm(func: Any) -> bool:
    """Whether a function is that one, and not `torch.batch_norm`, whose arguments have another order."""
    return func is batch_norm


def norm_call(input: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Norm]:
    """The input of a call of batch norm, and all else that it was given."""
    return input, Norm(*args, **kwargs)
