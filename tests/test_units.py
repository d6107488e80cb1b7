"""Ranges of units: what they expand to, and what is refused."""

import pytest
import torch
from conftest import tiny_model

from featviz.errors import InvalidValue, LayerNotFound
from featviz.targets import objective_of
from featviz.units import between, excited, expand


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


def test_interpolations_go_from_each_unit_to_the_next():
    assert between(["a:1", "a:2"], 3) == ["a:1", "0.5*a:1 + 0.5*a:2", "a:2"]
    assert between(["a", "b", "c"], 2) == ["a", "b", "c"]
    with pytest.raises(InvalidValue, match="two units"):
        between(["a"], 3)
    with pytest.raises(InvalidValue, match="single units"):
        between(["a + b", "c"], 3)


def test_what_a_photo_excites(embedded, chelsea):
    """The channels whose mean over the photo exceeds that over noise most; the likeliest classes."""
    found = excited(embedded, chelsea, "layer2", 3)
    assert len(found) == 3 and all(each.startswith("layer2:") for each in found)
    top = excited(embedded, chelsea, "class", 2)
    assert top[0] == "class:285" or "class:282" in top or "class:281" in top


def test_a_random_direction_is_of_length_one_and_its_number_makes_it(tiny):
    first, again, other = (objective_of(tiny, f"conv2:random{n}") for n in (3, 3, 4))
    eye = {"conv2": torch.eye(8).view(8, 8, 1, 1)}
    vector = first.measure(eye)
    assert torch.equal(vector, again.measure(eye)) and not torch.equal(vector, other.measure(eye))
    assert float(vector.norm()) == pytest.approx(1, rel=1e-5) and first.name == "conv2:random3"
    assert objective_of(tiny, "conv2:random").name == "conv2:random"
