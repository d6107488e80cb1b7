import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from featviz.errors import InvalidValue, WeightsMismatch
from featviz.models import load, zoo

# The sizes that torchvision's documentation gives for its default weights; 224 for the others.
SIZES = {
    "inception_v3": 299,
    "efficientnet_b1": 240,
    "efficientnet_b2": 288,
    "efficientnet_b3": 300,
    "efficientnet_b4": 380,
    "efficientnet_b5": 456,
    "efficientnet_b6": 528,
    "efficientnet_b7": 600,
    "efficientnet_v2_s": 384,
    "efficientnet_v2_m": 480,
    "efficientnet_v2_l": 480,
    "swin_v2_t": 256,
    "swin_v2_s": 256,
    "swin_v2_b": 256,
    "vit_h_14": 518,
    "regnet_y_128gf": 384,
}
KNOWN = ("alexnet", "convnext_tiny", "densenet121", "googlenet", "maxvit_t", "mobilenet_v3_small", "resnet34")


@pytest.mark.parametrize("name", sorted({*zoo.torchvision_names(), *KNOWN}))
def test_every_torchvision_classifier_is_sized_and_normalised(name, monkeypatch):
    asked = []
    monkeypatch.setattr(
        torchvision.models, "get_model", lambda name, **rest: asked.append(rest) or nn.Identity()
    )
    model = zoo.torchvision_model(name, None, True, None)
    size = SIZES.get(name, 224)
    assert model.input_size == (size, size)
    half = (0.5, 0.5, 0.5)
    imagenet = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert (model.mean, model.std) == ((half, half) if name == "efficientnet_v2_l" else imagenet)
    assert (len(model.labels), model.labels[281]) == (1000, "tabby")
    assert asked[0]["weights"] is None
    assert asked[0].get("image_size", size) == size


@pytest.mark.parametrize(
    "name", ["googlenet", "squeezenet1_1", "mnasnet0_5", "shufflenet_v2_x0_5", "regnet_y_400mf"]
)
def test_untrained_torchvision_models_give_one_tensor(name):
    model = load(name, untrained=True, device="cpu")
    output = model(torch.rand(2, 3, *model.input_size))
    assert output.shape == (2, 1000)


@pytest.mark.parametrize("auxiliary", [True, False])
def test_googlenet_with_a_file_does_as_torchvisions_own(tmp_path, auxiliary):
    torch.manual_seed(0)
    twin = torchvision.models.googlenet(aux_logits=auxiliary, transform_input=True, init_weights=False).eval()
    torch.save(twin.state_dict(), tmp_path / "googlenet.pth")
    model = load("googlenet", weights=tmp_path / "googlenet.pth", device="cpu")
    image = torch.rand(1, 3, 224, 224)
    mean = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
    with torch.no_grad():
        torch.testing.assert_close(model(image), twin((image - mean) / std))
    assert not any("aux" in name for name in model.net.state_dict())


def test_inception_files_with_auxiliary_heads_load(tmp_path):
    twin = torchvision.models.inception_v3(aux_logits=True, init_weights=False)
    path = tmp_path / "inception.pth"
    torch.save({"state_dict": {f"module.{name}": t for name, t in twin.state_dict().items()}}, path)
    model = load("inception_v3", weights=path, device="cpu")
    assert model.input_size == (299, 299)
    assert model.net.transform_input
    assert torch.equal(model.net.fc.weight, twin.fc.weight.detach())


def test_densenets_names_of_old_load(tmp_path):
    twin = torchvision.models.densenet121()
    old = {
        name.replace("norm1.", "norm.1.").replace("conv2.", "conv.2."): tensor
        for name, tensor in twin.state_dict().items()
    }
    assert set(old) != set(twin.state_dict())
    torch.save(old, tmp_path / "densenet.pth")
    net = load("densenet121", weights=tmp_path / "densenet.pth", device="cpu").net
    layer, other = net.features.denseblock1.denselayer1, twin.features.denseblock1.denselayer1
    assert torch.equal(layer.conv2.weight, other.conv2.weight.detach())


