from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor, nn

from februus.benchmark.cases import Case
from februus.benchmark.evaluation import evaluate
from februus.data import Dataset
from februus.inpainters.mean_fill import MeanFill
from februus.models import Normalized
from februus.poisoning import stamp
from februus.purifier import Purifier
from februus.seeds import seeded
from februus.triggers.patch import Patch

Draw = Callable[..., Dataset]


@pytest.fixture
def case(toy_model: Normalized, toy_draw: Draw, toy_trigger: Patch) -> Case:
    return Case(name="toy", model=toy_model, test=toy_draw(44, 1), trigger=toy_trigger, target_label=0)


@dataclass(frozen=True, kw_only=True)
class Corner:
    """A localizer that looks where the trigger is, whatever the picture."""

    def __call__(self, model: nn.Module, images: Tensor) -> Tensor:
        model(images)
        heatmaps = torch.zeros_like(images[:, :1])
        heatmaps[..., 26:32, 26:32] = 1
        return heatmaps


@dataclass(frozen=True, kw_only=True)
class Most:
    """A localizer that marks nearly all of bright pictures."""

    brightness: float

    def __call__(self, model: nn.Module, images: Tensor) -> Tensor:
        model(images)
        heatmaps = torch.zeros_like(images[:, :1])
        heatmaps[..., 4:, :] = 1
        return heatmaps * (images.mean((1, 2, 3), keepdim=True) > self.brightness)


def test_the_figures_are_those_of_a_count_by_hand(case: Case) -> None:
    # Of the brighter half nearly all is removed, so that something is flagged of every kind, and not all.
    brightness = float(case.test.floats().mean((1, 2, 3)).median())
    purifier = Purifier(case.model, localizer=Most(brightness=brightness), inpainter=MeanFill(), threshold=0.7)
    row = evaluate(case, purifier, preset="paper")
    tally = dict.fromkeys(("ca", "ca after", "asr", "asr after", "ra", "flagged", "flagged triggered"), 0)
    clean, triggered = case.test, stamp(case.test, Patch(size=4), seeded(0))
    others = flagged_targets = 0
    for index, label in enumerate(clean.labels.tolist()):
        for pictures, kind in ((clean, "clean"), (triggered, "triggered")):
            image = pictures.floats(slice(index, index + 1))
            with torch.no_grad():
                before = int(case.model(image).argmax())
            purified = purifier(image)
            after, flagged = int(purified.labels), bool(purified.flagged)
            if kind == "clean":
                tally["ca"] += before == label
                tally["ca after"] += after == label
                tally["flagged"] += flagged
            elif label != 0:
                others += 1
                tally["asr"] += before == 0
                tally["asr after"] += after == 0
                tally["ra"] += after == label
                tally["flagged triggered"] += flagged
            else:
                flagged_targets += flagged
    assert others == 33
    assert 0 < tally["flagged"] < 44
    assert 0 < tally["flagged triggered"] < 33
    assert flagged_targets > 0
    expected = {
        "clean_accuracy_before": (tally["ca"], 44),
        "clean_accuracy_after": (tally["ca after"], 44),
        "flagged_clean": (tally["flagged"], 44),
        "attack_success_rate_before": (tally["asr"], 33),
        "attack_success_rate_after": (tally["asr after"], 33),
        "recovered_accuracy": (tally["ra"], 33),
        "flagged_triggered": (tally["flagged triggered"], 33),
    }
    assert {name: (rate.count, rate.total) for name, rate in row.rates.items()} == expected
    assert tally["asr"] > 30
    assert (row.name, row.preset) == ("toy", "paper")
    assert row.settings == repr(purifier)


def test_a_purifier_that_finds_the_trigger_takes_the_attack_away(case: Case) -> None:
    """The figures tell a defense that works from one that does not."""
    purifier = Purifier(case.model, localizer=Corner(), inpainter=MeanFill(), threshold=0.7)
    rates = evaluate(case, purifier, preset="oracle").rates
    assert rates["attack_success_rate_before"].value > 0.9
    assert rates["attack_success_rate_after"].value < 0.1
    assert rates["recovered_accuracy"].value > 0.9
    assert rates["clean_accuracy_after"].value > 0.9
    assert rates["flagged_triggered"].value > 0.9
    assert rates["flagged_clean"].value < 0.1


