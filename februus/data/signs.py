"""Synthetic traffic signs, drawn here: a data set that needs no download.

Twelve classes of European signs. Each is drawn once, large, and set into a scene of its own with a random background,
size, place, pose, light, blur, occlusion and noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch

from februus.checks import check_choice, check_range
from februus.data.dataset import Dataset

__all__ = ["signs"]

Array = npt.NDArray[Any]
Points = Sequence[tuple[float, float]] | Array
Colour = tuple[int, int, int, int]
Draw = Callable[[Array], None]

PICTURES = {"train": 6000, "test": 1500}

TEMPLATE_SIDE = 256
# Templates are drawn without antialiasing this many times larger and averaged down.
SUPERSAMPLING = 4
# The share of the template that a sign fills, so that its rim fades within.
EXTENT = 0.97

RED, BLUE, YELLOW = (200, 24, 32, 255), (16, 82, 172, 255), (250, 196, 16, 255)
WHITE, BLACK = (246, 246, 242, 255), (16, 16, 18, 255)


def signs(split: str, *, image_size: int = 32, seed: int = 0, count: int | None = None) -> Dataset:
    """Draw pictures of traffic signs.

    A picture depends on ``seed``, ``split``, ``image_size`` and its index alone, so that a smaller ``count`` gives the
    first pictures of a larger one. Each run of twelve pictures shows every class once.

    Args:
        split: ``train`` or ``test``.
        image_size: height and width in pixels, 16 or more.
        seed: 0 or more.
        count: how many pictures, by default 6,000 for ``train`` and 1,500 for ``test``.

    Raises:
        ValueError: if an argument is out of its range.

    >>> signs("train", count=24)
    Dataset(name='signs', pictures=24, image_size=(32, 32), num_classes=12)
    """
    check_choice("split", split, PICTURES)
    check_range("image_size", image_size, 16)
    check_range("seed", seed, 0)
    total = PICTURES[split] if count is None else count
    check_range("count", total, 1)

    key = (seed, list(PICTURES).index(split))
    classes = tuple(_templates())
    blocks = np.tile(np.arange(len(classes)), (math.ceil(total / len(classes)), 1))
    # Four words, as numpy takes (seed, split) for (seed, split, 0), which is the first picture's.
    labels = np.random.default_rng([*key, 0, 1]).permuted(blocks, axis=1).ravel()[:total]
    images = np.empty((total, 3, image_size, image_size), np.uint8)
    for index, label in enumerate(labels):
        picture = _picture(classes[label], image_size, np.random.default_rng([*key, index]))
        images[index] = picture.transpose(2, 0, 1)
    return Dataset(
        name="signs", images=torch.from_numpy(images), labels=torch.from_numpy(labels.astype(np.int64)), classes=classes
    )


# --- a scene ---------------------------------------------------------------------------------------------------------


def _picture(name: str, side: int, rng: np.random.Generator) -> Array:
    """Return one picture (H, W, 3) of the sign ``name``."""
    scene = _background(side, rng)
    size = side * rng.uniform(0.64, 0.94)
    slack = (side - size) / 2
    center = side / 2 + rng.uniform(-1, 1, 2) * slack
    if rng.random() < 0.7:
        _post(scene, center, size, rng)
    level, pose = _pose(size, center, rng)
    template = _templates()[name][level]
    sign = cv2.warpPerspective(template, pose, (side, side), flags=cv2.INTER_LINEAR).astype(np.float32) / 255
    # The template's colours are premultiplied with its opacity; the sign's own light is the scene's.
    scene *= 1 - sign[..., 3:]
    scene += sign[..., :3] * np.float32(rng.uniform(0.8, 1.0))
    if rng.random() < 0.35:
        _occlude(scene, center, size, rng)
    return _photograph(scene, rng)


def _pose(size: float, center: Array, rng: np.random.Generator) -> tuple[int, Array]:
    """Return the level of the template to take and the homography (3, 3) from its pixels to the picture's."""
    level = int(np.searchsorted(_SIDES, size).clip(max=len(_SIDES) - 1))
    pitch, yaw, roll = np.radians(rng.uniform(-1, 1, 3) * (18, 28, 9))
    cos_pitch, sin_pitch, cos_yaw, sin_yaw = math.cos(pitch), math.sin(pitch), math.cos(yaw), math.sin(yaw)
    cos_roll, sin_roll = math.cos(roll), math.sin(roll)
    # The first two columns of Rz(roll) Ry(yaw) Rx(pitch): where the axes of the sign's plane point.
    right = (cos_roll * cos_yaw, sin_roll * cos_yaw, -sin_yaw)
    down = (
        cos_roll * sin_yaw * sin_pitch - sin_roll * cos_pitch,
        sin_roll * sin_yaw * sin_pitch + cos_roll * cos_pitch,
        cos_yaw * sin_pitch,
    )
    # The eye is two sign sizes away, close enough for perspective to show.
    plane = np.array([[right[0], down[0], 0], [right[1], down[1], 0], [right[2] / 4, down[2] / 4, 1]])
    unit = 2 / _SIDES[level]
    shift = unit / 2 - 1
    to_unit = np.array([[unit, 0, shift], [0, unit, shift], [0, 0, 1]])
    to_picture = np.array([[size / 2, 0, center[0] - 0.5], [0, size / 2, center[1] - 0.5], [0, 0, 1]])
    return level, to_picture @ plane @ to_unit


