from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from lary_policy.errors import ShapeError, StoreError, UnsafePathError
from lary_policy.report.bundle import ReportBundle
from lary_policy.report.page import VIDEO_BUDGET_BYTES, embed_videos, render_html, write_report
from lary_policy.report.parts import CodebookUse, Composition, Video
from lary_policy.scores.metrics import format_number
from lary_policy.scores.score import Score
from lary_policy.types import Quarantined

from .synthetic import all_scores, probe_scores, score

Make = Callable[..., ReportBundle]
EVIL = "<script>alert('x')</script>"
NO_FIGURES: dict[str, tuple[()]] = {"trajectories": (), "confusions": ()}
VOID = {"meta", "br", "img", "hr", "input", "link"}


class Page(HTMLParser):
    """Collects tags and text, and checks that tags are balanced."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", "".join(self.words))


@pytest.fixture(scope="module")
def page(make_bundle: Make, media: Path) -> str:
    return render_html(make_bundle(), media)


def test_written_files_are_complete_and_leave_no_traces(
    make_bundle: Make, media: Path, tmp_path: Path
) -> None:
    bundle = make_bundle()
    path = write_report(bundle, tmp_path / "new", media_root=media)
    assert path == tmp_path / "new" / "report.html"
    names = ["league.json", *(f"report.{s}" for s in ("csv", "html", "json", "md"))]
    assert sorted(p.name for p in path.parent.iterdir()) == names
    assert path.read_text().rstrip().endswith("</html>")
    assert path.stat().st_size < 15_000_000
    rows = json.loads((path.parent / "report.json").read_text())
    assert [set(row) for row in rows] == [set(Score.columns())] * len(bundle.scores)
    assert tuple(map(Score.from_dict, rows)) == bundle.scores


def test_tags_are_balanced_and_ids_unique(page: str) -> None:
    ids = [attrs["id"] for _, attrs in Page(page).tags if "id" in attrs]
    assert len(ids) == len(set(ids))


def test_every_score_is_on_the_page(page: str) -> None:
    text = Page(page).text
    for s in all_scores():
        percent = s.metric in ("success", "success_at_end", "top1", "top1_macro")
        value, interval = format_number(s.value, s.ci95, percent=percent)
        assert value in text
        assert interval in text
    assert text.count("native") >= len(all_scores())


def test_nothing_is_fetched_from_outside(page: str) -> None:
    without_video = re.sub(r"base64,[A-Za-z0-9+/=]+", "", page)
    assert "http:" not in without_video
    assert "https:" not in without_video
    assert "//" not in re.sub(r"/\*.*?\*/", "", without_video)
    for tag, attrs in Page(page).tags:
        assert tag not in ("script", "link", "iframe", "object", "img")
        for name in ("src", "href", "xlink:href"):
            assert (attrs.get(name) or "#").startswith(("#", "data:", "report."))
    policy = next(a["content"] for t, a in Page(page).tags if t == "meta" and "http-equiv" in a)
    assert policy is not None
    assert policy.startswith("default-src 'none'")


def test_first_screen_answers_before_any_table(page: str) -> None:
    text = Page(page).text
    order = [
        "whose head makes the robot succeed in closed loop?",
        "dinov2-small has the lowest test MSE in 8 of 8 comparisons",
        "dinov2-small succeeds most often in 4 of 4 comparisons",
        "dinov2-small has the lowest test MSE, 0.31 [0.29, 0.33]; its interval does not overlap with",
        "Success: the condition held at some step.",
        "Errors are on held-out test episodes",
    ]
    places = [text.index(words) for words in order]
    assert places == sorted(places)


def test_floor_and_ceiling_stand_in_the_success_table(page: str) -> None:
    table = page[page.index('id="closed-loop"') : page.index('id="probe"')]
    assert table.count("scripted expert</td>") == 4
    assert table.count("random head, ") == 12
    assert "success at the end" in table


def test_best_is_marked_only_when_clear() -> None:
    far = render_html(ReportBundle("t", "s", tuple(probe_scores("r", "pair", {"a": 0.2, "b": 0.4}))), Path())
    near = render_html(
        ReportBundle("t", "s", tuple(probe_scores("r", "pair", {"a": 0.39, "b": 0.4}))), Path()
    )
    assert ('"best"' in far, 'value best"' in far, 'value lead"' in far) == (True, True, False)
    assert ('"lead"' in near, 'value best"' in near, 'value lead"' in near) == (True, False, True)


def test_untrusted_names_are_escaped_everywhere(make_bundle: Make, tmp_path: Path) -> None:
    bundle = make_bundle(
        title=EVIL,
        suite=EVIL,
        scores=[score(encoder=EVIL, task=EVIL, head=EVIL), score(encoder="b", task=EVIL, value=0.46)],
        quarantined=[Quarantined(EVIL, EVIL, EVIL)],
        videos=[Video("gone.mp4", EVIL)],
        environment={EVIL: EVIL},
        stage_seconds={EVIL: 1.0},
        config_yaml=EVIL,
        **NO_FIGURES,
        notes=[EVIL],
    )
    text = render_html(bundle, tmp_path)
    assert "<script" not in text
    assert Page(text).text.count(EVIL) > 12


def test_quarantine_is_counted_and_listed(make_bundle: Make, tmp_path: Path) -> None:
    rows = [Quarantined(f"images/ep_{i}/f.png", "truncated", "extract") for i in range(40)]
    text = Page(render_html(make_bundle(quarantined=rows, **NO_FIGURES), tmp_path)).text
    assert "Set aside: 40 of 1840 checked inputs." in text
    assert all(row.item in text for row in rows)


def test_a_page_of_one_encoder_says_that_one_is_alone(make_bundle: Make, tmp_path: Path) -> None:
    scores = [one for one in all_scores() if one.encoder in ("pixels", "-")]
    made_of = Composition("reach", "native", "class", ("train",), ("(blank)", "Up"), ((3,), (4,)))
    bundle = make_bundle(**{**NO_FIGURES, "scores": scores, "compositions": (made_of,)})
    text = Page(render_html(bundle, tmp_path)).text
    assert "with one there is nothing to compare" in text
    assert "1 classes, usable samples" in text  # samples without a name are no class
    assert "over those that never change in training, whose errors say nothing: gripper of reach." in text


def test_empty_parts_are_named(make_bundle: Make, tmp_path: Path) -> None:
    names = ("trajectories", "confusions", "videos", "quarantined", "failures", "constant_dims", "scores")
    bundle = make_bundle(**dict.fromkeys(names, ()), stage_seconds={}, environment={}, config_yaml="")
    text = Page(render_html(bundle, tmp_path)).text
    for words in (
        "No closed-loop episode was run, so this report says nothing about success.",
        "No probe was trained, so this report says nothing about decoding.",
        "No head has both a probe score and a closed-loop score.",
        "No trajectory was recorded.",
        "No probe of classes was run.",
        "No video was recorded.",
        "Set aside: none of 1840 checked inputs.",
        "None of 0 closed-loop episodes was stopped",
        "Seconds per stage were not recorded.",
        "The environment was not recorded.",
        "The configuration was not recorded.",
    ):
        assert words in text
    unknown = Page(render_html(make_bundle(inputs_checked=None, quarantined=(), **NO_FIGURES), tmp_path)).text
    assert "how many were checked was not recorded" in unknown


def test_stopped_episodes_and_constant_dimensions_are_listed(page: str) -> None:
    text = Page(page).text
    assert "out_of_range_action" in text
    assert "9003, 9017" in text
    assert "their normalised error says nothing" in text


def test_numbers_that_were_not_measured_are_named(tmp_path: Path) -> None:
    scores = [score(), score(encoder="b"), score(metric="mse/gripper")]
    page = render_html(ReportBundle("t", "s", tuple(scores)), tmp_path)
    assert page.count(">not measured</td>") == 1


def test_unknown_metrics_and_stages_are_shown_not_dropped(tmp_path: Path) -> None:
    scores = (
        score(metric="r2/left_arm", value=0.123, ci95=(0.1, 0.2)),
        score(stage="open-loop", mode="drift"),
    )
    text = Page(render_html(ReportBundle("t", "s", scores), tmp_path)).text
    assert "r2/left_arm" in text
    assert "0.12 [0.10, 0.20]" in re.sub(r"(0\.12) ?\[", r"\1 [", text)
    assert "reach, drift" in text


def test_video_is_embedded_with_its_outcome(page: str, media: Path) -> None:
    (video,) = [attrs for tag, attrs in Page(page).tags if tag == "video"]
    assert {"controls", "muted", "loop"} <= set(video)
    source = video["src"]
    assert source is not None
    assert base64.b64decode(source.split(",")[1]) == (media / "videos/reach.mp4").read_bytes()
    text = Page(page).text
    assert "seed 1 succeeded, seed 2 succeeded, seed 3 failed, seed 4 succeeded" in text
    assert "Video missing: videos/gone.mp4 (the file does not exist)." in text


def test_videos_over_the_budget_are_named(media: Path) -> None:
    video = Video("videos/reach.mp4", "one")
    size = len(embed_videos([video], media)[0].data)
    first, second = embed_videos([video, video], media, budget_bytes=2 * size - 1)
    assert first.data
    assert not second.data
    assert "too much for this page" in second.missing


def test_only_mp4_files_inside_the_root_are_embedded(media: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.mp4").write_text("not a video at all")
    (found,) = embed_videos([Video("secret.mp4", "x")], tmp_path)
    assert found.missing == "the file is not an mp4 video"
    assert embed_videos([Video(str(media / "videos/reach.mp4"), "x")], media)[0].data
    for path in ("../secret.mp4", str(tmp_path / "secret.mp4")):
        with pytest.raises(UnsafePathError):
            embed_videos([Video(path, "x")], media)


def test_a_failed_write_keeps_the_previous_report(
    make_bundle: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_report(make_bundle(videos=(), **NO_FIGURES), tmp_path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}

    def full(*_: object, **__: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(StoreError, match="No space left"):
        write_report(make_bundle(videos=(), scores=(), **NO_FIGURES), tmp_path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_budget_leaves_room_for_the_page() -> None:
    assert VIDEO_BUDGET_BYTES <= 12_000_000


@pytest.mark.parametrize(
    ("value", "ci95", "percent", "expected"),
    [
        (0.312, (0.292, 0.332), False, ("0.31", "[0.29, 0.33]")),
        (0.0123, (0.0119, 0.0127), False, ("0.0123", "[0.0119, 0.0127]")),
        (12.0, (12.0, 12.0), False, ("12.00", "[12.00, 12.00]")),
        (0.96, (0.865, 0.989), True, ("96 %", "[86, 99]")),
        (0.9612, (0.958, 0.964), True, ("96.1 %", "[95.8, 96.4]")),
    ],
)
def test_decimals_follow_the_interval(
    value: float, ci95: tuple[float, float], percent: bool, expected: tuple[str, str]
) -> None:
    assert format_number(value, ci95, percent=percent) == expected


def test_codebooks_are_listed_with_their_dead_codes(make_bundle: Make, tmp_path: Path) -> None:
    used = CodebookUse("lapa", "reach", codes=8, used=6, perplexity=4.26, dead=(1, 7), tokens=2400)
    bundle = make_bundle(codebooks=(used,), **NO_FIGURES)
    text = Page(render_html(bundle, tmp_path)).text
    assert "Codebooks" in text
    assert "lapa86 (75 %)4.324001, 7" in text.replace(" 8", "8")
    assert "Codebooks" not in Page(render_html(make_bundle(**NO_FIGURES), tmp_path)).text


def test_codes_that_do_not_add_up_are_refused() -> None:
    with pytest.raises(ShapeError, match="make 8"):
        CodebookUse("lapa", "reach", codes=8, used=6, perplexity=4.2, dead=(1,), tokens=10)
