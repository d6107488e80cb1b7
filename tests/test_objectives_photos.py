"""Objectives that need more than one picture, by hand: faces of one unit, and pictures held against photos."""

import math

import pytest
import torch

from featviz import objectives


def acts(*values):
    """`(b, 2, 1, 2)` activations of two channels at two positions."""
    return {"a": torch.tensor(values, dtype=torch.float32).view(len(values), 2, 1, 2)}


def test_diversity_by_hand():
    """Gram matrices [[1, 0], [0, 0]] and [[0, 0], [0, 4]] have nothing in common; [[1, 1], [1, 1]] half."""
    one, other, both = [1, 0, 0, 0], [0, 0, 2, 0], [1, 0, 1, 0]
    found = objectives.diversity("a").measure(acts(one, other, both))
    torch.testing.assert_close(found, torch.tensor([-0.25, -0.25, -0.5]))
    assert objectives.diversity("a").measure(acts(one)).item() == 0


def test_a_caricature_by_hand():
    """Along the photo at one position (cosine 1), at .6 of it at the other."""
    own, photo = [2.0, 3.0, 0.0, 4.0], [1.0, 1.0, 0.0, 0.0]
    found = objectives.caricature("a", 2).measure(acts(own, photo))
    assert found.item() == pytest.approx((2 * 1 + 3 * 0.6**2) / 2, rel=1e-4)


def test_inversion_and_likeness_by_hand():
    own, photo = [1.0, 2.0, 2.0, 0.0], [0.0, 2.0, 0.0, 1.0]  # away by 1, 0, 2, -1; the photo's norm² is 5
    assert objectives.inversion("a").measure(acts(own, photo)).item() == pytest.approx(-6 / 5)
    assert objectives.likeness("a").measure(acts(own, photo)).item() == pytest.approx(-math.sqrt(6 / 5))


def test_an_accentuation_is_the_target_less_the_distance():
    target = objectives.channel("a", 1)
    own, photo = [1.0, 2.0, 2.0, 0.0], [0.0, 2.0, 0.0, 1.0]
    found = objectives.accentuation(target, "a", 3.0).measure(acts(own, photo))
    assert found.item() == pytest.approx(1 - 3 * math.sqrt(6 / 5))
