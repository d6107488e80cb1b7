"""Ranges of units: what they expand to, and what is refused."""

import pytest
from conftest import tiny_model

from featviz.errors import InvalidValue, LayerNotFound
from featviz.units import expand


@pytest.mark.parametrize(
    ("text", "units"),
    [
        ("conv2:0-2", ["conv2:0", "conv2:1", "conv2:2"]),
        ("conv2:0,5-6, 1,5", ["conv2:0", "conv2:5", "conv2:6", "conv2:1"]),
        ("conv2:3", ["conv2:3"]),
        ("class:all", [f"class:{number}" for number in range(5)]),
        ("conv1:all", [f"conv1:{number}" for number in range(6)]),
        ("class:tabby", ["class:tabby"]),
        ("conv2:1@0,1", ["conv2:1@0,1"]),
        ("conv2:1 + conv2:2", ["conv2:1 + conv2:2"]),
    ],
)
def test_what_a_text_names(text, units):
    assert expand(tiny_model(), text) == units


@pytest.mark.parametrize(
    ("text", "said"),
    [("conv2:5-2", "'5-2'"), ("conv2:0-8", "8 units, 0 to 7, and no 8"), ("conv2:1,,2", "''")],
)
def test_bad_ranges(text, said):
    with pytest.raises(InvalidValue, match=said):
        expand(tiny_model(), text)
    with pytest.raises(LayerNotFound):
        expand(tiny_model(), "conv9:0-1")
