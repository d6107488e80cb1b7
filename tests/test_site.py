"""The gallery: what it plans, makes and goes on with, and what its pages hold. Browser: test_site_browser.py."""

import json
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import tiny_model

from featviz.errors import InvalidValue, OutputError
from featviz.output import read_photo, read_recipe
from featviz.render_settings import RenderSettings
from featviz.site import build, plan
from featviz.site.exciting import exciting
from featviz.site.pages import command
from featviz.site.plan import MARK

SMALL = RenderSettings(size=32, steps=2)
PHOTOS = ["gallery/photos/chelsea.png", "gallery/photos/coffee.png", "gallery/photos/sky.jpg"]


def small_plan(folder, targets=("class:tabby", "conv2:0-2"), settings=SMALL, **more):
    return plan(tiny_model(), list(targets), settings, folder, **more)


def stamps(folder):
    return {each.name: each.stat().st_mtime_ns for each in (folder / "pictures").iterdir()}


def test_a_gallery_is_made_and_nothing_is_made_twice(tmp_path):
    made = small_plan(tmp_path / "site", faces=2)
    assert build(made) == "complete"
    assert [unit.slug for unit in made.units] == ["class-0", "conv2-0", "conv2-1", "conv2-2"]
    before = stamps(made.folder)
    assert len(before) == 4 * 3 and all(made.missing(unit) == [] for unit in made.units)
    assert build(made) == "complete" and stamps(made.folder) == before
    recipe = read_recipe(made.folder / made.units[1].face(2))
    assert (recipe["target"], recipe["settings"]["face"], recipe["settings"]["diversity"]) == (
        "conv2:0",
        2,
        2,
    )
    assert recipe["cards"][0]["activation"] and recipe["status"] == "complete"


def test_what_a_change_touches_is_remade_and_the_rest_stays(tmp_path):
    build(small_plan(tmp_path / "site"))
    before = stamps(tmp_path / "site")
    more = small_plan(tmp_path / "site", ("class:tabby", "conv2:0-3"))
    assert [unit.slug for unit in more.units if more.missing(unit)] == ["conv2-3"]
    build(more)
    after = stamps(tmp_path / "site")
    assert {name: after[name] for name in before} == before
    other = small_plan(tmp_path / "site", settings=RenderSettings(size=32, steps=3))
    assert all(other.missing(unit) for unit in other.units)


def test_pages_of_units_no_longer_in_it_go_and_their_pictures_stay(tmp_path):
    build(small_plan(tmp_path / "site"))
    build(small_plan(tmp_path / "site", ("conv2:1",)))
    assert sorted(each.name for each in (tmp_path / "site/unit").iterdir()) == ["conv2-1.html"]
    assert len(stamps(tmp_path / "site")) == 4


def test_a_damaged_or_unfinished_picture_is_made_again(tmp_path):
    made = small_plan(tmp_path / "site")
    build(made)
    file = made.folder / made.units[0].picture
    file.write_bytes(file.read_bytes()[:200])
    assert made.missing(made.units[0]) == [made.units[0].picture]
    build(made)
    assert made.missing(made.units[0]) == []


def test_ctrl_c_keeps_what_is_done_and_the_pages_show_it(tmp_path):
    made = small_plan(tmp_path / "site")
    calls = iter([False] * 5 + [True])
    assert build(made, watch=lambda _: next(calls)) == "interrupted"
    assert len(stamps(made.folder)) == 2
    assert "not made yet" in (made.folder / "unit/conv2-2.html").read_text()
    assert build(made) == "complete"


