from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from rich.console import Console

from februus.benchmark.evaluation import Row
from februus.benchmark.report import markdown, table, write_benchmark, write_report
from februus.metrics import Auroc, Detection, Difference, Mean, Rate

CLEAN = {
    "clean_accuracy_before": Rate(90, 100),
    "clean_accuracy_after": Rate(80, 100),
    "flagged_clean": Rate(10, 100),
}
ATTACKED = {
    "attack_success_rate_before": Rate(75, 75),
    "attack_success_rate_after": Rate(1, 75),
    "recovered_accuracy": Rate(60, 75),
    "flagged_triggered": Rate(74, 75),
}
CLEAN_LOSS = {"clean_accuracy_loss": Difference(12, 2, 100)}
LOSSES = {"excess_attack_success_rate": Difference(0, 3, 75), "recovered_accuracy_loss": Difference(9, 1, 75)}
ROW = Row(
    name="toy [a]",
    preset="paper",
    rates=CLEAN | ATTACKED,
    differences=CLEAN_LOSS | LOSSES,
    detection=Detection(Auroc(0.9, 50, 50), Rate(30, 50), Rate(40, 50)),
    flops_clean=2.04,
    flops_inpainter_clean=2.96,
    flops_triggered=31.5,
    flops_inpainter_triggered=10.25,
    seconds_clean=0.0125,
    seconds_plain_clean=0.001,
    seconds_triggered=0.025,
    seconds_plain_triggered=0.001,
    settings="Purifier()",
)
ORACLE = Row(
    name="toy [a]", preset="oracle", rates=CLEAN | ATTACKED, differences=CLEAN_LOSS | LOSSES, settings="MeanFill()"
)
CLEAN_ROW = Row(
    name="second",
    preset="verified",
    rates=CLEAN,
    differences=CLEAN_LOSS,
    flops_clean=3.0,
    flops_inpainter_clean=0.0,
    seconds_clean=0.001,
    seconds_plain_clean=0.0005,
    settings="Purifier()",
)


def text_of(*rows: Row, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width, markup=False)
    console.print(table(rows))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def cells_of(*rows: Row, width: int = 100) -> list[list[str]]:
    lines = [line.split("  ") for line in text_of(*rows, width=width).splitlines()]
    return [[cell.strip() for cell in line if cell.strip()] for line in lines]


@pytest.mark.parametrize("width", [100, 160])
def test_the_table_has_every_figure_with_its_interval(width: int) -> None:
    cells = cells_of(ROW, width=width)
    case = cells.index(["toy [a]"])
    assert cells[case + 1 : case + 5] == [
        ["paper clean", "0.800", "+0.100", "0.100", "2.0", "12.50"],
        ["[.711, .867]", "[+.024, +.173]", "+3.0"],
        ["paper triggered", "0.800", "+0.107", "1.000 → 0.013", "-0.040", "0.987", "31.5", "25.00"],
        ["[.696, .875]", "[+.019, +.189]", "[.002, .072]", "[-.095, +.017]", "+10.2"],
    ]
    for heading in ("accuracy", "loss of", "ASR before", "→ after", "excess", "flagged", "FLOPs", "ms"):
        assert any(heading in line for line in cells[:case]), heading


def test_rows_stand_under_their_cases() -> None:
    first = [line[0] for line in cells_of(ROW, ORACLE, CLEAN_ROW, width=160) if line]
    names = (
        "toy [a]",
        "second",
        "paper clean",
        "paper triggered",
        "oracle clean",
        "oracle triggered",
        "verified clean",
    )
    assert [cell for cell in first if cell in names] == [
        *("toy [a]", "paper clean", "paper triggered", "oracle clean", "oracle triggered"),
        *("second", "verified clean"),
    ]
    assert "oracle: exactly the pixels" in text_of(ROW, ORACLE)
    assert "oracle: exactly the pixels" in text_of(ROW, replace(ORACLE, preset="oracle:telea"))
    assert "oracle" not in text_of(ROW)


