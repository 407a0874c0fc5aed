"""`lary data verify|indices|prepare|statistics|import` on the benchmark's own files, and LeRobot's."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lary_policy.actions import UNKNOWN_ROBOTS, load_embodiment
from lary_policy.console import console, progress
from lary_policy.data import require_folder
from lary_policy.data.larybench import (
    IndicesReport,
    LaryBenchSource,
    PairFile,
    prepare_clips,
    stream_statistics,
    verify_source,
    write_indices,
    write_statistics,
)
from lary_policy.errors import ConfigError, DatasetError, UnknownNameError
from lary_policy.latents import import_fingerprint, import_latents
from lary_policy.stages.cells import safe_name, write_json
from lary_policy.stages.verify import check_folder
from lary_policy.types import Quarantined

Settings = Mapping[str, Any]
SHOWN = 20  # problems printed; the report file has all of them


def run_data_action(action: str, source: str | None, settings: Settings) -> bool:
    """Run one of `DATA_ACTIONS`; True if nothing was found wrong or left out.

    Raises:
        LaryPolicyError: A setting is missing or wrong, or nothing can be done at all.
    """
    if action not in DATA_ACTIONS:
        raise UnknownNameError("action of `lary data`", action, DATA_ACTIONS)
    return DATA_ACTIONS[action](source, settings)


def _verify(key: str | None, settings: Settings) -> bool:
    source = _open(key, settings)

    def verify(root: Path, *, on_progress: Callable[[int, int], None]) -> Any:
        return verify_source(
            source,
            workers=settings["workers"],
            timeout_s=settings["timeout_s"],
            limit=settings["limit"],
            on_progress=on_progress,
        )

    report = check_folder(source.root, verify, label=f"{source.data.key} ({source.spec.protocol})")
    row = {"root": report.root, "source": key, "protocol": source.spec.protocol, "checked": report.checked}
    _write_report(settings, f"verify-{key}", {**row, "problems": report.problems})
    return report.ok


def _indices(key: str | None, settings: Settings) -> bool:
    tables = _clip_csvs(key, settings)
    output = Path(settings["output_dir"]) / "indices"
    whole = True
    for csv, media in tables:
        with progress(f"indices {csv.name}") as update:
            report = write_indices(
                csv,
                media,
                output / csv.name,
                num_frames=settings["num_frames"],
                protocol=settings["protocol"],
                workers=settings["workers"],
                timeout_s=settings["timeout_s"],
                on_progress=update,
            )
        _tell_indices(report)
        _write_report(settings, f"indices-{csv.stem}", report)
        whole = whole and not report.quarantined
    return whole


def _clip_csvs(key: str | None, settings: Settings) -> list[tuple[Path, Path]]:
    """Return each CSV with the folder that its paths start from."""
    csv, media = settings["csv"], settings["media_dir"]
    if key is None and csv is not None and media is not None:
        return [(Path(csv), Path(media))]
    if key is None or csv is not None or media is not None:
        raise ConfigError(
            expected="either source=human_1st data_dir=<folder>, or csv=<file> media_dir=<folder>",
            got=f"source={key}, csv={csv}, media_dir={media}",
            fix="Pass one of the two.",
        )
    source = _open(key, {**settings, "protocol": "lary"})
    if source.spec.kind != "clips":
        raise source.spec.wrong_kind("clips")
    return [(source.csv_path(split), source.media_root(split)) for split in source.spec.splits]


def _tell_indices(report: IndicesReport) -> None:
    methods = ", ".join(f"{count} {method}" for method, count in sorted(report.methods.items()))
    console.print(f"    {report.rows} rows, clips: {methods}; {report.reused} from an interrupted run")
    console.print(f"    {report.path}", soft_wrap=True)
    _tell(report.lies)
    _tell(report.quarantined)


def _prepare(key: str | None, settings: Settings) -> bool:
    source = _open(key or "human_1st", {**settings, "protocol": "lary"})
    metadata = [source.csv_path(split) for split in source.spec.splits]
    roots = {
        name: Path(settings[f"{name.lower()}_root"])
        for name in ("SSv2", "EgoDex")
        if settings[f"{name.lower()}_root"] is not None
    }
    if not roots:
        raise ConfigError(
            expected="ssv2_root=<folder>, egodex_root=<folder> or both",
            got="neither",
            fix="Pass the folders of the original videos.",
        )
    seeds = {name: _seed_csv(metadata[0].parent, name) for name in roots}
    with progress("prepare clips") as update:
        report = prepare_clips(
            metadata,
            seeds,
            roots,
            source.media_root(source.spec.train_split),
            workers=settings["workers"],
            timeout_s=settings["timeout_s"],
            on_progress=update,
        )
    console.print(f"    {report.required} clips needed, {report.made} made, {report.kept} there already")
    _tell(report.quarantined)
    _write_report(settings, "prepare", report)
    return not report.quarantined


def _seed_csv(folder: Path, dataset: str) -> Path:
    path = folder / f"seed_{dataset.lower()}.csv"
    if not path.is_file():
        raise DatasetError(
            expected=f"the annotations {path.name} beside the metadata in {folder}",
            got="no such file",
            fix="Copy it from the benchmark's repository, where it lies beside the metadata.",
        )
    return path


def _statistics(key: str | None, settings: Settings) -> bool:
    source = _open(key, settings)
    embodiment = source.spec.embodiment
    if embodiment is None:
        raise DatasetError(
            expected="a source with actions",
            got=f"{key}, which has classes",
            fix="Choose calvin, for example.",
        )
    if settings["unknown_robots"] not in UNKNOWN_ROBOTS:
        raise UnknownNameError("way to treat unknown robots", settings["unknown_robots"], UNKNOWN_ROBOTS)
    files: Sequence[PairFile] = source.files(source.spec.train_split)
    with progress(f"statistics {key}"):
        found = stream_statistics(
            files,
            load_embodiment(embodiment).action_dim,
            relative=settings["relative"],
            unknown=settings["unknown_robots"],
        )
    kind = "relative_action_stats_" if settings["relative"] else ""
    path = Path(settings["output_dir"]) / "statistics" / f"{kind}{key}.json"
    write_statistics(path, found, dataset=str(key), relative=settings["relative"])
    robots = ", ".join(f"{robot or '(blank)'} {s.count}" for robot, s in found.statistics.robots.items())
    console.print(f"    {found.rows} rows; actions of {robots}\n    {path}", soft_wrap=True)
    _tell(found.quarantined)
    return not found.quarantined


def _import(key: str | None, settings: Settings) -> bool:
    source = _open(key, {**settings, "protocol": "lary"})
    missing = [name for name in ("split", "model", "latents_dir") if settings[name] is None]
    if missing:
        raise ConfigError(
            expected="split=<name> model=<the reference's model> latents_dir=<folder of la_path>",
            got=f"no {', '.join(missing)}",
            fix="Pass split=val model=dinov2 latents_dir=/data/latent_actions, for example.",
        )
    split, model = settings["split"], settings["model"]
    csv = source.csv_path(split).with_name(source.data.latents_name(split, model))
    root = Path(settings["output_dir"]) / "cache" / "latents"
    store, report = import_latents(
        source.data,
        split,
        model,
        csv_path=csv,
        media_root=source.media_root(split),
        latents_root=Path(settings["latents_dir"]),
        store_root=root / safe_name(f"imported-{model}-{import_fingerprint(model)}"),
        dtype=settings["dtype"],
    )
    console.print(
        f"    {report.rows} rows: {report.imported} latents of kind {store.latent.kind} imported, "
        f"{report.reused} rows there already\n    {store.root}",
        soft_wrap=True,
    )
    _tell(report.quarantined)
    _write_report(settings, f"import-{key}", report)
    return not report.quarantined


def _to_lerobot(key: str | None, settings: Settings) -> bool:
    from lary_policy.stages.lerobot_verbs import to_lerobot

    _no_source(key, "env=<task> or root=<folder>")
    return to_lerobot(settings)


def _from_lerobot(key: str | None, settings: Settings) -> bool:
    from lary_policy.stages.lerobot_verbs import from_lerobot

    _no_source(key, "root=<folder>")
    return from_lerobot(settings)


def _no_source(key: str | None, instead: str) -> None:
    if key is not None:
        raise ConfigError(expected=instead, got=f"source={key}", fix="Leave source= out.")


def _open(key: str | None, settings: Settings) -> LaryBenchSource:
    if key is None:
        raise ConfigError(
            expected="source=<key of LARYBench>", got="none", fix="Pass source=calvin, for example."
        )
    csv_dir = settings["csv_dir"]
    return LaryBenchSource(
        key,
        data_dir=require_folder(key, settings["data_dir"] and Path(settings["data_dir"])),
        csv_dir=None if csv_dir is None else Path(csv_dir),
        protocol=settings["protocol"],
    )


def _tell(problems: Sequence[Quarantined]) -> None:
    for problem in problems[:SHOWN]:
        console.print(f"    {problem.item}: {problem.reason}", soft_wrap=True, markup=False)
    if len(problems) > SHOWN:
        console.print(f"    and {len(problems) - SHOWN} more")


def _write_report(settings: Settings, name: str, content: Any) -> None:
    path = Path(settings["output_dir"]) / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}.json"
    write_json(path, content)
    console.print(f"    report: {path}", soft_wrap=True)


DATA_ACTIONS: Mapping[str, Callable[[str | None, Settings], bool]] = {
    "verify": _verify,
    "indices": _indices,
    "prepare": _prepare,
    "statistics": _statistics,
    "import": _import,
    "to-lerobot": _to_lerobot,
    "from-lerobot": _from_lerobot,
}
