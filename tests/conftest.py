"""What several test files share: a tiny network with every trap in it, the embedded model, photos."""

import pytest
import torch
from torch import nn

import featviz
from featviz.output import read_photo
from featviz.types import Model


class TinyNet(nn.Module):
    """Convolutions of few channels with batch norm, in-place and reused ReLUs, and a max-pool."""

    def __init__(self, channels=3):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 6, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(6)
        self.relu = nn.ReLU(inplace=True)
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.conv2 = nn.Conv2d(6, 8, 3, stride=2, padding=1)
        self.conv3 = nn.Conv2d(8, 8, 3, stride=1, padding=1)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.conv2(self.pool(x)))
        x = self.relu(self.conv3(x))
        return self.head(x.mean((2, 3)))


def seeded(build, seed=0):
    """What `build` makes with random weights and running statistics of its own, the same each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = build()
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
                module.weight.data.uniform_(0.5, 1.5)
                module.bias.data.normal_(0, 0.3)
    return net.eval()


LABELS = ("tabby", "tiger cat", "dog", "red fox", "kit fox")


def tiny_model(**more):
    net = seeded(TinyNet).requires_grad_(False)
    return Model(net, "tiny", input_size=(32, 32), labels=LABELS, **more)


@pytest.fixture
def tiny():
    return tiny_model()


@pytest.fixture(scope="session")
def embedded():
    return featviz.load(device="cpu")


@pytest.fixture(scope="session")
def chelsea():
    return read_photo("gallery/photos/chelsea.png").image


@pytest.fixture(scope="session")
def small_photo(chelsea):
    """`(1, 3, 64, 96)`, a part of the cat."""
    return nn.functional.interpolate(chelsea[..., 50:250, 100:400], (64, 96), mode="area")


@pytest.fixture(autouse=True)
def from_the_repository(request, monkeypatch):
    """Tests name files of the repository by relative paths."""
    monkeypatch.chdir(request.config.rootpath)


def unit_images(*shape, seed=0):
    """Uniform random images in [0, 1)."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))
