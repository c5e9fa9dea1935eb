from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity
from torch import Tensor, nn

from februus.metrics import (
    Auroc,
    Detection,
    Difference,
    Mean,
    Rate,
    attack_success_rate,
    auroc,
    clean_accuracy,
    clean_accuracy_loss,
    defense_effectiveness_rating,
    detection,
    excess_attack_success_rate,
    flops,
    gradient_energy,
    peak_signal_to_noise_ratio,
    recovered_accuracy,
    recovered_accuracy_loss,
    structural_similarity_inside,
    true_positive_rate,
)

NONE = torch.zeros(0, dtype=torch.int64)


def pictures(count: int = 2, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, 16, 20, generator=torch.Generator().manual_seed(seed))


def hole(count: int = 2, rows: slice = slice(2, 9), columns: slice = slice(3, 11)) -> Tensor:
    masks = torch.zeros(count, 1, 16, 20)
    masks[:, :, rows, columns] = 1
    return masks


@pytest.mark.parametrize(
    ("count", "total", "low", "high"),
    # By hand: (p + z^2 / 2n -+ z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n) with z = 1.959964.
    [(8, 10, 0.490162, 0.943318), (0, 10, 0.0, 0.277533), (10, 10, 0.722467, 1.0), (1, 2, 0.094531, 0.905469)],
)
def test_wilson_intervals_by_hand(count: int, total: int, low: float, high: float) -> None:
    assert Rate(count, total).interval == pytest.approx((low, high), abs=1e-6)
    z, share = 1.959964, count / total
    middle, breadth = share + z**2 / (2 * total), z * math.sqrt(share * (1 - share) / total + (z / (2 * total)) ** 2)
    expected = (middle - breadth) / (1 + z**2 / total), (middle + breadth) / (1 + z**2 / total)
    assert Rate(count, total).interval == pytest.approx(expected, abs=1e-6)


def test_a_rate_is_a_count_over_a_total() -> None:
    assert Rate(1, 4).value == 0.25
    assert str(Rate(8, 10)) == "0.800 [0.490, 0.943]"


def test_a_rate_over_nothing_tells_nothing() -> None:
    assert math.isnan(Rate(0, 0).value)
    assert Rate(0, 0).interval == (0.0, 1.0)
    assert str(Rate(0, 0)) == "nan [0.000, 1.000]"


def test_rates_by_hand() -> None:
    labels = torch.tensor([0, 0, 1, 2, 2, 2])
    clean = torch.tensor([0, 1, 1, 2, 0, 2])
    triggered = torch.tensor([0, 0, 0, 0, 2, 1])
    assert clean_accuracy(clean, labels) == Rate(4, 6)
    # The two pictures of class 0 count for neither, though they are taken for it.
    assert attack_success_rate(triggered, labels, 0) == Rate(2, 4)
    assert recovered_accuracy(triggered, labels, 0) == Rate(1, 4)


def test_rates_over_the_same_pictures_have_the_same_total() -> None:
    labels = torch.randint(4, (50,), generator=torch.Generator().manual_seed(0))
    for predictions in (labels, torch.full_like(labels, 3), torch.zeros_like(labels)):
        totals = {attack_success_rate(predictions, labels, 3).total, recovered_accuracy(predictions, labels, 3).total}
        assert totals == {int((labels != 3).sum())}


def test_nothing_taken_for_the_target() -> None:
    labels = torch.tensor([1, 2, 1])
    assert attack_success_rate(labels, labels, 0) == Rate(0, 3)
    assert attack_success_rate(labels, labels, 0).interval[0] == 0


def test_no_pictures_at_all_and_none_of_another_class() -> None:
    assert clean_accuracy(NONE, NONE) == Rate(0, 0)
    assert attack_success_rate(NONE, NONE, 0) == Rate(0, 0)
    only_target = torch.tensor([3, 3])
    assert attack_success_rate(only_target, only_target, 3) == Rate(0, 0)
    assert recovered_accuracy(only_target, only_target, 3) == Rate(0, 0)


