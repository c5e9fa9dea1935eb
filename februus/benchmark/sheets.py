"""Tables of figures, ready to be written as Markdown or as a page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from februus.benchmark.evaluation import Row
from februus.benchmark.leaderboard import STOPPED, Pair, Span, Standing
from februus.metrics import Auroc, Difference, Mean, Rate

__all__ = ["Cell", "Sheet", "exceptions", "figures", "markdown_table", "standings", "verdicts"]


@dataclass(frozen=True)
class Cell:
    """What stands at one place of a table.

    Args:
        text: the figure or the name.
        around: its interval or its range.
        made_of: the counts behind it.
        value: what to sort by; None of names, and where nothing was measured.
    """

    text: str = ""
    around: str = ""
    made_of: str = ""
    value: float | None = None


@dataclass(frozen=True)
class Sheet:
    """A table: its headings, and lines of as many cells."""

    headings: list[str]
    lines: list[list[Cell]]

    @classmethod
    def of(cls, lines: Sequence[Mapping[str, Cell]]) -> Sheet:
        """Make a table of lines, cells by their headings, the same in all; a column without any text is left out."""
        headings = [heading for heading in (lines[0] if lines else ()) if any(line[heading].text for line in lines)]
        return cls(headings, [[line[heading] for heading in headings] for line in lines])

    @property
    def markdown(self) -> str:
        """The table in GitHub's Markdown."""
        lines = ([f"{cell.text} {cell.around}".strip() for cell in line] for line in self.lines)
        return markdown_table([self.headings, *lines])


def markdown_table(lines: Sequence[Sequence[str]]) -> str:
    r"""Return lines of texts, the headings first, as a table of GitHub's Markdown.

    >>> print(markdown_table([["a", "b"], ["1", "2|3"]]), end="")
    | a | b |
    | --- | --- |
    | 1 | 2\|3 |
    """
    headings, *others = lines
    cells = [headings, ["---"] * len(headings), *others]
    return "".join(f"| {' | '.join(text.replace('|', chr(92) + '|') for text in line)} |\n" for line in cells)


def figures(rows: Sequence[Row], seeds: Sequence[int] = ()) -> Sheet:
    """Return all figures, a line a row.

    Args:
        rows: what was measured.
        seeds: of each, where they are to be told.
    """
    lines = []
    for index, row in enumerate(rows):
        seed = {"seed": Cell(str(seeds[index]), value=seeds[index])} if seeds else {}
        lines.append({"case": Cell(row.name), "preset": Cell(row.preset), **seed, **_figures(row)})
    return Sheet.of(lines)


def standings(board: Sequence[Standing]) -> Sheet:
    """Return the leaderboard, a line a defense, numbered in its order."""
    return Sheet.of([
        {
            "rank": Cell(str(rank), value=rank),
            "defense": Cell(standing.preset),
            "cases": _count(standing),
            "ASR left": _span(standing.attack_success_rate, ".3f"),
            "excess ASR": _span(standing.excess_attack_success_rate, "+.3f"),
            f"excess ≤\N{NO-BREAK SPACE}{STOPPED}": _share(standing.stopped),
            "CA loss": _span(standing.clean_accuracy_loss, "+.3f"),
            "RA loss": _span(standing.recovered_accuracy_loss, "+.3f"),
            "AUROC": _span(standing.auroc, ".3f"),
            "FLOPs, clean": _span(standing.flops_clean, ".1f"),
            "FLOPs, triggered": _span(standing.flops_triggered, ".1f"),
            "time, clean": _span(standing.time_clean, ".1f"),
            "time, triggered": _span(standing.time_triggered, ".1f"),
        }
        for rank, standing in enumerate(board, 1)
    ])  # fmt: skip


def verdicts(pairs: Sequence[Pair]) -> Sheet:
    """Return in how many cases a defense is not behind: a line for each other one, then for all of them."""
    others = dict.fromkeys(pair.other for pair in pairs)
    lines = [_verdict(other, [[pair] for pair in pairs if pair.other == other]) for other in others]
    if len(others) > 1:
        cases = dict.fromkeys((pair.name, pair.seed) for pair in pairs)
        together = [[pair for pair in pairs if (pair.name, pair.seed) == case] for case in cases]
        lines.append(_verdict("any of them, counted singly", [[pair] for pair in pairs]))
        lines.append(_verdict("all of them at once", together))
    return Sheet.of(lines)


