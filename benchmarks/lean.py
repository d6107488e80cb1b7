"""What the lean backward keeps, takes and costs beside plain autograd, network by network.

`python -m benchmarks.lean [--networks A B … --sizes N … --layer L --threads N --repeats N]`: one square
picture; the target is the first class, or with `--layer` all of a layer. Three ways:

    eager     plain autograd of the frozen network: `featviz.engines.eager`
    lean      `featviz.engines.lean`, of pictures of any size
    learning  as lucent does it: the whole network, weights with gradients, features of the layer by a hook

Kept is what a forward saves for the backward, each storage once, weights and buffers left out. Growth is the
peak of resident memory while one gradient is taken, less what was resident just before; each in a process of
its own, after a first gradient at 96 px. The random weights are always the same, and the embedded model has
its own. Linux only.
"""

from __future__ import annotations

import argparse
import json
import warnings

import torch
from torch.autograd.graph import saved_tensors_hooks

import featviz
from benchmarks.apart import MIB, apart, growth, machine, quotient, yielding
from benchmarks.paired import ratios, told
from featviz import engines
from featviz.layers import find_layer, frozen, score
from featviz.models import EMBEDDED

NETWORKS = (
    "resnet18",
    "resnet50",
    "vgg16",
    "googlenet",
    "densenet121",
    "mobilenet_v2",
    "efficientnet_b0",
    "convnext_tiny",
    EMBEDDED,
)
WAYS = ("eager", "lean", "learning")
WARM = 96
STEADY = 512
"""Smaller pictures are timed several times in a row, as many as this side squared would hold."""

LARGE = 2048
"""Pictures from this size on are timed in one pair."""

COLUMNS = (
    "network",
    "px",
    *(f"kept MiB: {way}" for way in WAYS),
    "eager / lean",
    "learning / lean",
    *(f"growth MiB: {way}" for way in WAYS),
    "eager / lean",
    "learning / lean",
    "time lean / eager",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=NETWORKS)
    parser.add_argument("--sizes", nargs="+", type=int, default=(224, 1024, 2048))
    parser.add_argument("--layer", default="", help="a layer instead of the whole network's first class")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--measure", choices=[*WAYS, "time"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.filterwarnings("ignore")
    if options.measure:
        yielding()
        run = timed_pairs if options.measure == "time" else memory
        print(json.dumps(run(options, options.networks[0], options.sizes[0])))
    else:
        print(f"{machine(options.threads)}; target: {options.layer or 'the first class'}\n")
        print(f"| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|")
        for network in options.networks:
            for size in options.sizes:
                print(row(options, network, size), flush=True)


def row(options, network, size) -> str:
    """A line of the table, each of its measurements in a process of its own."""
    pairs = 1 if size >= LARGE else options.repeats
    given = ["--networks", network, "--sizes", size, "--threads", options.threads, "--repeats", pairs]
    given += ["--layer", options.layer]
    found = {what: apart("benchmarks.lean", *given, "--measure", what) for what in (*WAYS, "time")}
    cells = [network, str(size)]
    for what in ("kept", "growth"):
        eager, lean, learning = (found[way] and found[way][what] for way in WAYS)
        cells += [f"{one / MIB:.1f}" if one else "memory ran out" for one in (eager, lean, learning)]
        cells += [quotient(eager, lean), quotient(learning, lean)]
    return f"| {' | '.join([*cells, told(found['time']) if found['time'] else '–'])} |"


def memory(options, network, size):
    """Bytes that one way keeps, and by which it grows at its peak."""
    model, measured = target(options, network)
    engine = {"eager": engines.eager, "lean": engines.lean(least=0), "learning": learning(model)}[
        options.measure
    ]
    if options.measure == "learning" and options.layer:
        measured = Hooked(model, options.layer)
    engine(measured, picture(WARM))
    model.net.requires_grad_(options.measure == "learning").zero_grad(set_to_none=True)
    image = picture(size)
    grown, _ = growth(lambda: engine(measured, image))
    return {"kept": kept(model, lambda: engine(measured, image)), "growth": grown}


def timed_pairs(options, network, size):
    """Lean seconds over eager seconds, pair by pair."""
    model, measured = target(options, network)
    image, count = picture(size), max(1, (STEADY // size) ** 2)

    def several(engine):
        for _ in range(count):
            engine(measured, image)

    with frozen(model.net):
        lean = engines.lean(least=0)
        return ratios(lambda: several(lean), lambda: several(engines.eager), options.repeats)


def target(options, network):
    """A network, and what is measured on it."""
    model = featviz.load(network, untrained=network != EMBEDDED, device="cpu")
    if not options.layer:
        return model, score(model, featviz.class_(0))
    return model, score(model, featviz.layer(find_layer(model, options.layer).address))


def picture(size):
    return torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0))


def learning(model):
    """An engine by which the weights get gradients, too."""

    def engine(measured, image):
        model.net.requires_grad_(True)
        leaf = image.clone().requires_grad_(True)
        scores = measured(leaf)
        scores.sum().backward()
        return scores.detach(), leaf.grad

    return engine


class Hooked:
    """The mean square of a layer, read by a hook while the whole network runs."""

    def __init__(self, model, layer) -> None:
        self.model, self.found, self.output = model, None, None
        model.net.get_submodule(find_layer(model, layer).address).register_forward_hook(self.note)

    def note(self, _module, _inputs, output) -> None:
        self.found = output.clone()  # what follows may work in place

    def __call__(self, image):
        self.output = self.model(image)  # lucent holds the features of every layer
        return self.found.square().mean((1, 2, 3))


def kept(model, run) -> int:
    """Bytes of the storages that are saved for the backward while `run()` runs, without the network's own."""
    known = {storage(each) for each in (*model.net.parameters(), *model.net.buffers())}
    total = 0

    def note(tensor):
        nonlocal total
        if storage(tensor) not in known:
            known.add(storage(tensor))
            total += tensor.untyped_storage().nbytes()
        return tensor

    with saved_tensors_hooks(note, lambda tensor: tensor):
        run()
    return total


def storage(tensor) -> int:
    return tensor.untyped_storage()._cdata


if __name__ == "__main__":
    main()
