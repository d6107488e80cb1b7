"""A gradient with batch norms folded and channels laid last, beside the network as it stands.

`python -m benchmarks.arrangement [--networks A B … --sizes N … --threads N --rounds N]`: one square picture,
the gradient of the first class, plain autograd. The four ways take turns; each ratio is of its seconds over
the plain way's in the same turn, the median with the least and the most: under 1 is faster. The last column
is what the trial of a run chooses. The random weights are always the same; the embedded model has its own.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time

import torch

import featviz
from benchmarks.apart import machine
from benchmarks.lean import NETWORKS
from benchmarks.paired import told
from featviz import objectives
from featviz.engines import arranged
from featviz.layers import frozen, score
from featviz.models import EMBEDDED
from featviz.settings import EngineSettings
from featviz.trial import WORTH, arrangement

WAYS = list(itertools.product((False, True), repeat=2))
NAMES = {(False, False): "as it stands", (True, False): "fold", (False, True): "last", (True, True): "both"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=NETWORKS)
    parser.add_argument("--sizes", nargs="+", type=int, default=(160, 512))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"{machine(options.threads)}; {options.rounds} rounds\n")
    print("| network | px | plain ms | folded | channels last | both | chosen |\n" + "|---" * 7 + "|")
    for network, side in itertools.product(options.networks, options.sizes):
        print(row(network, side, options.rounds), flush=True)


def row(network: str, side: int, rounds: int) -> str:
    """A line of the table."""
    model = featviz.load(network, untrained=network != EMBEDDED, device="cpu")
    image = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    measured = score(model, objectives.class_(0))
    engines = {way: arranged(*way) for way in WAYS}
    took: dict[tuple[bool, bool], list[float]] = {way: [] for way in WAYS}
    with frozen(model.net):
        for turn in range(2 + rounds):  # the first shows an engine what there is to arrange
            for way in WAYS[:: -1 if turn % 2 else 1]:
                begun = time.perf_counter()
                engines[way](measured, image)
                took[way].append(time.perf_counter() - begun)
    plain = took.pop(WAYS[0])[2:]
    ratios = [
        told(sorted(a / b for a, b in zip(took[way][2:], plain, strict=True)))
        for way in ((True, False), (False, True), (True, True))
    ]
    found = arrangement(model.net, measured, image, EngineSettings(), WORTH, side)
    chosen = NAMES[bool(found.fold), bool(found.channels_last)]
    cells = [network, side, f"{1000 * statistics.median(plain):.0f}", *ratios, chosen]
    return f"| {' | '.join(map(str, cells))} |"


if __name__ == "__main__":
    main()
