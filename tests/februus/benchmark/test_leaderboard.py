from __future__ import annotations

from typing import Any

import pytest

from februus.benchmark.evaluation import Row
from februus.benchmark.leaderboard import Span, compare, leaderboard
from februus.metrics import Auroc, Detection, Difference, Rate


def row(
    preset: str,
    *,
    name: str = "toy",
    seed: int = 0,
    excess: int | None = 0,
    loss: int = 0,
    cost: float | None = 2.0,
) -> dict[str, Any]:
    """Return a row on 100 pictures, of which ``excess`` and ``loss`` make its excess ASR and its CA loss."""
    rates = {"clean_accuracy_before": Rate(90, 100), "clean_accuracy_after": Rate(90 - loss, 100)}
    rates |= {"flagged_clean": Rate(1, 100)}
    differences = {"clean_accuracy_loss": difference(loss)}
    further: dict[str, Any] = {}
    if cost is not None:
        further = {
            "flops_clean": cost,
            "flops_inpainter_clean": 0.5,
            "seconds_clean": 0.004,
            "seconds_plain_clean": 0.001,
        }
    if excess is not None:
        rates |= {"attack_success_rate_before": Rate(100, 100), "attack_success_rate_after": Rate(max(excess, 0), 100)}
        rates |= {"recovered_accuracy": Rate(80, 100), "flagged_triggered": Rate(99, 100)}
        differences |= {"excess_attack_success_rate": difference(excess), "recovered_accuracy_loss": difference(10)}
        further["effectiveness"] = 0.9
        if cost is not None:
            further["detection"] = Detection(Auroc(0.75, 100, 100), Rate(1, 100), Rate(5, 100))
            further |= {"flops_triggered": 3 * cost, "flops_inpainter_triggered": 1.0}
            further |= {"seconds_triggered": 0.006, "seconds_plain_triggered": 0.002}
    made = Row(name=name, preset=preset, rates=rates, differences=differences, settings="", **further)
    return {**made.to_dict(), "seed": seed, "picture": None}


def difference(count: int) -> Difference:
    return Difference(max(count, 0), max(-count, 0), 100)


def test_the_leaderboard_has_means_over_cases() -> None:
    rows = [
        row("paper", name="one", excess=1, loss=2, cost=2.0),
        row("paper", name="two", excess=5, loss=4, cost=4.0),
        row("paper", name="clean", excess=None, loss=-3, cost=6.0),
    ]
    (paper,) = leaderboard(rows)
    assert (paper.preset, paper.cases) == ("paper", 3)
    assert paper.clean_accuracy_loss == Span(pytest.approx(0.01), -0.03, 0.04, 3)
    assert paper.attack_success_rate == paper.excess_attack_success_rate == Span(pytest.approx(0.03), 0.01, 0.05, 2)
    assert paper.stopped == Rate(1, 2)
    assert paper.recovered_accuracy_loss == Span(0.1, 0.1, 0.1, 2)
    assert paper.auroc == Span(0.75, 0.75, 0.75, 2)
    # The inpainter's are in them.
    assert paper.flops_clean == Span(4.5, 2.5, 6.5, 3)
    assert paper.flops_triggered == Span(10.0, 7.0, 13.0, 2)
    assert paper.time_clean == Span(4.0, 4.0, 4.0, 3)
    assert paper.time_triggered == Span(3.0, 3.0, 3.0, 2)


@pytest.mark.parametrize(("excess", "stopped"), [(-5, 1), (0, 1), (2, 1), (3, 0)])
def test_an_attack_is_stopped_up_to_two_percent(excess: int, stopped: int) -> None:
    (standing,) = leaderboard([row("paper", excess=excess)])
    assert standing.stopped == Rate(stopped, 1)


