"""From methods to explanations: settings, several layers and targets, what is shown."""

import inspect
from dataclasses import replace

import pytest
import torch
from conftest import tiny_model

from featviz.attribution import METHODS
from featviz.errors import InvalidValue, MethodNotFound
from featviz.explain_settings import DISPLAY, EXPLAIN_SETTINGS, METHOD_SETTINGS
from featviz.explaining import class_logits, explain, fitted_to, methods_of, top_classes, windows_of
from featviz.output.colour import COLOURMAPS, colourise
from featviz.output.display import Display, ranges
from featviz.output.explanations import BOX
from featviz.output.overlays import EmptyMap, limits, overlay, region, scaled, signed


@pytest.mark.parametrize("method", METHODS)
def test_settings_are_the_methods_own(method):
    """Each setting is an argument of the method, with the same default where it is no list in text."""
    arguments = inspect.signature(METHODS[method]).parameters
    for name, value in METHOD_SETTINGS[method]().plain().items():
        if name in DISPLAY:
            continue
        default = arguments["windows" if name == "window" else name].default
        if name == "window":
            value = windows_of(value)
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
        ("conv2", 50, "class:tabby - class:dog"),
    ]
    assert len(shown) == 12
    width, height = made.to_pil().size
    assert width > 4 * 320 and height > 4 * 213


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


def test_the_margin_is_the_first_classes_map_less_the_seconds(small_photo):
    settings = METHOD_SETTINGS["gradient"](size=32)
    first, second, lead = explain(
        tiny_model(), small_photo, "gradient", ["class:3", "class:0"], settings
    ).maps
    assert lead.notes["margin"] is True and lead.display.sign == "both"
    (alone,) = explain(tiny_model(), small_photo, "gradient", ["class:3 - class:0"], settings).maps
    torch.testing.assert_close(lead.raw, alone.raw)
    torch.testing.assert_close(lead.raw, first.raw - second.raw)
    assert abs(lead.score - (first.score - second.score)) < 1e-5
    alone = replace(settings, margin=False)
    assert len(explain(tiny_model(), small_photo, "gradient", ["class:3", "class:0"], alone).maps) == 2


def test_classes_share_a_range_and_layers_do_not(small_photo):
    settings = METHOD_SETTINGS["grad-cam"](layer="conv2,conv3", size=32)
    maps = explain(tiny_model(), small_photo, "grad-cam", ["class:1", "class:2"], settings).maps
    within = ranges(maps, [each.display for each in maps], "auto")
    for row in (0, 3):
        two = torch.stack([maps[row].map, maps[row + 1].map]).clamp(min=0)
        assert within[row] == within[row + 1] == (float(two.min()), float(two.max()))
    assert within[0] != within[3]
    for i, each in enumerate(ranges(maps, [each.display for each in maps], "minmax")):
        shown = maps[i].map.clamp(min=0) if i not in (2, 5) else maps[i].map
        assert each[1] == pytest.approx(float(shown.abs().max()))


def test_all_has_every_method_that_applies(small_photo):
    settings = EXPLAIN_SETTINGS["all"](size=32, masks=5)
    made = explain(tiny_model(), small_photo, "all", ["class:1"], settings)
    assert [each.method for each in made.maps] == [name for name in METHODS if name not in made.missing]
    assert set(made.missing) <= {"cam"} and set(made.seconds) == set(METHODS)
    assert made.to_pil().width > 6 * 320


def test_all_takes_the_methods_named_and_their_settings():
    values = {"method": "rise,percentile-cam", "masks": 7, "percentile": "90", "sign": "both"}
    own = methods_of("all", EXPLAIN_SETTINGS["all"](**values))
    assert list(own) == ["rise", "percentile-cam"]
    assert own["rise"].masks == 7 and own["rise"].cells == 7
    assert own["percentile-cam"].percentile == "90" and own["percentile-cam"].sign == "both"
    with pytest.raises(MethodNotFound, match="nearest: rise"):
        methods_of("all", EXPLAIN_SETTINGS["all"](method="rize"))


def test_a_region_of_a_gradient_is_no_single_pixel():
    """A bright pixel far off has less of its neighbourhood than a patch of half its strength."""
    values = torch.zeros(64, 96)
    values[5, 80] = -2.0
    values[30:50, 20:45] = 1.0
    found = Display(sign="abs").region(values)
    top, left, bottom, right = found.box
    assert abs(top - 30) <= 2 and abs(bottom - 50) <= 2 and abs(left - 20) <= 2 and abs(right - 45) <= 2


@pytest.mark.parametrize("show", ["overlay", "heatmap", "mask"])
def test_pictures_without_captions_have_the_photos_size(small_photo, show):
    settings = METHOD_SETTINGS["grad-cam"](layer="conv2", show=show, size=64)
    made = explain(tiny_model(), small_photo, "grad-cam", ["class:1", "class:2"], settings)
    picture = made.to_pil()
    assert picture.size == (3 * 96, 64)
    if show == "mask":
        assert {colour for _, colour in picture.getcolors()} == {(0, 0, 0), (255, 255, 255)}
    with pytest.raises(InvalidValue, match="nearest: mask"):
        replace(made.maps[0].display, show="masc")


def test_boxes_are_drawn_where_the_region_is(small_photo):
    settings = METHOD_SETTINGS["grad-cam"](layer="conv2", boxes=True, size=64)
    (each,) = explain(tiny_model(), small_photo, "grad-cam", ["class:1"], settings).maps
    top, left, bottom, right = each.region.box
    assert each.overlay().getpixel((left, top)) == each.overlay().getpixel((right - 1, bottom - 1)) == BOX
    strong = each.map.clamp(min=0) >= 0.5 * each.map.max()
    assert bool((each.region.mask <= strong).all())
