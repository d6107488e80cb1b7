"""Weights files: what is in them, and putting it into a network."""

from __future__ import annotations

import argparse
import pickle
import re
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from featviz.errors import ModelError, WeightsMismatch, nearest
from featviz.models.quiet import one_line, quiet

State = Mapping[str, Tensor]
Build = Callable[..., nn.Module]

# Training programs put a network's tensors under one of these; where several stand side by
# side the first is taken, so the plain weights before their moving average.
_WRAPPERS = (
    *("state_dict", "model_state_dict", "model", "net", "network", "weights", "params", "module"),
    *("state_dict_ema", "ema_state_dict", "model_ema", "ema_model", "params_ema", "ema"),
)
# DataParallel, torch.compile, and trainers that hold the network as `self.model`.
_PREFIXES = ("module.", "_orig_mod.", "model.")


def read_weights(path: str | Path) -> State:
    """The named tensors of a .safetensors, .pth, .pt or .bin file, on the CPU, out of their wrappers.

    Nothing in the file is run (`weights_only=True`). Raises `ModelError` for a missing file and
    `WeightsMismatch` for one without plain tensors.
    """
    file = Path(path)
    if not file.is_file():
        beside = [entry.name for entry in file.parent.glob("*") if entry.is_file()]
        raise ModelError(f"no weights file {str(path)!r}{nearest(file.name, beside)}")
    return _unwrap(_open_safetensors(file) if file.suffix == ".safetensors" else _open_pickle(file), file)


def _open_safetensors(file: Path) -> Any:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise WeightsMismatch(f"{file} is no readable safetensors file: {one_line(error)}") from error


def _open_pickle(file: Path) -> Any:
    try:
        with quiet(), _allowed():
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file raises nearly anything
        raise WeightsMismatch(_why_unreadable(file, error)) from error


def _allowed() -> AbstractContextManager[Any]:
    """Lets a saved `argparse.Namespace` through: trainers keep one beside the weights; it runs nothing."""
    allow = getattr(torch.serialization, "safe_globals", None)  # since torch 2.5
    return allow([argparse.Namespace]) if allow else nullcontext()


def _why_unreadable(file: Path, error: Exception) -> str:
    told = str(error)
    refused = re.search(r"GLOBAL ([\w.]+)", told)
    what = refused.group(1) if refused else "TorchScript" if "TorchScript" in told else ""
    if what:
        return (
            f"{file} holds pickled code ({what}), which featviz does not run; where you trust the file, "
            "load it yourself and save its tensors alone: torch.save(net.state_dict(), 'weights.pth')"
        )
    damaged = "" if isinstance(error, pickle.UnpicklingError) else f": {one_line(error, 80)}".rstrip(": ")
    return f"{file} is no readable weights file{damaged}"


def _unwrap(data: Any, file: Path) -> State:
    while isinstance(data, Mapping) and not _tensors(data):
        inner = [data[key] for key in _WRAPPERS if isinstance(data.get(key), Mapping)]
        inner = inner or [value for value in data.values() if isinstance(value, Mapping) and _tensors(value)]
        if not inner:
            break
        data = inner[0]
    found = _tensors(data) if isinstance(data, Mapping) else None
    if not found:
        raise WeightsMismatch(f"{file} holds no named tensors, but {type(data).__name__}")
    return versioned(found, data)


def _tensors(data: Mapping[Any, Any]) -> OrderedDict[str, Tensor]:
    return OrderedDict((str(key), value) for key, value in data.items() if isinstance(value, Tensor))


def versioned(tensors: OrderedDict[str, Tensor], like: object) -> State:
    """The tensors with the version marks of `like`, by which torch's modules read older files."""
    marked: Any = tensors
    marked._metadata = getattr(like, "_metadata", None)
    return tensors


def match_names(state: State, wanted: Iterable[str]) -> State:
    """The tensors under the network's own names: a wrapper's prefix goes where that makes names match.

    A prefix that hides one of the network's names goes from every name, so that a network still
    recognises those that it translates from older files by itself.
    """
    known = set(wanted)
    prefix = next((found for name in state if (found := _hiding_prefix(name, known))), "")
    if not prefix:
        return state
    matched: OrderedDict[str, Tensor] = OrderedDict()
    for name, tensor in state.items():
        short = name.removeprefix(prefix)
        if name in known or short not in state:
            matched[name if name in known else short] = tensor
    matched.pop("n_averaged", None)  # torch.optim.swa_utils counts beside the weights
    return matched


