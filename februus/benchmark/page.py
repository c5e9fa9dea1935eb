"""A benchmark as one page for a browser, which needs nothing else."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from math import dist, log10
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from februus.benchmark.evaluation import Row
from februus.benchmark.leaderboard import Pair, Standing
from februus.benchmark.sheets import exceptions, figures, standings, verdicts

__all__ = ["COMPARISON_NOTE", "GLOSSARY", "LEADERBOARD_NOTE", "draw_page"]

LEADERBOARD_NOTE = """Means over cases, and in brackets the smallest and the largest; a checkpoint with a trigger and a
seed is a case. Sorted by the ASR that is left, then by the loss of clean accuracy. Where numbers of cases
differ, the means are not over the same.
"""
COMPARISON_NOTE = """On each case with a trigger. Not behind on excess ASR: it is at most the upper bound of the other's
95 % interval. CA loss equal or smaller: to the picture; by its interval: at most the upper bound of the other's.
"""
GLOSSARY = {
    "CA": "Clean accuracy: share of clean pictures that get their class.",
    "ASR": "Attack success rate: share of triggered pictures of other classes that are taken for the attacker's class.",
    "RA": "Recovered accuracy: share of triggered pictures that get their true class.",
    "excess ASR": "ASR, less the rate at which the model without defense takes the same pictures for that class when "
    "they bear no trigger. Below 0, the defense also corrects errors of the model.",
    "CA loss, RA loss": "Against the model without defense on the same pictures without trigger. Below 0, the defense "
    "gains.",
    "DER": "Defense effectiveness rating: (drop of ASR - drop of CA + 1) / 2. 1 is best, 0.5 is as without defense.",
    "flagged": "Share of pictures that the defense suspects of a trigger.",
    "AUROC": "How often a triggered picture is scored as more suspicious than a clean one. 0.5 is chance.",
    "TPR at 1 %, 5 %": "Share of triggered pictures that score above the threshold which that share of the clean "
    "ones exceed.",
    "PSNR, SSIM": "How like the restored picture is to the same without trigger: of whole pictures, over those that "
    "were restored.",
    "FLOPs": "Relative to one forward of the model alone. The leaderboard includes the inpainter's, which stand behind "
    "the + elsewhere.",
    "time": "Wall time relative to the model alone on the same pictures in the same run.",
    "MB at peak": "Memory that a batch took at its peak.",
    "oracle": "Not a defense, but a bound: it knows the pixels that the trigger changed, and restores them.",
    "reject": "A defense that gives suspected pictures no answer. Such a picture counts as an error for CA and RA.",
    "+a -b of n": "The pictures behind a loss: of n, a that only the model alone gets right, b that only the defense "
    "does. Behind excess ASR: a that only the defense takes for the attacker's class, b that only the model does.",
    "[low, high]": "The 95 % interval: Wilson's of rates, Bonett and Price's of losses and of excess ASR, Newcombe's "
    "of AUROC, Student's of PSNR and SSIM.",
    "(low to high)": "The smallest and the largest of the cases that a mean is taken over. Each case weighs the same.",
}
# Colours that the page replaces, so that light and dark are the browser's choice.
INK, FILL = "#010203", "#040506"
# Where a number may stand beside its point: in points, from near to far.
PLACES = [
    (radius * across, radius * up)
    for radius in (13, 20, 28)
    for across, up in ((1, 0), (0.7, 0.7), (0, 1), (-0.7, 0.7), (-1, 0), (-0.7, -0.7), (0, -1), (0.7, -0.7))
]


def draw_page(
    report: Mapping[str, Any], board: Sequence[Standing], pairs: Mapping[str, Sequence[Pair]], pictures: Path
) -> str:
    """Return the page.

    Args:
        report: what ``report.json`` holds.
        board: the leaderboard.
        pairs: by the preset that is compared with the others.
        pictures: the folder of those that the rows name.
    """
    environment = Environment(
        loader=PackageLoader("februus.benchmark"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    rows = [Row.from_dict(row) for row in report["rows"]]
    compared = {
        preset: {"verdicts": verdicts(found), "exceptions": exceptions(found)} for preset, found in pairs.items()
    }
    return environment.get_template("report.html.j2").render(
        report=report,
        suite=yaml.safe_dump(report["suite"], sort_keys=False, allow_unicode=True),
        summary=_summary(board),
        scatter=_scatter(board),
        leaderboard=standings(board),
        compared=compared,
        cases=list(_cases(report["rows"], rows, pictures)),
        everything=figures(rows, [row["seed"] for row in report["rows"]]),
        glossary=GLOSSARY,
        leaderboard_note=LEADERBOARD_NOTE,
        comparison_note=COMPARISON_NOTE,
    )


def _summary(board: Sequence[Standing]) -> dict[str, Any] | None:
    """Return the defense that leaves the least ASR; None where no trigger was met."""
    best = board[0] if board else None
    if best is None or best.attack_success_rate is None or best.clean_accuracy_loss is None:
        return None
    return {
        "preset": best.preset,
        "left": f"{best.attack_success_rate.mean:.3f}",
        "loss": f"{best.clean_accuracy_loss.mean:+.3f}",
        "cases": best.attack_success_rate.cases,
    }


def _scatter(board: Sequence[Standing]) -> Markup | None:
    """Draw ASR left against CA loss as SVG, each defense numbered as in the leaderboard; None of nothing to draw."""
    points = list(_points(board))
    if not points:
        return None
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "februus", "font.family": "sans-serif", "font.size": 12}):
        figure = Figure(figsize=(5.8, 4.0), layout="constrained", facecolor="none")
        axes = figure.add_subplot(facecolor="none")
        axes.set_xlabel("CA loss, mean over cases", color=INK)
        axes.set_ylabel("ASR left, mean over cases", color=INK)
        axes.tick_params(colors=INK)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(INK)
        axes.grid(color=INK, alpha=0.15)
        axes.set_axisbelow(True)
        for _, loss, left, cost in points:
            marker = "D" if cost is None else "o"
            colour = "none" if cost is None else FILL
            axes.scatter(loss, left, _size(cost), c=colour, edgecolors=INK, marker=marker, alpha=0.85, zorder=3)
        axes.margins(0.09)
        shown = [axes.scatter([], [], _size(cost), c=FILL, edgecolors=INK) for cost in (1, 10, 100)]
        legend = axes.legend(
            shown,
            ["1", "10", "100"],
            title="FLOPs of a clean picture",
            loc="lower center",
            bbox_to_anchor=(0.5, 1.0),
            ncols=3,
            frameon=False,
            labelcolor=INK,
            borderaxespad=0.2,
        )
        legend.get_title().set_color(INK)
        figure.draw_without_rendering()
        _number_points(axes, points)
        drawn = io.StringIO()
        figure.savefig(drawn, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    svg = drawn.getvalue()
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor").replace(FILL, "var(--accent)")
    return Markup(svg.replace("<svg", '<svg role="img" aria-labelledby="scatter-caption"', 1))


def _points(board: Sequence[Standing]) -> Iterator[tuple[int, float, float, float | None]]:
    """Yield rank, loss of clean accuracy, ASR left and cost of the defenses that met a trigger."""
    for rank, standing in enumerate(board, 1):
        loss, left, cost = standing.clean_accuracy_loss, standing.attack_success_rate, standing.flops_clean
        if loss and left:
            yield rank, loss.mean, left.mean, cost.mean if cost else None


def _size(cost: float | None) -> float:
    """Return a point's area, which grows as the logarithm of its cost."""
    return 40.0 if cost is None else 40.0 + 120.0 * max(log10(cost), 0.0)


