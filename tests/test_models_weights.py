import argparse
import pickle

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from featviz.errors import ModelError, WeightsMismatch
from featviz.models.weights import build_with_weights, fit, match_names, read_weights


def net(classes=5, channels=3):
    return nn.Sequential(nn.Conv2d(channels, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, classes))


@pytest.fixture
def state():
    torch.manual_seed(3)
    made = net()
    made[1].running_mean.normal_()
    return made.state_dict()


def loaded(path):
    other = net()
    fit(other, match_names(read_weights(path), other.state_dict()), str(path), "net")
    return other.state_dict()


WRAPPERS = {
    "plain": lambda state: state,
    "state_dict": lambda state: {"epoch": 3, "state_dict": state, "optimizer": {"lr": 0.1}},
    "model": lambda state: {"model": state, "args": argparse.Namespace(lr=0.1)},
    "model_state_dict": lambda state: {"model_state_dict": state},
    "ema": lambda state: {"ema": {"module": state}, "step": 3},
    "unheard of": lambda state: {"my_network": state, "epoch": 1},
    "DataParallel": lambda state: {f"module.{name}": tensor for name, tensor in state.items()},
    "compiled": lambda state: {f"_orig_mod.{name}": tensor for name, tensor in state.items()},
    "both": lambda state: {f"module._orig_mod.{name}": tensor for name, tensor in state.items()},
    "Lightning": lambda state: {"state_dict": {f"model.{name}": tensor for name, tensor in state.items()}},
    "averaged": lambda state: (
        {"n_averaged": torch.tensor(4)} | {f"module.{name}": tensor for name, tensor in state.items()}
    ),
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_wrappers_and_prefixes_come_off(tmp_path, state, wrapper):
    torch.save(WRAPPERS[wrapper](state), tmp_path / "net.pth")
    found = loaded(tmp_path / "net.pth")
    assert all(torch.equal(found[name], state[name]) for name in state)


def test_safetensors(tmp_path, state):
    save_file(state, tmp_path / "net.safetensors")
    found = loaded(tmp_path / "net.safetensors")
    assert all(torch.equal(found[name], state[name]) for name in state)


@pytest.mark.parametrize("precision", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_become_the_networks(tmp_path, state, precision):
    torch.save({name: tensor.to(precision) for name, tensor in state.items()}, tmp_path / "net.pt")
    found = loaded(tmp_path / "net.pt")
    assert found["0.weight"].dtype == torch.float32
    assert torch.equal(found["0.weight"], state["0.weight"].to(precision).float())


def test_a_prefix_of_the_networks_own_stays():
    own = {"model.weight": torch.zeros(2), "weight": torch.ones(2)}
    assert match_names(own, ["model.weight", "weight"]) == own
    assert list(match_names({"module.model.weight": torch.zeros(2)}, ["model.weight"])) == ["model.weight"]
    assert list(match_names({"module.other": torch.zeros(2)}, ["weight"])) == ["module.other"]
    both = {"module.weight": torch.zeros(2), "module.old": torch.ones(2)}
    assert list(match_names(both, ["weight"])) == ["weight", "old"]  # the network may know the old name


def test_what_does_not_fit_is_named(tmp_path, state):
    del state["0.bias"], state["1.num_batches_tracked"]
    state["head.extra"] = torch.zeros(2)
    torch.save(state, tmp_path / "net.pth")
    with pytest.raises(
        WeightsMismatch, match=r"fit net: 1 missing \(0\.bias\), 1 unexpected \(head\.extra\)$"
    ):
        loaded(tmp_path / "net.pth")


def test_other_shapes_are_named_with_both(tmp_path, state):
    state["0.weight"] = torch.zeros(4, 3, 5, 5)
    torch.save(state, tmp_path / "net.pth")
    with pytest.raises(WeightsMismatch, match=r"shape \(0\.weight is 4x3x5x5, the network's 4x3x3x3\)"):
        loaded(tmp_path / "net.pth")


def test_many_missing_are_counted(tmp_path):
    torch.save({"a": torch.zeros(1)}, tmp_path / "net.pth")
    with pytest.raises(WeightsMismatch, match=r"8 missing \(0\.weight, 0\.bias, 1\.weight, …\)"):
        loaded(tmp_path / "net.pth")


def test_batch_norm_counters_may_be_missing(tmp_path, state):
    del state["1.num_batches_tracked"]
    save_file(state, tmp_path / "net.safetensors")
    assert torch.equal(loaded(tmp_path / "net.safetensors")["0.weight"], state["0.weight"])


def test_the_network_is_built_for_the_files_classes_and_channels():
    made = []

    def build(num_classes=5, in_chans=3):
        made.append((num_classes, in_chans))
        return net(num_classes, in_chans)

    _, options = build_with_weights(build, net(5).state_dict(), "file", "net", 5)
    assert options == {"num_classes": 5}
    assert made == [(5, 3)]
    theirs = {f"module.{name}": tensor for name, tensor in net(2, 1).state_dict().items()}
    built, options = build_with_weights(build, theirs, "file", "net", 5)
    assert options == {"num_classes": 2, "in_chans": 1}
    assert torch.equal(built[3].weight, theirs["module.3.weight"])


def test_code_in_a_file_is_not_run(tmp_path):
    torch.save(net(), tmp_path / "whole.pth")
    with pytest.raises(WeightsMismatch, match=r"pickled code \(torch.*not run.*state_dict\(\)") as caught:
        read_weights(tmp_path / "whole.pth")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content", [b"", b"hello there\n" * 9, b"\x89PNG\r\n" + b"0" * 99, pickle.dumps({"a": 1})]
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".bin"])
def test_damaged_files(tmp_path, suffix, content):
    path = tmp_path / f"damaged{suffix}"
    path.write_bytes(content)
    with pytest.raises(WeightsMismatch, match="no readable") as caught:
        read_weights(path)
    assert len(str(caught.value)) < 300 + len(str(path))


@pytest.mark.parametrize("data", [{"epoch": 3}, [torch.zeros(2)], torch.zeros(2), {}])
def test_files_without_named_tensors(tmp_path, data):
    torch.save(data, tmp_path / "net.pth")
    with pytest.raises(WeightsMismatch, match="no named tensors"):
        read_weights(tmp_path / "net.pth")


def test_a_missing_file(tmp_path):
    (tmp_path / "resnet.pth").touch()
    with pytest.raises(ModelError, match=r"no weights file .*nearest: resnet\.pth"):
        read_weights(tmp_path / "resnt.pth")