@pytest.mark.parametrize("rate", [clean_accuracy, attack_success_rate, recovered_accuracy])
def test_labels_that_do_not_fit_are_refused(rate: object) -> None:
    target = () if rate is clean_accuracy else (0,)
    with pytest.raises(ValueError, match="labels: expected int64"):
        rate(torch.tensor([0, 1]), torch.tensor([0, 1, 2]), *target)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("plus", "minus", "total", "low", "high"),
    # By hand: 4/102 - 2/102 -+ 1.959964 sqrt((6/102 - (2/102)^2) / 102), and so on.
    [
        (3, 1, 100, -0.027306, 0.066522),
        (0, 0, 50, -0.053304, 0.053304),
        (9, 0, 10, 0.413286, 1.0),
        (0, 1, 1, -1.0, 0.733536),
    ],
)
def test_intervals_of_differences_by_hand(plus: int, minus: int, total: int, low: float, high: float) -> None:
    assert Difference(plus, minus, total).interval == pytest.approx((low, high), abs=1e-6)
    assert Difference(minus, plus, total).interval == pytest.approx((-high, -low), abs=1e-6)
    assert Difference(plus, minus, total).value == (plus - minus) / total


def test_a_difference_as_text() -> None:
    assert str(Difference(3, 1, 100)) == "+0.020 [-0.027, +0.067]"
    assert str(Difference(1, 3, 100)) == "-0.020 [-0.067, +0.027]"


def test_a_difference_over_nothing_tells_nothing() -> None:
    assert math.isnan(Difference(0, 0, 0).value)
    assert Difference(0, 0, 0).interval == (-1.0, 1.0)


def test_differences_by_hand() -> None:
    labels = torch.tensor([0, 0, 1, 1, 2, 2, 2])
    clean = torch.tensor([0, 1, 1, 0, 2, 0, 1])
    behind = torch.tensor([1, 0, 0, 0, 0, 1, 2])
    # Of the five pictures of other classes the third and fifth are newly taken for 0, the sixth no longer.
    assert excess_attack_success_rate(behind, clean, labels, 0) == Difference(2, 1, 5)
    # The third and fifth were right and are wrong, the seventh the other way round.
    assert recovered_accuracy_loss(behind, clean, labels, 0) == Difference(2, 1, 5)
    # So are the first and the second, which count here.
    assert clean_accuracy_loss(behind, clean, labels) == Difference(3, 2, 7)


def test_differences_are_those_of_the_rates() -> None:
    generator = torch.Generator().manual_seed(0)
    labels, clean, behind = (torch.randint(3, (200,), generator=generator) for _ in range(3))
    for difference, rates in (
        (clean_accuracy_loss(behind, clean, labels), [clean_accuracy(each, labels) for each in (clean, behind)]),
        (
            excess_attack_success_rate(behind, clean, labels, 1),
            [attack_success_rate(each, labels, 1) for each in (behind, clean)],
        ),
        (
            recovered_accuracy_loss(behind, clean, labels, 1),
            [recovered_accuracy(each, labels, 1) for each in (clean, behind)],
        ),
    ):
        assert difference.total == rates[0].total == rates[1].total
        assert difference.plus - difference.minus == rates[0].count - rates[1].count
        assert difference.plus > 0
        assert difference.minus > 0


def test_differences_over_no_pictures() -> None:
    only_target = torch.tensor([3, 3])
    for labels in (NONE, only_target):
        assert excess_attack_success_rate(labels, labels, labels, 3) == Difference(0, 0, 0)
        assert recovered_accuracy_loss(labels, labels, labels, 3) == Difference(0, 0, 0)
    assert clean_accuracy_loss(NONE, NONE, NONE) == Difference(0, 0, 0)


@pytest.mark.parametrize("difference", [clean_accuracy_loss, excess_attack_success_rate, recovered_accuracy_loss])
def test_differences_of_other_pictures_are_refused(difference: object) -> None:
    target = () if difference is clean_accuracy_loss else (0,)
    two, three = torch.tensor([0, 1]), torch.tensor([0, 1, 2])
    with pytest.raises(ValueError, match=r"^labels: expected int64"):
        difference(two, two, three, *target)  # type: ignore[operator]
    with pytest.raises(ValueError, match=r"^clean_predictions: expected int64"):
        difference(three, two, three, *target)  # type: ignore[operator]