def exceptions(pairs: Sequence[Pair]) -> Sheet:
    """Return the pairs in which a defense is behind, with the figures that say so."""
    return Sheet.of([
        {
            "case": Cell(pair.name),
            "seed": Cell(str(pair.seed), value=pair.seed),
            "against": Cell(pair.other),
            "behind on": Cell(" and ".join(_behind_on(pair))),
            "excess ASR": _figure(pair.excess),
            "the other's excess ASR": _figure(pair.excess_of_other),
            "CA loss": _figure(pair.loss),
            "the other's CA loss": _figure(pair.loss_of_other),
        }
        for pair in pairs
        if not pair.holds
    ])  # fmt: skip


def _behind_on(pair: Pair) -> Iterable[str]:
    if not pair.stops_as_much:
        yield "excess ASR"
    if not pair.costs_no_more:
        yield "CA loss" + (", within the interval" if pair.costs_hardly_more else "")


def _verdict(name: str, cases: Sequence[Sequence[Pair]]) -> dict[str, Cell]:
    """Return a line on cases of which each has one pair or several, that must all hold."""
    return {
        "against": Cell(name),
        "excess ASR not behind": _share_of(all(pair.stops_as_much for pair in case) for case in cases),
        "CA loss equal or smaller": _share_of(all(pair.costs_no_more for pair in case) for case in cases),
        "both": _share_of(all(pair.holds for pair in case) for case in cases),
        "both, CA loss by its interval": _share_of(
            all(pair.stops_as_much and pair.costs_hardly_more for pair in case) for case in cases
        ),
    }


def _share_of(outcomes: Iterable[bool]) -> Cell:
    found = list(outcomes)
    return _share(Rate(sum(found), len(found)))


def _share(rate: Rate) -> Cell:
    return Cell(f"{rate.count} of {rate.total}", value=rate.value) if rate.total else Cell()


def _count(standing: Standing) -> Cell:
    triggered = standing.stopped.total
    return Cell(str(standing.cases), f"({triggered} triggered)", value=standing.cases)


def _span(span: Span | None, form: str) -> Cell:
    if span is None:
        return Cell()
    # Adding zero takes the sign from what was rounded to it.
    mean, smallest, largest = (
        format(round(value, 3) + 0.0, form) for value in (span.mean, span.smallest, span.largest)
    )
    return Cell(mean, f"({smallest} to {largest})", value=span.mean)


def _figures(row: Row) -> dict[str, Cell]:
    """Return the figures by their headings, empty where nothing was measured."""
    rates, differences, seen = row.rates, row.differences, row.detection
    return {
        "CA before": _figure(rates["clean_accuracy_before"]),
        "CA": _figure(rates["clean_accuracy_after"]),
        "CA loss": _figure(differences["clean_accuracy_loss"]),
        "ASR before": _figure(rates.get("attack_success_rate_before")),
        "ASR": _figure(rates.get("attack_success_rate_after")),
        "excess ASR": _figure(differences.get("excess_attack_success_rate")),
        "RA": _figure(rates.get("recovered_accuracy")),
        "RA loss": _figure(differences.get("recovered_accuracy_loss")),
        "DER": _number(row.effectiveness, 1, ".3f"),
        "flagged, clean": _figure(rates["flagged_clean"]),
        "flagged, triggered": _figure(rates.get("flagged_triggered")),
        "AUROC": _figure(seen.auroc if seen else None),
        "TPR at 1 %": _figure(seen.tpr_at_1_percent if seen else None),
        "TPR at 5 %": _figure(seen.tpr_at_5_percent if seen else None),
        "PSNR, dB": _figure(row.psnr),
        "SSIM": _figure(row.ssim),
        "FLOPs, clean": _flops(row.flops_clean, row.flops_inpainter_clean),
        "FLOPs, triggered": _flops(row.flops_triggered, row.flops_inpainter_triggered),
        "ms, clean": _number(row.seconds_clean, 1e3, ".2f"),
        "ms, triggered": _number(row.seconds_triggered, 1e3, ".2f"),
        "MB at peak": _number(row.bytes_at_peak, 1e-6, ".1f"),
    }


def _figure(figure: Rate | Difference | Auroc | Mean | None) -> Cell:
    if figure is None:
        return Cell()
    text, _, around = str(figure).partition(" ")
    if isinstance(figure, Rate):
        made_of = f"{figure.count} of {figure.total}"
    elif isinstance(figure, Difference):
        made_of = f"+{figure.plus} -{figure.minus} of {figure.total}"
    elif isinstance(figure, Auroc):
        made_of = f"{figure.clean} and {figure.triggered}"
    else:
        made_of = f"mean of {figure.total}"
    return Cell(text, around, made_of, figure.value)


def _flops(own: float | None, restoring: float | None) -> Cell:
    if own is None or restoring is None:
        return Cell()
    return Cell(f"{own:.1f} +{restoring:.1f}", value=own + restoring)


def _number(value: float | None, unit: float, form: str) -> Cell:
    return Cell() if value is None else Cell(format(value * unit, form), value=value)