def _number_points(axes: Axes, points: Sequence[tuple[int, float, float, float | None]]) -> None:
    """Write each number beside its point, where it covers no other and no point."""
    scale = axes.figure.dpi / 72
    taken = [tuple(axes.transData.transform((loss, left))) for _, loss, left, _ in points]
    for (rank, loss, left, _), (across, up) in zip(points, list(taken), strict=True):
        numbers = [((across + right * scale, up + above * scale), (right, above)) for right, above in PLACES]
        free = [place for place in numbers if min(dist(place[0], other) for other in taken) > 12 * scale]
        there, place = (free or numbers)[0]
        taken.append(there)
        axes.annotate(
            str(rank),
            (loss, left),
            xytext=place,
            textcoords="offset points",
            ha="center",
            va="center",
            color=INK,
            fontweight="bold",
        )


def _cases(rows: Sequence[Mapping[str, Any]], read: Sequence[Row], pictures: Path) -> Iterator[dict[str, Any]]:
    """Yield the cases with what each defense made of them."""
    grouped: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for told, row in zip(rows, read, strict=True):
        sheet = figures([row])
        cells = dict(zip(sheet.headings, sheet.lines[0], strict=True))
        view = {"preset": row.preset, "cells": cells, "picture": _embed(pictures, told["picture"])}
        grouped.setdefault((row.name, told["seed"]), []).append(view)
    for (name, seed), views in grouped.items():
        yield {"name": name, "seed": seed, "views": views}


def _embed(folder: Path, picture: str | None) -> dict[str, Any] | None:
    """Return a picture as text, much smaller than the PNG, and its size; None where there is none."""
    if picture is None or not (folder / picture).is_file():
        return None
    packed = io.BytesIO()
    with Image.open(folder / picture) as image:
        image.convert("RGB").save(packed, "WEBP", quality=80, method=4)
        width, height = image.size
    source = f"data:image/webp;base64,{base64.b64encode(packed.getvalue()).decode()}"
    return {"source": source, "width": width, "height": height}