def test_flops_by_hand() -> None:
    convolution, linear = nn.Conv2d(3, 5, 3, padding=1, bias=False), nn.Linear(7, 2)
    assert flops(lambda: convolution(torch.ones(4, 3, 8, 8))) == 2 * 4 * 8 * 8 * 5 * 3 * 9
    # Forward, and backward to the weights alone: the input wants no gradient.
    assert flops(lambda: linear(torch.ones(3, 7)).sum().backward()) == 2 * (2 * 3 * 7 * 2)
    assert flops(lambda: None) == 0


def test_psnr_by_hand() -> None:
    original, masks = torch.full((3, 3, 16, 20), 0.5), hole(3)
    restored = original.clone()
    restored[0] += 0.1 * masks[0]
    restored[1] += 0.01 * masks[1]
    values = peak_signal_to_noise_ratio(restored, original, masks)
    assert values.tolist() == pytest.approx([20, 40, 100], abs=1e-3)


def test_psnr_sees_the_hole_only() -> None:
    original, masks = pictures(), hole()
    restored = torch.where(masks > 0, pictures(seed=1), original)
    elsewhere = torch.where(masks > 0, restored, pictures(seed=2))
    values = peak_signal_to_noise_ratio(restored, original, masks)
    assert torch.equal(values, peak_signal_to_noise_ratio(elsewhere, original, masks))
    error = (restored[:, :, 2:9, 3:11] - original[:, :, 2:9, 3:11]).square().mean((1, 2, 3))
    torch.testing.assert_close(values, 10 * (1 / error).log10())


def test_ssim_is_that_of_scikit_image_inside_the_hole() -> None:
    original, restored, masks = pictures(), (pictures() + 0.2 * pictures(seed=1)).clamp(0, 1), hole()
    values = structural_similarity_inside(restored, original, masks)
    for index in range(2):
        pair = (tensor[index].permute(1, 2, 0).numpy() for tensor in (restored, original))
        _, maps = structural_similarity(*pair, channel_axis=2, data_range=1.0, full=True)
        assert values[index].item() == pytest.approx(np.mean(maps[2:9, 3:11]), abs=1e-6)
    assert structural_similarity_inside(original, original, masks).tolist() == pytest.approx([1, 1])


def test_gradient_energy_by_hand() -> None:
    images = torch.zeros(1, 3, 16, 20)
    images[:, :, 4] = 0.5  # a line of 20 pixels: it steps up and down
    everywhere = torch.ones(1, 1, 16, 20)
    assert gradient_energy(images, everywhere).item() == pytest.approx(3 * 20 * 2 * 0.25)
    assert gradient_energy(images, hole(1, slice(4, 9), slice(0, 4))).item() == pytest.approx(3 * 4 * 0.25)
    assert gradient_energy(images, hole(1, slice(4, 5), slice(0, 20))).item() == 0
    assert gradient_energy(images.transpose(2, 3), everywhere.transpose(2, 3)).item() == pytest.approx(30)


def test_empty_masks_tell_nothing() -> None:
    masks = hole()
    masks[1] = 0
    for metric in (peak_signal_to_noise_ratio, structural_similarity_inside):
        values = metric(pictures(), pictures(seed=1), masks)
        assert values.isnan().tolist() == [False, True]
    assert gradient_energy(pictures(), masks)[1] == 0


@pytest.mark.parametrize("metric", [peak_signal_to_noise_ratio, structural_similarity_inside])
def test_pictures_that_do_not_fit_are_refused(metric: object) -> None:
    with pytest.raises(ValueError, match=r"restored: expected shape \(2, 3, 16, 20\), got \(1, 3, 16, 20\)"):
        metric(pictures(1), pictures(), hole())  # type: ignore[operator]
    with pytest.raises(ValueError, match="original: expected values"):
        metric(pictures(), pictures() + 1, hole())  # type: ignore[operator]
    with pytest.raises(ValueError, match="masks: expected shape"):
        metric(pictures(), pictures(), hole(1))  # type: ignore[operator]


