"""Score cards: worked out from the network's own output, and a unit that never wakes."""

import pytest
import torch
from conftest import tiny_model, unit_images

from featviz.cards import card, told
from featviz.objectives import channel, class_, layer
from featviz.targets import class_number


def test_a_classs_card_is_the_softmax(tiny):
    image = unit_images(1, 3, 40, 40)
    with torch.no_grad():
        logits = tiny(image)[0]
    chances = logits.softmax(0)
    order = chances.argsort(descending=True).tolist()
    for number in range(5):
        made = card(tiny, class_(number), image)
        assert made["activation"] == pytest.approx(float(logits[number]), rel=1e-5)
        assert made["rank"] == order.index(number) + 1
        assert made["probability"] == pytest.approx(float(chances[number]), rel=1e-5)
        assert [name for name, _ in made["top"]] == [tiny.labels[k] for k in order]
    assert "rank" not in card(tiny, class_(1) - class_(2), image)


def test_a_channels_card_and_a_dead_one():
    model = tiny_model()
    image = unit_images(1, 3, 40, 40)
    alive = card(model, 1 * channel("conv2", 2), image)
    with torch.no_grad():
        pooled = model.net.pool(model.net.relu(model.net.bn1(model.net.conv1(model.normalise(image)))))
        wanted = float(model.net.conv2(pooled)[0, 2].mean())
    assert alive["activation"] == pytest.approx(wanted, rel=1e-5) and "top" not in alive
    model.net.conv3.weight.data[3] = 0
    model.net.conv3.bias.data[3] = -1
    dead = card(model, channel("conv3", 3), image)
    assert dead["activation"] == dead["noise"] == -1 and dead["flag"] == "dead"
    assert told(dead).endswith("dead") and "noise -1" in told(dead)


def test_which_class_an_objective_is():
    assert class_number(class_(3), 5) == 3
    for other in (class_(1) + class_(2), 2 * class_(1), channel("conv2", 1), layer("")):
        assert class_number(other, 5) is None
