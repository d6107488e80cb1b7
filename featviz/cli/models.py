"""featviz models, featviz layers."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from featviz.cli.loading import load_from
from featviz.cli.options import ModelOptions, with_options

if TYPE_CHECKING:
    from featviz.layer_table import Layer
    from featviz.types import Model


def models(
    filter: Annotated[str, typer.Argument(help="part of a name, or a pattern with *")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="for programs")] = False,
) -> None:
    """List the models that --model takes, and which have their weights on this machine."""
    from featviz.errors import ModelNotFound
    from featviz.models import listing

    rows = listing(filter)
    if not rows:
        raise ModelNotFound(filter, [row.name for row in listing()])
    if as_json:
        print(json.dumps([asdict(row) for row in rows], indent=1))
        return
    cells = [
        (
            row.name,
            row.source,
            f"{row.parameters / 1e6:.1f} M" if row.parameters else "",
            "x".join(map(str, row.input_size)),
            "yes" if row.cached else "",
        )
        for row in rows
    ]
    show_table(("model", "from", "parameters", "input", "weights here"), cells, right={2, 3})
    print(f"{len(rows)} models; a network of your own: --model FILE.py:FACTORY --weights FILE")


@with_options(model_options=ModelOptions)
def layers(
    filter: Annotated[str, typer.Argument(help="part of an address, alias or kind")] = "",
    every: Annotated[bool, typer.Option("--all", help="also the parts inside blocks")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="for programs")] = False,
    memory: Annotated[
        bool, typer.Option("--memory", help="what a gradient keeps in memory, up to each stage")
    ] = False,
    *,
    model_options: ModelOptions,
) -> None:
    """List a model's layers: address, alias, shape, stride, receptive field, and what each is good for."""
    from featviz.errors import LayerNotFound
    from featviz.layer_table import layer_table

    model = load_from(model_options)
    if memory:
        show_memory(model)
        return
    table = [row for row in layer_table(model) if row.address]
    rows = [row for row in table if filter.lower() in f"{row.address} {row.alias} {row.kind}".lower()]
    if not rows:
        raise LayerNotFound(filter, [row.address for row in table])
    deepest = max((row.stride for row in table if row.stride), default=None)
    if as_json:
        print(json.dumps([_plain(row, deepest) for row in rows], indent=1))
        return
    shown = rows if every or filter else [row for row in rows if row.alias or _is_part(row)]
    show_table(
        ("layer", "alias", "kind", "channels", "map", "stride", "sees", "good for"),
        [_cells(row, deepest) for row in shown],
        right={3, 4, 5, 6},
    )
    hidden = f", {len(rows) - len(shown)} more with --all" if len(shown) < len(rows) else ""
    print(f"{model.name}: {len(shown)} layers{hidden}")


def show_memory(model: Model) -> None:
    """What the gradient of one image keeps, plainly and leanly, and which functions keep it."""
    from featviz.layer_table import ALIASES, layer_table
    from featviz.memory import kept
    from featviz.types import OUTPUT

    stages = [(row.alias or row.address, row.address) for row in layer_table(model)]
    rows = []
    for name, address in [*(each for each in stages if each[0] in ALIASES), ("output", OUTPUT)]:
        plain, lean = (kept(model, [address], model.input_size, lean=way) for way in (False, True))
        rows.append((name, _mib(plain.total), _mib(lean.total), f"{plain.total / max(1, lean.total):.1f}"))
    size = "x".join(map(str, model.input_size))
    print(f"{model.name}: MiB kept for the gradient of one image of {size}")
    show_table(("up to", "plain", "lean", "times less"), rows, right={1, 2, 3})
    most = [f"{name} {_mib(count)}" for name, count in lean.functions.most_common(5) if count >> 14]
    print(f"leanly kept by: {', '.join(most)}")


def _mib(count: int) -> str:
    return f"{count / 2**20:.2f}"


def good_for(layer: Layer, deepest: int | None) -> list[str]:
    """What a layer suits: dream and channel need a map or channels, CAM the last maps before pooling."""
    uses = ["dream"] if layer.spatial or len(layer.shape) == 3 else []
    uses += ["channel"]
    return uses + (["CAM"] if layer.spatial and layer.stride == deepest else [])


def _is_part(layer: Layer) -> bool:
    """Whether a layer stands near the top of the network, and does something."""
    return layer.address.count(".") < 2 and layer.kind not in {"Identity", "Dropout", "Flatten"}


def _plain(layer: Layer, deepest: int | None) -> dict[str, Any]:
    sees = layer.receptive_field
    whole = sees is not None and math.isinf(sees)
    row = asdict(layer) | {"channels": layer.channels, "good_for": good_for(layer, deepest)}
    return row | {"receptive_field": "whole image" if whole else sees}


def _cells(layer: Layer, deepest: int | None) -> tuple[str, ...]:
    sees = layer.receptive_field
    size = "x".join(map(str, layer.shape[2:] if len(layer.shape) == 4 else layer.shape[1:-1]))
    field = "" if sees is None else "all" if math.isinf(sees) else f"{sees:.0f}"
    uses = ", ".join(good_for(layer, deepest))
    return (
        layer.address,
        layer.alias,
        layer.kind,
        str(layer.channels),
        size,
        str(layer.stride or ""),
        field,
        uses,
    )


def show_table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]], right: set[int]) -> None:
    """A table: drawn on a terminal, plain aligned columns elsewhere, so that grep and awk can read it."""
    import sys

    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table

        table = Table(box=None, header_style="bold", pad_edge=False)
        for i, name in enumerate(head):
            table.add_column(name, justify="right" if i in right else "left", overflow="fold")
        for row in rows:
            table.add_row(*row)
        Console().print(table)
        return
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    for row in [head, *rows]:
        cells = [
            c.rjust(w) if i in right else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))
        ]
        print("  ".join(cells).rstrip())
