"""The exact output of a network for many pictures that differ from one picture in a rectangle each.

Behind a changed rectangle only the positions that see it change: each layer is computed there alone,
and the rest is read from the unchanged picture's own pass. Once a rectangle covers most of a map, or an
operation mixes all positions, the batch goes on whole. Nothing is approximated; only rounding differs.
For CPUs: the cutting and pasting is done by numpy.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from featviz.attribution.sliding import Corners, Sliding, is_pointwise, makes_new, sliding_of
from featviz.receptive_field import first_tensor

WHOLE = 0.8
"""The share of a map from which on computing all of it is quicker than cutting and pasting."""

_NOWHERE = np.zeros(2, np.int64)


@dataclass(frozen=True)
class Patch:
    """What changed in a map: `values` `(b, c, rows, cols)` at `corners`; elsewhere it is as it was."""

    values: Tensor
    corners: Corners

    @property
    def size(self) -> Corners:
        """(rows, columns) of the rectangles, which are all alike."""
        return np.array(self.values.shape[2:], dtype=np.int64)


class Incremental:
    """Runs a graph on changes to one normalised picture `(1, c, h, w)`; `output` is its own, `(1, n)`."""

    def __init__(self, graph: fx.GraphModule, picture: Tensor) -> None:
        self.graph = graph
        self.nodes = list(graph.graph.nodes)
        self.modules: Mapping[str, nn.Module] = dict(graph.named_modules())
        self.spent = _last_uses(self.nodes)
        self.before: dict[fx.Node, Any] = {}
        self.padded: dict[tuple[Any, ...], Tensor] = {}
        for node in self.nodes:
            made = picture if node.op == "placeholder" else self._call(node, self.before.__getitem__)
            self.before[node] = made
        self.output = _output(self.before[self.nodes[-1]])

    def __call__(self, filled: Tensor, corners: Corners, size: tuple[int, int]) -> Tensor:
        """The network's output `(b, n)` where `filled` `(1, c, h, w)` shows in a rectangle of the picture.

        `corners` is `(b, 2)`; the rectangles of `size` (rows, columns) lie within the picture.
        """
        cut = [filled[0, :, r : r + size[0], c : c + size[1]] for r, c in corners]
        patch = Patch(torch.stack(cut).contiguous(memory_format=layout_of(filled)), corners)
        values: dict[fx.Node, Any] = {}
        for node in self.nodes:
            if node.op in ("placeholder", "get_attr"):
                values[node] = patch if node.op == "placeholder" else self.before[node]
            else:
                values[node] = self._step(node, values)
            for spent in self.spent[node]:
                del values[spent]
        return _output(values[self.nodes[-1]])

    def _step(self, node: fx.Node, values: dict[fx.Node, Any]) -> Any:
        patched = [n for n in node.all_input_nodes if isinstance(values[n], Patch)]
        if patched and first_tensor(self.before[node]) is None:  # a question about a map's shape
            return self._call(node, lambda n: self._shape_only(n, values[n]))
        if patched and isinstance(self.before[node], Tensor) and self.before[node].dim() == 4:
            made = self._sliding(node, values) or self._pointwise(node, values, patched)
            if made is not None:
                return made
        for n in patched:
            values[n] = self._whole(n, values[n])
        return self._call(node, values.__getitem__, self._free(node))

    def _call(self, node: fx.Node, value: Callable[[fx.Node], Any], free: bool = False) -> Any:
        """What a node puts out; where its input is `free` a ReLU writes over it."""
        given: Any = fx.node.map_arg((node.args, node.kwargs), value)
        args, kwargs = given
        if node.op == "call_module":
            module = self.modules[str(node.target)]
            if free and type(module) is nn.ReLU:
                return F.relu_(args[0])
            return module(*args, **kwargs)
        if node.op == "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        if node.op == "get_attr":
            return operator.attrgetter(str(node.target))(self.graph)
        return args[0] if node.op == "output" else node.target(*args, **kwargs)  # type: ignore[operator]

    def _free(self, node: fx.Node) -> bool:
        """Whether the first input of a node is a tensor of this pass that nothing else reads."""
        first = node.all_input_nodes[:1]
        return bool(first) and first[0] in self.spent[node] and makes_new(first[0], self.modules)

    def _shape_only(self, node: fx.Node, value: Any) -> Any:
        if not isinstance(value, Patch):
            return value
        return torch.empty(len(value.corners), *self.before[node].shape[1:], device="meta")

    def _whole(self, node: fx.Node, patch: Patch) -> Tensor:
        """The maps of the batch: the unchanged one, each with its patch on it."""
        before: Tensor = self.before[node]
        whole = before.expand(len(patch.corners), -1, -1, -1).clone(memory_format=layout_of(before))
        rows, cols = patch.size
        onto, values = whole.numpy(), patch.values.numpy()
        for i, (r, c) in enumerate(patch.corners.tolist()):
            onto[i, :, r : r + rows, c : c + cols] = values[i]
        return whole

    def _sliding(self, node: fx.Node, values: Mapping[fx.Node, Any]) -> Patch | None:
        """A convolution or pooling, computed only where a position sees the patch."""
        source = node.all_input_nodes[0]
        before, after = _positions(self.before[source]), _positions(self.before[node])
        op = sliding_of(node, self.modules, before, after)
        if op is None:
            return None
        patch = values[source]
        corners, size = op.that_see(patch.corners, patch.size, after)
        if size.prod() >= WHOLE * after.prod():
            return None
        start, extent = op.seen_by(corners, size)
        seen = _cut(self._padded(source, op, after), patch, start, extent, op.padding)
        return Patch(op.compute(seen), corners)

    def _padded(self, node: fx.Node, op: Sliding, after: Corners) -> Tensor:
        """The unchanged map with the border that an operation adds, made once."""
        before = self.before[node]
        key = (node, *op.padding, *op.kernel, *op.stride, *op.dilation, op.fill)
        if key not in self.padded:
            need = op.seen_by(_NOWHERE, after)[1]
            (top, left), (bottom, right) = op.padding, (need - op.padding - _positions(before)).clip(0)
            border = [int(left), int(right), int(top), int(bottom)]
            self.padded[key] = F.pad(before, border, value=op.fill) if any(border) else before
        return self.padded[key]

    def _pointwise(
        self, node: fx.Node, values: Mapping[fx.Node, Any], patched: list[fx.Node]
    ) -> Patch | None:
        """An operation on each position by itself, computed on the rectangle around all its patches."""
        shapes = {self.before[n].shape[2:] for n in patched} | {self.before[node].shape[2:]}
        changing = [n for n in node.all_input_nodes if n.op != "get_attr"]
        if len(shapes) > 1 or len(patched) < len(changing) or not is_pointwise(node, self.modules):
            return None
        first = np.min([values[n].corners for n in patched], axis=0)
        last = np.max([values[n].corners + values[n].size for n in patched], axis=0)
        size = (last - first).max(0)
        corners = np.minimum(first, _positions(self.before[node]) - size)
        cut = {n: self._around(n, values[n], corners, size) for n in patched}
        free = self._free(node)
        return Patch(self._call(node, lambda n: cut[n] if n in cut else values[n], free), corners)

    def _around(self, node: fx.Node, patch: Patch, corners: Corners, size: Corners) -> Tensor:
        if (patch.size == size).all() and (patch.corners == corners).all():
            return patch.values
        return _cut(self.before[node], patch, corners, size, _NOWHERE)


def _cut(padded: Tensor, patch: Patch, corners: Corners, size: Corners, padding: Corners) -> Tensor:
    """What lies in rectangles of a padded map, with the patch on it: `(b, c, rows, cols)`."""
    rows, cols = size.tolist()
    shape = (len(corners), padded.shape[1], rows, cols)
    cut = torch.empty(shape, dtype=padded.dtype, memory_format=layout_of(padded))
    # numpy copies in this thread; for pieces as small as these torch would wait for its other threads
    onto, below, values = cut.numpy(), padded.numpy()[0], patch.values.numpy()
    low = (patch.corners + padding - corners).tolist()  # where the patch begins within the rectangle
    h, w = patch.values.shape[2:]
    for i, ((row, col), (r, c)) in enumerate(zip(corners.tolist(), low, strict=True)):
        onto[i] = below[:, row : row + rows, col : col + cols]
        part = values[i, :, max(-r, 0) : rows - r, max(-c, 0) : cols - c]
        onto[i, :, max(r, 0) : r + h, max(c, 0) : c + w] = part
    return cut


def _last_uses(nodes: list[fx.Node]) -> dict[fx.Node, list[fx.Node]]:
    """Node -> the nodes whose values nobody needs after it."""
    last = {source: node for node in nodes for source in node.all_input_nodes}
    spent: dict[fx.Node, list[fx.Node]] = {node: [] for node in nodes}
    for source, node in last.items():
        spent[node].append(source)
    return spent


def _output(value: Any) -> Tensor:
    found = first_tensor(value)
    if found is None:
        raise TypeError("the network puts out no tensor")
    return found


def _positions(made: Tensor) -> Corners:
    return np.array(made.shape[2:], dtype=np.int64)


def layout_of(made: Tensor) -> torch.memory_format:
    """Whether a map is kept channels last."""
    last = made.is_contiguous(memory_format=torch.channels_last) and not made.is_contiguous()
    return torch.channels_last if last else torch.contiguous_format