def test_the_leaderboard_is_sorted_by_the_attack_then_by_the_loss() -> None:
    rows = [
        row("oracle", excess=0, cost=None),
        row("without-trigger", excess=None),
        row("behind", excess=9, loss=0),
        row("tied-b", excess=3, loss=2),
        row("tied-a", excess=3, loss=2),
        row("cheaper", excess=3, loss=1),
    ]
    expected = ["cheaper", "tied-a", "tied-b", "behind", "without-trigger", "oracle"]
    for order in (rows, rows[::-1]):
        assert [standing.preset for standing in leaderboard(order)] == expected


def test_what_was_not_measured_has_no_mean() -> None:
    clean, oracle = leaderboard([row("paper", excess=None), row("oracle:telea", cost=None)])
    assert clean.stopped == Rate(0, 0)
    assert (clean.attack_success_rate, clean.excess_attack_success_rate, clean.recovered_accuracy_loss) == (None,) * 3
    assert (clean.auroc, clean.flops_triggered, clean.time_triggered) == (None,) * 3
    assert (oracle.flops_clean, oracle.time_clean, oracle.auroc) == (None,) * 3


def test_nothing_stands_nowhere() -> None:
    assert leaderboard([]) == []
    assert compare([]) == []


def test_a_figure_that_is_no_row_is_refused() -> None:
    with pytest.raises(ValueError, match="row: expected"):
        leaderboard([{"preset": "paper"}])


@pytest.mark.parametrize(
    ("excess", "loss", "stops", "costs", "hardly"),
    [
        # The other has an excess ASR of 0.10, up to 0.1618, and a loss of 0.02, up to 0.0578.
        pytest.param(0, 0, True, True, True, id="better"),
        pytest.param(10, 2, True, True, True, id="tied"),
        pytest.param(16, 2, True, True, True, id="within the interval"),
        pytest.param(17, 2, False, True, True, id="above the interval"),
        pytest.param(10, 3, True, False, True, id="one picture more"),
        pytest.param(0, 6, True, False, False, id="costs more"),
        pytest.param(90, 90, False, False, False, id="worse"),
    ],
)
def test_a_defense_against_another(excess: int, loss: int, *, stops: bool, costs: bool, hardly: bool) -> None:
    assert difference(10).interval[1] == pytest.approx(0.1618, abs=1e-4)
    assert difference(2).interval[1] == pytest.approx(0.0578, abs=1e-4)
    (pair,) = compare([row("verified", excess=excess, loss=loss), row("paper", excess=10, loss=2)])
    assert (pair.name, pair.seed, pair.other) == ("toy", 0, "paper")
    assert (pair.excess, pair.loss) == (difference(excess), difference(loss))
    assert (pair.excess_of_other, pair.loss_of_other) == (difference(10), difference(2))
    assert (pair.stops_as_much, pair.costs_no_more, pair.costs_hardly_more) == (stops, costs, hardly)
    assert pair.holds == (stops and costs)


def test_only_what_was_measured_on_the_same_triggered_pictures_is_compared() -> None:
    rows = [
        row("paper", name="one"),
        row("verified", name="one"),
        row("verified:inpainter=telea", name="one"),
        row("oracle", name="one", cost=None),
        row("reject:detector=strip", name="one"),
        row("verified", name="one", seed=1),
        row("paper", name="one", seed=2),
        row("verified", name="clean", excess=None),
        row("paper", name="clean", excess=None),
        row("paper", name="one", seed=1),
    ]
    pairs = [(pair.name, pair.seed, pair.other) for pair in compare(rows)]
    assert pairs == [("one", 0, "paper"), ("one", 0, "reject:detector=strip"), ("one", 1, "paper")]
    pairs = [(pair.name, pair.seed, pair.other) for pair in compare(rows, "verified:inpainter=telea")]
    assert pairs == [("one", 0, "paper"), ("one", 0, "reject:detector=strip")]


def test_one_defense_alone_is_compared_with_none() -> None:
    assert compare([row("verified"), row("verified", name="other")]) == []
    assert compare([row("paper"), row("double-masking")]) == []