def _background(side: int, rng: np.random.Generator) -> Array:
    """Return a street, a hedge or a wall (H, W, 3) in [0, 1]."""
    return (_street, _hedge, _wall)[rng.choice(3, p=(0.5, 0.25, 0.25))](side, rng)


def _street(side: int, rng: np.random.Generator) -> Array:
    sky = np.array(((0.45, 0.62, 0.88), (0.74, 0.76, 0.8), (0.9, 0.74, 0.6))[rng.integers(3)]) * rng.uniform(0.75, 1)
    scene = _gradient(side, sky, np.minimum(sky * 0.5 + 0.5, 1) * rng.uniform(0.8, 1))
    horizon = side * rng.uniform(0.45, 0.75)
    if rng.random() < 0.5:
        for _ in range(3):
            left, width, height = rng.uniform((-0.2, 0.2, 0.1), (0.9, 0.5, 0.45)) * side
            colour = rng.uniform(0.3, 0.7) * np.array(((1, 0.9, 0.8), (1, 0.7, 0.6), (0.8, 0.9, 1))[rng.integers(3)])
            _rectangle(scene, left, horizon - height, width, side, colour)
    tree = np.array((0.25, 0.4, 0.16)) * rng.uniform(0.5, 1.2)
    tops = horizon - side * rng.uniform(0.02, 0.3, 6)
    row = [(side * step / 5, top) for step, top in enumerate(tops)]
    _fill(scene, [*row, (side, side), (0, side)], tree)
    grass = np.array((0.36, 0.42, 0.24)) * rng.uniform(0.6, 1.3)
    _rectangle(scene, 0, horizon, side, side, grass)
    vanishing, left, right = rng.uniform((0, -0.8, 0.6), (1, 0.4, 1.8)) * side
    grey = np.full(3, rng.uniform(0.25, 0.5))
    _fill(scene, [(vanishing, horizon), (right, side), (left, side)], grey)
    middle, half = (left + right) / 2, 0.04 * side
    _fill(scene, [(vanishing, horizon), (middle + half, side), (middle - half, side)], grey + 0.4)
    return scene * _texture(side, 0.12, rng)


def _hedge(side: int, rng: np.random.Generator) -> Array:
    dark = np.array(((0.16, 0.3, 0.1), (0.35, 0.26, 0.1), (0.2, 0.3, 0.24))[rng.integers(3)]) * rng.uniform(0.6, 1.2)
    scene = _gradient(side, dark * rng.uniform(0.8, 1.6), dark * rng.uniform(0.5, 1))
    return scene * _texture(side, 0.5, rng)


def _wall(side: int, rng: np.random.Generator) -> Array:
    colour = rng.uniform(0.35, 0.85) * rng.uniform(0.75, 1, 3)
    scene = _gradient(side, colour, colour * rng.uniform(0.6, 1.1))
    for _ in range(rng.integers(1, 4)):
        left, top = rng.uniform(-0.2, 1, 2) * side
        width, height = rng.uniform(0.15, 0.5, 2) * side
        _rectangle(scene, left, top, width, height, colour * rng.uniform(0.4, 1.2, 3))
    return scene * _texture(side, 0.15, rng)


