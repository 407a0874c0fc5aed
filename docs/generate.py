"""Write the pages that code knows best: of verbs and packages; the READMEs of folders join them."""

from __future__ import annotations

import contextlib
import importlib
import io
import re
from pathlib import Path

import mkdocs_gen_files

ROOT = Path(__file__).parents[1]
PACKAGES = (
    "lary_policy",
    "lary_policy.encoders",
    "lary_policy.data",
    "lary_policy.latents",
    "lary_policy.heads",
    "lary_policy.scores",
    "lary_policy.rollout",
    "lary_policy.policy",
    "lary_policy.runs",
    "lary_envs",
)


WITHOUT_SETTINGS = ("encoders", "doctor")


def write(page: str, text: str) -> None:
    """Write a page of the site."""
    with mkdocs_gen_files.open(page, "w") as file:
        file.write(text)


def said(*arguments: str) -> str:
    """Return what `lary <arguments>` prints."""
    from lary_policy import cli

    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        cli.main(arguments)
    return out.getvalue().rstrip()


def verbs() -> None:
    """Write a page for each verb and each action of `lary data`."""
    from lary_policy.cli import VERBS
    from lary_policy.cli.data import ACTIONS

    rows = ["# Verbs\n", "| verb | what it does |", "|---|---|"]
    names = [*VERBS, *(f"data {name}" for name in ACTIONS)]
    for name in names:
        page = f"{name.replace(' ', '-')}.md"
        text = VERBS[name][0] if name in VERBS else ACTIONS[name.removeprefix("data ")].what
        # What has no settings prints what it prints; the doctor's words are about this machine.
        printed = (
            {"encoders": said("encoders"), "doctor": ""}.get(name)
            if name in WITHOUT_SETTINGS
            else said(*name.split(), "--help")
        )
        write(
            f"verbs/{page}",
            f"# lary {name}\n\n{text}\n\n```text\n{printed}\n```\n"
            if printed
            else f"# lary {name}\n\n{text}\n",
        )
        rows.append(f"| [`lary {name}`]({page}) | {text} |")
    write("verbs/index.md", "\n".join(rows) + "\n")


def python() -> None:
    """Write a page for each package: what its face offers."""
    rows = [
        "# Python\n",
        "What a package offers is in its `__init__`; nothing else is promised.\n",
        "| package | |",
        "|---|---|",
    ]
    for name in PACKAGES:
        module = importlib.import_module(name)
        line = (module.__doc__ or "").strip().splitlines()[0]
        rows.append(f"| [`{name}`]({name}.md) | {line} |")
        parts = [f"# {name}\n", f"{line}\n"]
        for public in module.__all__:
            thing = getattr(module, public)
            if getattr(thing, "__module__", "").startswith(("lary_policy", "lary_envs")) and hasattr(
                thing, "__qualname__"
            ):
                parts.append(f"::: {thing.__module__}.{thing.__qualname__}\n")
        write(f"api/{name}.md", "\n".join(parts))
    write("api/index.md", "\n".join(rows) + "\n")


def readmes() -> None:
    """Take over the READMEs of folders, with their pictures."""
    for page, source in (
        ("worlds.md", ROOT / "envs/README.md"),
        ("benchmarks.md", ROOT / "benchmarks/README.md"),
    ):
        text = source.read_text(encoding="utf-8")
        for picture in set(re.findall(r"\]\((images/[^)]+)\)", text)):
            with mkdocs_gen_files.open(picture, "wb") as file:
                file.write((source.parent / picture).read_bytes())
        write(page, text)


verbs()
python()
readmes()