def test_mnasnet_without_its_version_mark_loads(tmp_path):
    twin = torchvision.models.mnasnet0_5()
    save_file(twin.state_dict(), tmp_path / "mnasnet.safetensors")
    net = load("mnasnet0_5", weights=tmp_path / "mnasnet.safetensors", device="cpu").net
    assert torch.equal(net.layers[0].weight, twin.layers[0].weight.detach())


@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_1", "timm/resnet10t", "efficientnet_lite0"])
def test_a_head_of_ten_classes(tmp_path, name):
    if name == "efficientnet_lite0":
        twin = timm.create_model("tf_efficientnet_lite0", num_classes=10)
    elif name.startswith("timm/"):
        twin = timm.create_model(name.removeprefix("timm/"), num_classes=10)
    else:
        twin = torchvision.models.get_model(name, num_classes=10)
    torch.save(twin.state_dict(), tmp_path / "ten.pth")
    path = str(tmp_path / "ten.pth")
    names = tuple(f"digit {index}" for index in range(10))
    assert load(name, weights=path, device="cpu").labels == ()
    model = load(name, weights=path, labels=names, device="cpu")
    assert model.labels == names
    assert model.source["weights"] == path
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(model(image), twin.eval()(model.normalise(image)))


def test_one_channel_of_timm_is_told_by_the_file(tmp_path):
    twin = timm.create_model("lcnet_050", in_chans=1, num_classes=4).eval()
    torch.save(twin.state_dict(), tmp_path / "gray.pth")
    model = load("timm/lcnet_050", weights=tmp_path / "gray.pth", device="cpu")
    assert model.mean == (pytest.approx((0.485 + 0.456 + 0.406) / 3),)
    assert model.std == (pytest.approx((0.229 + 0.224 + 0.225) / 3),)
    image = torch.rand(1, 3, 64, 64)
    luma = 0.299 * image[:, :1] + 0.587 * image[:, 1:2] + 0.114 * image[:, 2:]
    with torch.no_grad():
        torch.testing.assert_close(model(image), twin((luma - 1.347 / 3) / (0.678 / 3)))


def test_one_channel_in_a_file_for_torchvision_is_refused(tmp_path):
    torch.save(timm.create_model("resnet18", in_chans=1).state_dict(), tmp_path / "gray.pth")
    with pytest.raises(WeightsMismatch, match=r"torchvision's resnet18 takes 3"):
        load("resnet18", weights=tmp_path / "gray.pth", device="cpu")


def test_a_bare_name_of_both_is_torchvisions():
    assert type(load("resnet18", untrained=True, device="cpu").net).__module__.startswith("torchvision")
    assert type(load("timm/resnet18", untrained=True, device="cpu").net).__module__.startswith("timm")
    assert type(load("lcnet_050", untrained=True, device="cpu").net).__module__.startswith("timm")


def test_timms_settings_are_its_own():
    model = load("timm/vit_tiny_patch16_224", untrained=True, device="cpu")
    assert (model.mean, model.std, model.input_size) == ((0.5,) * 3, (0.5,) * 3, (224, 224))
    assert model.labels[281] == "tabby"


def test_transformers_are_built_for_the_input_size_asked():
    model = load("timm/vit_tiny_patch16_224", untrained=True, input_size=64, device="cpu")
    assert model(torch.rand(1, 3, 64, 64)).shape == (1, 1000)
    with pytest.raises(InvalidValue, match="square"):
        load("vit_b_16", untrained=True, input_size=(64, 96), device="cpu")


def test_timms_larger_imagenets_have_names():
    model = load("timm/mixer_s32_224", untrained=True, device="cpu")  # 1000 classes
    assert len(model.labels) == 1000
    net = nn.Module()
    net.num_classes = 11821
    assert len(zoo._timm_labels(net)) == 11821
    net.num_classes = 17
    assert zoo._timm_labels(net) == ()