def _fill(scene: Array, points: Points, colour: Array) -> None:
    # Four fractional bits place corners between pixels.
    corners = np.round(np.array(points) * 16).astype(np.int32)
    cv2.fillPoly(scene, [corners], colour.tolist(), cv2.LINE_AA, 4)


def _rectangle(scene: Array, left: float, top: float, width: float, height: float, colour: Array) -> None:
    right, bottom = left + width, top + height
    _fill(scene, [(left, top), (right, top), (right, bottom), (left, bottom)], colour)


def _gradient(side: int, top: Array, bottom: Array) -> Array:
    ramp = np.linspace(0, 1, side, dtype=np.float32)[:, None, None]
    rows = top.astype(np.float32) * (1 - ramp) + bottom.astype(np.float32) * ramp
    return np.repeat(rows, side, axis=1)


def _texture(side: int, strength: float, rng: np.random.Generator) -> Array:
    """Return a factor (H, W, 1) around 1: smooth noise on three scales."""
    noise = np.zeros((side, side), np.float32)
    for cells, weight in ((5, 0.5), (14, 0.8), (40, 0.5)):
        grid = rng.standard_normal((cells, cells), dtype=np.float32) * np.float32(weight * strength)
        noise += cv2.resize(grid, (side, side), interpolation=cv2.INTER_CUBIC)
    return np.exp(noise)[..., None]


def _post(scene: Array, center: Array, size: float, rng: np.random.Generator) -> None:
    side = len(scene)
    half = size * rng.uniform(0.03, 0.05)
    lean = size * rng.uniform(-0.05, 0.05)
    x, y = center
    _fill(
        scene,
        [(x - half, y), (x + half, y), (x + half + lean, side), (x - half + lean, side)],
        np.full(3, rng.uniform(0.35, 0.7)),
    )


def _occlude(scene: Array, center: Array, size: float, rng: np.random.Generator) -> None:
    """Lay up to three leaves over the rim of the sign, 15 % of its area at most."""
    colour = np.array(((0.2, 0.36, 0.1), (0.42, 0.3, 0.12), (0.3, 0.32, 0.3))[rng.integers(3)]) * rng.uniform(0.6, 1.3)
    for _ in range(rng.integers(1, 4)):
        angle, tilt = rng.uniform(0, 2 * math.pi, 2)
        place = center + size * rng.uniform(0.32, 0.5) * np.array((math.cos(angle), math.sin(angle)))
        length, width = size * rng.uniform((0.08, 0.04), (0.15, 0.08))
        outline = np.array(_arc((0, 0), (length, width), 0, 360))
        turn = np.array(((math.cos(tilt), math.sin(tilt)), (-math.sin(tilt), math.cos(tilt))))
        _fill(scene, outline @ turn + place, colour * rng.uniform(0.8, 1.2))


def _photograph(scene: Array, rng: np.random.Generator) -> Array:
    """Return the scene as bytes after light, colour cast, blur and sensor noise."""
    side = len(scene)
    slope = rng.uniform(-0.2, 0.2, 2)
    ramp = np.linspace(-1, 1, side, dtype=np.float32)
    light = 1 + np.float32(slope[0]) * ramp[:, None] + np.float32(slope[1]) * ramp
    gain = rng.uniform(0.6, 1.15) * rng.uniform(0.92, 1.08, 3)
    contrast = rng.uniform(0.75, 1.1)
    haze = rng.uniform(0.3, 0.5) * (1 - contrast)
    scene = scene * light[..., None] * (gain * contrast).astype(np.float32) + np.float32(haze)
    sigma = rng.uniform(0, 0.018) * side
    if sigma > 0.3:
        scene = cv2.GaussianBlur(scene, (0, 0), sigma)
    scene = scene + rng.standard_normal(scene.shape, dtype=np.float32) * np.float32(rng.uniform(0, 0.03))
    return (scene.clip(0, 1) * 255 + 0.5).astype(np.uint8)


# --- the signs -------------------------------------------------------------------------------------------------------
# Coordinates are those of the sign: -1 to 1, y downwards.

_SIDES = sorted(round(TEMPLATE_SIDE / 2 ** (step / 2)) for step in range(10))


