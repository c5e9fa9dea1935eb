from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from februus.benchmark.cases import Case
from februus.benchmark.evaluation import Row, evaluate, measure_oracle
from februus.data import Dataset
from februus.inpainters.mean_fill import MeanFill
from februus.inpainters.telea import Telea
from februus.metrics import (
    Difference,
    Mean,
    detection,
    flops,
    peak_signal_to_noise_ratio,
    structural_similarity_inside,
)
from februus.models import Normalized
from februus.poisoning import stamp
from februus.presets.paper import Paper
from februus.purifier import Purifier
from februus.seeds import seeded
from februus.triggers.blended import Blended
from februus.triggers.patch import Patch
from februus.types import Preset

Draw = Callable[..., Dataset]


@pytest.fixture
def case(toy_model: Normalized, toy_draw: Draw, toy_trigger: Patch) -> Case:
    reference = toy_draw(240, 9).floats()
    return Case(
        name="toy", model=toy_model, test=toy_draw(44, 1), reference=reference, trigger=toy_trigger, target_label=0
    )


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


@dataclass(frozen=True, kw_only=True)
class White:
    """A localizer that marks white corners, and nothing where there is none."""

    def __call__(self, model: nn.Module, images: Tensor) -> Tensor:
        model(images)
        heatmaps = torch.zeros_like(images[:, :1])
        heatmaps[..., 27:31, 27:31] = 1
        return heatmaps * (images[..., 27:31, 27:31].amin((1, 2, 3)) == 1)[:, None, None, None]


@dataclass(frozen=True, kw_only=True)
class Costly:
    """An inpainter that multiplies, 2 x 3 x 3 x 9 operations a pixel, and remembers what it was asked for."""

    asked: list[tuple[Tensor, Tensor]] = field(default_factory=list, compare=False, repr=False)

    def __call__(self, images: Tensor, masks: Tensor) -> Tensor:
        self.asked.append((images, masks))
        blurred = F.conv2d(images, torch.full((3, 3, 3, 3), 1 / 27), padding=1)
        return torch.where(masks > 0, blurred, images)


def paper(case: Case, batch_size: int = 256) -> Purifier:
    """Return a purifier that is quick."""
    return Purifier(case.model, Paper(inpainter=MeanFill()), batch_size=batch_size)


def only(case: Case, purifier: Purifier, *, seed: int = 0) -> Row:
    """Return the purifier's own row."""
    return evaluate(case, {"paper": purifier}, seed=seed)[0]


def test_the_figures_are_those_of_a_count_by_hand(case: Case) -> None:
    # Of the brighter half nearly all is removed, so that something is flagged of every kind, and not all.
    brightness = float(case.test.floats().mean((1, 2, 3)).median())
    purifier = Purifier(case.model, Paper(localizer=Most(brightness=brightness), inpainter=MeanFill()))
    row = only(case, purifier)
    tally = dict.fromkeys(("ca", "ca after", "asr", "asr after", "ra", "flagged", "flagged triggered"), 0)
    sides = {name: [0, 0] for name in ("clean_accuracy_loss", "excess_attack_success_rate", "recovered_accuracy_loss")}
    others = 0
    for index, label in enumerate(case.test.labels.tolist()):
        one = case.test.subset([index])
        with torch.no_grad():
            bare = int(case.model(one.floats()).argmax())
        purified = purifier(one.floats())
        tally["ca"] += bare == label
        tally["ca after"] += int(purified.labels) == label
        tally["flagged"] += bool(purified.flagged)
        sides["clean_accuracy_loss"][0] += bare == label != int(purified.labels)
        sides["clean_accuracy_loss"][1] += bare != label == int(purified.labels)
        if label == 0:
            continue
        others += 1
        image = stamp(one, Patch(size=4), seeded(0)).floats()
        with torch.no_grad():
            tally["asr"] += int(case.model(image).argmax()) == 0
        purified = purifier(image)
        after = int(purified.labels)
        tally["asr after"] += after == 0
        tally["ra"] += after == label
        tally["flagged triggered"] += bool(purified.flagged)
        sides["excess_attack_success_rate"][0] += after == 0 != bare
        sides["excess_attack_success_rate"][1] += after != 0 == bare
        sides["recovered_accuracy_loss"][0] += bare == label != after
        sides["recovered_accuracy_loss"][1] += bare != label == after
    assert others == 33
    assert 0 < tally["flagged"] < 44
    assert 0 < tally["flagged triggered"] < 33
    assert all(plus > 0 for plus, _ in sides.values())
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
    assert row.differences == {
        name: Difference(plus, minus, 44 if "clean" in name else 33) for name, (plus, minus) in sides.items()
    }
    assert tally["asr"] > 30
    assert (row.name, row.preset) == ("toy", "paper")
    assert row.settings == repr(purifier)


