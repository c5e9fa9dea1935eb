from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from februus.data import Dataset
from februus.metrics import attack_success_rate
from februus.models import Normalized
from februus.poisoning import stamp
from februus.presets.double_masking import DoubleMasking, covering_masks
from februus.purifier import Purifier
from februus.registry import create
from februus.seeds import seeded
from februus.triggers.patch import Patch

Draw = Callable[..., Dataset]


class Rule(nn.Module):
    """Answers a class by which of two white pixels, far apart, it sees: (5, 5) first, else (26, 26)."""

    def __init__(self, first: int, second: int, neither: int) -> None:
        super().__init__()
        self.classes = nn.Parameter(torch.tensor([first, second, neither]).float(), requires_grad=False)

    def forward(self, images: Tensor) -> Tensor:
        first, second = (images[:, 0, place, place] == 1 for place in (5, 26))
        chosen = torch.where(first, 0, torch.where(second, 1, 2))
        return 5 * torch.eye(3)[self.classes[chosen].long()]


def picture(*places: int) -> Tensor:
    image = torch.full((1, 3, 32, 32), 0.25)
    for place in places:
        image[..., place, place] = 1
    return image


@pytest.mark.parametrize(
    ("height", "width", "patch", "count"), [(16, 16, 0.25, 3), (32, 41, 0.1, 6), (17, 19, 0.5, 2), (20, 20, 0.01, 40)]
)
def test_one_mask_covers_any_patch(height: int, width: int, patch: float, count: int) -> None:
    masks = covering_masks(height, width, patch=patch, count=count)
    assert len(masks) <= count**2
    tall, wide = (int(-(-patch * side // 1)) for side in (height, width))
    for top in range(height - tall + 1):
        for left in range(width - wide + 1):
            assert masks[:, 0, top : top + tall, left : left + wide].flatten(1).all(1).any(), (top, left)


def test_the_masks_of_the_paper() -> None:
    """Of 224 pixels and patches of 32: 36 masks of 64 x 64, 33 apart but for the last."""
    masks = covering_masks(224, 224, patch=32 / 224, count=6)
    assert masks.shape == (36, 1, 224, 224)
    assert masks.sum((1, 2, 3)).unique().tolist() == [64 * 64]
    starts = masks[::6, 0].any(2).int().argmax(1)
    assert starts.tolist() == [0, 33, 66, 99, 132, 160]


def test_where_all_masks_agree_nothing_is_done() -> None:
    image = picture(5)
    found = Purifier(Rule(1, 1, 1), DoubleMasking())(image)
    assert torch.equal(found.images, image)
    assert not found.masks.any()
    assert (found.labels.item(), found.flagged.item(), found.scores.item()) == (1, False, 0)


def test_a_mask_that_every_second_mask_confirms_is_believed() -> None:
    image = picture(5)
    found = Purifier(Rule(2, 0, 1), DoubleMasking())(image)
    # Seen, the pixel makes class 2, for most masks; those that hide it say 1, whatever else is hidden.
    assert found.logits_before.argmax().item() == 2
    assert found.labels.item() == found.logits.argmax().item() == 1
    assert found.flagged.item()
    assert found.scores.item() > 0.9
    assert found.masks[0, 0, 5, 5] == 1
    # A patch of 5 of 32 pixels: masks 5 apart, 9 long.
    assert found.masks.sum() == 9 * 9
    assert torch.equal(found.images, torch.where(found.masks > 0, 0.5, image))


def test_a_mask_that_a_second_mask_contradicts_is_not() -> None:
    # Without the first pixel the second makes class 1, and without both it is class 0.
    image = picture(5, 26)
    found = Purifier(Rule(2, 1, 0), DoubleMasking())(image)
    assert found.labels.item() == 2
    assert not found.flagged.item()
    assert not found.masks.any()
    assert torch.equal(found.images, image)
    # Were the class the same without both, it would be believed.
    assert Purifier(Rule(2, 1, 1), DoubleMasking())(image).labels.item() == 1


def test_each_picture_goes_its_own_way_in_every_batch() -> None:
    images = torch.cat([picture(), picture(5), picture(26), picture(5, 26), picture(26), picture(5)])
    model = Rule(2, 1, 0)
    together = Purifier(model, DoubleMasking())(images)
    assert together.labels.tolist() == [0, 0, 0, 2, 0, 0]
    assert together.flagged.tolist() == [False, True, True, False, True, True]
    for batch_size in (1, 4):
        parts = Purifier(model, DoubleMasking(), batch_size=batch_size)(images)
        for name in ("images", "masks", "logits", "labels", "scores"):
            assert torch.equal(getattr(parts, name), getattr(together, name))


def test_no_more_than_a_batch_is_looked_at_at_once() -> None:
    model, seen = Rule(2, 1, 0), []
    model.register_forward_hook(lambda _module, inputs, _output: seen.append(len(inputs[0])))
    Purifier(model, DoubleMasking(), batch_size=3)(picture(5).repeat(7, 1, 1, 1))
    assert max(seen) == 3


def test_it_takes_the_attack_away(trained_toy: Normalized, toy_draw: Draw, toy_trigger: Patch) -> None:
    test = toy_draw(40, 1)
    victims = test.subset(test.labels != 0)
    triggered = stamp(victims, toy_trigger, seeded(0)).floats()
    purifier = Purifier.for_model(trained_toy, preset="double-masking:masks=3")
    found = purifier(triggered)
    assert attack_success_rate(found.logits_before.argmax(1), victims.labels, 0).value > 0.9
    assert attack_success_rate(found.labels, victims.labels, 0).value < 0.6
    # Where a mask was believed, it lies over the trigger.
    believed = found.masks.flatten(1).any(1)
    assert believed.float().mean() > 0.3
    assert found.masks[believed, 0, 28:30, 28:30].float().mean() > 0.9


def test_settings() -> None:
    assert create("presets", "double-masking:patch=0.25,masks=4") == DoubleMasking(patch=0.25, masks=4)
    assert DoubleMasking().inpainter is None
    for name, value in (("patch", 0), ("patch", 0.6), ("masks", 1)):
        with pytest.raises(ValueError, match=f"{name}: expected a value"):
            DoubleMasking(**{name: value})
