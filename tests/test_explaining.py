"""From methods to explanations: settings, several layers and targets, what is shown."""

import inspect

import pytest
import torch
from conftest import tiny_model

from featviz.attribution import METHODS
from featviz.errors import InvalidValue
from featviz.explain_settings import DISPLAY, METHOD_SETTINGS
from featviz.explaining import class_logits, explain, fitted_to, top_classes
from featviz.output.colour import COLOURMAPS, colourise
from featviz.output.overlays import EmptyMap, limits, overlay, region, scaled, signed


@pytest.mark.parametrize("method", METHODS)
def test_settings_are_the_methods_own(method):
    """Each setting is an argument of the method, with the same default where it is no list in text."""
    arguments = inspect.signature(METHODS[method]).parameters
    for name, value in METHOD_SETTINGS[method]().plain().items():
        if name in DISPLAY:
            continue
        default = arguments[name].default
        if name == "windows":
            value = tuple(int(each) for each in value.split(","))
        elif name == "percentile":
            value = float(value)
        assert value == default, name


def test_every_method_has_settings():
    assert list(METHOD_SETTINGS) == list(METHODS)


def test_targets_layers_and_percentiles_make_a_table(small_photo):
    settings = METHOD_SETTINGS["percentile-cam"](
        layer="conv2,conv3", percentile="50,90", size=32, sign="both"
    )
    made = explain(tiny_model(), small_photo, "percentile-cam", ["class:0", "class:dog"], settings)
    shown = [(each.layer, each.notes["percentile"], each.target) for each in made.maps]
    assert shown[:3] == [
        ("conv2", 50, "class:tabby"),
        ("conv2", 50, "class:dog"),
        ("conv2", 90, "class:tabby"),
    ]
    assert len(shown) == 8
    width, height = made.to_pil().size
    assert width > 3 * 320 and height > 4 * 213


def test_probabilities_are_the_softmax(small_photo):
    model = tiny_model()
    settings = METHOD_SETTINGS["gradient"](size=32)
    made = explain(model, small_photo, "gradient", ["class:1", "class:1 - class:2"], settings)
    with torch.no_grad():
        logits = model(fitted_to(model, small_photo, 32))[0]
    assert abs(made.maps[0].notes["probability"] - float(logits.softmax(0)[1])) < 1e-6
    assert abs(made.maps[1].score - float(logits[1] - logits[2])) < 1e-5
    assert "probability" not in made.maps[1].notes


def test_the_likeliest_classes_come_in_order(small_photo):
    model = tiny_model()
    order = class_logits(model, fitted_to(model, small_photo)).argsort(descending=True).tolist()
    assert top_classes(model, small_photo, 3) == [f"class:{k}" for k in order[:3]]


def test_numbers_that_are_none_are_named(small_photo):
    settings = METHOD_SETTINGS["percentile-cam"](percentile="fifty")
    with pytest.raises(InvalidValue, match="fifty"):
        explain(tiny_model(), small_photo, "percentile-cam", ["class:0"], settings)


def test_a_map_with_nothing_in_it_stays_empty_and_says_why():
    for values, why in ((torch.zeros(4, 4), "all zero"), (torch.full((4, 4), 2.0), "constant")):
        low, high = limits([values], "pos", "minmax")[0]
        with pytest.warns(EmptyMap, match=why):
            assert torch.equal(scaled(values, low, high), torch.zeros(4, 4))
    broken = torch.tensor([[0.0, float("nan")], [1.0, float("inf")]])
    low, high = limits([broken], "pos", "minmax")[0]
    with pytest.warns(EmptyMap, match="2 of 4"):
        made = scaled(broken, low, high)
    assert torch.equal(made, torch.tensor([[0.0, 0.0], [1.0, 0.0]]))


def test_ranges():
    values = torch.tensor([[-4.0, 1.0], [0.0, 2.0]])
    assert limits([values], "both", "minmax") == [(-4, 4)]
    assert limits([signed(values, "neg")], "neg", "minmax") == [(0, 4)]
    assert limits([values, 3 * values], "both", "shared") == [(-12, 12)] * 2
    assert limits([torch.arange(1000.0).view(10, 100)], "pos", "p99") == [(0, 989)]
    with pytest.raises(InvalidValue, match="minmax"):
        limits([values], "both", "min-max")


def test_colours_begin_end_and_middle():
    for name, codes in COLOURMAPS.items():
        made = colourise(torch.tensor([[0.0, 0.5, 1.0]]), name)[0, :, 0].T
        wanted = [list(bytes.fromhex(codes[k])) for k in (0, 4, 8)]
        torch.testing.assert_close(made * 255, torch.tensor(wanted, dtype=torch.float32))


def test_an_overlay_is_a_plain_blend():
    photo, colours = torch.rand(1, 3, 4, 5), torch.rand(1, 3, 4, 5)
    grey = photo.sum(1, keepdim=True) / 3
    torch.testing.assert_close(overlay(photo, colours, 0.25), 0.75 * grey + 0.25 * colours)


def test_the_largest_part_and_its_box():
    values = torch.zeros(6, 8)
    values[0, 0] = 1.0
    values[2:5, 3:7] = 0.8
    values[4, 7] = 0.3
    found = region(values, 0.5)
    assert found.box == (2, 3, 5, 7) and int(found.mask.sum()) == 12
    assert region(values, 0.9).box == (0, 0, 1, 1)
    assert region(torch.zeros(3, 3)).box is None