def test_the_oracle_costs_nothing() -> None:
    cells = cells_of(ROW, ORACLE, width=160)
    (clean,) = (line for line in cells if "oracle clean" in line)
    assert clean == ["oracle clean", "0.800", "+0.100", "0.100"]


def test_what_was_not_measured_is_not_in_the_table() -> None:
    text = text_of(CLEAN_ROW)
    for word in ("ASR", "excess", "verified triggered", "oracle"):
        assert word not in text
    for word in ("accuracy", "flagged", "FLOPs", "ms"):
        assert word in text


@pytest.mark.parametrize("width", [80, 100, 160])
def test_nothing_is_cut_off(width: int) -> None:
    long = Row(**{**vars(ROW), "name": "ibau-vgg-cifar10-trojan-square", "preset": "verified:false_positive_rate=0.01"})
    text = text_of(long, ROW, CLEAN_ROW, width=width)
    assert "…" not in text
    assert max(len(line) for line in text.splitlines()) <= width
    together = "".join(text.split())
    for word in ("0.987", "+10.2", "25.00", "12.50", "[a]"):
        assert word in together
    # A name that is broken goes on in the first column.
    breadth = next(line for line in text.splitlines() if line.startswith(" pictures")).index("accuracy")
    first = "".join(line[:breadth].strip() for line in text.splitlines())
    assert "ibau-vgg-cifar10-trojan-square" in first
    assert "verified:false_positive_rate=0.01" in first


def test_the_table_of_nothing() -> None:
    assert "case" in text_of()
    assert markdown([]) == "|  |\n|  |\n"


def test_markdown() -> None:
    lines = markdown([ROW, CLEAN_ROW]).splitlines()
    assert len(lines) == 4
    header, rule, first, second = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    assert len(header) == len(rule) == len(first) == len(second) == 19
    assert set(rule) == {"---"}
    assert dict(zip(header, first, strict=True)) == {
        "case": "toy [a]",
        "preset": "paper",
        "CA before": "0.900 [0.826, 0.945]",
        "CA": "0.800 [0.711, 0.867]",
        "CA loss": "+0.100 [+0.024, +0.173]",
        "ASR before": "1.000 [0.951, 1.000]",
        "ASR": "0.013 [0.002, 0.072]",
        "excess ASR": "-0.040 [-0.095, +0.017]",
        "RA": "0.800 [0.696, 0.875]",
        "RA loss": "+0.107 [+0.019, +0.189]",
        "flagged, clean": "0.100 [0.055, 0.174]",
        "flagged, triggered": "0.987 [0.928, 0.998]",
        "AUROC": "0.900 [0.816, 0.946]",
        "TPR at 1 %": "0.600 [0.462, 0.724]",
        "TPR at 5 %": "0.800 [0.670, 0.888]",
        "FLOPs, clean": "2.0 +3.0",
        "FLOPs, triggered": "31.5 +10.2",
        "ms, clean": "12.50",
        "ms, triggered": "25.00",
    }
    found = dict(zip(header, second, strict=True))
    assert (found["CA"], found["ASR"], found["RA loss"], found["ms, triggered"]) == ("0.800 [0.711, 0.867]", "", "", "")


def test_markdown_has_no_columns_of_nothing_and_no_broken_cells() -> None:
    header, _, line = markdown([Row(**{**vars(CLEAN_ROW), "name": "a|b"})]).splitlines()
    assert header == "| case | preset | CA before | CA | CA loss | flagged, clean | FLOPs, clean | ms, clean |"
    assert line.startswith(r"| a\|b | verified | 0.900")


def test_the_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["/somewhere/bin/februus", "evaluate", "--seed", "3"])
    write_report(tmp_path / "report.json", [ROW, ORACLE], seed=3)
    report = json.loads((tmp_path / "report.json").read_text())
    assert list(report) == ["command", "versions", "seed", "cases"]
    assert report["command"] == "februus evaluate --seed 3"
    assert report["versions"] == {name: version(name) for name in ("februus", "torch", "torchvision", "captum")}
    assert report["seed"] == 3
    assert report["cases"] == [ROW.to_dict(), ORACLE.to_dict()]
    assert report["cases"][1]["flops_clean"] is None


