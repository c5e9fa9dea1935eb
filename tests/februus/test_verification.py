from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from februus.seeds import seeded
from februus.verification import Law, Tail, answer, concentration, consensus, margins, settle, transplant


class Colours(nn.Module):
    """Three classes, whose logits are the sums of red, green and blue."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.5)
        self.seen: list[int] = []

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append(len(images))
        logits: Tensor = self.dropout(images).sum((2, 3))
        return logits


def exponential(count: int, scale: float) -> Tensor:
    return -scale * torch.rand(count, generator=seeded(0), dtype=torch.float64).log()


# --- answer and margins ----------------------------------------------------------------------------------------------


def test_answer_bounds_what_the_model_sees_and_leaves_its_mode() -> None:
    model, images = Colours().train(), torch.rand(8, 3, 2, 2, generator=seeded(0))
    logits = answer(model, images, batch_size=3)
    torch.testing.assert_close(logits, images.sum((2, 3)))
    assert model.seen == [3, 3, 2]
    assert model.training
    assert model.dropout.training
    assert not logits.requires_grad


def test_margins_on_paper() -> None:
    logits = torch.tensor([[1.0, 3.0, 2.0], [1.0, 3.0, 2.0], [1.0, 3.0, 2.0], [4.0, 4.0, 0.0]])
    assert margins(logits, torch.tensor([1, 0, 2, 0])).tolist() == [1, -2, -1, 0]


# --- transplant ------------------------------------------------------------------------------------------------------


def test_transplant_on_paper() -> None:
    contents, masks, probes = torch.zeros(2, 3, 1, 2), torch.zeros(2, 1, 1, 2), torch.zeros(2, 3, 1, 2)
    contents[0, 0, 0, 0], masks[0, 0, 0, 0] = 1, 1  # a red pixel that hides the one below
    contents[1, 2] = 0.25  # some blue over all, which hides nothing
    probes[0, 1], probes[1, 2] = 0.5, 1  # a green picture, and one that cannot be bluer
    model = Colours().eval()
    found = transplant(model, contents, masks, torch.tensor([0, 2]), probes, batch_size=3)
    # (1, 0.5, 0) and (1, 0, 1) for red; (0, 1, 0.5) and (0, 0, 2) for blue.
    assert found.tolist() == [[0.5, 0], [-0.5, 2]]
    assert model.seen == [3, 1]


@pytest.mark.parametrize("batch_size", [1, 2, 5, 100])
def test_transplant_does_not_depend_on_the_batch_size(batch_size: int) -> None:
    generator = seeded(0)
    contents, probes = torch.rand(4, 3, 3, 3, generator=generator), torch.rand(5, 3, 3, 3, generator=generator)
    masks = (torch.rand(4, 1, 3, 3, generator=generator) > 0.5).float()
    model, labels = Colours().eval(), torch.tensor([0, 1, 2, 1])
    found = transplant(model, contents * masks, masks, labels, probes, batch_size=batch_size)
    assert max(model.seen) <= batch_size
    for one in range(4):
        for other in range(5):
            pasted = torch.where(masks[one] > 0, contents[one], probes[other])
            expected = margins(pasted.sum((1, 2))[None], labels[one, None])
            torch.testing.assert_close(found[one, other], expected[0])


def test_transplant_of_nothing() -> None:
    none = torch.zeros(0, 3, 2, 2)
    found = transplant(Colours(), none, none[:, :1], torch.zeros(0).long(), torch.zeros(5, 3, 2, 2), batch_size=4)
    assert found.shape == (0, 5)


def test_consensus_forgives_one_probe() -> None:
    found = torch.tensor([[3.0, 1.0, -9.0, 2.0], [5.0, 5.0, 5.0, 5.0], [-1.0, -2.0, 8.0, 8.0]])
    assert consensus(found).tolist() == [1, 5, -1]
    assert consensus(found[:0]).shape == (0,)


# --- concentration ---------------------------------------------------------------------------------------------------


def test_concentration_on_paper() -> None:
    heatmaps = torch.ones(4, 1, 4, 4)
    heatmaps[0, 0, 0] = 3  # 12 of 24
    heatmaps[1, 0, :, 2] = 9  # 36 of 48
    heatmaps[2] = 0  # flat
    heatmaps[3, 0, 1:] = 0  # 4 of 4
    highest = math.log(0.999 / 0.001)
    expected = torch.tensor([0, math.log(3), -highest, highest])
    torch.testing.assert_close(concentration(heatmaps, 0.25), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(concentration(0.01 * heatmaps, 0.25), expected, rtol=1e-4, atol=1e-5)


def test_a_larger_region_holds_more_of_the_heat() -> None:
    heatmaps = torch.rand(5, 1, 16, 16, generator=seeded(0))
    small, middling, large = (concentration(heatmaps, size) for size in (0.03, 0.1, 0.25))
    assert (small < middling).all()
    assert (middling < large).all()


# --- the tail --------------------------------------------------------------------------------------------------------


def test_tail_on_paper() -> None:
    tail = Tail.fit(torch.arange(101.0))
    # From 75 on; 76 to 94 are seen, six count as 95: the excess is 1 + ... + 19 + 6 * 20.
    assert tail.start == 75
    assert tail.scale == pytest.approx((190 + 120) / 19)
    # At 19 scales: 2 ** -19 of a quarter.
    values = torch.tensor([75, 75 + 19 * tail.scale])
    assert tail.surprise(values).tolist() == pytest.approx([0.60206, 0.60206 + 19 * 0.30103], abs=1e-4)


@pytest.mark.parametrize("count", [40, 251])
def test_the_stated_share_exceeds_a_threshold_that_few_values_gave(count: int) -> None:
    """On average over many samples, and whatever was estimated from each."""
    values = exponential(2000 * count, scale=1.0).view(2000, count)
    shares = []
    for sample in values:
        tail = Tail.fit(sample)
        # Where the surprise is that of 1 %.
        reached = tail.start + tail.scale * tail.count * ((0.25 / 0.01) ** (1 / tail.count) - 1)
        assert tail.surprise(torch.tensor(reached, dtype=torch.float64)).item() == pytest.approx(2)
        shares.append(math.exp(-reached))
    assert sum(shares) / len(shares) == pytest.approx(0.01, rel=0.1)


def test_tail_recovers_an_exponential_law() -> None:
    values = exponential(20_000, scale=2.0)
    tail = Tail.fit(values + 7)
    assert tail.scale == pytest.approx(2, rel=0.05)
    assert tail.start == pytest.approx(7 + 2 * math.log(4), abs=0.1)
    for share in (0.25, 0.05, 0.01, 0.001):
        reached = 7 - 2 * torch.tensor(share, dtype=torch.float64).log()
        assert tail.surprise(reached).item() == pytest.approx(-math.log10(share), abs=0.12)


@pytest.mark.parametrize("outlier", [20.0, 1e6])
def test_a_few_outliers_move_the_threshold_little(outlier: float) -> None:
    values = exponential(1000, scale=1.0)
    spoilt = torch.cat([values[:980], torch.full((20,), outlier, dtype=torch.float64)])
    clean, dirty = Tail.fit(values), Tail.fit(spoilt)
    assert dirty.scale == pytest.approx(clean.scale, rel=0.2)
    threshold = clean.start + clean.scale * math.log(0.25 / 0.005)  # where the surprise is that of 0.5 %
    surprise = dirty.surprise(torch.tensor(threshold, dtype=torch.float64)).item()
    assert surprise == pytest.approx(-math.log10(0.005), abs=0.35)
    # The outliers are still what they are: far beyond.
    assert dirty.surprise(torch.tensor(outlier)).item() > 6


def test_outliers_count_alike_however_far_they_lie() -> None:
    values = exponential(980, scale=1.0)
    tails = [Tail.fit(torch.cat([values, torch.full((20,), far, dtype=torch.float64)])) for far in (50.0, 1e9)]
    assert tails[0] == tails[1]


def test_tail_of_values_that_are_all_alike() -> None:
    tail = Tail.fit(torch.full((50,), 3.0))
    assert (tail.start, tail.scale) == (3, 1e-6)
    assert tail.surprise(torch.tensor([2.9, 3.0, 3.1])).isfinite().all()


def test_a_short_tail_is_weibulls() -> None:
    """Its shape and scale are found again, and the share that lies beyond a value; a fitted exponential is too long."""
    values = exponential(20_000, scale=1.0)
    start = values.quantile(0.75)
    beyond = values > start
    values[beyond] = start + 3 * (values[beyond] - start) ** (1 / 1.5)
    tail = Tail.fit(values, short=True)
    assert (tail.shape, tail.scale) == (pytest.approx(1.5, rel=0.05), pytest.approx(3, rel=0.05))
    reached = start + 3 * torch.tensor(math.log(0.25 / 0.001), dtype=torch.float64) ** (1 / 1.5)
    assert tail.surprise(reached).item() == pytest.approx(3, abs=0.15)
    assert Tail.fit(values).surprise(reached).item() < 2.6
    assert Tail.fit(values).shape == 1


def test_a_long_tail_is_not_shortened() -> None:
    values = exponential(1000, scale=1.0)
    assert Tail.fit(values**2, short=True) == Tail.fit(values**2)
    spoilt = torch.cat([values[:980], torch.full((20,), 50.0, dtype=torch.float64)])
    assert Tail.fit(spoilt, short=True) == Tail.fit(spoilt)


@pytest.mark.parametrize("beyond", [[1.0] * 20, [1.0] * 19 + [5.0], []])
def test_a_short_tail_of_few_values(beyond: list[float]) -> None:
    tail = Tail.fit(torch.tensor([0.0] * 80 + beyond), short=True)
    assert 1 <= tail.shape <= Tail.SHORTEST + 1e-9
    surprise = tail.surprise(torch.tensor([0.0, 0.5, 1.0, 9.0]))
    assert surprise.isfinite().all()
    assert (surprise.diff() > 0).all()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_tail_of_values_that_are_no_numbers(bad: float) -> None:
    with pytest.raises(ValueError, match="reference: expected pictures with finite logits"):
        Tail.fit(torch.tensor([1.0, 2.0, bad]))


# --- the law ---------------------------------------------------------------------------------------------------------


def of_classes(count: int, places: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    """Return exponential values, those of each class from its place on, and their classes."""
    labels = torch.arange(count) % len(places)
    return exponential(count, scale=1.0) + torch.tensor(places, dtype=torch.float64)[labels], labels


def test_law_of_one_class_is_its_tail() -> None:
    values, labels = of_classes(1000, (3.0,))
    law, tail = Law.fit(values, labels, 1), Tail.fit(values)
    high = values.quantile(0.8) + torch.arange(5.0)
    torch.testing.assert_close(law.surprise(high), tail.surprise(high), rtol=1e-6, atol=1e-6, check_dtype=False)


def test_a_class_that_is_carried_readily_does_not_hide_the_others() -> None:
    """The share of all pictures that reach a value, where one class in ten lies far above the others."""
    values, labels = of_classes(20_000, (0.0,) * 9 + (6.0,))
    law = Law.fit(values, labels, 10)
    for reached in (8.0, 10.0, 12.0):
        share = (0.9 * math.exp(-reached) + 0.1 * math.exp(6 - reached)) if reached > 6 else math.nan
        found = law.surprise(torch.tensor([reached]))
        assert found.item() == pytest.approx(-math.log10(share), abs=0.25)
    # One tail for all of them says that such values are common.
    assert Tail.fit(values).surprise(torch.tensor(10.0)) < law.surprise(torch.tensor([10.0])) - 0.5


def test_what_is_seen_seldom_is_drawn_to_what_is_common() -> None:
    values, labels = of_classes(1000, (0.0,))
    values = torch.cat([values, torch.full((2,), 30.0, dtype=torch.float64)])
    labels = torch.cat([labels, torch.ones(2, dtype=torch.long)])
    law = Law.fit(values, labels, 3)
    common = values.quantile(0.5).item()
    assert law.places[1].item() == pytest.approx((2 * 30 + 5 * common) / 7, rel=1e-6)
    # Nothing is known of a class that was not seen but what all have in common.
    assert law.places[2].item() == common
    assert law.frequencies.tolist() == pytest.approx([1000 / 1002, 2 / 1002, 0])


def test_law_of_one_class_among_many() -> None:
    values, labels = of_classes(1000, (0.0, 1.0, 2.0, 3.0))
    law, high = Law.fit(values, labels, 5), torch.tensor([8.0, 9.0])
    own = torch.stack([law.of(label).surprise(high) for label in range(4)])
    torch.testing.assert_close(-(10**-own).sum(0).log10(), law.surprise(high))
    assert law.of(4).frequencies.tolist() == pytest.approx([0, 0, 0, 0, 1e-3])


def test_a_few_outliers_move_the_law_little() -> None:
    values, labels = of_classes(1000, (0.0, 1.0, 2.0, 3.0))
    spoilt = values.clone()
    spoilt[labels == 3] = torch.where(torch.arange(250) < 20, 1e6, values[labels == 3])
    high = torch.tensor([9.0])
    clean, dirty = (Law.fit(found, labels, 4).surprise(high).item() for found in (values, spoilt))
    # To the safe side: what is suspicious must be so a little more.
    assert clean - 0.8 < dirty < clean + 0.1


def test_without_outliers_what_a_few_of_a_class_reach_is_usual_there() -> None:
    values, labels = of_classes(1000, (0.0, 0.0, 0.0, 0.0))
    values[labels == 3] += torch.where(torch.arange(250) < 50, 6.0, 0.0)
    robust, plain = (Law.fit(values, labels, 4, outliers=outliers) for outliers in (True, False))
    assert plain.places.tolist() == robust.places.tolist()
    assert plain.spreads[3] > 1.5 * plain.spreads[0]
    high = torch.tensor([6.0])
    # Of that class it surprises less than of the others, where medians see no difference.
    assert plain.of(3).surprise(high) < plain.of(0).surprise(high) - 1
    assert plain.of(3).surprise(high) < robust.of(3).surprise(high)


def test_a_class_that_may_be_mostly_outliers_is_judged_as_the_others_are() -> None:
    values, labels = of_classes(300, (0.0, 0.0, 0.0))
    labels[:7] = 3
    values[:5] = 30.0
    reached, spoilt = torch.tensor([30.0]), Law.fit(values, labels, 4)
    law = Law.fit(values, labels, 4, tolerated=5)
    common = Law.fit(values[7:], labels[7:], 4)
    assert spoilt.places[3] > 10
    assert abs(law.places[3] - common.places[3]) < 0.2
    assert law.surprise(reached) > spoilt.surprise(reached) + 2
    # Its share of pictures is what it is, and classes with more than twice as many are as they were.
    assert law.frequencies[3].item() == pytest.approx(7 / 300)
    torch.testing.assert_close(law.places[:3], spoilt.places[:3])
    assert Law.fit(values, labels, 4, tolerated=3).places[3] == spoilt.places[3]


def test_law_rises_and_never_ends() -> None:
    values, labels = of_classes(200, (0.0, 5.0))
    law = Law.fit(values, labels, 2)
    surprise = law.surprise(torch.linspace(-10, 1e4, 500))
    assert (surprise.diff() >= 0).all()
    assert surprise.isfinite().all()
    assert surprise[0].item() == pytest.approx(0, abs=1e-9)
    alike = Law.fit(torch.full((50,), 3.0), torch.zeros(50, dtype=torch.long), 1)
    assert alike.surprise(torch.tensor([2.0, 3.0, 4.0])).isfinite().all()
    with pytest.raises(ValueError, match="reference: expected pictures with finite logits"):
        Law.fit(torch.tensor([1.0, math.nan]), torch.tensor([0, 0]), 1)


def test_no_more_is_asked_once_it_is_settled() -> None:
    """By bounds on the second lowest of five margins, of two sizes; the verdicts are on their sum, from 10 on."""
    given = torch.tensor(
        [
            [[1.0, 1, 9, 9, 9], [1, 1, 9, 9, 9]],  # two acquit
            [[9, 9, 9, 9, 9], [9, 9, 9, 9, 9]],  # four convict, for the small size is not enough
            [[12, 12, 12, 12, 0], [-5, 9, 9, 9, 9]],  # the small size convicts, whatever the large one does
            [[9, 9, 9, 0, 0], [9, 9, 9, 9, 9]],  # the last one lets go
        ]
    )
    asked = torch.zeros_like(given, dtype=torch.bool)

    def ask(rows: Tensor, sizes: slice, jury: slice) -> Tensor:
        asked[rows, sizes, jury] = True
        return given[rows, sizes, jury]

    def judge(_: Tensor, found: Tensor) -> Tensor:
        return found.clamp(min=0).sum(1, keepdim=True)

    both, first, second, last = slice(0, 2), slice(0, 2), slice(2, 4), slice(4, 5)
    questions = ((both, first), (slice(0, 1), second), (slice(1, 2), second), (both, last))
    found = settle(ask, judge, 10, torch.full_like(given, torch.nan), questions)
    assert asked.flatten(1).sum(1).tolist() == [4, 8, 6, 10]
    assert found.tolist() == [[1, 1], [9, 9], [12, -torch.inf], [0, 9]]
