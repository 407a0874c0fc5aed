"""The page and the count of steps of a run while it goes on."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest

from lary_policy import cli
from lary_policy.console import Tally
from lary_policy.runs.context import RunContext
from lary_policy.runs.results import Results
from lary_policy.runs.run import Page, planned, run_suite
from lary_policy.scores import SampleScores


def test_every_step_is_numbered_and_the_last_one_is_the_report(copy, capsys):
    # Loops run side by side and may end together: the step after which the page is written is a probe.
    for folder in (copy.cells("probe")[0], *copy.cells("rollout")[:2]):
        (folder / "result.json").unlink()
    context = RunContext.create(copy.config())
    run_suite(copy.config())
    said = capsys.readouterr().err
    numbers = [(int(n), int(total)) for n, total in re.findall(r"\[(\d+) of (\d+)\]", said)]
    assert len(numbers) == 4
    assert numbers[-1] == (numbers[0][1],) * 2
    assert "page of this run" in said
    # Before any task is opened the count is what it is afterwards.
    assert sum(planned(context, "report").values()) == numbers[-1][1]


def test_the_page_is_there_after_the_first_cell_and_names_what_is_missing(copy, tmp_path):
    page = Page(RunContext.create(copy.config()), Results(), tmp_path, "report")
    page.results.probe.append(copy.outcome.results.probe[0])
    tally = Tally({"probe": 3})
    tally.count("probe of an earlier run", computed=False)
    page.refresh(tally)
    assert page.path is None
    tally.count("probe of this run")
    page.refresh(tally)
    assert "This run goes on: 2 of 3 steps are done" in (tmp_path / "report.html").read_text()
    page.write()
    assert "This run goes on" not in (tmp_path / "report.html").read_text()


def test_rewriting_the_page_never_takes_more_than_its_share(tmp_path, monkeypatch, copy):
    written = []

    def write(page):
        written.append(time.sleep(0.02))

    monkeypatch.setattr(Page, "write", write)
    page = Page(RunContext.create(copy.config()), Results(), tmp_path, "report")
    tally = Tally()
    tally.count("probe")
    started = time.monotonic()
    while time.monotonic() - started < 0.6:
        page.refresh(tally)
    assert 1 <= len(written) <= 3


def test_a_report_without_settings_holds_everything_finished(copy, capsys):
    assert cli.main(["report", f"output_dir={copy.output_dir}"]) == 0
    page = Path(capsys.readouterr().out.strip())
    found = json.loads((page.parent / "report.json").read_text())
    # Other tests may have asked more questions of the same demonstrations; none is lost, none stands twice.
    assert {str(s.to_dict()) for s in copy.outcome.results.scores()} <= set(map(str, found))
    assert len(set(map(str, found))) == len(found)


def test_probes_are_compared_on_the_same_samples(tiny):
    for row in tiny.outcome.results.probe:
        (samples,) = (SampleScores.from_dict(raw) for raw in row["samples"].values())
        score = next(s for s in row["scores"] if s["metric"] == samples.metric)
        assert len(samples.items) == score["n"]
        assert sum(samples.values) / len(samples.values) == pytest.approx(score["value"], rel=1e-4)