@cache
def _templates() -> dict[str, list[Array]]:
    """Return for each class its sign, premultiplied RGBA, at the sides `_SIDES`."""
    draws: dict[str, Draw] = {
        "stop": _stop,
        "yield": _yield,
        "no-entry": _no_entry,
        "speed-30": partial(_speed, tens="3"),
        "speed-50": partial(_speed, tens="5"),
        "speed-80": partial(_speed, tens="8"),
        "priority-road": _priority_road,
        "danger": _danger,
        "keep-right": partial(_arrow, degrees=135),
        "ahead-only": partial(_arrow, degrees=0),
        "pedestrian-crossing": _pedestrian_crossing,
        "parking": _parking,
    }
    return {name: _pyramid(draw) for name, draw in draws.items()}


def _pyramid(draw: Draw) -> list[Array]:
    large = np.zeros((TEMPLATE_SIDE * SUPERSAMPLING,) * 2 + (4,), np.uint8)
    draw(large)
    return [cv2.resize(large, (side, side), interpolation=cv2.INTER_AREA) for side in _SIDES]


def _pixels(picture: Array, points: Points) -> Array:
    return np.round((np.array(points) * EXTENT + 1) / 2 * len(picture)).astype(np.int32)


def _polygon(picture: Array, points: Points, colour: Colour, *, rounding: float = 0) -> None:
    """Fill a polygon; ``rounding`` is the radius that its corners get, added all around."""
    corners = _pixels(picture, points)
    cv2.fillPoly(picture, [corners], colour)
    if rounding:
        thickness = round(rounding * EXTENT * len(picture))
        cv2.polylines(picture, [corners], isClosed=True, color=colour, thickness=thickness)


def _stroke(picture: Array, points: Points, colour: Colour, width: float) -> None:
    thickness = round(width * EXTENT / 2 * len(picture))
    cv2.polylines(picture, [_pixels(picture, points)], isClosed=False, color=colour, thickness=thickness)


def _disc(picture: Array, radius: float, colour: Colour, center: tuple[float, float] = (0, 0)) -> None:
    cv2.circle(picture, _pixels(picture, [center])[0].tolist(), round(radius * EXTENT / 2 * len(picture)), colour, -1)


def _arc(
    center: tuple[float, float], radii: tuple[float, float], start: float, end: float
) -> list[tuple[float, float]]:
    """Return points on an ellipse from angle ``start`` to ``end`` in degrees, clockwise from the right."""
    angles = np.radians(np.linspace(start, end, 25))
    return [(center[0] + radii[0] * math.cos(angle), center[1] + radii[1] * math.sin(angle)) for angle in angles]


# Strokes of the characters in a box from -1 to 1.
_CHARACTERS: dict[str, list[list[tuple[float, float]]]] = {
    "0": [_arc((0, -0.35), (1, 0.65), 180, 360) + _arc((0, 0.35), (1, 0.65), 0, 180) + [(-1, -0.35)]],
    "3": [_arc((-0.05, -0.5), (0.9, 0.5), 205, 450), _arc((-0.05, 0.5), (1.05, 0.5), 270, 515)],
    "5": [[(0.85, -1), (-0.75, -1), (-0.9, -0.02), *_arc((-0.05, 0.35), (1.05, 0.65), 232, 500)]],
    "8": [_arc((0, -0.52), (0.85, 0.48), 0, 360), _arc((0, 0.48), (1, 0.52), 0, 360)],
    "S": [_arc((0, -0.5), (0.9, 0.5), 330, 90) + _arc((0, 0.5), (0.9, 0.5), 270, 510)],
    "T": [[(-1, -1), (1, -1)], [(0, -1), (0, 1)]],
    "P": [[(-0.8, 1), (-0.8, -1), *_arc((0.1, -0.45), (0.8, 0.55), 270, 450), (-0.8, 0.1)]],
}
_CHARACTERS["O"] = _CHARACTERS["0"]


def _write(
    picture: Array,
    text: str,
    colour: Colour,
    *,
    center: tuple[float, float] = (0, 0),
    size: tuple[float, float],
    pitch: float = 0,
    width: float,
) -> None:
    """Write ``text``; ``size`` is half a character's width and height, ``pitch`` the way from one to the next."""
    for place, character in enumerate(text):
        x = center[0] + (place - (len(text) - 1) / 2) * pitch
        for stroke in _CHARACTERS[character]:
            _stroke(picture, [(x + size[0] * u, center[1] + size[1] * v) for u, v in stroke], colour, width)