# --- refused answers -------------------------------------------------------------------------------------------------


def test_a_refused_picture_is_wrong_and_no_success_of_the_attack() -> None:
    labels, refused = torch.tensor([0, 1, 2]), torch.tensor([-1, -1, -1])
    assert clean_accuracy(refused, labels) == Rate(0, 3)
    assert attack_success_rate(refused, labels, 0) == Rate(0, 2)
    assert recovered_accuracy(refused, labels, 0) == Rate(0, 2)
    assert clean_accuracy_loss(refused, labels, labels) == Difference(3, 0, 3)
    assert excess_attack_success_rate(refused, torch.tensor([0, 0, 2]), labels, 0) == Difference(0, 1, 2)


# --- scores ----------------------------------------------------------------------------------------------------------


def told(clean: list[float], triggered: list[float]) -> tuple[Tensor, Tensor]:
    """Return scores and which of them are of triggered pictures, shuffled."""
    scores, truth = torch.tensor(clean + triggered), torch.arange(len(clean) + len(triggered)) >= len(clean)
    order = torch.randperm(len(scores), generator=torch.Generator().manual_seed(0))
    return scores[order], truth[order]


@pytest.mark.parametrize(
    ("clean", "triggered", "value"),
    [
        # Of the six pairs, triggered is above in four, equal in one.
        ([1.0, 2.0, 5.0], [2.0, 6.0], 4.5 / 6),
        ([1.0, 2.0], [3.0, 4.0], 1.0),
        ([3.0, 4.0], [1.0, 2.0], 0.0),
        ([1.0, 1.0], [1.0, 1.0, 1.0], 0.5),
        ([-math.inf, 0.0], [0.0, math.inf], 3.5 / 4),
    ],
)
def test_auroc_by_hand(clean: list[float], triggered: list[float], value: float) -> None:
    assert auroc(*told(clean, triggered)) == Auroc(pytest.approx(value), len(clean), len(triggered))  # type: ignore[arg-type]


def test_auroc_of_one_kind_alone_tells_nothing() -> None:
    for clean, triggered in (([1.0, 2.0], []), ([], [1.0]), ([], [])):
        found = auroc(*told(clean, triggered))
        assert math.isnan(found.value)
        assert found.interval == (0.0, 1.0)
        assert str(found) == "nan [0.000, 1.000]"


@pytest.mark.parametrize(("value", "clean", "triggered"), [(0.9, 50, 50), (0.6, 20, 200), (1.0, 33, 44), (0.5, 2, 2)])
def test_both_ends_of_the_interval_lie_as_far_as_their_own_variance_reaches(
    value: float, clean: int, triggered: int
) -> None:
    low, high = Auroc(value, clean, triggered).interval
    assert 0 < low < value <= high <= 1
    mean = (clean + triggered) / 2
    for end in {low, high} - {1.0}:
        spread = 2 * mean - 1 - (3 * mean - 3) / ((2 - end) * (1 + end))
        variance = end * (1 - end) * spread / (clean * triggered)
        assert abs(value - end) == pytest.approx(1.959964 * math.sqrt(variance), rel=1e-4)
    mirrored = Auroc(1 - value, clean, triggered).interval
    assert mirrored == pytest.approx((1 - high, 1 - low))


def test_the_interval_covers_what_it_says() -> None:
    """Two normal laws a standard deviation and a half apart have an area of 0.8556."""
    generator = torch.Generator().manual_seed(0)
    covered = 0
    for _ in range(200):
        clean, triggered = torch.randn(40, generator=generator), 1.5 + torch.randn(40, generator=generator)
        low, high = auroc(torch.cat([clean, triggered]), torch.arange(80) >= 40).interval
        covered += low <= 0.855578 <= high
    assert 180 <= covered <= 199