def test_a_purifier_that_finds_the_trigger_takes_the_attack_away(case: Case) -> None:
    """The figures tell a defense that works from one that does not."""
    row = only(case, Purifier(case.model, Paper(localizer=Corner(), inpainter=MeanFill())))
    assert row.rates["attack_success_rate_before"].value > 0.9
    assert row.rates["attack_success_rate_after"].value < 0.1
    assert row.rates["recovered_accuracy"].value > 0.9
    assert row.rates["clean_accuracy_after"].value > 0.9
    assert row.rates["flagged_triggered"].value > 0.9
    assert row.rates["flagged_clean"].value < 0.1
    assert all(abs(difference.value) < 0.1 for difference in row.differences.values())
    never = only(case, Purifier(case.model, Paper(localizer=Most(brightness=1.0), inpainter=MeanFill())))
    assert never.differences["excess_attack_success_rate"].value > 0.9
    assert never.differences["recovered_accuracy_loss"].value > 0.9
    assert never.differences["clean_accuracy_loss"] == Difference(0, 0, 44)


def test_detection_effectiveness_and_quality_by_hand(case: Case) -> None:
    purifier = Purifier(case.model, Paper(localizer=White(), inpainter=MeanFill()), batch_size=10)
    row, oracle = evaluate(case, {"paper": purifier})
    victims = case.victims.floats()
    purified = purifier(stamp(case.victims, Patch(size=4), seeded(0)).floats())
    scores = torch.cat([purifier(victims).scores, purified.scores])
    assert row.detection == detection(scores, torch.arange(66) >= 33)
    assert row.detection.auroc.value > 0.9
    assert oracle.detection is None
    assert (row.detection.auroc.clean, row.detection.auroc.triggered) == (33, 33)
    before, after = (row.rates[f"attack_success_rate_{when}"].value for when in ("before", "after"))
    assert row.effectiveness == pytest.approx((before - after + 1) / 2)
    everywhere = torch.ones_like(victims[:, :1])
    expected = peak_signal_to_noise_ratio(purified.images, victims, everywhere)
    assert row.psnr is not None
    assert row.psnr.value == pytest.approx(expected.mean().item())
    assert row.psnr.total == 33
    assert row.ssim is not None
    assert row.ssim.value == pytest.approx(
        structural_similarity_inside(purified.images, victims, everywhere).mean().item()
    )
    # The oracle restores just these pixels, with the same filler.
    assert oracle.psnr is not None
    assert oracle.psnr.value == pytest.approx(row.psnr.value)