# --- the benchmark ---------------------------------------------------------------------------------------------------

# What stands where nothing was measured: a dash.
NOTHING = "\N{EN DASH}"
HOSTILE = "<b>$x_1$ & 'a|b'</b>"


def benchmark(*rows: Row, pictures: bool = True, **changes: Any) -> dict[str, Any]:
    """Return what a suite returns of ``rows``."""
    told = [
        {**row.to_dict(), "seed": index % 2, "picture": f"{index}.png" if pictures else None}
        for index, row in enumerate(rows)
    ]
    return {"rows": told, "suite": {"checkpoints": ["zoo"], "seeds": [0, 1]}, "failed": {}, **changes}


@pytest.fixture
def grid(tmp_path: Path) -> dict[str, Any]:
    """Two cases under some defenses, and their pictures."""
    verified = replace(ROW, preset="verified", flops_clean=5.0, psnr=Mean(30.0, 2.0, 60), ssim=Mean(0.9, 0.0, 1))
    verified = replace(verified, effectiveness=0.875, bytes_at_peak=12_345_678)
    behind = replace(verified, differences=CLEAN_LOSS | LOSSES | {"excess_attack_success_rate": Difference(60, 0, 75)})
    rows = [
        (ROW, 0),
        (verified, 0),
        (ORACLE, 0),
        (replace(ROW, preset=HOSTILE), 0),
        (ROW, 1),
        (behind, 1),
        (CLEAN_ROW, 0),
    ]
    (tmp_path / "cases").mkdir()
    for number in range(len(rows)):
        Image.new("RGB", (40, 20), (number * 30, 90, 20)).save(tmp_path / "cases" / f"{number}.png")
    report = benchmark(*(row for row, _ in rows), failed={"broken <i>": "images: expected float32, got uint8"})
    for told, (row, seed) in zip(report["rows"], rows, strict=True):
        told["seed"] = seed
        told["picture"] = None if row is ORACLE else told["picture"]
    return report


def test_a_benchmark_is_written_for_programs(
    tmp_path: Path, grid: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["februus", "bench", "--suite", "smoke"])
    write_benchmark(tmp_path, grid)
    report = json.loads((tmp_path / "report.json").read_text())
    assert list(report) == ["command", "versions", "rows", "suite", "failed"]
    assert report["command"] == "februus bench --suite smoke"
    assert report["versions"]["torch"] == version("torch")
    assert {name: report[name] for name in grid} == grid
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("cases", "report.csv", "report.html", "report.json", "report.md"),
    ]


