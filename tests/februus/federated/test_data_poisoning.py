from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from februus.data import Dataset
from februus.federated.attacks.data_poisoning import DataPoisoning
from februus.federated.client import Update
from februus.poisoning import poison
from februus.seeds import seeded
from februus.triggers.patch import Patch

Draw = Callable[..., Dataset]
UPDATE = Update(
    client=4, change=torch.tensor([1.0, -2.0]), buffers={"count": torch.tensor(3)}, count=17, loss=0.5
)  # fmt: skip


def test_the_client_trains_on_poisoned_data(toy_draw: Draw) -> None:
    data = toy_draw(40)
    attack = DataPoisoning(trigger=Patch(size=4), target_label=2, poison_rate=0.25)
    poisoned = attack.on_data(data, seeded(7))
    changed = (poisoned.labels != data.labels).nonzero().flatten()
    assert len(changed) == 10
    assert (poisoned.labels[changed] == 2).all()
    assert (poisoned.images[changed, :, 27:31, 27:31] == 255).all()
    kept = poisoned.labels == data.labels
    assert torch.equal(poisoned.images[kept], data.images[kept])
    by_hand = poison(data, Patch(size=4), 2, 0.25, seeded(7))
    assert torch.equal(poisoned.images, by_hand.images)


def test_the_update_is_scaled_and_nothing_else() -> None:
    sent = DataPoisoning(trigger=Patch(), target_label=0, scale=2.5).on_update(UPDATE)
    assert sent.change.tolist() == [2.5, -5.0]
    assert (sent.client, sent.count, sent.loss, sent.buffers) == (4, 17, 0.5, UPDATE.buffers)
    assert UPDATE.change.tolist() == [1.0, -2.0]


def test_without_scale_it_is_sent_as_it_is() -> None:
    assert torch.equal(DataPoisoning(trigger=Patch(), target_label=0).on_update(UPDATE).change, UPDATE.change)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"poison_rate": 1.5}, r"poison_rate: expected a value at least 0 and at most 1, got 1\.5"),
        ({"poison_rate": -0.1}, r"poison_rate: expected"),
        ({"scale": 0}, r"scale: expected a value above 0, got 0"),
        ({"scale": float("nan")}, r"scale: expected a value above 0, got nan"),
    ],
)
def test_errors(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DataPoisoning(trigger=Patch(), target_label=0, **options)


def test_a_target_that_is_no_class(toy_draw: Draw) -> None:
    with pytest.raises(ValueError, match="target_label: expected 0 to 3, got 4"):
        DataPoisoning(trigger=Patch(), target_label=4).on_data(toy_draw(8), seeded(0))