def test_only_what_was_restored_has_a_quality(case: Case) -> None:
    """A trigger that is stamped on a third of the pictures, and a localizer that finds it there."""

    def sometimes(images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        stamped = Patch(size=4)(images, generator)
        stamped[::3] = images[::3]
        return stamped

    some = replace(case, trigger=sometimes)
    row, oracle = evaluate(some, {"paper": Purifier(case.model, Paper(localizer=White(), inpainter=MeanFill()))})
    assert row.psnr is not None
    assert oracle.ssim is not None
    assert row.psnr.total == oracle.ssim.total == 22
    never = only(case, Purifier(case.model, Paper(localizer=Most(brightness=1.0), inpainter=MeanFill())))
    assert never.psnr is None
    assert never.ssim is None
    assert never.effectiveness == 0.5
    # All scores are the same: nothing is told.
    assert never.detection is not None
    assert never.detection.auroc.value == 0.5
    assert never.detection.tpr_at_5_percent.count == 0


def test_the_memory_is_that_of_a_batch(case: Case) -> None:
    @dataclass(frozen=True, kw_only=True)
    class Greedy:
        """An inpainter that takes 80 MB."""

        def __call__(self, images: Tensor, masks: Tensor) -> Tensor:
            del masks
            kept = torch.ones(20_000_000)
            time.sleep(0.1)
            return images * kept[0]

    greedy = only(case, Purifier(case.model, Paper(localizer=Corner(), inpainter=Greedy())))
    modest = only(case, Purifier(case.model, Paper(localizer=Corner(), inpainter=MeanFill())))
    assert greedy.bytes_at_peak is not None
    assert modest.bytes_at_peak is not None
    assert 6e7 < greedy.bytes_at_peak - modest.bytes_at_peak < 2e8


def test_each_preset_has_its_row_on_the_same_pictures(case: Case) -> None:
    purifiers = {
        "paper": paper(case),
        "corner": Purifier(case.model, Paper(localizer=Corner(), inpainter=MeanFill()), batch_size=9),
        "verified": Purifier.for_model(case.model, case.reference, preset="verified", inpainter="mean-fill"),
    }
    rows = evaluate(case, purifiers)
    assert [row.preset for row in rows] == ["paper", "corner", "verified", "oracle"]
    for row, purifier in zip(rows, purifiers.values(), strict=False):
        alone = only(case, purifier)
        assert (row.rates, row.differences, row.settings) == (alone.rates, alone.differences, alone.settings)
        assert row.rates["clean_accuracy_before"] == rows[-1].rates["clean_accuracy_before"]
        assert row.rates["attack_success_rate_before"] == rows[-1].rates["attack_success_rate_before"]


def test_nothing_is_asked_twice(case: Case) -> None:
    """The bare model sees each picture once for all presets, a purifier each once, beside those that FLOPs take."""
    seen: list[int] = []
    case.model.register_forward_hook(lambda _module, inputs, _output: seen.append(len(inputs[0])))

    def pictures(count: int) -> int:
        seen.clear()
        evaluate(case, {str(index): paper(case) for index in range(count)})
        return sum(seen)

    pictures(1)  # the first time, the layer is sought too
    one, two = pictures(1), pictures(2)
    # A purifier's first picture; then 44 clean and 33 triggered ones, counted and timed. Each is removed from, and thus
    # looked at twice.
    behind = 2 * (1 + 2 * (44 + 33))
    assert two - one == behind
    # The bare model: all of them, counted and timed, and what the oracle restored.
    assert one - behind == 2 * (44 + 33) + 33


def test_the_same_twice_gives_the_same_figures(case: Case) -> None:
    jumping = replace(case, trigger=Patch(size=4, position="random"))
    rows = [only(jumping, paper(case), seed=3) for _ in range(2)]
    assert rows[0].rates == rows[1].rates
    for name in ("flops_clean", "flops_triggered", "flops_inpainter_clean", "flops_inpainter_triggered"):
        assert getattr(rows[0], name) == getattr(rows[1], name)


def test_the_seed_is_that_of_the_trigger(case: Case) -> None:
    seeds: list[int] = []

    def remember(images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        assert generator is not None
        seeds.append(generator.initial_seed())
        return images

    for seed in (3, 3, 4):
        only(replace(case, trigger=remember), paper(case), seed=seed)
    assert seeds[0] == seeds[1] != seeds[2]


def test_the_batch_changes_no_figure(case: Case) -> None:
    first, second = (evaluate(case, {"paper": paper(case, size)}) for size in (7, 256))
    assert [(row.rates, row.differences) for row in first] == [(row.rates, row.differences) for row in second]


def test_a_clean_model_has_no_figures_of_attack(case: Case) -> None:
    clean = replace(case, trigger=None, target_label=None)
    (row,) = evaluate(clean, {"paper": paper(case)})
    assert sorted(row.rates) == ["clean_accuracy_after", "clean_accuracy_before", "flagged_clean"]
    assert list(row.differences) == ["clean_accuracy_loss"]
    assert row.rates["clean_accuracy_after"].total == 44
    assert row.detection is row.effectiveness is row.psnr is row.ssim is None
    assert row.bytes_at_peak is not None
    measured = {
        name for name, value in row.to_dict().items() if name.startswith(("flops", "seconds")) and value is not None
    }
    assert measured == {"flops_clean", "flops_inpainter_clean", "seconds_clean", "seconds_plain_clean"}


def test_pictures_of_the_target_alone_are_refused(case: Case) -> None:
    target = replace(case, test=case.test.subset(case.test.labels == 0))
    with pytest.raises(ValueError, match=r"pictures: expected some of other classes .*, got none of 11"):
        only(target, paper(case))


def test_a_source_specific_case_scores_the_whole_source_class_and_no_other(case: Case) -> None:
    """Triggered pictures of other classes count for nothing, whatever becomes of them."""
    source = replace(case, source_label=3)
    purifier = Purifier(case.model, Paper(localizer=White(), inpainter=MeanFill()))
    row, oracle = evaluate(source, {"paper": purifier})
    chosen = case.test.subset(case.test.labels == 3)
    assert len(chosen) == 11
    triggered = stamp(chosen, Patch(size=4), seeded(0)).floats()
    with torch.no_grad():
        before, plain = case.model(triggered).argmax(1), case.model(chosen.floats()).argmax(1)
    after = purifier(triggered).labels
    for found in (row, oracle):
        assert {found.rates[name].total for name in found.rates if "clean" not in name} == {11}
        assert found.rates["attack_success_rate_before"].count == int((before == 0).sum())
        assert found.rates["clean_accuracy_after"].total == 44
        assert found.differences["excess_attack_success_rate"].total == 11
        assert found.differences["recovered_accuracy_loss"].total == 11
    assert row.rates["attack_success_rate_after"].count == int((after == 0).sum())
    assert row.rates["recovered_accuracy"].count == int((after == 3).sum())
    assert row.rates["flagged_triggered"].count == 11
    loss = row.differences["recovered_accuracy_loss"]
    assert (loss.plus, loss.minus) == (
        int(((plain == 3) & (after != 3)).sum()),
        int(((plain != 3) & (after == 3)).sum()),
    )
    others = replace(source, test=case.test.subset(case.test.labels != 3))
    with pytest.raises(ValueError, match="pictures: expected some of the source class 3, got none of 33"):
        evaluate(others, {"paper": purifier})


def test_purifiers_must_be_of_the_model(case: Case, trained_toy: Normalized) -> None:
    with pytest.raises(ValueError, match="purifiers: expected at least one, got none"):
        evaluate(case, {})
    with pytest.raises(ValueError, match="purifier b: expected one of the case's model, got one of another model"):
        evaluate(case, {"a": paper(case), "b": Purifier(trained_toy, Paper())})


def test_progress_is_told(case: Case) -> None:
    seen: list[int] = []
    evaluate(case, {"a": paper(case, 20), "b": paper(case, 40)}, on_images=seen.append)
    assert seen == [20, 20, 4, 20, 13, 40, 4, 33]
    assert sum(seen) == 2 * (len(case.test) + len(case.victims))


# --- the oracle ------------------------------------------------------------------------------------------------------


def test_the_oracle_restores_what_the_trigger_changed(case: Case) -> None:
    inpainter = Costly()
    row = evaluate(case, {"paper": Purifier(case.model, Paper(localizer=Most(brightness=1.0), inpainter=inpainter))})[1]
    ((images, masks),) = inpainter.asked
    assert torch.equal(images, stamp(case.victims, Patch(size=4), seeded(0)).floats())
    expected = torch.zeros(33, 1, 32, 32)
    # A pixel that was white before is not changed, but no picture has one there.
    expected[..., 27:31, 27:31] = 1
    assert torch.equal(masks, expected)
    with torch.no_grad():
        found = case.model(inpainter(images, masks)).argmax(1)
    assert row.preset == "oracle"
    assert row.settings == repr(inpainter)
    assert row.rates["recovered_accuracy"].count == int((found == case.victims.labels).sum())
    assert row.rates["attack_success_rate_after"].count == int((found == 0).sum())
    # Clean pictures stay as they are.
    assert row.rates["clean_accuracy_after"] == row.rates["clean_accuracy_before"]
    assert row.differences["clean_accuracy_loss"] == Difference(0, 0, 44)
    assert (row.rates["flagged_clean"].value, row.rates["flagged_triggered"].value) == (0, 1)
    assert all(value is None for name, value in row.to_dict().items() if name.startswith(("flops", "seconds")))


def test_the_oracle_alone(case: Case) -> None:
    purifiers = {"paper": paper(case)}
    row, oracle = evaluate(case, purifiers)
    assert measure_oracle(case, MeanFill()) == oracle
    assert measure_oracle(case, MeanFill(), batch_size=7) == oracle
    (alone,) = evaluate(case, purifiers, oracle=False)
    assert (alone.rates, alone.differences) == (row.rates, row.differences)
    assert measure_oracle(replace(case, trigger=Blended()), MeanFill()) is None
    assert measure_oracle(replace(case, trigger=None, target_label=None), MeanFill()) is None


def test_the_oracle_knows_each_pictures_own_pixels(case: Case) -> None:
    """One channel is enough, and a picture that the trigger leaves alone is not touched."""

    def paint(images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        del generator
        painted = images.clone()
        for index in range(1, len(images)):
            painted[index, index % 3, index % 32, 3] += torch.where(
                painted[index, index % 3, index % 32, 3] < 0.5, 0.4, -0.4
            )
        return painted

    inpainter = Costly()
    purifier = Purifier(case.model, Paper(localizer=Most(brightness=1.0), inpainter=inpainter), batch_size=10)
    row = evaluate(replace(case, trigger=paint), {"paper": purifier})[1]
    masks = torch.cat([masks for _, masks in inpainter.asked])
    assert masks.flatten(1).sum(1).tolist() == [0] + [1] * 32
    assert [int(masks[index, 0, index % 32, 3]) for index in range(33)] == [0] + [1] * 32
    assert (row.rates["flagged_triggered"].count, row.rates["flagged_triggered"].total) == (32, 33)


def test_a_trigger_all_over_the_picture_has_no_oracle(case: Case) -> None:
    for trigger, presets in (
        (Blended(), ["paper"]),
        (Patch(size=20), ["paper", "oracle"]),
        (Patch(size=26), ["paper"]),
    ):
        rows = evaluate(replace(case, trigger=trigger), {"paper": paper(case)})
        assert [row.preset for row in rows] == presets


def test_each_inpainter_has_one_oracle_of_its_name(case: Case) -> None:
    presets: dict[str, Preset] = {
        "a": Paper(inpainter=MeanFill()),
        "b": Paper(inpainter=Telea()),
        "c": Paper(inpainter=MeanFill(), threshold=0.5),
    }
    rows = evaluate(case, {name: Purifier(case.model, preset) for name, preset in presets.items()})
    assert [row.preset for row in rows] == ["a", "b", "c", "oracle:mean-fill", "oracle:telea"]
    assert [row.settings for row in rows[3:]] == ["MeanFill()", "Telea(radius=3.0)"]
    for row in rows[3:]:
        assert row.rates["attack_success_rate_before"].value > 0.9
        assert row.rates["attack_success_rate_after"].value < 0.1
        assert row.rates["recovered_accuracy"].value > 0.9


# --- costs -----------------------------------------------------------------------------------------------------------


def test_costs_by_hand(case: Case) -> None:
    """Counted by hand, purifying is two forwards and the last layers' way back; mean filling multiplies nothing."""
    row = only(case, paper(case))
    layers = ((3, 12, 32), (12, 24, 16), (24, 24, 8))
    head = 24 * 4
    forward = sum(9 * inputs * outputs * side**2 for inputs, outputs, side in layers) + head
    for found in (row.flops_clean, row.flops_triggered):
        assert found == pytest.approx((2 * forward + head) / forward, rel=1e-6)
    assert row.flops_inpainter_clean == row.flops_inpainter_triggered == 0
    for name in ("clean", "triggered"):
        assert getattr(row, f"seconds_{name}") > 0
        assert getattr(row, f"seconds_plain_{name}") > 0
    gan = only(case, Purifier(case.model, Paper()))
    assert (gan.flops_clean, gan.flops_triggered) == (row.flops_clean, row.flops_triggered)
    assert gan.flops_inpainter_clean is not None
    assert gan.flops_inpainter_clean > 1


def test_the_inpainters_flops_are_counted_apart(case: Case) -> None:
    """Only triggered pictures are restored, by an inpainter of known cost; a second forward goes with it."""
    row = only(case, Purifier(case.model, Paper(localizer=White(), inpainter=Costly())))
    forward = flops(lambda: case.model(case.test.floats())) / 44
    assert row.flops_clean == pytest.approx(1)
    assert row.flops_inpainter_clean == 0
    assert row.flops_triggered == pytest.approx(2)
    assert row.flops_inpainter_triggered == pytest.approx(2 * 3 * 3 * 9 * 32**2 / forward)


def test_costs_of_the_verified_preset(case: Case) -> None:
    """It works where there is something to work on, and the kept thresholds serve while FLOPs are counted."""
    inpainter = Costly()
    purifier = Purifier.for_model(case.model, case.reference, preset="verified", inpainter=inpainter)
    row = only(case, purifier)
    assert row.flops_clean is not None
    assert row.flops_triggered is not None
    assert 1 < row.flops_clean < row.flops_triggered
    assert row.flops_inpainter_clean is not None
    assert row.flops_inpainter_triggered is not None
    assert 0 <= row.flops_inpainter_clean < row.flops_inpainter_triggered


def test_flops_are_counted_on_64_pictures(case: Case, toy_draw: Draw) -> None:
    inpainter = Costly()
    many = replace(case, test=toy_draw(200, 4))
    only(many, Purifier(case.model, Paper(localizer=Corner(), inpainter=inpainter), batch_size=1000))
    # The first picture; clean and triggered ones, counted and timed; at last the oracle.
    assert [len(images) for images, _ in inpainter.asked] == [1, 64, 200, 64, 150, 150]


# --- the row as a dictionary -----------------------------------------------------------------------------------------


def test_the_row_as_a_dictionary(case: Case) -> None:
    row, oracle = evaluate(case, {"paper": paper(case)})
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
        "differences",
        "detection",
        "effectiveness",
        "psnr",
        "ssim",
        "flops_clean",
        "flops_triggered",
        "flops_inpainter_clean",
        "flops_inpainter_triggered",
        "seconds_clean",
        "seconds_triggered",
        "seconds_plain_clean",
        "seconds_plain_triggered",
        "bytes_at_peak",
        "settings",
    ]
    assert list(oracle.to_dict()) == list(found)
    for name, rate in row.rates.items():
        assert found[name] == rate.count / rate.total
        low, high = rate.interval
        assert found["rates"][name] == {"count": rate.count, "total": rate.total, "interval": [low, high]}
        assert low <= found[name] <= high
    for name, difference in row.differences.items():
        low, high = difference.interval
        assert found["differences"][name] == {
            "value": difference.value,
            "plus": difference.plus,
            "minus": difference.minus,
            "total": difference.total,
            "interval": [low, high],
        }
        assert low <= difference.value <= high
    seen, quality = row.detection, row.psnr
    assert seen is not None
    assert quality is not None
    assert quality.interval is not None
    assert list(found["detection"]) == ["auroc", "tpr_at_1_percent", "tpr_at_5_percent"]
    low, high = seen.auroc.interval
    assert found["detection"]["auroc"] == {
        "value": seen.auroc.value,
        "clean": 33,
        "triggered": 33,
        "interval": [low, high],
    }
    low, high = seen.tpr_at_1_percent.interval
    assert found["detection"]["tpr_at_1_percent"] == {
        "value": seen.tpr_at_1_percent.value,
        "count": seen.tpr_at_1_percent.count,
        "total": 33,
        "interval": [low, high],
    }
    assert found["effectiveness"] == row.effectiveness
    low, high = quality.interval
    assert found["psnr"] == {
        "value": quality.value,
        "deviation": quality.deviation,
        "total": quality.total,
        "interval": [low, high],
    }


def test_a_row_comes_back_from_its_dictionary(case: Case) -> None:
    rows = evaluate(case, {"paper": paper(case)})
    rows += evaluate(replace(case, trigger=None, target_label=None), {"paper": paper(case)})
    # Of one restored picture there is no interval.
    rows.append(replace(rows[0], psnr=Mean(30.0, 0.0, 1)))
    for row in rows:
        assert Row.from_dict(json.loads(json.dumps(row.to_dict(), allow_nan=False))) == row
    told = rows[0].to_dict()
    del told["rates"]["clean_accuracy_before"]["total"]
    for wrong in ({}, {"name": "toy"}, told, {**rows[0].to_dict(), "rates": 3}):
        with pytest.raises(ValueError, match=r"row: expected what `Row.to_dict` returned, got \w+Error"):
            Row.from_dict(wrong)
