"""The record of a run: plain data, there and back, and nothing else taken for it."""

import json

import pytest
from conftest import tiny_model

from featviz.api import as_photo
from featviz.errors import ModelError, RecipeError
from featviz.output import recipe_text
from featviz.recipes import Recipe, load_model, recipe_for, versions
from featviz.render_settings import RenderSettings
from featviz.settings import DreamSettings

WHOLE = {
    "command": "dream",
    "model": {"source": {"name": "own.py:net"}, "name": "net", "digest": "12"},
    "target": "layer3",
    "settings": {"steps": 3},
    "inputs": {"photo": {"path": "photo.png", "digest": "34"}},
    "device": "cpu",
    "versions": {"torch": "2"},
    "status": "complete",
}


def test_there_and_back_by_json(small_photo):
    photos = {"photo": as_photo(small_photo), "mask": as_photo(small_photo)}
    recipe = recipe_for("dream", tiny_model(), "conv2", DreamSettings(steps=3, size=40), photos)
    assert Recipe.of(json.loads(recipe_text(recipe.plain()))) == recipe
    assert recipe.settings["steps"] == 3 and recipe.settings["octaves"] is None
    assert DreamSettings.make(**recipe.settings) == DreamSettings(steps=3, size=40)
    assert recipe.inputs["photo"]["digest"] == photos["photo"].digest
    assert recipe.model["digest"] == tiny_model().digest
    assert set(recipe.versions) >= {"featviz", "torch", "torchvision", "timm", "numpy", "pillow", "python"}


def test_one_recipe_is_the_same_each_time():
    made = [recipe_for("render", tiny_model(), "conv2:1", RenderSettings()) for _ in range(2)]
    assert recipe_text(made[0].plain()) == recipe_text(made[1].plain())
    assert versions() == versions()


def test_a_whole_one_is_taken_and_what_may_be_left_out_may():
    before = {"fold": False, "channels_last": False}  # settings that recipes did not have at first
    assert Recipe.of(WHOLE).plain() == {**WHOLE, "settings": {**before, **WHOLE["settings"]}}
    short = {k: v for k, v in WHOLE.items() if k in ("command", "model", "target", "settings", "inputs")}
    assert Recipe.of(short).status == "complete"


def test_a_recipe_without_a_setting_was_made_as_things_were_before_it():
    old = {**WHOLE, "command": "render", "settings": {"steps": 3}}
    settings = RenderSettings.make(**Recipe.of(old).settings)
    assert (settings.statistics, settings.fold, settings.channels_last) == (0.0, False, False)
    assert (settings.slack, settings.view_from, settings.starts) == (0.0, 0.0, 1)
    assert Recipe.of({**old, "settings": {"statistics": 5.0}}).settings["statistics"] == 5.0
    assert Recipe.of({**WHOLE, "command": "explain gradient", "settings": {}}).settings == {}


@pytest.mark.parametrize(
    "change",
    [
        {"command": "cook"},
        {"command": ["dream"]},
        {"model": {}},
        {"model": {**WHOLE["model"], "source": "resnet34"}},
        {"model": {**WHOLE["model"], "digest": None}},
        {"target": 5},
        {"settings": [1]},
        {"inputs": {}},
        {"inputs": {"photo": "photo.png"}},
        {"inputs": {"photo": {"path": 3, "digest": ""}}},
        {"versions": []},
        {"device": 7},
        {"more": 1},
    ],
)
def test_what_is_not_whole_is_refused_in_one_line(change):
    with pytest.raises(RecipeError, match="not a recipe of featviz") as caught:
        Recipe.of({**WHOLE, **change})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("missing", ["command", "model", "target", "settings"])
def test_what_lacks_a_part_is_refused(missing):
    with pytest.raises(RecipeError):
        Recipe.of({k: v for k, v in WHOLE.items() if k != missing})


def test_models_that_cannot_be_loaded_again():
    def with_source(source):
        return Recipe.of({**WHOLE, "model": {**WHOLE["model"], "source": source}})

    with pytest.raises(ModelError, match="built in memory"):
        load_model(with_source({}))
    with pytest.raises(RecipeError, match="nam"):
        load_model(with_source({"nam": "resnet34"}))
