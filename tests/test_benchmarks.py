"""The benchmarks' report and pictures, from a made-up run; what is measured is tried by `make bench`."""

from __future__ import annotations

import json
import re
from argparse import Namespace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from benchmarks import pictures, plan, report, svg
from benchmarks.__main__ import chosen, whole

pytestmark = pytest.mark.once

SVG = "{http://www.w3.org/2000/svg}"


def measured(job: str, peer: str, database: str = "sqlite", **numbers: Any) -> dict[str, Any]:
    """One line of `results`."""
    return {"job": job, "peer": peer, "database": database, "round": 0, "fsync_ms": [0.1, 0.3], **numbers}


def results() -> list[dict[str, Any]]:
    """A run on both databases: two rounds of some jobs, and a failure."""
    made = []
    for database in ("sqlite", "postgres"):
        for rate in (900.0, 1100.0):
            made.append(measured("W2 drain", "pipeteer", database, per_second=9 * rate, worker_percent=97.0))
            made.append(measured("W2 drain", "raw", database, per_second=rate))
            for backlog in (1_000, 100_000):
                name = plan.backlog(backlog).name
                made.append(measured(name, "pipeteer", database, per_second=rate, backlog=backlog))
            for count in (100, 1_000):
                job = plan.chain(count).name
                made.append(measured(job, "pipeteer", database, seconds=count / rate, count=count))
                made.append(measured(job, "dbos", database, seconds=9 * count / rate, count=count))
        samples = {"start_ms": [1.5, 2.0, 2.5, 40.0], "result_ms": [3.0, 4.0, 5.0, 60.0]}
        made.append(measured("W3 body started, p50", "pipeteer", database, start_p50_ms=2.0, **samples))
        made.append(measured("W8 idle worker", "pipeteer", database, cpu_percent=0.9))
    return [*made, measured("W1 enqueue, one call each", "raw", error="it <broke>\nhere")]


def data() -> dict[str, Any]:
    """What results.json has in it, read back from what is written."""
    about = {
        "at": "2026-01-02T03:04:05+00:00", "rounds": 3, "quick": False, "versions": {"Python": "3.13.1"},
        "machine": {"cores": 2, "system": "Linux", "processor": "Z80", "memory_gib": 23.5},
        "peers_versions": {"dbos": "3.4"}, "databases": {"sqlite": "SQLite 3.51", "postgres": "PostgreSQL 18"},
    }  # fmt: skip
    return dict(json.loads(report.dump(about, results())))


def test_json_has_medians_spreads_samples_and_bars() -> None:
    """A line for each measurement, with its samples; and the cells of the tables as numbers."""
    read = data()
    assert read["results"] == results()
    assert {
        "database": "postgres", "line": "W2 drain", "unit": "/s", "peer": "raw",
        "median": 1000.0, "min": 900.0, "max": 1100.0, "rounds": 2,
    } in read["summary"]  # fmt: skip
    bars = {(bar["database"], bar["bar"]): (bar["measured"], bar["holds"]) for bar in read["bars"]}
    assert bars["sqlite", "W2 drain / raw SQL >= 3"] == (9.0, True)
    assert bars["postgres", "W2 drain / raw SQL >= 8"] == (9.0, True)
    assert bars["sqlite", "W8 idle, % of a core <= 0.5"] == (0.9, False)
    assert not any("Oban" in text for _, text in bars), "Oban was not measured"


def test_tables_for_people() -> None:
    """The terminal's and the documentation's say the same."""
    some = [r for r in results() if r["database"] == "sqlite"]
    table = report.table("sqlite", some)
    assert re.search(r"^W2 drain, /s +9,000 \(8,100\.\.9,900\) +1,000 \(900\.\.1,100\) *$", table, re.MULTILINE)
    assert "MISSED  W8 idle, % of a core <= 0.5: 0.90" in table
    assert "FAILED W1 enqueue, one call each, raw: it <broke>" in table
    page = report.markdown(data())
    assert "| W2 drain, /s | 9,000 (8,100..9,900) | 1,000 (900..1,100) |" in page
    assert "| W2 drain: one worker's processor, % of a core | 97.0 (97.0..97.0) |" in page
    assert "**PostgreSQL 18**" in page
    assert "Z80, 2 cores, 24 GiB, Linux. Python 3.13.1." in page
    assert "rehearsal" not in page
    rehearsed = data() | {"rounds": 1}
    assert "rehearsal" in report.markdown(rehearsed)
    assert "SQLite (a rehearsal)" in pictures.steps(rehearsed)