def test_killed_by_force_it_goes_on_where_it_stopped(tmp_path):
    """64 units; what stands after SIGKILL is whole, and is not made again."""
    net = tmp_path / "net.py"
    net.write_text(
        "import torch\nfrom torch import nn\n\ndef make():\n    torch.manual_seed(0)\n"
        "    return nn.Sequential(nn.Conv2d(3, 64, 3, 2), nn.ReLU(), nn.Conv2d(64, 8, 3, 2))\n"
    )
    site = tmp_path / "site"
    asked = [sys.executable, "-m", "featviz", "gallery", "0:all", "--model", f"{net}:make"]
    asked += ["--input-size", "32", "--steps", "30", "--out", str(site), "--quiet"]
    first = subprocess.Popen(asked)
    deadline = time.time() + 120
    while time.time() < deadline and len(list(site.glob("pictures/*.webp"))) < 9:
        time.sleep(0.02)
    first.send_signal(signal.SIGKILL)
    first.wait()
    kept = stamps(site)
    assert 9 <= len(kept) < 64, "killed too late"
    subprocess.run(asked, check=True, capture_output=True)
    after = stamps(site)
    assert len([name for name in after if name.endswith(".webp")]) == 64
    assert {name: after[name] for name in kept if name.endswith(".webp")} == {
        name: at for name, at in kept.items() if name.endswith(".webp")
    }


def test_every_link_and_picture_of_a_page_is_there(tmp_path):
    made = small_plan(tmp_path / "site", faces=2)
    build(made, photos=[Path(photo) for photo in PHOTOS])
    pages = list(made.folder.rglob("*.html"))
    assert len(pages) == 1 + 2 + 4
    for page in pages:
        text = page.read_text()
        assert not re.search(r"(src|href)=\"https?:", text) and "<html lang=" in text
        for link in re.findall(r"(?:src|href)=\"([^\"#]+)\"", text):
            assert link == "data:," or (page.parent / link).exists(), (page.name, link)
        assert all("alt=" in image for image in re.findall(r"<img[^>]*>", text))


def test_the_photos_are_ranked_by_what_the_unit_gives(tmp_path):
    made = small_plan(tmp_path / "site", ("conv2:1",))
    build(made)
    paths = [Path(photo) for photo in PHOTOS]
    found = exciting(made, paths)["conv2-1"]
    assert [each.score for each in found] == sorted((each.score for each in found), reverse=True)
    assert {each.photo for each in found} == {path.name for path in paths}
    part = read_photo(made.folder / found[0].part).image
    assert part.shape[2] == part.shape[3]


def test_a_folder_with_other_things_in_it_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(OutputError, match="holds other things"):
        small_plan(tmp_path)
    assert [each.name for each in tmp_path.iterdir()] == ["thesis.txt"]


def test_what_makes_no_gallery(tmp_path):
    with pytest.raises(InvalidValue, match="gallery of nothing"):
        small_plan(tmp_path, ())
    with pytest.raises(InvalidValue, match="single pictures"):
        small_plan(tmp_path, settings=RenderSettings(animate=True))


def test_the_command_on_a_page_makes_the_picture_again(tmp_path):
    settings = RenderSettings(size=32, steps=2, preset="yosinski3", blur=0.7)
    made = plan(tiny_model(), ["class:1", "conv2:2"], settings, tmp_path / "s")
    shown = [command(made, unit) for unit in made.units]
    assert shown[0].startswith("featviz class 1 ") and shown[1].startswith("featviz channel conv2:2 ")
    for words in ("--preset yosinski3", "--blur 0.7", "--steps 2", "--size 32"):
        assert words in shown[1]
    assert "--shrink" not in shown[1]


def test_the_search_is_told_every_unit(tmp_path):
    made = small_plan(tmp_path / "site")
    build(made)
    text = (made.folder / "assets/units.js").read_text()
    units = json.loads(text.removeprefix("window.UNITS = ").removesuffix(";\n"))
    assert units[0] == ["class-0", "tabby", "classes", 0, True] and len(units) == 4
    assert (made.folder / MARK).is_file()


def test_the_command_names_a_network_of_ones_own(tmp_path):
    model = replace(tiny_model(), source={"name": "net.py:make", "input_size": [28, 40], "mean": 0.5})
    made = plan(model, ["conv2:2"], SMALL, tmp_path / "s")
    assert "--model net.py:make --input-size 28x40 --mean 0.5" in command(made, made.units[0])
