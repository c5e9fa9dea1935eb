from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from skimage.metrics import structural_similarity

from februus.data import Dataset
from februus.inpainters.mean_fill import MeanFill
from februus.metrics import attack_success_rate
from februus.models import Normalized
from februus.poisoning import stamp
from februus.presets.masked_restoration import MaskedRestoration, chosen_cells, fuse, grow, similarity
from februus.purifier import Purifier
from februus.registry import create
from februus.seeds import seeded
from februus.triggers.patch import Patch

Draw = Callable[..., Dataset]
QUICK = "masked-restoration:inpainter=mean-fill"


def test_similarity_is_that_of_scikit_image() -> None:
    first, second = torch.rand(2, 2, 3, 24, 30, generator=seeded(0))
    found = similarity(first, second)
    assert found.shape == (2, 1, 24, 30)
    for one, other, ssim in zip(first, second, found, strict=True):
        _, expected = structural_similarity(
            *(image.numpy() for image in (one, other)),
            channel_axis=0,
            data_range=1.0,
            gaussian_weights=True,
            use_sample_covariance=False,
            full=True,
        )
        # At the border, it mirrors otherwise.
        inside = (slice(5, -5), slice(5, -5))
        torch.testing.assert_close(ssim[0][inside], torch.from_numpy(expected).mean(0)[inside], rtol=0, atol=1e-4)
    torch.testing.assert_close(similarity(first, first), torch.ones_like(found))


def test_the_masks_of_a_round_cover_every_cell() -> None:
    masks = MaskedRestoration().draw_masks(seeded(0))
    assert masks.shape == (5, 1, 14, 14)
    assert masks.sum((1, 2, 3)).tolist() == [147] * 5
    # Five times three quarters: three or four masks a cell.
    assert masks.sum(0).unique().tolist() == [3, 4]
    assert not torch.equal(masks, MaskedRestoration().draw_masks(seeded(1)))


def test_the_thresholds_choose_cells() -> None:
    scores = torch.zeros(1, 1, 4, 4)
    scores.view(-1)[[3, 7, 8, 12]] = torch.tensor([0.9, 0.58, 0.52, 0.39])
    assert [cells.flatten().nonzero()[:, 0].tolist() for cells in chosen_cells(scores)] == [
        [3],
        [3, 7],
        [3, 7, 8],
        [3, 7, 8],
        [3, 7, 8],
    ]


def test_no_more_than_a_quarter_is_chosen() -> None:
    scores = (0.95 - 0.05 * torch.arange(16.0)).view(1, 1, 4, 4)
    # The fifth is 0.75, which becomes the lowest threshold; 1 - 0.4 x 0.25 / 0.6 = 0.833 the highest.
    counts = [int(cells.sum()) for cells in chosen_cells(scores)]
    assert counts == [3, 3, 4, 4, 4]
    flat = torch.full((1, 1, 4, 4), 0.7)
    assert not torch.stack(chosen_cells(flat)).any()


def test_restorations_are_fused_where_their_masks_are() -> None:
    images = torch.full((1, 3, 16, 16), 0.5)
    masks = torch.zeros(2, 1, 1, 16, 16)
    masks[0, ..., :8], masks[1, ..., 4:12] = 1, 1
    parts = [(images * 0, masks[0]), (images * 0 + 1, masks[1])]
    fused, covered = fuse(images, parts)
    assert fused[0, 0, 0].tolist() == [0.0] * 4 + [0.5] * 4 + [1.0] * 4 + [0.5] * 4
    assert covered[0, 0, 0].tolist() == [1.0] * 12 + [0.0] * 4


def test_cells_are_chosen_beside_one_another() -> None:
    scores = torch.tensor([[0.9, 0.05, 0.0], [0.2, 0.0, 0.0], [0.0, 0.0, 0.6]])[None, None].repeat(3, 1, 1, 1)
    everywhere = torch.ones_like(scores, dtype=torch.bool)
    corner = everywhere.clone()
    corner[..., 1, 0] = False
    candidates = torch.cat([everywhere[:2], corner[:1]])
    noise = torch.ones(9, 3, 3)
    # The highest; then 0.2 beside it counts 0.7, before 0.6 in the other corner. Where that is no candidate, 0.05 on
    # its other side counts 0.55, which is less.
    found = grow(scores, candidates, torch.tensor([2, 0, 2]), noise)
    assert found[0, 0].tolist() == [[1, 0, 0], [1, 0, 0], [0, 0, 0]]
    assert not found[1].any()
    assert found[2, 0].tolist() == [[1, 0, 0], [0, 0, 0], [0, 0, 1]]


def test_it_takes_the_attack_away(trained_toy: Normalized, toy_draw: Draw, toy_trigger: Patch) -> None:
    test = toy_draw(12, 1)
    victims = test.subset(test.labels != 0)
    triggered = stamp(victims, toy_trigger, seeded(0)).floats()
    purifier = Purifier.for_model(trained_toy, preset=QUICK)
    found = purifier(triggered)
    assert attack_success_rate(found.logits_before.argmax(1), victims.labels, 0).value > 0.9
    assert attack_success_rate(found.labels, victims.labels, 0).value < 0.3
    assert found.masks[:, 0, 28:30, 28:30].mean() > 0.7
    share = found.masks.mean((1, 2, 3))
    assert 0 < share.amax() < 0.3
    untouched = found.masks.expand_as(triggered) == 0
    assert torch.equal(found.images[untouched], triggered[untouched])
    # Every picture is judged by itself.
    parts = Purifier(trained_toy, purifier.preset, batch_size=4)(triggered)
    assert (parts.labels == found.labels).float().mean() > 0.8
    assert (parts.masks != found.masks).float().mean() < 0.02


def test_the_seed_is_that_of_all_chance(trained_toy: Normalized, toy_draw: Draw) -> None:
    images = toy_draw(3, 2).floats()
    found = [
        Purifier.for_model(trained_toy, preset=f"{QUICK},rounds=1,refinements=2,seed={seed}")(images).heatmaps
        for seed in (0, 0, 1)
    ]
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_a_flat_picture_that_is_restored_as_it_was_is_not_touched(trained_toy: Normalized) -> None:
    images = torch.full((2, 3, 32, 32), 0.5)
    found = Purifier.for_model(trained_toy, preset=QUICK)(images)
    assert torch.equal(found.images, images)
    assert not found.masks.any()
    assert found.stages == ("locate", "locate")
    assert found.scores.tolist() == [0, 0]


def test_settings() -> None:
    text = "masked-restoration:cells=8,hidden=0.5,rounds=2,masks=3,refinements=0,balance=1,seed=4,inpainter=mean-fill"
    assert create("presets", text) == MaskedRestoration(
        cells=8, hidden=0.5, rounds=2, masks=3, refinements=0, balance=1, seed=4, inpainter=MeanFill()
    )
    for name, value in (
        ("cells", 1),
        ("cells", 17),
        ("hidden", 0),
        ("rounds", 0),
        ("masks", 0),
        ("refinements", -1),
        ("balance", 1.1),
        ("seed", -1),
    ):
        with pytest.raises(ValueError, match=f"{name}: expected a value"):
            MaskedRestoration(**{name: value})
