"""A network small enough to work out by hand, and a picture that is not square."""

import torch
from torch import Tensor, nn

from featviz.types import Model


class Little(nn.Module):
    """Two convolutions and a linear layer; the ReLU is one module, used twice."""

    def __init__(self, classes=3, inplace=True):
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 5, 3, stride=2, padding=1)
        self.relu = nn.ReLU(inplace=inplace)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(5, classes)

    def forward(self, x):
        x = self.relu(self.second(self.relu(self.first(x))))
        return self.fc(self.drop(self.pool(x).flatten(1)))


def little_model() -> Model:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        net = Little().double()
    return Model(net.eval(), "little", input_size=(16, 12))


def little_image() -> Tensor:
    return torch.rand(1, 3, 16, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
