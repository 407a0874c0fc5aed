"""README and docs/: short, without dead links, and what they tell to type is understood."""

from __future__ import annotations

import dataclasses
import re
import shlex
from pathlib import Path

import pytest

from lary_policy.cli import VERBS
from lary_policy.cli.compose import compose
from lary_policy.cli.data import ACTIONS, parse_settings
from lary_policy.cli.run import rollout_settings
from lary_policy.lam import LamConfig
from lary_policy.runs import run_config

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
GENERATED = {"worlds.md": ROOT / "envs/README.md", "benchmarks.md": ROOT / "benchmarks/README.md"}
FENCE = re.compile(r"(<!-- test: [\w ]+ -->\n)?```(\w*)\n(.*?)```", flags=re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
INLINE = re.compile(r"`(lary [^`]+)`")
OF_RUNS = ("suite", "data", "extract", "probe", "rollout", "report", "predict", "lam")
LAM_KEYS = ("backbone", "videos", *(one.name for one in dataclasses.fields(LamConfig)))
OWN_KEYS = {"report": ("points", "trust"), "predict": ("points",), "lam": LAM_KEYS}
MARKS = {"recipe", "study", "own encoder", "larybench", "tutorial", "published", "lam"}


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def anchors(text: str) -> set[str]:
    """Return the anchors of a page's headings, as GitHub and the site make them."""
    heads = re.findall(r"^#+ (.+)$", FENCE.sub("", text), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def typed_commands() -> list[tuple[str, str]]:
    """Return (page, command) of everything that a page tells to type and that stands for itself."""
    found = []
    for page in PAGES:
        text = page.read_text()
        blocks = [
            code.replace("\\\n", " ").splitlines() for _, kind, code in FENCE.findall(text) if kind == "bash"
        ]
        inline = INLINE.findall(FENCE.sub("", text))
        for line in [*(one for block in blocks for one in block), *inline]:
            if line.startswith("lary ") and "..." not in line and "=<" not in line:
                found.append((name(page), line))
    return found


COMMANDS = typed_commands()


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().split()) <= 1200


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page):
    for link in LINK.findall(FENCE.sub("", page.read_text())):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if page.is_relative_to(ROOT / "docs") and name(target).removeprefix("docs/") in GENERATED:
            target = GENERATED[name(target).removeprefix("docs/")]
        assert target.exists(), f"{name(page)}: {link}"
        assert not anchor or anchor in anchors(target.read_text()), f"{name(page)}: {link}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_shell_blocks_say_which_test_runs_them(page):
    for mark, kind, code in FENCE.findall(page.read_text()):
        runs_something = any(line.startswith(("lary ", "lerobot-")) for line in code.splitlines())
        if kind == "bash" and runs_something and "pip install" not in code:
            assert mark.removeprefix("<!-- test: ").removesuffix(" -->\n") in MARKS, code


@pytest.mark.parametrize(("page", "command"), COMMANDS, ids=[f"{p}:{c[:60]}" for p, c in COMMANDS])
def test_what_is_told_to_type_is_understood(page, command):
    """Verbs, keys and values exist; nothing is run."""
    verb, *words = shlex.split(command.partition("   #")[0])[1:]
    assert verb in VERBS
    if verb == "data" and words and words[0] in ACTIONS:
        of_runs = ("env", "suite", "encoders", "demos")
        own = [word for word in words[1:] if word.partition("=")[0] not in of_runs]
        parse_settings(ACTIONS[words[0]].settings, own)
    elif verb in OF_RUNS and "--help" not in words and "--multirun" not in words:
        own = [name for name, _, _ in rollout_settings()] if verb == "rollout" else OWN_KEYS.get(verb, ())
        raw = compose(verb, words, extra=own)
        run_config({key: value for key, value in raw.items() if key not in own})


def test_there_are_commands_to_check():
    assert len(COMMANDS) > 25
    assert {command.split()[1] for _, command in COMMANDS} >= {"suite", "probe", "data", "rollout", "train"}