def _stop(picture: Array) -> None:
    octagon = np.array([(math.cos(angle), math.sin(angle)) for angle in np.radians(np.arange(22.5, 360, 45))])
    _polygon(picture, octagon / math.cos(math.pi / 8), WHITE)
    _polygon(picture, octagon * 0.92 / math.cos(math.pi / 8), RED)
    _write(picture, "STOP", WHITE, size=(0.13, 0.3), pitch=0.42, width=0.13)


def _yield(picture: Array) -> None:
    triangle = np.array([(-0.88, -0.72), (0.88, -0.72), (0, 0.8)])
    _polygon(picture, triangle, RED, rounding=0.11)
    _polygon(picture, triangle * 0.62 + (0, -0.09), WHITE, rounding=0.04)


def _danger(picture: Array) -> None:
    triangle = np.array([(-0.88, 0.72), (0.88, 0.72), (0, -0.8)])
    _polygon(picture, triangle, RED, rounding=0.11)
    _polygon(picture, triangle * 0.68 + (0, 0.06), WHITE, rounding=0.04)
    _polygon(picture, [(-0.09, -0.22), (0.09, -0.22), (0.05, 0.24), (-0.05, 0.24)], BLACK, rounding=0.03)
    _disc(picture, 0.11, BLACK, (0, 0.46))


def _no_entry(picture: Array) -> None:
    _disc(picture, 1, WHITE)
    _disc(picture, 0.93, RED)
    _polygon(picture, [(-0.7, -0.17), (0.7, -0.17), (0.7, 0.17), (-0.7, 0.17)], WHITE, rounding=0.03)


def _speed(picture: Array, *, tens: str) -> None:
    _disc(picture, 1, RED)
    _disc(picture, 0.76, WHITE)
    _write(picture, tens + "0", BLACK, size=(0.2, 0.36), pitch=0.63, width=0.17)


def _priority_road(picture: Array) -> None:
    diamond = np.array([(0, -0.94), (0.94, 0), (0, 0.94), (-0.94, 0)])
    _polygon(picture, diamond, BLACK, rounding=0.06)
    _polygon(picture, diamond * 0.97, WHITE, rounding=0.05)
    _polygon(picture, diamond * 0.66, YELLOW, rounding=0.04)


def _arrow(picture: Array, *, degrees: float) -> None:
    """Draw a mandatory direction; ``degrees`` turns the arrow clockwise from straight ahead."""
    _disc(picture, 1, WHITE)
    _disc(picture, 0.94, BLUE)
    right = [(0.11, 0.7), (0.11, -0.25), (0.4, 0.05), (0.4, -0.25)]
    left = [(-x, y) for x, y in reversed(right)]
    arrow = np.array([*right, (0, -0.68), *left])
    angle = math.radians(degrees)
    turn = np.array([(math.cos(angle), math.sin(angle)), (-math.sin(angle), math.cos(angle))])
    _polygon(picture, arrow @ turn, WHITE, rounding=0.03)


def _square(picture: Array) -> None:
    square = np.array([(-0.82, -0.82), (0.82, -0.82), (0.82, 0.82), (-0.82, 0.82)])
    _polygon(picture, square, WHITE, rounding=0.12)
    _polygon(picture, square * 0.97, BLUE, rounding=0.08)


def _pedestrian_crossing(picture: Array) -> None:
    _square(picture)
    _polygon(picture, [(0, -0.68), (0.7, 0.62), (-0.7, 0.62)], WHITE, rounding=0.06)
    for left in (-0.5, -0.2, 0.1, 0.4):
        _polygon(picture, [(left, 0.62), (left + 0.12, 0.62), (left + 0.08, 0.5), (left + 0.02, 0.5)], BLACK)
    _disc(picture, 0.1, BLACK, (0.03, -0.36))
    _stroke(picture, [(0.02, -0.18), (-0.02, 0.1)], BLACK, 0.17)
    _stroke(picture, [(-0.24, 0.05), (-0.08, -0.14), (0.08, -0.14), (0.24, 0.04)], BLACK, 0.08)
    _stroke(picture, [(-0.26, 0.44), (-0.02, 0.1), (0.12, 0.28), (0.22, 0.44)], BLACK, 0.11)


def _parking(picture: Array) -> None:
    _square(picture)
    _write(picture, "P", WHITE, center=(0.06, 0), size=(0.4, 0.52), width=0.24)
