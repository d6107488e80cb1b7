import pytest
import timm
import torch
import torchvision

from featviz.errors import ModelNotFound
from featviz.models import listing, load
from featviz.models.catalogue import resolve


@pytest.fixture
def caches(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hf"))
    return tmp_path


@pytest.mark.parametrize(
    ("name", "family", "bare"),
    [
        ("efficientnet_lite0", "embedded", "efficientnet_lite0"),
        ("timm/efficientnet_lite0", "timm", "efficientnet_lite0"),
        ("resnet34", "torchvision", "resnet34"),
        ("timm/resnet34", "timm", "resnet34"),
        ("resnet10t", "timm", "resnet10t"),
        ("resnet50.a1_in1k", "timm", "resnet50.a1_in1k"),
        ("nets.py:build", "own", "nets.py:build"),
        ("package.nets:build", "own", "package.nets:build"),
    ],
)
def test_whose_name_it_is(name, family, bare):
    assert resolve(name) == (family, bare)


def test_a_name_of_nobody():
    with pytest.raises(ModelNotFound, match="nearest: resnet34"):
        resolve("resnet_34")


def test_everything_that_can_be_named_is_listed(caches):
    rows = listing()
    assert rows[0].name == "efficientnet_lite0"
    assert [row.name for row in rows if row.cached] == ["efficientnet_lite0"]
    assert {row.source for row in rows} == {"embedded", "torchvision", "timm"}
    names = {row.name for row in rows}
    assert len(names) == len(rows)
    assert set(torchvision.models.list_models(module=torchvision.models)) <= names
    assert {f"timm/{name}" for name in timm.list_models()} <= names
    assert all(resolve(row.name)[0] == row.source for row in rows[::97])


def test_filters():
    assert listing("resnet34")[0].name == "resnet34"
    assert all("resnet34" in row.name for row in listing("ResNet34"))
    assert [row.name for row in listing("squeezenet*")] == ["squeezenet1_0", "squeezenet1_1"]
    assert listing("no such thing") == []


def test_rows_tell_parameters_and_size():
    (row,) = listing("inception_v3")[:1]
    assert row.input_size == (299, 299)
    (row,) = (row for row in listing("squeezenet1_1") if row.source == "torchvision")
    assert row.parameters == 1_235_496
    model = load(device="cpu")
    assert listing("efficientnet_lite0")[0].parameters == sum(p.numel() for p in model.net.parameters())


def test_weights_on_this_machine_are_marked(caches):
    checkpoints = caches / "hub" / "checkpoints"
    checkpoints.mkdir(parents=True)
    torch.save({}, checkpoints / "resnet34-b627a593.pth")
    for tagged in ("resnet10t.c3_in1k", "resnet50.a2_in1k"):
        folder = caches / "hf" / f"models--timm--{tagged}"
        (folder / "refs").mkdir(parents=True)
        (folder / "refs" / "main").write_text("abc")
        (folder / "snapshots" / "abc").mkdir(parents=True)
        (folder / "snapshots" / "abc" / "model.safetensors").touch()
    (caches / "hf" / "models--timm--resnet18.a1_in1k").mkdir()  # a download that never finished
    here = [row.name for row in listing() if row.cached]
    assert here[:2] == ["efficientnet_lite0", "resnet34"]
    assert set(here[2:]) == {"timm/resnet10t", "timm/resnet10t.c3_in1k", "timm/resnet50.a2_in1k"}