def test_the_same_twice_gives_the_same_figures(case: Case) -> None:
    purifier = Purifier.for_model(case.model, threshold=0.3, inpainter="mean-fill")
    jumping = replace(case, trigger=Patch(size=4, position="random"))
    rows = [evaluate(jumping, purifier, preset="paper", seed=3) for _ in range(2)]
    assert rows[0].rates == rows[1].rates
    assert (rows[0].flops, rows[0].flops_inpainter) == (rows[1].flops, rows[1].flops_inpainter)


def test_the_seed_is_that_of_the_trigger(case: Case) -> None:
    seeds: list[int] = []

    def remember(images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        assert generator is not None
        seeds.append(generator.initial_seed())
        return images

    purifier = Purifier.for_model(case.model, inpainter="mean-fill")
    for seed in (3, 3, 4):
        evaluate(replace(case, trigger=remember), purifier, preset="paper", seed=seed)
    assert seeds[0] == seeds[1] != seeds[2]


def test_the_batch_changes_no_figure(case: Case) -> None:
    def purifier(size: int) -> Purifier:
        return Purifier.for_model(case.model, inpainter="mean-fill", batch_size=size)

    rows = [evaluate(case, purifier(size), preset="paper") for size in (7, 256)]
    assert rows[0].rates == rows[1].rates


def test_a_clean_model_has_no_rates_of_attack(case: Case) -> None:
    clean = replace(case, trigger=None, target_label=None)
    row = evaluate(clean, Purifier.for_model(case.model), preset="paper")
    assert sorted(row.rates) == ["clean_accuracy_after", "clean_accuracy_before", "flagged_clean"]
    assert row.seconds_per_image > row.seconds_per_image_plain > 0


def test_pictures_of_the_target_alone_are_refused(case: Case) -> None:
    target = replace(case, test=case.test.subset((case.test.labels == 0).nonzero().flatten()))
    with pytest.raises(ValueError, match=r"pictures: expected some of other classes .*, got 11 of class 0"):
        evaluate(target, Purifier.for_model(case.model), preset="paper")


def test_progress_is_told(case: Case) -> None:
    seen: list[int] = []
    purifier = Purifier.for_model(case.model, inpainter="mean-fill", batch_size=20)
    evaluate(case, purifier, preset="paper", on_images=seen.append)
    assert seen == [20, 20, 4] * 2


def test_costs_by_hand(case: Case) -> None:
    """Counted by hand, purifying is two forwards and the last layers' way back; mean filling multiplies nothing."""
    row = evaluate(case, Purifier.for_model(case.model, inpainter="mean-fill"), preset="paper")
    layers = ((3, 12, 32), (12, 24, 16), (24, 24, 8))
    head = 24 * 4
    forward = sum(9 * inputs * outputs * side**2 for inputs, outputs, side in layers) + head
    assert row.flops == pytest.approx((2 * forward + head) / forward, rel=1e-6)
    assert row.flops_inpainter == 0
    gan = evaluate(case, Purifier.for_model(case.model, inpainter="gan"), preset="paper")
    assert gan.flops == pytest.approx(row.flops + gan.flops_inpainter, rel=1e-6)
    assert gan.flops_inpainter > 1


def test_the_row_as_a_dictionary(case: Case) -> None:
    row = evaluate(case, Purifier.for_model(case.model, inpainter="mean-fill"), preset="paper")
    found = row.to_dict()
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert list(found) == [
        "name",
        "preset",
        "clean_accuracy_before",
        "clean_accuracy_after",
        "flagged_clean",
        "attack_success_rate_before",
        "attack_success_rate_after",
        "recovered_accuracy",
        "flagged_triggered",
        "rates",
        "seconds_per_image",
        "seconds_per_image_plain",
        "flops",
        "flops_inpainter",
        "settings",
    ]
    for name, rate in row.rates.items():
        assert found[name] == rate.count / rate.total
        low, high = rate.interval
        assert found["rates"][name] == {"count": rate.count, "total": rate.total, "interval": [low, high]}
        assert low <= found[name] <= high
