"""A network as a graph of its operations, with batch norms folded into convolutions."""

from __future__ import annotations

import copy
import operator
from collections.abc import Mapping
from typing import Any

from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


class _Tracer(fx.Tracer):
    """Keeps every convolution in one piece, also those of other libraries."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, nn.Conv2d) or super().is_leaf_module(m, module_qualified_name)


def fused_graph(net: nn.Module) -> fx.GraphModule:
    """A copy of a network as a graph, batch norms folded into their convolutions, nothing in place.

    Raises whatever `torch.fx` raises for a network that it cannot follow.
    """
    net = copy.deepcopy(net).eval().requires_grad_(False)
    graph = fx.GraphModule(net, _Tracer().trace(net))
    modules = dict(graph.named_modules())
    for node in list(graph.graph.nodes):
        if node.op == "call_module" and type(modules[str(node.target)]) is nn.BatchNorm2d:
            _fold(node, modules)
        else:
            _out_of_place(node, modules)
    graph.graph.lint()
    graph.recompile()
    return graph


def _fold(node: fx.Node, modules: dict[str, nn.Module]) -> None:
    """Fold a batch norm into the convolution before it, where nothing else reads that."""
    before = node.args[0]
    if not isinstance(before, fx.Node) or before.op != "call_module" or len(before.users) > 1:
        return
    path = str(before.target)
    calls = [n.target for n in node.graph.nodes if n.op == "call_module"]
    convolution, norm = modules[path], modules[str(node.target)]
    if not isinstance(convolution, nn.Conv2d) or not isinstance(norm, nn.BatchNorm2d):
        return
    if calls.count(path) > 1 or norm.running_var is None:
        return
    modules[path] = fuse_conv_bn_eval(convolution, norm)
    parent, _, name = path.rpartition(".")
    setattr(modules[parent], name, modules[path])
    node.replace_all_uses_with(before)
    node.graph.erase_node(node)


_IN_PLACE: dict[Any, Any] = {operator.iadd: operator.add, operator.imul: operator.mul, "relu_": "relu"}


def _out_of_place(node: fx.Node, modules: Mapping[str, nn.Module]) -> None:
    """Nothing may write over a map, since the unchanged picture's are read again."""
    if node.op == "call_module" and getattr(modules[str(node.target)], "inplace", False):
        modules[str(node.target)].inplace = False  # type: ignore[assignment]
    elif node.kwargs.get("inplace"):
        node.kwargs = {**node.kwargs, "inplace": False}
    node.target = _IN_PLACE.get(node.target, node.target)
