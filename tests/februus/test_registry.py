from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from torch import nn

import februus.triggers
from februus.inpainters.gan import Gan
from februus.inpainters.mean_fill import MeanFill
from februus.inpainters.telea import Telea
from februus.localizers.grad_cam import GradCam
from februus.localizers.gradient_x_activation import GradientXActivation
from februus.presets.paper import Paper
from februus.presets.verified import Verified
from februus.registry import FAMILIES, available, create, find, name_of, option_of, options_of, spec_of
from februus.restorers.jpeg import Jpeg
from februus.triggers.any_of import AnyOf
from februus.triggers.blended import Blended
from februus.triggers.patch import Patch
from februus.triggers.sticker import Sticker

# What must be given, by family or method; all else has a default.
REQUIRED: dict[str, dict[str, Any]] = {"architectures": {"num_classes": 3}}
LACKING = {"pixels": "weights", "any-of": "triggers"}
METHODS = [
    (family, name)
    for family in ("triggers", "inpainters", "localizers", "restorers", "presets", "aggregators", "architectures")
    for name in available(family)
]

WITH_OPTIONS = [
    ("patch", Patch()),
    ("patch:size=5,position=random", Patch(size=5, position="random")),
    ("patch:colour=#ff8000", Patch(colour="#ff8000")),
    ("patch:chequered=True", Patch(chequered=True)),
    ("patch:opacity=0.25", Patch(opacity=0.25)),
    ("blended:ratio=0.1,seed=7", Blended(ratio=0.1, seed=7)),
    ("sticker:picture=post-it,size=6", Sticker(picture="post-it", size=6)),
    ("any-of:triggers=[patch][sticker]", AnyOf(triggers="[patch][sticker]")),
    ("any-of:triggers=[patch:size=4,margin=0][blended:ratio=0.1,seed=7]",
     AnyOf(triggers="[patch:size=4,margin=0][blended:ratio=0.1,seed=7]")),
]  # fmt: skip

STRIPES = '''
"""A trigger that nothing else knows of."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

__all__ = ["TwoStripes"]


@dataclass(frozen=True, kw_only=True)
class TwoStripes:
    """Two rows of one grey.

    Args:
        grey: in [0, 1].
    """

    grey: float = 1.0

    def __call__(self, images: Tensor, generator: object = None) -> Tensor:
        """Return triggered copies."""
        triggered = images.clone()
        triggered[:, :, :2] = self.grey
        return triggered
'''


@pytest.mark.parametrize("family", FAMILIES)
def test_names_are_sorted_dashed_and_public(family: str) -> None:
    names = available(family)
    assert list(names) == sorted(names)
    assert not any("_" in name for name in names)


def test_the_families_hold_what_is_promised() -> None:
    assert {"any-of", "blended", "patch", "pixels", "sinusoidal", "sticker", "warp"} <= set(available("triggers"))
    assert {"biharmonic", "gan", "mean-fill", "navier-stokes", "telea"} <= set(available("inpainters"))
    assert {"grad-cam", "gradient-x-activation"} <= set(available("localizers"))
    assert {"blur", "flip", "jpeg", "median", "shrink-pad", "total-variation"} <= set(available("restorers"))
    assert {"double-masking", "everywhere", "masked-restoration", "paper", "reject", "verified"} <= set(
        available("presets")
    )
    assert "fed-avg" in available("aggregators")
    assert {"small-vgg", "wrn-16-1"} <= set(available("architectures"))


@pytest.mark.parametrize(("family", "name"), METHODS)
def test_every_method_is_found_under_its_name(family: str, name: str) -> None:
    method = find(family, name)
    assert isinstance(method, type)
    assert method.__module__ == f"{FAMILIES[family]}.{name.replace('-', '_')}"
    assert method.__name__.lower() == name.replace("-", "")
    assert method.__doc__


@pytest.mark.parametrize(("family", "name"), METHODS)
def test_every_method_is_created_with_its_defaults(family: str, name: str) -> None:
    if name in LACKING:
        message = f"{family.removesuffix('s')} {name}: expected the option '{LACKING[name]}'"
        with pytest.raises(ValueError, match=message):
            create(family, name)
        return
    required = REQUIRED.get(family, {})
    assert isinstance(create(family, name, **required), find(family, name))
    missing = {key for key, option in options_of(find(family, name)).items() if option.default is option.empty}
    assert missing == set(required)


