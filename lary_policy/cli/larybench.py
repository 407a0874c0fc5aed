"""`lary data indices|prepare|statistics|import`: actions on the benchmark's own files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lary_policy.actions import load_embodiment
from lary_policy.cli.verify import tell, write_findings
from lary_policy.console import console, progress
from lary_policy.data import open_source
from lary_policy.data.larybench import (
    IndicesReport,
    LaryBenchSource,
    PairFile,
    prepare_clips,
    stream_statistics,
    table_statistics,
    write_indices,
    write_sample,
    write_statistics,
)
from lary_policy.errors import ConfigError, DatasetError
from lary_policy.latents import import_fingerprint, import_latents
from lary_policy.paths import safe_name

if TYPE_CHECKING:
    from lary_policy.cli.data import (
        ImportSettings,
        IndicesSettings,
        PrepareSettings,
        SampleSettings,
        StatisticsSettings,
    )


def indices(settings: IndicesSettings) -> bool:
    """Write the column `sample_indices` of clip CSVs; True if no clip was left out.

    Raises:
        LaryPolicyError: A setting is missing or wrong, or nothing can be done at all.
    """
    tables = _clip_csvs(settings)
    output = settings.output_dir / "indices"
    whole = True
    for csv, media in tables:
        with progress(f"indices {csv.name}") as update:
            report = write_indices(
                csv,
                media,
                output / csv.name,
                num_frames=settings.num_frames,
                protocol=settings.protocol,
                workers=settings.workers,
                timeout_s=settings.timeout_s,
                on_progress=update,
            )
        _tell_indices(report)
        write_findings(settings.output_dir, f"indices-{csv.stem}", report)
        whole = whole and not report.quarantined
    return whole


def sample(settings: SampleSettings) -> bool:
    """Write a tiny dataset of noise in the benchmark's layout, all keys; True.

    Raises:
        ConfigError: The folder is not empty.
    """
    root = write_sample(settings.out)
    console.print(
        f"synthetic, noise only: {root}\nnext: lary suite source=calvin data_dir={root}",
        soft_wrap=True,
        markup=False,
    )
    return True


def _clip_csvs(settings: IndicesSettings) -> list[tuple[Path, Path]]:
    """Return each CSV with the folder that its paths start from."""
    key, csv, media = settings.source, settings.csv, settings.media_dir
    if key is None and csv is not None and media is not None:
        return [(csv, media)]
    if key is None or csv is not None or media is not None:
        raise ConfigError(
            expected="either source=human_1st data_dir=<folder>, or csv=<file> media_dir=<folder>",
            got=f"source={key}, csv={csv}, media_dir={media}",
            fix="Pass one of the two.",
        )
    source = benchmark(settings)
    if source.spec.kind != "clips":
        raise source.spec.wrong_kind("clips")
    return [(source.csv_path(split), source.media_root(split)) for split in source.spec.splits]


def _tell_indices(report: IndicesReport) -> None:
    methods = ", ".join(f"{count} {method}" for method, count in sorted(report.methods.items()))
    console.print(f"    {report.rows} rows, clips: {methods}; {report.reused} from an interrupted run")
    console.print(f"    {report.path}", soft_wrap=True)
    _tell_all(report.lies)
    _tell_all(report.quarantined)


def prepare(settings: PrepareSettings) -> bool:
    """Cut the clips of human_1st out of the original videos; True if none was left out.

    Raises:
        LaryPolicyError: A setting is missing or wrong, or nothing can be done at all.
    """
    source = benchmark(settings)
    metadata = [source.csv_path(split) for split in source.spec.splits]
    given = {"SSv2": settings.ssv2_root, "EgoDex": settings.egodex_root}
    roots = {name: root for name, root in given.items() if root is not None}
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
            workers=settings.workers,
            timeout_s=settings.timeout_s,
            on_progress=update,
        )
    console.print(f"    {report.required} clips needed, {report.made} made, {report.kept} there already")
    _tell_all(report.quarantined)
    write_findings(settings.output_dir, "prepare", report)
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


def statistics(settings: StatisticsSettings) -> bool:
    """Write mean and deviation of each robot's actions; True if no row was left out.

    Raises:
        LaryPolicyError: A setting is missing or wrong, or the source has no actions.
    """
    source, key = opened(settings), settings.source
    embodiment = source.spec.embodiment
    if embodiment is None:
        raise DatasetError(
            expected="a source with actions",
            got=f"{key}, which has classes",
            fix="Choose calvin, for example.",
        )
    split = source.spec.train_split
    how: dict[str, Any] = {"relative": settings.relative, "unknown": settings.unknown_robots}
    with progress(f"statistics {key}"):
        if isinstance(source, LaryBenchSource):  # millions of rows: one file in memory at a time
            files: Sequence[PairFile] = source.files(split)
            found = stream_statistics(files, load_embodiment(embodiment).action_dim, **how)
        else:
            found = table_statistics(source.pairs(split), **how)
    kind = "relative_action_stats_" if settings.relative else ""
    path = settings.output_dir / "statistics" / f"{kind}{key}.json"
    write_statistics(path, found, dataset=str(key), relative=settings.relative)
    robots = ", ".join(f"{robot or '(blank)'} {s.count}" for robot, s in found.statistics.robots.items())
    console.print(f"    {found.rows} rows; actions of {robots}\n    {path}", soft_wrap=True)
    _tell_all(found.quarantined)
    return not found.quarantined


def import_stored(settings: ImportSettings) -> bool:
    """Make a store of latents that the reference extracted; True if no row was left out.

    Raises:
        LaryPolicyError: A setting is missing or wrong, or nothing can be done at all.
    """
    source, key = benchmark(settings), settings.source
    split, model, latents = settings.split, settings.model, settings.latents_dir
    if split is None or model is None or latents is None:
        raise ConfigError(
            expected="split=<name> model=<the reference's model> latents_dir=<folder of la_path>",
            got=f"split={split}, model={model}, latents_dir={latents}",
            fix="Pass split=val model=dinov2 latents_dir=/data/latent_actions, for example.",
        )
    csv = source.csv_path(split).with_name(source.data.latents_name(split, model))
    root = settings.output_dir / "cache" / "latents"
    store, report = import_latents(
        source.data,
        split,
        model,
        csv_path=csv,
        media_root=source.media_root(split),
        latents_root=latents,
        store_root=root / safe_name(f"imported-{model}-{import_fingerprint(model)}"),
        dtype=settings.dtype,
    )
    console.print(
        f"    {report.rows} rows: {report.imported} latents of kind {store.latent.kind} imported, "
        f"{report.reused} rows there already\n    {store.root}",
        soft_wrap=True,
    )
    _tell_all(report.quarantined)
    write_findings(settings.output_dir, f"import-{key}", report)
    return not report.quarantined


def opened(settings: Any) -> Any:
    """Open the source that settings name, with its own options.

    Raises:
        ConfigError: None is named.
        LaryPolicyError: It does not exist, or its folder is missing.
    """
    options: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v for k, v in settings.options.items() if v is not None
    }
    key = _needed(settings.source)
    return open_source(key, data_dir=settings.data_dir, protocol=settings.protocol, **options)


def benchmark(settings: Any) -> LaryBenchSource:
    """Open a key of LARYBench with the benchmark's own splits.

    Raises:
        ConfigError: None is named.
        LaryPolicyError: It does not exist, or its folder is missing.
    """
    source = open_source(
        _needed(settings.source), data_dir=settings.data_dir, csv_dir=settings.csv_dir, protocol="lary"
    )
    if not isinstance(source, LaryBenchSource):
        raise ConfigError(
            expected="a source of LARYBench", got=settings.source, fix="Pass source=calvin, for example."
        )
    return source


def _needed(source: str | None) -> str:
    if source is None:
        raise ConfigError(expected="source=<key>", got="none", fix="Pass source=calvin, for example.")
    return source


def _tell_all(problems: Sequence[Any]) -> None:
    tell([f"{problem.item}: {problem.reason}" for problem in problems])