def test_true_positive_rates_by_hand() -> None:
    clean = [float(value) for value in range(100)]
    scores, truth = told(clean, [93.5, 94.0, 94.5, 98.0, 98.5, 99.5])
    # Five of the hundred lie above 94, one above 98.
    assert true_positive_rate(scores, truth, false_positive_rate=0.05) == Rate(4, 6)
    assert true_positive_rate(scores, truth, false_positive_rate=0.01) == Rate(2, 6)
    assert true_positive_rate(scores, truth, false_positive_rate=0) == Rate(1, 6)
    assert true_positive_rate(scores, truth, false_positive_rate=0.29) == Rate(6, 6)
    assert detection(scores, truth) == Detection(auroc(scores, truth), Rate(2, 6), Rate(4, 6))


def test_ties_count_as_below_the_threshold() -> None:
    # A threshold below 1 would let three of the four clean pictures through.
    scores, truth = told([0.0, 1.0, 1.0, 1.0], [1.0, 1.0, 2.0])
    for rate in (0.25, 0.5, 0.74):
        assert true_positive_rate(scores, truth, false_positive_rate=rate) == Rate(1, 3)
    assert true_positive_rate(scores, truth, false_positive_rate=0.75) == Rate(3, 3)


def test_fewer_than_a_hundred_clean_pictures_allow_none_of_them_at_1_percent() -> None:
    scores, truth = told([0.0, 1.0, 2.0], [1.5, 2.0, 2.5])
    assert true_positive_rate(scores, truth, false_positive_rate=0.01) == Rate(1, 3)


def test_true_positives_of_one_kind_alone() -> None:
    assert true_positive_rate(*told([], [1.0]), false_positive_rate=0.05) == Rate(0, 0)
    assert true_positive_rate(*told([1.0], []), false_positive_rate=0.05) == Rate(0, 0)


def test_nothing_and_everything_flagged_look_alike() -> None:
    """Of scores that are all the same, whatever is flagged, nothing is told."""
    for score in (0.0, 1.0, -math.inf):
        found = detection(*told([score] * 30, [score] * 20))
        assert found == Detection(Auroc(0.5, 30, 20), Rate(0, 20), Rate(0, 20))


def test_scores_that_do_not_fit_are_refused() -> None:
    truth = torch.tensor([True, False])
    for scores in (torch.tensor([1.0]), torch.tensor([1, 2]), torch.tensor([1.0, math.nan])):
        for figure in (auroc, detection):
            with pytest.raises(ValueError, match=r"scores: expected numbers \(2,\), none of them NaN"):
                figure(scores, truth)
    with pytest.raises(ValueError, match=r"truth: expected bool \(N,\), got torch.int64"):
        auroc(torch.ones(2), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="false_positive_rate: expected a value at least 0"):
        true_positive_rate(torch.ones(2), truth, false_positive_rate=-0.1)


@pytest.mark.parametrize(
    ("asr", "ca", "rating"),
    [
        ((100, 0), (90, 90), 1.0),
        ((100, 100), (90, 90), 0.5),
        ((100, 0), (90, 70), 0.9),
        # What gets better does not make up for what gets worse.
        ((90, 100), (80, 90), 0.5),
        ((0, 0), (100, 0), 0.0),
    ],
)
def test_defense_effectiveness_by_hand(asr: tuple[int, int], ca: tuple[int, int], rating: float) -> None:
    rates = [Rate(count, 100) for count in (*asr, *ca)]
    assert defense_effectiveness_rating(*rates) == pytest.approx(rating)


def test_means_by_hand() -> None:
    # Student's quantile of three degrees of freedom is 3.182446.
    found = Mean.of(torch.tensor([1.0, 3.0, 5.0, 7.0]))
    assert found is not None
    assert (found.value, found.total) == (4, 4)
    assert found.deviation == pytest.approx(math.sqrt(20 / 3))
    half = 3.182446 * math.sqrt(20 / 3) / 2
    assert found.interval == pytest.approx((4 - half, 4 + half), abs=1e-5)
    assert Mean.of(torch.tensor([])) is None
    one = Mean.of(torch.tensor([2.5]))
    assert one == Mean(2.5, 0.0, 1)
    assert one.interval is None
    assert str(one) == "2.500"