def test_a_line_of_the_csv_has_all_that_a_figure_is_made_of(tmp_path: Path, grid: dict[str, Any]) -> None:
    write_benchmark(tmp_path, grid)
    with (tmp_path / "report.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 7
    first, second, oracle, hostile, *_, clean = lines
    assert (first["case"], first["preset"], first["seed"], first["picture"]) == ("toy [a]", "paper", "0", "0.png")
    assert hostile["preset"] == HOSTILE
    low, high = Rate(1, 75).interval
    rate = [first[f"attack_success_rate_after{part}"] for part in ("", "_count", "_total", "_low", "_high")]
    assert [float(value) for value in rate] == [1 / 75, 1, 75, low, high]
    low, high = Difference(12, 2, 100).interval
    loss = [first[f"clean_accuracy_loss{part}"] for part in ("", "_plus", "_minus", "_total", "_low", "_high")]
    assert [float(value) for value in loss] == [0.1, 12, 2, 100, low, high]
    assert [first[f"auroc{part}"] for part in ("", "_clean", "_triggered")] == ["0.9", "50", "50"]
    assert [second[f"psnr{part}"] for part in ("", "_deviation", "_total")] == ["30.0", "2.0", "60"]
    # One picture has no interval.
    assert [second[f"ssim{part}"] for part in ("", "_total", "_low", "_high")] == ["0.9", "1", "", ""]
    assert (second["effectiveness"], second["bytes_at_peak"], second["settings"]) == ("0.875", "12345678", "Purifier()")
    assert (oracle["flops_clean"], oracle["auroc"], oracle["picture"]) == ("", "", "")
    assert (clean["attack_success_rate_after"], clean["clean_accuracy_after_count"]) == ("", "80")


def test_the_columns_of_the_csv_do_not_depend_on_the_order_of_the_cases(tmp_path: Path, grid: dict[str, Any]) -> None:
    headings = []
    for rows in (grid["rows"], grid["rows"][::-1]):
        write_benchmark(tmp_path, {**grid, "rows": rows})
        headings.append((tmp_path / "report.csv").read_text().splitlines()[0])
    assert headings[0] == headings[1]


def test_what_a_person_reads_of_a_benchmark(tmp_path: Path, grid: dict[str, Any]) -> None:
    write_benchmark(tmp_path, grid)
    text = (tmp_path / "report.md").read_text()
    parts = dict(part.split("\n", 1) for part in text.split("\n## ")[1:])
    assert list(parts) == [
        *("Leaderboard", "verified against the others", "Case by case", "Not measured", "What the figures mean"),
        "How it was made",
    ]
    board = [[cell.strip() for cell in line.split(" | ")] for line in parts["Leaderboard"].splitlines() if "| " in line]
    names = ["defense", "---", HOSTILE.replace("|", r"\|"), "paper", "verified", "oracle"]
    assert [line[1] for line in board] == names
    assert board[4][2:6] == ["3 (2 triggered)", "0.013 (0.013 to 0.013)", "+0.380 (-0.040 to +0.800)", "1 of 2"]
    verdicts = [line.strip("| ").split(" | ") for line in parts["verified against the others"].splitlines()]
    assert ["paper", "1 of 2", "2 of 2", "1 of 2", "1 of 2"] in verdicts
    assert ["any of them, counted singly", "2 of 3", "3 of 3", "2 of 3", "2 of 3"] in verdicts
    assert ["all of them at once", "1 of 2", "2 of 2", "1 of 2", "1 of 2"] in verdicts
    (behind,) = (line for line in verdicts if line[0] == "toy [a]")
    assert behind[1:4] == ["1", "paper", "excess ASR"]
    assert "- broken <i>: images: expected float32, got uint8" in parts["Not measured"]
    assert "torch" in parts["How it was made"]


@pytest.mark.parametrize("rows", [(), (CLEAN_ROW,), (ROW,)], ids=["nothing", "no trigger", "no verified"])
def test_a_benchmark_of_little_is_written_too(tmp_path: Path, rows: tuple[Row, ...]) -> None:
    write_benchmark(tmp_path, benchmark(*rows, pictures=False))
    page, text = ((tmp_path / f"report.{ending}").read_text() for ending in ("html", "md"))
    assert "against the others" not in page + text
    assert ("Nothing was measured." in page) == ("Nothing was measured." in text) == (not rows)
    assert ("<svg" in page) == (ROW in rows)
    assert len((tmp_path / "report.csv").read_text().splitlines()) == max(len(rows), 1) + bool(rows)


def test_the_page_holds_all_and_lets_nothing_in(tmp_path: Path, grid: dict[str, Any]) -> None:
    write_benchmark(tmp_path, grid)
    page = (tmp_path / "report.html").read_text()
    assert HOSTILE not in page
    assert "broken <i>" not in page
    assert "&lt;b&gt;$x_1$ &amp; &#39;a|b&#39;&lt;/b&gt;" in page
    assert page.count("data:image/webp;base64,") == 6
    for outside in ('src="http', 'href="http', "url(http", "@import", '<link rel="stylesheet'):
        assert outside not in page
    # The same page of the same figures, so that two of them can be compared.
    write_benchmark(tmp_path, grid)
    assert (tmp_path / "report.html").read_text() == page


def test_a_picture_that_is_gone_is_told(tmp_path: Path, grid: dict[str, Any]) -> None:
    (tmp_path / "cases" / "0.png").unlink()
    write_benchmark(tmp_path, grid)
    page = (tmp_path / "report.html").read_text()
    assert page.count("data:image/webp;base64,") == 5
    assert page.count("no picture") == 2


# --- in a browser ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not installed")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=chromium)
        yield opened
        opened.close()


@pytest.fixture
def page(browser: Any, tmp_path: Path, grid: dict[str, Any]) -> Iterator[Any]:
    """The page as a browser shows it; fails where it asks for anything or complains."""
    write_benchmark(tmp_path, grid)
    requests, complaints = list[str](), list[str]()
    shown = browser.new_page(viewport={"width": 1280, "height": 900})
    shown.on("request", lambda request: requests.append(request.url))
    shown.on("console", lambda message: complaints.append(message.text))
    shown.on("pageerror", lambda error: complaints.append(str(error)))
    shown.goto((tmp_path / "report.html").as_uri())
    yield shown
    shown.close()
    assert [url for url in requests if not url.startswith("data:")] == [(tmp_path / "report.html").as_uri()]
    assert complaints == []


def column(page: Any, table: str, heading: str) -> list[str]:
    """Return the texts of the cells under a heading, without intervals and counts."""
    texts: list[str] = page.evaluate(
        """([table, heading]) => {
            const headings = [...document.querySelectorAll(`#${table} th`)];
            const index = headings.findIndex((one) => one.textContent.trim() === heading);
            const rows = [...document.querySelectorAll(`#${table} tbody tr`)].filter((row) => !row.hidden);
            return rows.map((row) => row.cells[index].childNodes[0].textContent.trim());
        }""",
        [table, heading],
    )
    return texts


def test_tables_sort_and_filter(page: Any) -> None:
    heading = page.locator("#rows th", has_text="FLOPs, clean")
    button = heading.get_by_role("button")
    before = column(page, "rows", "FLOPs, clean")
    button.click()
    assert heading.get_attribute("aria-sort") == "ascending"
    rising = column(page, "rows", "FLOPs, clean")
    assert sorted(before) == sorted(rising)
    assert rising == ["3.0 +0.0", *["2.0 +3.0"] * 3, *["5.0 +3.0"] * 2, NOTHING]
    # By the keyboard, too; what was not measured stays last.
    button.press("Enter")
    assert heading.get_attribute("aria-sort") == "descending"
    assert column(page, "rows", "FLOPs, clean") == [*rising[4:6], *rising[1:4], rising[0], NOTHING]
    page.locator("#rows th", has_text="preset").get_by_role("button").click()
    assert heading.get_attribute("aria-sort") == "none"
    names = column(page, "rows", "preset")
    assert names[1:] == ["oracle", "paper", "paper", "verified", "verified", "verified"]
    page.locator("#board th", has_text="defense").get_by_role("button").click()
    assert column(page, "board", "defense")[1:] == ["oracle", "paper", "verified"]
    page.get_by_label("Show lines with").fill("verified TOY")
    assert column(page, "rows", "preset") == ["verified"] * 2
    assert page.locator("#shown").inner_text() == "2 of 7 lines"
    page.get_by_label("Show lines with").fill("")
    assert len(column(page, "rows", "preset")) == 7


def test_pictures_are_shown(page: Any) -> None:
    cases = page.locator("#cases details")
    assert cases.count() == 3
    for index in range(3):
        cases.nth(index).locator("summary").click()
    pictures = page.locator("#cases img")
    assert pictures.count() == 6
    for index in range(6):
        pictures.nth(index).scroll_into_view_if_needed()
        page.wait_for_function(
            "(image) => image.complete && image.naturalWidth === 40", arg=pictures.nth(index).element_handle()
        )
        assert "toy [a]" in pictures.nth(index).get_attribute("alt") or index == 5
    assert page.locator("figure.scatter svg").bounding_box()["width"] > 300
    assert HOSTILE in page.locator("#board").inner_text()


@pytest.mark.parametrize("width", [400, 1280])
def test_the_page_fits_a_narrow_window(page: Any, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    for details in page.locator("details").all():
        details.evaluate("(details) => { details.open = true; }")
    assert page.evaluate("document.documentElement.scrollWidth") == width
