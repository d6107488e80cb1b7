"""Two ways of doing one thing timed in turn: the ratio of each pair counts, since other work hits both."""

import statistics
import time


def timed(run):
    """Seconds, and what came of it."""
    begun = time.perf_counter()
    made = run()
    return time.perf_counter() - begun, made


def ratios(theirs, ours, repeats):
    """Their seconds over ours for each pair, sorted; each is run once before, and they take turns first."""
    theirs(), ours()
    found = []
    for i in range(repeats):
        if i % 2:
            b, a = timed(ours)[0], timed(theirs)[0]
        else:
            a, b = timed(theirs)[0], timed(ours)[0]
        found.append(a / b)
    return sorted(found)


def told(found):
    """Median and spread of ratios: `2.04 (1.99 to 2.11)`."""
    return f"{statistics.median(found):.2f} ({found[0]:.2f} to {found[-1]:.2f})"