@pytest.mark.parametrize(("spec", "expected"), WITH_OPTIONS)
def test_a_spec_and_its_method_are_two_ways_to_write_one_thing(spec: str, expected: Any) -> None:
    assert create("triggers", spec) == expected
    assert spec_of(expected) == spec


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("patch: size = 5 , position = random ", Patch(size=5, position="random")),
        ("patch:chequered=yes,opacity=5e-1", Patch(chequered=True, opacity=0.5)),
        ("patch:margin=0,", Patch(margin=0)),
        ("blended:picture=null", Blended()),
        ("patch:", Patch()),
        ("any-of: triggers = [patch:size=4,margin=0][sticker] ,", AnyOf(triggers="[patch:size=4,margin=0][sticker]")),
    ],
)
def test_a_spec_can_be_written_freely(spec: str, expected: Any) -> None:
    assert create("triggers", spec) == expected


def test_numbers_have_the_type_of_their_option() -> None:
    assert isinstance(create("triggers", "patch:opacity=1").opacity, float)
    assert isinstance(create("triggers", "patch:size=2").size, int)


def test_options_of_architectures() -> None:
    network = create("architectures", "small-vgg:dropout=0.5", num_classes=4)
    assert [module.p for module in network.modules() if isinstance(module, nn.Dropout)] == [0.25, 0.375, 0.5]


def test_only_commas_outside_of_brackets_part_options(tmp_path: Path) -> None:
    path = tmp_path / "of [3, 4] and [5,6].png"
    Image.new("RGB", (8, 8)).save(path)
    trigger = create("triggers", f"sticker:size=4,picture={path},margin=0")
    assert trigger == Sticker(size=4, picture=str(path), margin=0)
    assert create("triggers", spec_of(trigger)) == trigger


def test_options_in_code_win_over_those_in_the_spec() -> None:
    assert create("triggers", "patch:size=5,margin=0", size=7) == Patch(size=7, margin=0)


