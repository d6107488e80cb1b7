"""Settings: what their types and ranges let in, and how text becomes a value."""

import pytest

from featviz.errors import InvalidValue
from featviz.render_settings import RenderSettings
from featviz.settings import DreamSettings, SettingNotFound


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"steps": 0}, "steps 0: at least 1"),
        ({"steps": -2}, "steps -2: at least 1"),
        ({"steps": "5"}, "steps 5: a whole number"),
        ({"steps": 1.5}, "steps 1.5: a whole number"),
        ({"steps": None}, "steps None: a whole number"),
        ({"steps": True}, "steps True: a whole number"),
        ({"strength": 0}, "strength 0: more than 0"),
        ({"strength": float("nan")}, "strength nan: a number"),
        ({"strength": float("inf")}, "strength inf: a number"),
        ({"strength": "much"}, "strength much: a number"),
        ({"decay": 1.01}, "decay 1.01: at most 1"),
        ({"octave_scale": 1.0}, "octave_scale 1.0: more than 1"),
        ({"keep_color": 1}, "keep_color 1: true or false"),
        ({"tile": 512}, "tile 512: a text"),
        ({"seed": -1}, "seed -1: at least 0"),
    ],
)
def test_what_is_refused(values, told):
    with pytest.raises(InvalidValue, match=f"^{told}"):
        DreamSettings.make(**values)


def test_what_is_taken():
    made = DreamSettings.make(strength=2, octaves=None, size=40, blur=0, decay=1.0, keep_color=True)
    assert made.changed() == {"strength": 2, "size": 40, "blur": 0, "decay": 1.0, "keep_color": True}
    assert DreamSettings.make(**made.plain()) == made


def test_an_unknown_name_has_its_nearest():
    with pytest.raises(SettingNotFound, match="no setting 'stepz'; nearest: steps"):
        RenderSettings.make(stepz=3)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("steps", "40", 40),
        ("strength", "0.5", 0.5),
        ("strength", "2", 2.0),
        ("octaves", "none", None),
        ("blur", "None", None),
        ("keep_color", "true", True),
        ("keep_color", "No", False),
        ("tile", "none", "none"),  # a text of its own
        ("precision", "bfloat16", "bfloat16"),
    ],
)
def test_text_becomes_a_value(name, text, value):
    read = DreamSettings.read(name, text)
    assert read == value and type(read) is type(value)


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("steps", "many", "steps 'many': a whole number"),
        ("steps", "1.5", "steps '1.5': a whole number"),
        ("steps", "none", "steps 'none'"),
        ("strength", "x", "strength 'x': a number"),
        ("keep_color", "maybe", "keep_color 'maybe': true or false"),
    ],
)
def test_text_that_is_none(name, text, told):
    with pytest.raises(InvalidValue, match=told):
        DreamSettings.read(name, text)


@pytest.mark.parametrize(("given", "kept"), [("auto", "auto"), (None, "auto"), (8, "8"), ("8", "8")])
def test_a_batch_is_auto_or_a_number(given, kept):
    assert RenderSettings(batch=given).batch == kept


@pytest.mark.parametrize("given", [0, -1, "0", "many", "1.5", True])
def test_any_other_batch_is_refused(given):
    with pytest.raises(InvalidValue, match=f"batch '{given}'"):
        RenderSettings(batch=given)
