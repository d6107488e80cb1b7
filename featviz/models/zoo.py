"""Models of the two public zoos: torchvision and timm."""

from __future__ import annotations

import re
from collections import OrderedDict
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from featviz.errors import InvalidValue, ModelError, ModelNotFound, WeightsMismatch, WeightsUnavailable
from featviz.models.fetch import Published, fetch
from featviz.models.labels import imagenet_labels
from featviz.models.quiet import one_line, quiet
from featviz.models.weights import State, build_with_weights, read_weights, versioned
from featviz.types import Model

Size = tuple[int, int]


# ---------------------------------------------------------------- torchvision


def torchvision_names() -> list[str]:
    """Every classifier of torchvision, by name."""
    import torchvision

    return list(torchvision.models.list_models(module=torchvision.models))


def torchvision_weights(name: str) -> Any:
    """The entry of torchvision's default weights: their address, transforms and categories."""
    from torchvision.models import get_model_weights

    return get_model_weights(name).DEFAULT


def torchvision_published(name: str) -> Published:
    """Where torchvision publishes a model's default weights."""
    entry = torchvision_weights(name)
    return Published(name=str(entry), url=entry.url)


def torchvision_model(name: str, weights: str | None, untrained: bool, input_size: Size | None) -> Model:
    """A classifier of torchvision, normalised and sized as its default weights ask.

    Mean and standard deviation are always those of the image that the network is given.
    GoogLeNet and Inception with weights rescale that image to ±1 themselves (`transform_input`),
    as torchvision has it for its own weights; so a file trained without that takes other
    `mean` and `std`. Their auxiliary heads are left out: they serve training alone.
    """
    entry = torchvision_weights(name)
    shown = entry.transforms()
    size = input_size or (shown.crop_size[0], shown.crop_size[-1])
    categories = tuple(entry.meta["categories"])
    build = partial(_torchvision_net, name, size, trained=not untrained)
    options = {"num_classes": len(categories)}
    if untrained:
        net = build()
    else:
        source = weights or str(fetch(torchvision_published(name), name))
        state = _torchvision_state(name, read_weights(source))
        net, options = build_with_weights(build, state, source, name, len(categories))
    labels = categories if options["num_classes"] == len(categories) else ()
    return Model(net, name, tuple(shown.mean), tuple(shown.std), size, labels)


def _torchvision_net(
    name: str, size: Size, *, trained: bool, num_classes: int = 1000, in_chans: int = 3
) -> nn.Module:
    from torchvision.models import get_model

    if in_chans != 3:
        raise WeightsMismatch(f"the weights take {in_chans} channel(s); torchvision's {name} takes 3")
    options: dict[str, Any] = {"num_classes": num_classes}
    if name in ("googlenet", "inception_v3"):
        options |= {"aux_logits": False, "transform_input": trained, "init_weights": not trained}
    if name.startswith("vit_"):
        if size[0] != size[1]:
            raise InvalidValue(f"input size {size[0]}x{size[1]}: {name} takes square images")
        options["image_size"] = size[0]
    if name.startswith("maxvit"):
        options["input_size"] = size
    with quiet():
        try:
            net: nn.Module = get_model(name, weights=None, **options)
        except ValueError as error:
            raise ModelError(f"{name} cannot be built for {size[0]}x{size[1]}: {one_line(error)}") from error
    return net


_AUXILIARY = re.compile(r"(module\.|_orig_mod\.|model\.)*(aux1|aux2|AuxLogits)\.")
_OLD_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.(?=[12]\.)")


def _torchvision_state(name: str, state: State) -> State:
    """The file's tensors without auxiliary heads, and with DenseNet's names of today."""
    if name not in ("googlenet", "inception_v3") and not name.startswith("densenet"):
        return state
    kept = OrderedDict(
        (_OLD_DENSENET.sub(r"\1", key), tensor) for key, tensor in state.items() if not _AUXILIARY.match(key)
    )
    return versioned(kept, state)


# ----------------------------------------------------------------------- timm


def timm_names() -> list[str]:
    """Every architecture of timm, by name, without tags."""
    import timm

    return list(timm.list_models())


def timm_config(name: str) -> Any:
    """timm's settings for a name, with or without a tag (`resnet50.a1_in1k`).

    Raises `ModelNotFound` for a tag that the architecture does not have.
    """
    import timm
    from timm.models import PretrainedCfg

    try:
        return timm.get_pretrained_cfg(name) or PretrainedCfg()
    except RuntimeError as error:
        tagged = timm.list_pretrained(name.split(".")[0] + ".*")
        raise ModelNotFound(f"timm/{name}", [f"timm/{other}" for other in tagged]) from error


def timm_published(name: str) -> Published | None:
    """Where timm publishes a model's weights, or None where it has none."""
    config = timm_config(name)
    full = f"{config.architecture or name}.{config.tag}" if config.tag else name
    if config.hf_hub_id:
        repository, _, revision = config.hf_hub_id.partition("@")
        files = (config.hf_hub_filename,) if config.hf_hub_filename else Published.files
        return Published(f"{full} ({repository})", "", repository, revision or None, files)
    return Published(full, config.url) if config.url else None


def timm_model(name: str, weights: str | None, untrained: bool, input_size: Size | None) -> Model:
    """A model of timm, normalised and sized as its settings ask.

    Raises `WeightsUnavailable` where timm has published no weights for it.
    """
    config = timm_config(name)
    fixed = {"img_size": input_size} if config.fixed_input_size and input_size else {}
    build = partial(_timm_net, name, **fixed)
    if weights is not None:
        net, _ = build_with_weights(build, read_weights(weights), weights, name, config.num_classes)
    elif untrained:
        net = build()
    else:
        net = build(pretrained=True, pretrained_cfg_overlay=_timm_weights(name, config))
    size = input_size or (config.input_size[1], config.input_size[2])
    return Model(net, name, tuple(config.mean), tuple(config.std), size, _timm_labels(net))


def _timm_weights(name: str, config: Any) -> dict[str, Any]:
    published = timm_published(name)
    if published is None:
        raise WeightsUnavailable(
            f"timm publishes no weights for {name}; give --weights FILE, take the embedded model "
            "(--model efficientnet_lite0), or ask for random weights (--untrained)"
        )
    # custom_load says that the file is in the paper's own format: always so for an address,
    # on Hugging Face only where marked "hf"
    own_format = config.custom_load == "hf" if published.repository else bool(config.custom_load)
    return {"file": str(fetch(published, name)), "custom_load": own_format}


def _timm_net(name: str, **options: Any) -> nn.Module:
    import timm

    try:
        with quiet():
            net: nn.Module = timm.create_model(name, **options)
    except Exception as error:  # each of timm's thousand builders has errors of its own
        file = options.get("pretrained_cfg_overlay", {}).get("file")
        source = f" from {Path(file)}" if file else ""
        raise ModelError(f"timm cannot build {name}{source}: {one_line(error)}") from error
    return net


def _timm_labels(net: nn.Module) -> tuple[str, ...]:
    from timm.data import ImageNetInfo, infer_imagenet_subset

    count = getattr(net, "num_classes", 0)
    if count == 1000:
        return imagenet_labels()
    subset = infer_imagenet_subset({"num_classes": count})  # the ImageNet-21k family, told by its size
    return tuple(ImageNetInfo(subset).label_descriptions()) if subset else ()
