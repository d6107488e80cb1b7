import sys

import pytest
import torch
from torch import nn

from featviz.errors import InvalidValue, ModelError, ModelNotFound, WeightsMismatch
from featviz.models import load

NETS = """
import torch
from torch import nn
from featviz.types import Model

def small():
    head = nn.Flatten(), nn.Linear(4, 2)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), *head)

def gray():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))

def whole():
    return Model(small(), "mine", (0.1, 0.2, 0.3), (1.0, 1.0, 1.0), (32, 48), ("cat", "dog"))

def mapping():
    return {"a": 1}

def broken():
    raise ValueError("no such\\nthing")

made = small()
number = 7
"""


@pytest.fixture
def nets(tmp_path):
    (tmp_path / "nets.py").write_text(NETS)
    return str(tmp_path / "nets.py")


def test_a_factory_in_a_file(nets):
    before = list(sys.path)
    model = load(f"{nets}:small", device="cpu")
    assert model.name == f"{nets}:small"
    assert model(torch.rand(2, 3, 20, 30)).shape == (2, 2)
    assert not model.net.training
    assert model.labels == ()
    assert sys.path == before
    assert load(**model.source, device="cpu").digest == model.digest


def test_a_module_in_the_file_serves_as_it_is(nets):
    assert isinstance(load(f"{nets}:made", device="cpu").net, nn.Sequential)


def test_a_factory_in_a_module_of_the_working_directory(nets, tmp_path, monkeypatch):
    package = tmp_path / "somewhere_of_mine"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "vision.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    model = load("somewhere_of_mine.vision:small", device="cpu")
    assert isinstance(model.net, nn.Sequential)
    with pytest.raises(ModelNotFound, match=r"no module 'somewhere_of_mine\.visions'"):
        load("somewhere_of_mine.visions:small", device="cpu")


def test_a_featviz_model_keeps_its_settings_unless_told_otherwise(nets):
    model = load(f"{nets}:whole", device="cpu")
    assert (model.mean, model.input_size, model.labels) == ((0.1, 0.2, 0.3), (32, 48), ("cat", "dog"))
    model = load(f"{nets}:whole", input_size=64, labels=("a", "b"), mean=0.5, device="cpu")
    assert (model.mean, model.std) == ((0.5,) * 3, (1.0,) * 3)
    assert (model.input_size, model.labels) == ((64, 64), ("a", "b"))


def test_gray_networks_are_given_luma(nets):
    model = load(f"{nets}:gray", mean=0.25, std=[0.5], device="cpu")
    assert (model.mean, model.std) == ((0.25,), (0.5,))
    image = torch.rand(1, 3, 9, 9)
    luma = 0.299 * image[:, :1] + 0.587 * image[:, 1:2] + 0.114 * image[:, 2:]
    torch.testing.assert_close(model(image), model.net((luma - 0.25) / 0.5))
    with pytest.raises(InvalidValue, match="takes 1 channel"):
        load(f"{nets}:gray", mean=(0.1, 0.2, 0.3), device="cpu")


def test_own_weights(nets, tmp_path):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    torch.save(
        {"state_dict": {f"model.{name}": t for name, t in net.state_dict().items()}}, tmp_path / "w.pt"
    )
    model = load(f"{nets}:small", weights=tmp_path / "w.pt", device="cpu")
    assert torch.equal(model.net[4].weight, net[4].weight.detach())
    with pytest.raises(WeightsMismatch, match="shape"):
        load(f"{nets}:gray", weights=tmp_path / "w.pt", device="cpu")


def test_files_beside_it_can_be_imported_and_do_not_mix(tmp_path):
    for name, channels in (("first", 3), ("second", 5)):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "own_blocks.py").write_text(f"WIDTH = {channels}\n")
        (folder / "model.py").write_text(
            "import torch, own_blocks\ndef build():\n    return torch.nn.Conv2d(3, own_blocks.WIDTH, 1)\n"
        )
        assert load(f"{folder / 'model.py'}:build", device="cpu").net.out_channels == channels
    again = load(f"{tmp_path / 'first' / 'model.py'}:build", device="cpu")
    assert again.net.out_channels == 3


@pytest.mark.parametrize(
    ("attribute", "error", "told"),
    [
        ("smal", ModelNotFound, "nearest: small"),
        ("mapping", ModelError, "gave a dict, not a torch.nn.Module"),
        ("broken", ModelError, r"raised ValueError: no such thing \(nets\.py, line 20\)"),
        ("number", ModelError, "is a int, not a factory"),
        ("", InvalidValue, r"package\.module:factory"),
    ],
)
def test_what_is_wrong_with_a_factory_is_told(nets, attribute, error, told):
    with pytest.raises(error, match=told) as caught:
        load(f"{nets}:{attribute}", device="cpu")
    assert "\n" not in str(caught.value)


def test_a_missing_file_answers_with_those_beside_it(nets, tmp_path):
    with pytest.raises(ModelNotFound, match=r"nearest: .*nets\.py; there is no such file"):
        load(f"{tmp_path / 'nest.py'}:small", device="cpu")


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("import nowhere_at_all", "ModuleNotFoundError.*nowhere_at_all"),
        ("def build(:", "SyntaxError"),
        ("import sys; sys.exit(3)", "SystemExit"),
    ],
)
def test_a_file_that_does_not_import(tmp_path, code, told):
    (tmp_path / "bad.py").write_text(code)
    with pytest.raises(ModelError, match=told):
        load(f"{tmp_path / 'bad.py'}:build", device="cpu")


def test_untrained_is_for_the_zoos(nets):
    with pytest.raises(InvalidValue, match="the factory decides"):
        load(f"{nets}:small", untrained=True, device="cpu")