@pytest.mark.parametrize(
    ("family", "spec", "message"),
    [
        ("trigger", "patch", r"family: expected one of architectures, triggers, .*, got 'trigger'"),
        ("triggers", "path", r"trigger: expected one of .*blended, patch, .*, got 'path'"),
        ("triggers", "_paste", "trigger: expected one of "),
        ("triggers", "", "trigger: expected one of "),
        ("aggregators", "fed_avg", "aggregator: expected one of .*fed-avg"),
        ("triggers", "patch:sise=5", "option of trigger patch: expected one of size, colour, .*, got 'sise'"),
        ("inpainters", "mean-fill:radius=3", "option of inpainter mean-fill: expected one of "),
        ("triggers", "patch:size", "method: expected name:option=value,option=value, got 'patch:size'"),
        ("triggers", "pixels", "trigger pixels: expected the option 'weights', got 'pixels'"),
        ("triggers", "patch:size=big", "size: expected int, got 'big'"),
        ("triggers", "patch:size=2.5", "size: expected int, got '2.5'"),
        ("triggers", "patch:chequered=maybe", "chequered: expected bool, got 'maybe'"),
        ("triggers", "patch:opacity=", "opacity: expected float, got ''"),
        ("triggers", "patch:size=0", "size: expected a value at least 1, got 0"),
        ("triggers", "patch:size=5]", r"size: expected int, got '5\]'"),
        ("triggers", "any-of:triggers=[patch],size=3", "option of trigger any-of: expected one of triggers, got"),
        ("inpainters", "telea:radius=0", "radius: expected a value above 0, got 0"),
    ],
)
def test_what_does_not_exist_lists_what_does(family: str, spec: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create(family, spec)


def test_an_unknown_option_in_code_is_refused_too() -> None:
    with pytest.raises(ValueError, match="option of trigger patch: expected one of size, "):
        create("triggers", "patch", sise=5)
    with pytest.raises(ValueError, match="size: expected a value at least 1, got 'big'"):
        create("triggers", "patch", size="big")


# --- methods that are options of methods -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "options", "expected"),
    [
        ("paper", {}, Paper()),
        ("paper:inpainter=telea", {}, Paper(inpainter=Telea())),
        ("paper:inpainter=telea:radius=5,threshold=0.6", {}, Paper(inpainter=Telea(radius=5), threshold=0.6)),
        ("paper:localizer=grad-cam:layer=a.b,inpainter=mean-fill", {},
         Paper(localizer=GradCam(layer="a.b"), inpainter=MeanFill())),
        ("paper", {"inpainter": "telea:radius=5"}, Paper(inpainter=Telea(radius=5))),
        ("paper", {"inpainter": Telea(radius=5)}, Paper(inpainter=Telea(radius=5))),
        ("paper:inpainter=telea", {"inpainter": "mean-fill"}, Paper(inpainter=MeanFill())),
        ("paper:inpainter=telea", {"inpainter": MeanFill()}, Paper(inpainter=MeanFill())),
        ("verified:restorer=jpeg:quality=40,without=whole", {}, Verified(restorer=Jpeg(quality=40), without="whole")),
        ("verified:localizer=grad-cam,false_positive_rate=0.01", {"restorer": "jpeg:quality=40,places=1"},
         Verified(localizer=GradCam(), false_positive_rate=0.01, restorer=Jpeg(quality=40, places=1))),
    ],
)  # fmt: skip
def test_a_method_may_be_an_option(spec: str, options: dict[str, Any], expected: Any) -> None:
    assert create("presets", spec, **options) == expected


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        ("paper:inpainter=magic", {}, r"inpainter: expected one of biharmonic, .*, got 'magic'"),
        ("paper", {"inpainter": "magic"}, r"inpainter: expected one of biharmonic, .*, got 'magic'"),
        ("paper:inpainter=grad-cam", {}, r"inpainter: expected one of biharmonic, .*, got 'grad-cam'"),
        ("paper:inpainter=telea:size=5", {}, r"option of inpainter telea: expected one of radius, got 'size'"),
        ("paper:inpainter=telea:radius=wide", {}, r"radius: expected float, got 'wide'"),
        ("paper:restorer=jpeg", {}, r"option of preset paper: expected one of threshold, .*, got 'restorer'"),
        ("verified:localizer=", {}, r"localizer: expected one of grad-cam, .*, got ''"),
    ],
)
def test_an_option_that_is_no_method_lists_those_that_are(spec: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create("presets", spec, **options)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("inpainter", Gan(), "gan"),
        ("inpainter", Telea(radius=5.0), "telea:radius=5.0"),
        ("localizer", GradCam(layer="network.features.4"), "grad-cam:layer=network.features.4"),
        ("localizer", GradientXActivation(), "gradient-x-activation"),
        ("restorer", Jpeg(quality=40, places=1), "jpeg:quality=40,places=1"),
        ("threshold", 0.7, 0.7),
        ("without", None, None),
        ("seed", 3, 3),
    ],
)
def test_an_option_is_kept_as_what_builds_it_again(name: str, value: Any, expected: Any) -> None:
    kept = option_of(name, value)
    assert kept == expected
    family = f"{name}s"
    if family in FAMILIES:
        assert create(family, kept) == value
        assert kept.startswith(name_of(value))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("inpainter", object(), r"inpainter: expected one of biharmonic, gan, .*, got <object"),
        ("inpainter", GradCam(), r"inpainter: expected one of biharmonic, gan, .*, got GradCam\("),
        ("restorer", lambda images: images, r"restorer: expected one of .*jpeg.*, got <function"),
    ],
)
def test_what_the_registry_does_not_know_cannot_be_kept(name: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        option_of(name, value)


def test_a_method_is_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "two_stripes.py").write_text(STRIPES)
    monkeypatch.setattr(februus.triggers, "__path__", [*februus.triggers.__path__, str(tmp_path)])
    try:
        assert "two-stripes" in available("triggers")
        stripes = create("triggers", "two-stripes:grey=0.5")
        assert spec_of(stripes) == "two-stripes:grey=0.5"
        assert stripes.grey == 0.5
    finally:
        sys.modules.pop("februus.triggers.two_stripes", None)
        vars(februus.triggers).pop("two_stripes", None)
    monkeypatch.undo()
    assert "two-stripes" not in available("triggers")