def test_pictures_are_drawn_from_the_same() -> None:
    """Well-formed, titled, labelled, a panel for each database, nothing outside the picture."""
    drawn = pictures.pictures(data())
    assert sorted(drawn) == ["performance-backlog.svg", "performance-latency.svg", "performance-steps.svg"]
    for text in drawn.values():
        root = ElementTree.fromstring(text)
        said = [each.text for each in root.iter(f"{SVG}text")]
        assert {"SQLite", "PostgreSQL"} <= set(said)
        assert root.findtext(f"{SVG}title")
        assert "prefers-color-scheme: dark" in text
        assert "<script" not in text
        for circle in root.iter(f"{SVG}circle"):
            assert svg.LEFT <= float(circle.attrib["cx"]) <= svg.WIDTH - svg.RIGHT
            assert svg.TOP <= float(circle.attrib["cy"]) <= svg.HEIGHT - svg.BOTTOM
    assert {"tasks waiting", "tasks/s", "1,000", "100,000"} <= _words(drawn["performance-backlog.svg"])
    assert {"sequential steps", "seconds", "DBOS", "pipeteer_django"} <= _words(drawn["performance-steps.svg"])
    assert {"% of tasks", "body started", "result seen"} <= _words(drawn["performance-latency.svg"])


def _words(text: str) -> set[str | None]:
    return {each.text for each in ElementTree.fromstring(text).iter(f"{SVG}text")}


def test_a_histogram_loses_no_sample() -> None:
    """Shares of each series sum up, those beyond the axis included."""
    assert svg._shares([0.0, 1.0, 1.9, 500.0], 1.0, 3) == [25.0, 50.0, 25.0]


def test_no_picture_of_what_was_not_measured() -> None:
    """A run of one workload draws nothing else."""
    only = data()
    only["results"] = [r for r in only["results"] if r["job"].startswith("W7")]
    assert list(pictures.pictures(only)) == ["performance-backlog.svg"]


@pytest.mark.parametrize(
    ("value", "end"), [(0.7, 0.8), (1, 1), (9, 10), (10, 10), (11_300, 15_000), (0.0131, 0.015), (100, 100)]
)
def test_axes_end_at_round_numbers(value: float, end: float) -> None:
    """With room for the value, and not much more."""
    assert svg.roof(value) == pytest.approx(end)


def test_ticks() -> None:
    """Whole steps on a linear axis, powers of ten on the other."""
    assert svg.Scale(0, 10, 0, 100).ticks() == [0, 2, 4, 6, 8, 10]
    assert svg.Scale(1_000, 100_000, 0, 100, log=True).ticks() == [1_000, 10_000, 100_000]
    assert [svg.number(each) for each in (0, 0.5, 2.0, 12.5, 1e6)] == ["0", "0.5", "2", "12", "1,000,000"]


def test_the_page_is_changed_between_its_marks_only(tmp_path: Path) -> None:
    """And in the same way twice."""
    (tmp_path / "images").mkdir()
    page = tmp_path / "performance.md"
    page.write_text(f"# Mine\n\n{pictures.BEGIN}\n{pictures.END}\n\nAlso mine.\n")
    (tmp_path / "results.json").write_text(json.dumps(data()))
    pictures.main([str(tmp_path / "results.json"), "--docs", str(tmp_path)])
    once = page.read_text()
    assert once.startswith("# Mine\n\n<!-- from")
    assert once.endswith("end -->\n\nAlso mine.\n")
    assert "| W2 drain, /s |" in once
    assert len(list((tmp_path / "images").iterdir())) == 3
    pictures.main([str(tmp_path / "results.json"), "--docs", str(tmp_path)])
    assert page.read_text() == once
    with pytest.raises(ValueError, match="from results"):
        pictures.between("no marks", "text")


def test_the_documentation_shows_the_results_that_are_kept() -> None:
    """`make pictures` changes nothing."""
    if not pictures.RESULTS.exists():
        pytest.skip("nothing has been measured yet")
    kept = json.loads(pictures.RESULTS.read_text())
    page = (pictures.DOCS / "performance.md").read_text()
    assert pictures.between(page, report.markdown(kept)) == page
    for name, text in pictures.pictures(kept).items():
        assert (pictures.DOCS / "images" / name).read_text() == text


def test_which_jobs_run() -> None:
    """All but the big one; a workload by its number or its name; and what may replace results.json."""
    plain = Namespace(workloads="", peers="", quick=False, big=False, rounds=3, databases="sqlite,postgres")
    names = {job.name for job in chosen(plain)}
    assert names == {job.name for job in plan.JOBS} - {"W7 drain, 1,000,000 waiting"}
    assert len(chosen(Namespace(**{**vars(plain), "big": True}))) == len(plan.JOBS) == len(names) + 1
    assert {job.workload for job in chosen(Namespace(**{**vars(plain), "workloads": "W4"}))} == {"w4", "w4_live"}
    quick = chosen(Namespace(**{**vars(plain), "workloads": "w2", "quick": True}))
    assert {job.options["count"] for job in quick} == {1000}
    assert whole(plain)
    for less in ({"rounds": 2}, {"quick": True}, {"workloads": "W2"}, {"databases": "sqlite"}, {"peers": "raw"}):
        assert not whole(Namespace(**{**vars(plain), **less}))


def test_bars_name_lines_that_exist() -> None:
    """A bar that looks up a misspelt line would never be judged."""
    lines = {job.name for job in plan.JOBS}
    lines |= {line.format(job=job.name) for job in plan.JOBS for line, *_ in plan.ALSO.get(job.workload, ())}

    def of(line: str, peer: str) -> float:
        assert line in lines
        assert peer in plan.PEERS
        return 1.0

    for bar in plan.BARS:
        bar.value(of)
