"""Imports go one way: each module may use those of lower rank, and its own package."""

import ast
from pathlib import Path

import pytest

import featviz

ROOT = Path(featviz.__file__).parent

RANKS = [
    {"errors", "allocator"},
    {"types", "settings", "sizes", "frozen", "receptive_field", "norms"},
    {"layer_table", "explain_settings", "render_settings"},
    {"layers", "presets", "backward", "arrangement"},
    {"statistics", "objectives", "params", "transforms", "regularizers", "engines", "models"},
    {"targets", "preconditioning", "memory", "trial"},
    {"ascent", "ingredients", "batch_score"},
    {"starts"},
    {"deepdream", "visualize", "attribution", "output"},
    {"recipes", "zoom", "checking", "watching"},
    {"explaining"},
    {"cards", "units"},
    {"rendering"},
    {"render_runs"},
    {"runs"},
    {"api", "site", "jobs"},
    {"cli"},
    {"__init__", "__main__"},
]
RANK = {name: rank for rank, names in enumerate(RANKS) for name in names}


def sources():
    return sorted(path for path in ROOT.rglob("*.py") if not path.name.startswith("."))


def home(path):
    """The module or package directly under featviz/ that a file belongs to."""
    return path.relative_to(ROOT).with_suffix("").parts[0]


def imported(text):
    """What of featviz a source imports, wherever in it: `featviz.models.own` counts as `models`."""
    names = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                names.add("featviz." + "." * node.level + (node.module or ""))
            elif node.module == "featviz":
                names |= {f"featviz.{alias.name}" for alias in node.names}
            else:
                names.add(node.module)
    return {name.split(".")[1] for name in names if name and name.startswith("featviz.")}


def wrong_way(own, text):
    found = imported(text)
    return sorted(name for name in found if name != own and RANK.get(name, 99) >= RANK[own])


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_down(path):
    own = home(path)
    assert own in RANK, f"say in this test where {own} stands"
    assert wrong_way(own, path.read_text()) == []


@pytest.mark.parametrize(
    ("own", "text", "wrong"),
    [
        ("objectives", "from featviz.params import pixels", ["params"]),
        ("objectives", "def f():\n    from featviz import cli", ["cli"]),
        ("layers", "import featviz.models.own", ["models"]),
        ("errors", "from featviz.types import Model", ["types"]),
        ("ascent", "from . import engines", [""]),
        ("ascent", "from featviz.engines import eager\nimport torch", []),
        ("output", "from featviz.output.pil import to_pil", []),
        ("types", "from featviz.nowhere import x", ["nowhere"]),
    ],
)
def test_the_test_sees_an_arrow_that_runs_the_wrong_way(own, text, wrong):
    assert wrong_way(own, text) == wrong


def test_only_the_command_line_prints():
    printing = {
        str(path.relative_to(ROOT))
        for path in sources()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    }
    assert all(name.startswith("cli/") for name in printing), printing


def test_no_drawer_for_odds_and_ends():
    odd = {"utils", "helpers", "common", "misc", "util", "helper"}
    assert not [path for path in sources() if set(path.relative_to(ROOT).with_suffix("").parts) & odd]


def test_random_numbers_come_from_generators_alone():
    """Global randomness would make a picture depend on what ran before it."""
    drawing = {"rand", "randn", "randint", "randperm", "rand_like", "randn_like", "manual_seed", "seed"}
    found = []
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            of = node.func.value
            draws = node.func.attr in drawing and isinstance(of, ast.Name) and of.id in ("torch", "random")
            if draws and not any(keyword.arg == "generator" for keyword in node.keywords):
                found.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert not found
