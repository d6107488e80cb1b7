import subprocess
import sys

import pytest

CHURN = """
import resource, sys
from featviz.allocator import keep_memory
if sys.argv[1] == "kept":
    assert keep_memory()
import numpy
for _ in range(3):
    numpy.ones(40 << 20, dtype=numpy.uint8)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    numpy.ones(40 << 20, dtype=numpy.uint8)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the GNU C library is Linux's")
def test_large_pieces_are_not_fetched_anew():
    faults = [
        int(subprocess.check_output([sys.executable, "-c", CHURN, way])) for way in ("kept", "given back")
    ]
    assert faults[0] < faults[1] / 4


def test_elsewhere_nothing_is_asked_for(monkeypatch):
    from featviz import allocator

    monkeypatch.setattr(sys, "platform", "darwin")
    assert allocator.keep_memory() is False