def _hiding_prefix(name: str, known: set[str]) -> str:
    """The run of wrappers' prefixes before one of the known names, or nothing."""
    short = name
    while short not in known:
        prefix = next((prefix for prefix in _PREFIXES if short.startswith(prefix)), "")
        if not prefix:
            return ""
        short = short.removeprefix(prefix)
    return name.removesuffix(short)


def build_with_weights(
    build: Build, state: State, source: str, model: str, classes: int
) -> tuple[nn.Module, dict[str, int]]:
    """The network that `build(num_classes=…, in_chans=…)` makes, with the tensors in it.

    The number of classes and of input channels follow the file where it has others than the
    usual `classes` and 3; they are the dictionary of the answer. Raises `WeightsMismatch`.
    """
    net = build()
    state = match_names(state, net.state_dict())
    options = _sizes(state, net, classes)
    if options:
        net = build(**options)
    fit(net, state, source, model)
    return net, {"num_classes": classes, **options}


def _sizes(state: State, net: nn.Module, classes: int) -> dict[str, int]:
    options = {}
    here = net.state_dict()
    other = [(state[name].shape, here[name].shape) for name in here if name in state]
    heads = {theirs[0] for theirs, ours in other if _other_head(theirs, ours, classes)}
    if len(heads) == 1:
        options["num_classes"] = heads.pop()
    stem = next((name for name, tensor in here.items() if tensor.ndim == 4), "")
    if stem in state and state[stem].ndim == 4 and state[stem].shape[1] == 1 != here[stem].shape[1]:
        options["in_chans"] = 1
    return options


def _other_head(theirs: torch.Size, ours: torch.Size, classes: int) -> bool:
    return theirs != ours and len(theirs) == len(ours) > 0 and ours[0] == classes and theirs[1:] == ours[1:]


def fit(net: nn.Module, state: State, source: str, model: str) -> None:
    """Put the tensors into the network, in the network's own precision.

    Raises `WeightsMismatch` naming what is missing, unexpected, or of another shape. Batch norm's
    counters (`num_batches_tracked`) do not matter: nothing reads them in eval mode.
    """
    wrong = _wrong_shapes(net, state)
    right = OrderedDict((key, tensor) for key, tensor in state.items() if key not in wrong)
    missing, unexpected = _load(net, versioned(right, state), source, model)
    missing = [key for key in missing if key not in wrong]
    missing, unexpected = _without_counters(missing), _without_counters(unexpected)
    faults = [
        _named("missing", missing),
        _named("unexpected", unexpected),
        _named("of another shape", list(wrong.values())),
    ]
    if any(faults):
        told = ", ".join(fault for fault in faults if fault)
        raise WeightsMismatch(f"{source} does not fit {model}: {told}")


def _without_counters(names: list[str]) -> list[str]:
    return [name for name in names if not name.endswith("num_batches_tracked")]


def _wrong_shapes(net: nn.Module, state: State) -> dict[str, str]:
    return {
        name: f"{name} is {_shape(state[name])}, the network's {_shape(tensor)}"
        for name, tensor in net.state_dict().items()
        if name in state and state[name].shape != tensor.shape
    }


def _load(net: nn.Module, state: State, source: str, model: str) -> tuple[list[str], list[str]]:
    with quiet():
        try:
            result = net.load_state_dict(state, strict=False)
        except ValueError:  # MNASNet refuses tensors without its version mark
            result = net.load_state_dict(versioned(OrderedDict(state), net.state_dict()), strict=False)
        except RuntimeError as error:
            raise WeightsMismatch(f"{source} does not fit {model}: {one_line(error)}") from error
    return list(result.missing_keys), list(result.unexpected_keys)


def _named(what: str, names: list[str]) -> str:
    if not names:
        return ""
    return f"{len(names)} {what} ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})"


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"
