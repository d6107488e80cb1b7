"""The command line as a person meets it: results, refusals, Ctrl-C."""

import csv
import json
import os
import signal
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from featviz.cli import main
from featviz.output import read_photo, read_recipe

OWN = """
import torch
from torch import nn

def net(channels=3, bad=False):
    torch.manual_seed(0)
    made = nn.Sequential(
        nn.Conv2d(channels, 4, 3, stride=2, padding=1), nn.ReLU(),
        nn.Conv2d(4, 6, 3, stride=2, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3),
    )
    if bad:
        made[2].weight.data[0, 0, 0, 0] = float("nan")
    return made

def grey():
    return net(1)

def broken():
    return net(bad=True)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder to stand in, with a photo and a network of one's own."""
    pixels = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((90, 60)).save(tmp_path / "photo.png")
    (tmp_path / "own.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(capsys, *arguments):
    """(exit status, standard output, standard error) of one command, run here."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main([str(each) for each in arguments])
    out, err = capsys.readouterr()
    return ended.value.code, out, err


def opened(path):
    """A picture in memory, its file closed again; a film keeps its number of frames."""
    with Image.open(path) as picture:
        picture.load()
        made = picture.copy()
        made.frames = getattr(picture, "n_frames", 1)
    return made


QUICK = ("--model", "own.py:net", "--layer", "1", "--steps", "2", "--octaves", "2", "--device", "cpu")


def bomb():
    """A PNG that says it is 60000 pixels square."""
    head = b"\x00\x00\xea\x60\x00\x00\xea\x60\x08\x02\x00\x00\x00"
    chunk = b"\x00\x00\x00\x0dIHDR" + head + zlib.crc32(b"IHDR" + head).to_bytes(4, "big")
    return b"\x89PNG\r\n\x1a\n" + chunk


BAD = {
    "missing": (("nothing.png",), "nothing.png"),
    "folder without photos": (("empty",), "empty"),
    "empty file": (("empty.png",), "empty.png"),
    "truncated": (("cut.png",), "cut.png"),
    "not a picture": (("text.png",), "text.png"),
    "bomb": (("bomb.png",), "bomb.png"),
    "existing output": (("photo.png", "--out", "taken.png"), "taken.png"),
    "no such folder": (("photo.png", "--out", "nowhere/x.png"), "nowhere"),
    "unknown suffix": (("photo.png", "--out", "x.bmp"), ".bmp"),
    "film without frames": (("photo.png", "--out", "x.mp4"), "--zoom"),
    "unknown model": (("photo.png", "--model", "resnet34x"), "resnet34"),
    "own file missing": (("photo.png", "--model", "nofile.py:net"), "nofile.py"),
    "own factory missing": (("photo.png", "--model", "own.py:nett"), "net"),
    "unknown layer": (("photo.png", "--layer", "layr3"), "layer3"),
    "channel out of range": (("photo.png", "--channel", "9999"), "9999"),
    "class names several": (("photo.png", "--target", "class:cat"), "tiger cat (282)"),
    "no such class": (("photo.png", "--target", "class:tabbi"), "tabby"),
    "target does not parse": (("photo.png", "--target", "layer3:"), "column 8"),
    "zero steps": (("photo.png", "--steps", "0"), "steps 0"),
    "negative octaves": (("photo.png", "--octaves", "-1"), "octaves -1"),
    "not a number": (("photo.png", "--strength", "nan"), "strength nan"),
    "unknown option": (("photo.png", "--stepps", "3"), "--steps"),
    "unknown device": (("photo.png", "--device", "gpu9"), "gpu9"),
    "bad tile": (("photo.png", "--tile", "big"), "big"),
    "bad precision": (("photo.png", "--precision", "float8"), "float"),
    "weights missing": (("photo.png", "--weights", "none.pth"), "none.pth"),
    "two films": (("photo.png", "--zoom", "2", "--animate", "--out", "x.mp4"), "--animate"),
    "guide for a class": (("photo.png", "--guide", "photo.png", "--target", "class:1"), "whole layers"),
}


@pytest.mark.parametrize("case", BAD, ids=lambda case: case.replace(" ", "-"))
def test_bad_input_is_one_line_and_leaves_nothing(case, folder, capsys):
    (folder / "empty").mkdir()
    (folder / "empty.png").write_bytes(b"")
    (folder / "cut.png").write_bytes((folder / "photo.png").read_bytes()[:2000])
    (folder / "text.png").write_text("not a picture")
    (folder / "bomb.png").write_bytes(bomb())
    (folder / "taken.png").write_bytes(b"the user's own")
    before = {
        path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc"
    }
    arguments, named = BAD[case]
    code, out, err = call(capsys, "dream", *arguments)
    assert code in (1, 2) and out == ""
    assert err.startswith("featviz: ") and err.count("\n") == 1 and named in err
    after = {
        path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc"
    }
    assert after == before


def test_an_image_below_what_the_layer_takes_is_refused(folder, capsys):
    (folder / "pooled.py").write_text(
        "from torch import nn\n\ndef net():\n"
        "    return nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.MaxPool2d(7, 7), nn.Conv2d(4, 2, 3), nn.ReLU())\n"
    )
    arguments = ("--model", "pooled.py:net", "--layer", "3", "--octaves", "1", "--steps", "1")
    Image.new("RGB", (30, 20), "teal").save(folder / "small.png")
    code, _, err = call(capsys, "dream", "small.png", *arguments)
    assert code == 2 and "too small for 3" in err
    need = int(err.split("at least ")[1].split()[0])
    for side, works in ((need, True), (need - 1, False)):
        Image.new("RGB", (side, side), "teal").save(folder / f"{side}.png")
        code, _, _ = call(capsys, "dream", f"{side}.png", *arguments)
        assert (code == 0) is works, side


def test_a_score_that_is_not_finite_keeps_the_last_good_picture(folder, capsys):
    code, _, err = call(
        capsys, "dream", "photo.png", *QUICK, "--model", "own.py:broken", "--layer", "3", "-o", "x.png"
    )
    assert code == 1 and "NaN or infinite at step 1" in err.splitlines()[-1]
    assert read_recipe("x.png")["status"] == "failed"
    assert opened("x.png").size == (90, 60)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif"])
def test_a_dream_in_every_format_carries_its_recipe(suffix, folder, capsys):
    code, out, _ = call(capsys, "dream", "photo.png", *QUICK, "--out", f"dream{suffix}")
    assert code == 0 and out.strip() == f"dream{suffix}"
    recipe = read_recipe(f"dream{suffix}")
    assert recipe["command"] == "dream" and recipe["target"] == "1" and recipe["status"] == "complete"
    assert opened(f"dream{suffix}").size == (90, 60)


def test_the_default_name_tells_photo_and_target_and_is_never_replaced(folder, capsys):
    assert call(capsys, "dream", "photo.png", *QUICK)[1].strip() == "photo_dream_1.png"
    first = (folder / "photo_dream_1.png").read_bytes()
    code, _, err = call(capsys, "dream", "photo.png", *QUICK, "--seed", "1")
    assert code == 1 and "--overwrite" in err and (folder / "photo_dream_1.png").read_bytes() == first
    assert call(capsys, "dream", "photo.png", *QUICK, "--seed", "1", "--overwrite")[0] == 0
    assert (folder / "photo_dream_1.png").read_bytes() != first


def test_rerun_gives_the_same_bytes_and_set_varies(folder, capsys):
    call(capsys, "dream", "photo.png", *QUICK, "--out", "dream.png")
    code, out, _ = call(capsys, "rerun", "--trust", "dream.png")
    assert code == 0 and "byte for byte" in out
    assert (folder / "dream.png").read_bytes() == (folder / "dream_rerun.png").read_bytes()
    assert (
        call(
            capsys,
            "rerun",
            "--trust",
            "dream.png",
            "--set",
            "steps=3",
            "--set",
            "target=3",
            "-o",
            "other.png",
        )[0]
        == 0
    )
    other = read_recipe("other.png")
    assert other["settings"]["steps"] == 3 and other["target"] == "3"
    assert call(capsys, "rerun", "--trust", "dream.png", "--set", "stepz=3", "-o", "x.png")[0] == 2
    assert call(capsys, "rerun", "--trust", "dream.png", "--set", "steps=many", "-o", "x.png")[0] == 2


def test_rerun_says_what_differs(folder, capsys):
    call(capsys, "dream", "photo.png", *QUICK, "--out", "dream.png")
    Image.new("RGB", (90, 60), "teal").save("photo.png")
    (folder / "own.py").write_text(OWN.replace("manual_seed(0)", "manual_seed(5)"))
    code, out, _ = call(capsys, "rerun", "--trust", "dream.png")
    assert code == 0
    assert "photo: " in out and "weights: " in out and "largest pixel difference: " in out


def test_rerun_of_an_ordinary_picture_is_refused(folder, capsys):
    code, _, err = call(capsys, "rerun", "--trust", "photo.png")
    assert code == 1 and "photo.png" in err and err.count("\n") == 1


def test_a_folder_is_dreamed_and_a_bad_photo_among_them_is_named(folder, capsys):
    (folder / "in").mkdir()
    for name in ("a.png", "b.png"):
        (folder / "in" / name).write_bytes((folder / "photo.png").read_bytes())
    (folder / "in" / "c.png").write_bytes(b"")
    code, _, err = call(capsys, "dream", "in", *QUICK, "--out", "made")
    assert code == 1 and "c.png" in err and "1 of 3" in err
    assert sorted(path.name for path in (folder / "made").iterdir()) == ["a_dream_1.png", "b_dream_1.png"]


def test_films(folder, capsys):
    code, _, _ = call(capsys, "dream", "photo.png", *QUICK, "--zoom", "3", "--out", "zoom.gif")
    assert code == 0 and opened("zoom.gif").frames == 3
    assert json.loads((folder / "zoom.gif.json").read_text())["status"] == "complete"
    code, _, _ = call(capsys, "dream", "photo.png", *QUICK, "--animate", "--out", "come.gif")
    assert code == 0 and opened("come.gif").frames == 5  # the photo, and two steps in two octaves


def test_mask_guide_channel_and_target(folder, capsys):
    mask = Image.new("L", (90, 60), 0)
    mask.paste(255, (0, 0, 45, 60))
    mask.save("mask.png")
    call(capsys, "dream", "photo.png", *QUICK, "--mask", "mask.png", "--out", "masked.png")
    change = (read_photo("masked.png").image - read_photo("photo.png").image).abs()
    assert change[..., :40].max() > 0.02 and change[..., 50:].max() == 0
    assert call(capsys, "dream", "photo.png", *QUICK, "--guide", "masked.png", "--out", "g.png")[0] == 0
    assert set(read_recipe("g.png")["inputs"]) == {"photo", "guide"}
    call(capsys, "dream", "photo.png", *QUICK, "--channel", "2", "--out", "c.png")
    assert read_recipe("c.png")["target"] == "1:2"
    call(capsys, "dream", "photo.png", *QUICK, "--layer", "0.5*3", "--out", "two.png")
    assert read_recipe("two.png")["target"] == "1 + 0.5*3"


def test_a_network_with_one_channel(folder, capsys):
    code, _, err = call(capsys, "dream", "photo.png", *QUICK, "--model", "own.py:grey", "--out", "x.png")
    assert code == 0, err
    assert opened("x.png").mode == "RGB"


def test_what_a_gradient_keeps_is_told(folder, capsys):
    code, out, _ = call(capsys, "layers", "--memory", "--model", "resnet18", "--untrained")
    rows = {line.split()[0]: line.split()[1:] for line in out.splitlines()[2:-1]}
    assert code == 0 and list(rows) == ["stem", "layer1", "layer2", "layer3", "layer4", "output"]
    for plain, lean, times in rows.values():
        assert float(plain) > 5 * float(lean) and float(times) > 5
    assert "relu" in out.splitlines()[-1]


def test_layers_and_models_are_listed(folder, capsys):
    code, out, _ = call(capsys, "layers", "--model", "own.py:net", "--json")
    rows = {row["address"]: row for row in json.loads(out)}
    assert code == 0 and rows["2"]["stride"] == 4 and rows["2"]["receptive_field"] == 7
    assert rows["6"]["channels"] == 3 and rows["6"]["good_for"] == ["channel"]
    code, out, _ = call(capsys, "models", "resnet34", "--json")
    assert code == 0 and "resnet34" in [row["name"] for row in json.loads(out)]
    assert call(capsys, "models", "resnet99x")[0] == 2


def test_ctrl_c_finishes_the_step_and_keeps_the_picture(folder):
    command = [
        sys.executable,
        "-m",
        "featviz",
        "dream",
        "photo.png",
        *QUICK,
        "--steps",
        "100000",
        "-o",
        "x.png",
    ]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env={**os.environ, "NO_COLOR": "1"}
    )
    try:
        _begun(process)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, err
    assert read_recipe("x.png")["status"] == "interrupted" and opened("x.png").size == (90, 60)
    assert not list(folder.glob(".*part*"))


def _begun(process):
    """Wait until a run tells of a step."""
    for line in process.stderr:
        if "step" in line:
            return


def test_help_and_completion_stay_light():
    for arguments in (["--help"], ["dream", "--help"], ["explain", "grad-cam", "--help"]):
        code = (
            "import sys\nfrom featviz.cli import main\ntry:\n    main(%r)\nexcept SystemExit:\n    pass\n"
            "sys.exit(any(name in sys.modules for name in ('torch', 'torchvision', 'timm', 'kornia')))"
        )
        done = subprocess.run([sys.executable, "-c", code % arguments], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "Usage" in done.stdout


def test_debug_shows_the_traceback(folder, capsys):
    assert "Traceback" not in call(capsys, "dream", "nothing.png")[2]
    assert "Traceback" in call(capsys, "dream", "nothing.png", "--debug")[2]


def test_explain_writes_a_figure_and_numbers(folder, capsys):
    own = ("--model", "own.py:net", "--class", "0", "--class", "2", "--size", "32")
    for name in ("why.png", "why.npz", "why.json"):
        code, _, err = call(capsys, "explain", "grad-cam", "photo.png", *own, "--layer", "3", "--out", name)
        assert code == 0, err
    data = json.loads((folder / "why.json").read_text())["explanations"]
    assert [each["target"] for each in data] == ["class:0", "class:2", "class:0 - class:2"]
    assert sum(each["notes"]["probability"] for each in data[:2]) < 1
    with np.load("why.npz") as arrays:
        assert arrays["raw_0"].shape == (8, 12) and arrays["map_1"].shape == (32, 48)
    assert call(capsys, "rerun", "--trust", "why.png")[1].strip().endswith("as why.png")
    assert call(capsys, "explain", "occlusion", "photo.png", *own, "--window", "8", "-o", "occ.png")[0] == 0
    picture = np.asarray(opened("occ.png").convert("RGB"))
    assert picture.std() > 10


def test_a_network_of_ones_own_is_run_again_only_when_trusted(folder, capsys):
    own = ("--model", "own.py:net", "--size", "32", "-c", "0", "-o", "why.png")
    assert call(capsys, "explain", "gradient", "photo.png", *own)[0] == 0
    (folder / "own.py").write_text("raise SystemExit('ran')")
    code, _, err = call(capsys, "rerun", "why.png")
    assert code == 1 and "own.py" in err and "--trust" in err and "ran" not in err
    assert not (folder / "why_rerun.png").exists()


def test_occlusions_scores_are_kept_and_used_again(folder, capsys):
    own = ("photo.png", "--model", "own.py:net", "--size", "32", "--fill", "grey")
    code, _, err = call(
        capsys, "explain", "occlusion", *own, "-c", "1", "--save-scores", "s.npz", "-o", "1.npz"
    )
    assert code == 0, err
    for extra, name in ((("--scores", "s.npz"), "2.npz"), ((), "3.npz")):
        assert call(capsys, "explain", "occlusion", *own, "-c", "2", *extra, "-o", name)[0] == 0
    with np.load("2.npz") as kept, np.load("3.npz") as fresh:
        np.testing.assert_allclose(kept["map_0"], fresh["map_0"], rtol=1e-5, atol=1e-7)
        made, alone = (json.loads(str(each["about"])) for each in (kept, fresh))
    assert made["explanations"][0]["notes"]["forwards"] == 0 < alone["explanations"][0]["notes"]["forwards"]
    assert made["recipe"]["settings"]["fill"] == "grey" and made["recipe"]["settings"]["window"] == "5,9,14"
    again = call(capsys, "explain", "occlusion", *own, "--save-scores", "s.npz", "-o", "4.png")
    assert again[0] == 1 and "s.npz" in again[2]
    assert not (folder / "4.png").exists()


def test_a_folder_of_photos_has_a_summary_that_tells_what_failed(folder, capsys):
    (folder / "in").mkdir()
    photo = (folder / "photo.png").read_bytes()
    for name, data in (("a.png", photo), ("b.png", photo[:200]), ("c.png", photo)):
        (folder / "in" / name).write_bytes(data)
    own = ("--model", "own.py:net", "--size", "32", "-c", "0", "-c", "1", "--no-margin", "-o", "out")
    code, _, err = call(capsys, "explain", "gradient", "in", *own)
    assert code == 1 and "1 of 3" in err and "b.png" in err
    summary = (folder / "out" / "gradient_summary.csv").read_text()
    lines = list(csv.DictReader(summary.splitlines()))
    assert [Path(line["photo"]).name for line in lines] == ["a.png", "a.png", "b.png", "c.png", "c.png"]
    assert lines[2]["error"] and not lines[2]["score"]
    assert float(lines[0]["probability"]) + float(lines[1]["probability"]) < 1
    assert (folder / lines[4]["output"]).exists()
    code, _, err = call(capsys, "explain", "gradient", "in", *own)
    assert code == 1 and "exists" in err


def test_all_methods_on_one_sheet(folder, capsys):
    own = ("--model", "own.py:net", "--size", "32", "-c", "0", "--masks", "5")
    code, _, err = call(capsys, "explain", "all", "photo.png", *own, "-o", "all.png")
    assert code == 0, err
    assert opened("all.png").width > 6 * 320
    few = ("--method", "gradient", "--method", "rise", "-o", "two.json")
    assert call(capsys, "explain", "all", "photo.png", *own, *few)[0] == 0
    data = json.loads((folder / "two.json").read_text())
    assert [each["method"] for each in data["explanations"]] == ["gradient", "rise"]
    assert set(data["seconds"]) == {"gradient", "rise"}


def test_a_check_stands_beside_the_map(folder, capsys):
    own = ("--model", "own.py:net", "--size", "16", "-c", "0", "--method", "guided-backprop")
    code, _, err = call(capsys, "explain", "check", "photo.png", *own, "-o", "check.json")
    assert code == 0, err
    (made,) = json.loads((folder / "check.json").read_text())["explanations"]
    assert "insensitive" in made["notes"]["check"]["verdict"][-1]
    assert call(capsys, "explain", "check", "photo.png", *own, "-o", "check.png")[0] == 0
    assert opened("check.png").width > 6 * 320
    one = ("--model", "own.py:net", "--size", "16", "-c", "0", "--check", "-o", "one.png")
    assert call(capsys, "explain", "gradient", "photo.png", *one)[0] == 0
    assert opened("one.png").size == opened("check.png").size


def test_visualizations_go_to_a_sheet_or_to_files(folder, capsys):
    own = ("--model", "own.py:net", "--size", "24", "--view-scale", "1", "--steps", "2")
    code, out, err = call(capsys, "class", "0", "2", *own, "-o", "sheet.png")
    assert code == 0 and out.split() == ["sheet.png"], err
    recipe = read_recipe("sheet.png")
    assert recipe["target"] == "class:0 | class:2" and recipe["settings"]["decay"] == 1.5
    assert opened("sheet.png").width > 2 * 24
    assert "byte for byte" in call(capsys, "rerun", "--trust", "sheet.png")[1]
    code, out, err = call(capsys, "channel", "2:0-1,3", *own, "-o", "many")
    assert code == 0, err
    names = sorted(path.name for path in (folder / "many").iterdir())
    assert len(names) == 3 and all("2_" in name and "views" in name for name in names)
    assert opened(f"many/{names[0]}").size == (24, 24)
    assert call(capsys, "neuron", "2:1", *own, "-p", "fourier", "-o", "n.png")[0] == 0
    assert read_recipe("n.png")["target"] == "2:1@middle"


@pytest.mark.parametrize(("arguments", "said"), [
    (("class", "nobody"), "nobody"),
    (("channel", "2"), "2:0-15"),
    (("channel", "2:0-99"), "0 to 5, and no 6"),
    (("channel", "2:1", "--preset", "furier"), "nearest: fourier"),
])  # fmt: skip
def test_visualizations_that_cannot_be(folder, capsys, arguments, said):
    before = sorted(folder.iterdir())
    code, out, err = call(capsys, *arguments, "--model", "own.py:net")
    assert code in (1, 2) and said in err and err.count("\n") == 1 and not out
    assert sorted(each for each in folder.iterdir() if each.name != "__pycache__") == before


def test_presets_are_listed(capsys):
    code, out, _ = call(capsys, "presets")
    assert code == 0 and all(name in out for name in ("views (default)", "yosinski3", "gaussian"))
    assert json.loads(call(capsys, "presets", "--json")[1])["yosinski2"]["shrink"] == 0.3


def test_sheets_of_activations_and_kernels(folder, capsys):
    own = ("--model", "own.py:net")
    code, _, err = call(
        capsys, "activations", "photo.png", *own, "--layer", "1", "--channels", "3", "-o", "a.png"
    )
    assert code == 0, err
    assert read_recipe("a.png")["settings"]["channels"] == 3 and np.asarray(opened("a.png")).std() > 10
    code, _, err = call(capsys, "kernels", *own, "-o", "k.png")
    assert code == 0, err
    assert "byte for byte" in call(capsys, "rerun", "--trust", "k.png")[1]
    assert call(capsys, "activations", "photo.png", *own, "--layer", "6", "-o", "x.png")[0] == 2


def test_photos_of_one_name_get_a_name_each(folder, capsys):
    photo = (folder / "photo.png").read_bytes()
    for name in ("a/photo.png", "b/photo.png", "b/photo.jpg"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(photo)
    assert call(capsys, "dream", "b", *QUICK, "--out", "one")[0] == 0
    assert {path.name for path in (folder / "one").iterdir()} == {
        "photo.jpg_dream_1.png",
        "photo.png_dream_1.png",
    }
    assert call(capsys, "dream", "a/photo.png", "b/photo.png", *QUICK, "--out", "two")[0] == 0
    assert {path.name for path in (folder / "two").iterdir()} == {
        "photo_1_dream_1.png",
        "photo_2_dream_1.png",
    }


def test_a_folder_for_results_that_did_not_come_is_not_left(folder, capsys):
    code, _, err = call(capsys, "dream", "photo.png", *QUICK, "--layer", "nope", "--out", "new/deep")
    assert code == 2 and err.count("\n") == 1 and not (folder / "new").exists()
    (folder / "standing").mkdir()
    assert call(capsys, "dream", "photo.png", *QUICK, "--layer", "nope", "--out", "standing")[0] == 2
    assert (folder / "standing").is_dir()


def test_a_file_is_no_folder(folder, capsys):
    (folder / "notes").write_text("mine")
    code, _, err = call(capsys, "dream", "photo.png", *QUICK, "--out", "notes")
    assert code == 1 and err.startswith("featviz: --out notes") and err.count("\n") == 1
    assert (folder / "notes").read_text() == "mine"


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_to(folder, capsys):
    (folder / "locked").mkdir(mode=0o500)
    for out in ("locked/x.png", "locked/new"):
        code, _, err = call(capsys, "dream", "photo.png", *QUICK, "--out", out)
        assert code == 1 and err.startswith("featviz: ") and "locked" in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("option", "told"),
    [
        (("--strength", "inf"), "strength inf: a number"),
        (("--step-size", "nan"), "step_size nan: a number"),
        (("--decay", "1.5"), "decay 1.5: at most 1"),
        (("--even", "2"), "even 2.0: at most 1"),
        (("--size", "0"), "size 0: at least 1"),
        (("--octave-scale", "1"), "octave_scale 1.0: more than 1"),
        (("--tile", "100", "--size", "200"), "tile 100 leaves nothing"),
        (("--tile", "0", "--steps", "300"), "tile 0 leaves nothing"),
        (("--fps", "90", "--zoom", "2", "--out", "x.gif"), "at most 50"),
        (("--mean", "a,b"), "--mean 'a,b'"),
        (("--mask", "own.py"), "own.py: not an image"),
        (("--labels", "none.txt"), "none.txt"),
    ],
)
def test_settings_outside_their_range_are_one_line(folder, capsys, option, told):
    code, out, err = call(capsys, "dream", "photo.png", *QUICK, *option)
    assert code in (1, 2) and out == "" and err.count("\n") == 1
    assert err.startswith("featviz: ") and told in err
    assert sorted(p.name for p in folder.iterdir() if p.name != "__pycache__") == ["own.py", "photo.png"]


def test_a_network_of_one_size_says_so(folder, capsys):
    Image.new("RGB", (260, 250), "teal").save("large.png")
    for name in ("photo.png", "large.png"):
        options = ("--model", "timm/vit_tiny_patch16_224", "--untrained", "--layer", "layer2")
        code, _, err = call(capsys, "dream", name, *options, "--steps", "1", "--out", "x.png")
        assert code == 2 and "takes 224x224 and no other size" in err and err.count("\n") == 1
    code, _, err = call(capsys, "dream", name, *options, "--steps", "1", "--size", "224", "--out", "x.png")
    assert code == 2  # 224x215
    Image.new("RGB", (224, 224), "teal").save("right.png")
    code, _, err = call(
        capsys, "dream", "right.png", *options, "--octaves", "1", "--steps", "1", "-o", "x.png"
    )
    assert code == 0, err


def test_an_error_after_the_first_steps_is_one_line_and_the_place_is_told(folder, capsys):
    code, out, err = call(
        capsys, "dream", "photo.png", *QUICK, "--model", "own.py:broken", "--layer", "3", "-o", "x.png"
    )
    assert code == 1 and err.count("\n") == 1 and err.startswith("featviz: ")
    assert out == "x.png\n", "what was kept is a result"


def test_rerun_as_a_film_and_back(folder, capsys):
    call(capsys, "dream", "photo.png", *QUICK, "--out", "dream.png")
    code, out, err = call(capsys, "rerun", "--trust", "dream.png", "--set", "zoom=2")
    assert (code, out) == (0, "dream_rerun.mp4\n"), err
    assert call(capsys, "rerun", "--trust", "dream.png", "--set", "zoom=2", "--out", "film.gif")[0] == 0
    assert opened("film.gif").frames == 2
    (folder / "film.gif").rename(folder / "FILM.GIF")
    (folder / "film.gif.json").rename(folder / "FILM.GIF.json")
    code, out, err = call(capsys, "rerun", "--trust", "FILM.GIF")
    assert code == 0 and "byte for byte" in out, err
    assert call(capsys, "rerun", "--trust", "FILM.GIF", "--set", "zoom=0")[1] == "FILM_rerun.png\n"
    assert call(capsys, "rerun", "--trust", "dream.png", "--set", "zoom=2", "--out", "x.png")[0] == 2
    assert call(capsys, "rerun", "--trust", "dream.png", "--out", "x.gif")[0] == 2


def test_rerun_finds_a_moved_photo(folder, capsys):
    call(capsys, "dream", "photo.png", *QUICK, "--out", "dream.png")
    (folder / "photo.png").rename(folder / "moved.png")
    code, _, err = call(capsys, "rerun", "--trust", "dream.png")
    assert code == 1 and "photo.png" in err and err.count("\n") == 1
    code, out, _ = call(capsys, "rerun", "--trust", "dream.png", "--photo", "moved.png")
    assert code == 0 and "byte for byte" in out


def test_a_model_with_weights_and_labels_of_ones_own(folder, capsys):
    import torch

    sys.path.insert(0, str(folder))
    try:
        net = __import__("own").net()
    finally:
        sys.path.remove(str(folder))
        del sys.modules["own"]
    for parameter in net.parameters():
        parameter.data.mul_(0.5)
    torch.save({"state_dict": {f"module.{k}": v for k, v in net.state_dict().items()}}, "w.pth")
    (folder / "names.txt").write_text("cat\ndog\ntiger cat\n")
    own = (
        "--weights",
        "w.pth",
        "--labels",
        "names.txt",
        "--input-size",
        "48",
        "--mean",
        ".5",
        "--std",
        ".25",
    )
    code, _, err = call(
        capsys, "dream", "photo.png", *QUICK[:2], *own, *QUICK[4:], "--target", "class:dog", "-o", "x.png"
    )
    assert code == 0, err
    recipe = read_recipe("x.png")
    assert recipe["target"] == "class:dog" and recipe["model"]["source"]["weights"] == "w.pth"
    call(capsys, "dream", "photo.png", *QUICK, "--out", "y.png")
    assert read_recipe("y.png")["model"]["digest"] != recipe["model"]["digest"]
    assert "byte for byte" in call(capsys, "rerun", "--trust", "x.png")[1]
    code, _, err = call(
        capsys, "dream", "photo.png", *QUICK[:2], *own, "--target", "class:cats", "-o", "z.png"
    )
    assert code == 2 and "nearest: cat" in err


def test_quiet_prints_nothing(folder, capsys):
    assert call(capsys, "dream", "photo.png", *QUICK, "--quiet", "--out", "x.png") == (0, "", "")


@pytest.mark.parametrize("arguments", [(), ("explain",)])
def test_no_arguments_show_the_help_and_no_empty_error(capsys, arguments):
    code, out, err = call(capsys, *arguments)
    assert code == 2 and "Usage" in out + err and "featviz: \n" not in err


def test_a_true_subprocess_has_the_same_manners(folder):
    command = [sys.executable, "-m", "featviz", "dream", "photo.png", "--model", "own.py:nett"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("featviz: no model 'nett'; nearest: net") and done.stderr.count("\n") == 1
