"""The network as it has to be while it is looked at."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def frozen(net: nn.Module) -> Iterator[None]:
    """The network in eval mode and without weight gradients, exactly as found afterwards."""
    modes = [module for module in net.modules() if module.training]
    learning = [parameter for parameter in net.parameters() if parameter.requires_grad]
    for module in modes:
        module.training = False
    for parameter in learning:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for module in modes:
            module.training = True
        for parameter in learning:
            parameter.requires_grad_(True)
