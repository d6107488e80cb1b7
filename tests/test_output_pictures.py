"""Pictures reopen equal with their recipe, and nothing is ever half-written or clobbered."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from featviz.errors import InvalidValue, OutputError, OutputExists, RecipeError
from featviz.output import pictures
from featviz.output.pictures import WRITERS, check_output, read_recipe, sidecar, write_picture, write_sidecar

LOSSLESS = (".png", ".tif", ".tiff")

RECIPE = {
    "command": "dream",
    "photos": ["été/ねこ 🐈.jpg", "line\nbreak", "nul\0", "\udce9 not UTF-8"],
    "targets": {"layer3": 0.5, 'class:"tiger cat"': -1},
    "seed": 2**62 + 1,
    "step_size": 0.1 + 0.2,
    "guide": None,
    "keep_color": True,
}


@pytest.fixture
def image() -> torch.Tensor:
    """A smooth picture `(1, 3, 24, 33)`, so that JPEG is near to it."""
    rows, columns = torch.meshgrid(torch.linspace(0, 1, 24), torch.linspace(0, 1, 33), indexing="ij")
    return torch.stack([rows, columns, 1 - rows])[None]


def pixels(image: torch.Tensor) -> np.ndarray:
    return np.floor(image[0].permute(1, 2, 0).numpy().astype(np.float64) * 255 + 0.5)


@pytest.mark.parametrize("suffix", [*WRITERS, ".PNG"])
def test_reopens_equal_with_its_recipe(tmp_path: Path, suffix: str, image: torch.Tensor) -> None:
    path = write_picture(tmp_path / f"a{suffix}", image, RECIPE)
    assert path == tmp_path / f"a{suffix}"
    with Image.open(path) as pil:
        assert pil.mode == "RGB"
        found = np.asarray(pil).astype(float)
    np.testing.assert_allclose(found, pixels(image), atol=0 if suffix.lower() in LOSSLESS else 12)
    assert read_recipe(path) == RECIPE
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_png_holds_compact_json_that_others_can_read(tmp_path: Path, image: torch.Tensor) -> None:
    recipe = {"b": "é", "a": [1, 2]}
    path = write_picture(tmp_path / "a.png", image, recipe)
    assert b'{"a":[1,2],"b":"\xc3\xa9"}' in path.read_bytes()
    with Image.open(path) as pil:
        assert pil.info["Software"] == "featviz"


@pytest.mark.parametrize("suffix", WRITERS)
def test_same_input_same_bytes(tmp_path: Path, suffix: str, image: torch.Tensor) -> None:
    first = write_picture(tmp_path / f"a{suffix}", image, {"a": 1, "b": 2})
    second = write_picture(tmp_path / f"b{suffix}", image.clone(), {"b": 2, "a": 1})
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp"])
def test_alpha(tmp_path: Path, suffix: str, image: torch.Tensor) -> None:
    alpha = image[:, 1:2]
    path = write_picture(tmp_path / f"a{suffix}", image, RECIPE, alpha=alpha, quality=100)
    with Image.open(path) as pil:
        assert pil.mode == "RGBA"
        found = np.asarray(pil)
    np.testing.assert_array_equal(found, np.concatenate([pixels(image), pixels(alpha)], 2))
    assert read_recipe(path) == RECIPE


def test_alpha_onto_white_in_jpeg(tmp_path: Path) -> None:
    blue = torch.tensor([0.0, 0.0, 1.0]).view(1, 3, 1, 1).expand(1, 3, 16, 48)
    alpha = torch.tensor([0.0, 0.5, 1.0]).repeat_interleave(16).expand(1, 1, 16, 48)
    path = write_picture(tmp_path / "a.jpg", blue, {}, alpha=alpha)
    with Image.open(path) as pil:
        found = np.asarray(pil)[8, 8::16].astype(float)
    np.testing.assert_allclose(found, [[255, 255, 255], [127, 127, 255], [0, 0, 255]], atol=5)


def test_quality_changes_the_size(tmp_path: Path) -> None:
    noise = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    for suffix in (".jpg", ".webp"):
        sizes = [
            write_picture(tmp_path / f"{quality}{suffix}", noise, {}, quality=quality).stat().st_size
            for quality in (40, 70, 95)
        ]
        assert sizes == sorted(sizes) and sizes[0] < sizes[-1]
    for quality in (0, 101):
        with pytest.raises(InvalidValue, match=f"quality {quality}"):
            write_picture(tmp_path / "q.jpg", noise, {}, quality=quality)


def test_long_recipes(tmp_path: Path, image: torch.Tensor) -> None:
    recipe = {"labels": [f"class {number} é" for number in range(60_000)]}  # over 1 MB
    for suffix in (".png", ".tif", ".webp"):
        assert read_recipe(write_picture(tmp_path / f"a{suffix}", image, recipe)) == recipe
    with pytest.raises(OutputError, match=r"a\.jpg.*a JPEG cannot hold a recipe of \d+ bytes"):
        write_picture(tmp_path / "a.jpg", image, recipe)
    fits = {"note": "x" * 65_000}
    assert read_recipe(write_picture(tmp_path / "b.jpg", image, fits)) == fits
    assert not (tmp_path / "a.jpg").exists()


@pytest.mark.parametrize("value", [float("nan"), object(), {1: 2, "a": 3}])
def test_recipe_that_is_no_json(tmp_path: Path, image: torch.Tensor, value: object) -> None:
    with pytest.raises(RecipeError, match="not plain JSON"):
        write_picture(tmp_path / "a.png", image, {"value": value})
    assert not list(tmp_path.iterdir())


def test_picture_larger_than_its_format(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"a\.webp"):
        write_picture(tmp_path / "a.webp", torch.zeros(1, 3, 1, 17_000), {})
    assert not list(tmp_path.iterdir())


def test_existing_output_stays(tmp_path: Path, image: torch.Tensor) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"precious")
    with pytest.raises(OutputExists, match="--overwrite"):
        write_picture(path, image, {})
    assert path.read_bytes() == b"precious"
    write_picture(path, image, RECIPE, overwrite=True)
    assert read_recipe(path) == RECIPE
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize("links", [True, False])
def test_output_that_appears_meanwhile_stays(
    tmp_path: Path, image: torch.Tensor, links: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.png"

    def race(_picture: Image.Image, file: Path, *_: object) -> None:
        file.write_bytes(b"ours")
        path.write_bytes(b"theirs")

    monkeypatch.setitem(WRITERS, ".png", race)
    if not links:
        _without_links(monkeypatch)
    with pytest.raises(OutputExists):
        write_picture(path, image, {})
    assert path.read_bytes() == b"theirs"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.png"]


def _without_links(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)


def test_file_system_without_links(
    tmp_path: Path, image: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    _without_links(monkeypatch)
    assert read_recipe(write_picture(tmp_path / "a.png", image, RECIPE)) == RECIPE
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize("overwrite", [True, False])
@pytest.mark.parametrize("problem", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")])
def test_failing_write_leaves_nothing(
    tmp_path: Path,
    image: torch.Tensor,
    problem: BaseException,
    overwrite: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(_picture: Image.Image, file: Path, *_: object) -> None:
        file.write_bytes(b"half")
        raise problem

    monkeypatch.setitem(WRITERS, ".png", fail)
    if overwrite:
        (tmp_path / "a.png").write_bytes(b"before")
    expected = OutputError if isinstance(problem, OSError) else KeyboardInterrupt
    with pytest.raises(expected, match="No space left" if expected is OutputError else None):
        write_picture(tmp_path / "a.png", image, {}, overwrite=overwrite)
    assert [entry.read_bytes() for entry in tmp_path.iterdir()] == [b"before"] * overwrite


def test_written_file_has_the_usual_permissions(tmp_path: Path, image: torch.Tensor) -> None:
    (tmp_path / "plain").touch()
    path = write_picture(tmp_path / "a.png", image, {})
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_longest_file_name(tmp_path: Path, image: torch.Tensor) -> None:
    name = "é" * 125 + ".png"  # 254 bytes
    assert write_picture(tmp_path / name, image, {}).exists()
    with pytest.raises(OutputError):
        write_picture(tmp_path / ("é" + name), image, {})
    assert len(list(tmp_path.iterdir())) == 1


def test_check_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_output(str(tmp_path / "a.png")) == tmp_path / "a.png"
    assert not list(tmp_path.iterdir())
    with pytest.raises(OutputError, match="is a directory"):
        check_output(tmp_path)
    with pytest.raises(InvalidValue, match=r"suffix '\.pgn'; known: \.png .*nearest: \.png"):
        check_output(tmp_path / "a.pgn")
    with pytest.raises(InvalidValue, match="no suffix; known"):
        check_output(tmp_path / "a")
    with pytest.raises(OutputError) as caught:
        check_output(tmp_path / "x" / "y" / "a.png")
    assert f"no folder {tmp_path / 'x' / 'y'}" in str(caught.value)
    assert f"{tmp_path} exists" in str(caught.value)
    assert not list(tmp_path.iterdir())
    (tmp_path / "dangling.png").symlink_to(tmp_path / "nothing")
    with pytest.raises(OutputExists):
        check_output(tmp_path / "dangling.png")
    check_output(tmp_path / "dangling.png", overwrite=True)
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(OutputError, match="may not be written to"):
        check_output(tmp_path / "a.png")


def test_check_output_of_what_needs_a_sidecar(tmp_path: Path) -> None:
    (tmp_path / "a.mp4.json").write_text("{}")
    with pytest.raises(OutputExists, match=r"a\.mp4\.json"):
        check_output(tmp_path / "a.mp4", suffixes=[".mp4"])
    check_output(tmp_path / "a.mp4", overwrite=True, suffixes=[".mp4"])
    with pytest.raises(InvalidValue, match=r"known: \.mp4"):
        check_output(tmp_path / "a.png", suffixes=[".mp4"])


def test_sidecar(tmp_path: Path) -> None:
    movie = tmp_path / "movie.mp4"
    movie.write_bytes(b"no picture")
    place = write_sidecar(movie, RECIPE, overwrite=False)
    assert place == sidecar(movie) == tmp_path / "movie.mp4.json"
    assert read_recipe(movie) == read_recipe(place) == RECIPE
    assert "été/ねこ 🐈.jpg" in place.read_text(encoding="utf-8")
    with pytest.raises(OutputExists):
        write_sidecar(movie, {}, overwrite=False)
    assert read_recipe(movie) == RECIPE


def test_recipe_behind_the_pixels(tmp_path: Path, image: torch.Tensor) -> None:
    """Optimisers of PNG files move text behind the pixels."""
    path = write_picture(tmp_path / "a.png", image, RECIPE)
    data = path.read_bytes()
    start = data.index(b"iTXt") - 4
    end = start + 12 + int.from_bytes(data[start : start + 4], "big")
    tail = data.index(b"IEND") - 4
    path.write_bytes(data[:start] + data[end:tail] + data[start:end] + data[tail:])
    assert read_recipe(path) == RECIPE


def test_no_recipe(tmp_path: Path) -> None:
    note = PngInfo()
    note.add_text("parameters", '{"steps": 3}')
    exif = Image.Exif()
    exif[0x010E] = '{"steps": 3}'
    exif[0x8769] = {0x9286: b"UNICODE\0h\0i\0"}
    plain = Image.new("RGB", (8, 8))
    plain.save(tmp_path / "a.png", pnginfo=note)
    plain.save(tmp_path / "a.jpg", exif=exif)
    plain.save(tmp_path / "a.webp")
    plain.save(tmp_path / "a.bmp")
    (tmp_path / "a.mp4").write_bytes(b"?")
    for path in sorted(tmp_path.iterdir()):
        with pytest.raises(RecipeError, match=f"{path.name} carries no featviz recipe"):
            read_recipe(path)


def test_unreadable_recipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RecipeError, match="no file"):
        read_recipe(tmp_path / "a.png")
    with pytest.raises(RecipeError, match="not a file"):
        read_recipe(tmp_path)
    for text in ('{"a": ', "[1, 2]", "[" * 100_000):
        note = PngInfo()
        note.add_itxt("featviz", text)
        Image.new("RGB", (2, 2)).save(tmp_path / "b.png", pnginfo=note)
        with pytest.raises(RecipeError, match=r"recipe in .*b\.png is damaged"):
            read_recipe(tmp_path / "b.png")
    (tmp_path / "c.json").write_bytes(b"\xff\xfe")
    with pytest.raises(RecipeError, match=r"c\.json cannot be read"):
        read_recipe(tmp_path / "c.json")


def test_picture_over_the_limit(tmp_path: Path, image: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_picture(tmp_path / "a.png", image, RECIPE)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(RecipeError, match="larger than Pillow opens"):
        read_recipe(path)


def test_text_is_sorted_and_parses() -> None:
    text = pictures.recipe_text(RECIPE)
    assert json.loads(text) == RECIPE
    text.encode("utf-8")
    pictures.recipe_text(RECIPE, ascii_only=True).encode("ascii")
    assert pictures.recipe_text({"b": 1, "a": 2}) == '{"a":2,"b":1}'
