"""`lary lam`: train a latent action model on frames, and leave an encoder behind."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lary_policy import __version__
from lary_policy.console import console, progress
from lary_policy.data import write_checksums
from lary_policy.encoders import EncoderView, encoder_spec
from lary_policy.encoders.families import OWN_PATCHES, TRAINED_CONFIG, TrainedLam
from lary_policy.encoders.weights import NO_WEIGHTS
from lary_policy.errors import ConfigError, StoreError
from lary_policy.heads.training import METRICS, agree, connect, first_then_all, json_line, open_logger
from lary_policy.lam import (
    CARD,
    SHEET_ROWS,
    LamConfig,
    LamRecord,
    LamRun,
    lam_kind,
    plain_history,
    save_lam,
    scores,
    train_lam,
    write_sheet,
)
from lary_policy.machine import (
    intra_op_threads,
    is_main_process,
    resolve_device,
    resolve_precision,
)
from lary_policy.paths import atomic_write
from lary_policy.runs.cells import (
    RUN_FILE,
    Cell,
    check_run_folder,
    plain,
    point_latest,
    run_folder,
    verify_cell,
    write_result,
)
from lary_policy.runs.config import RunConfig
from lary_policy.runs.context import git_revision
from lary_policy.runs.lam.frames import LamTask, image_bank
from lary_policy.types import Quarantined

SHEET = "samples.png"


@dataclass(frozen=True)
class LamOutcome:
    """What `lary lam` left behind.

    Attributes:
        folder: Weights, description, card, history and samples.
        encoder: Name that the weights are loaded by.
        history: What held-out pairs said while it trained.
        quarantined: Frames and videos that could not be used.
    """

    folder: Path
    encoder: str
    history: tuple[LamRecord, ...]
    quarantined: tuple[Quarantined, ...]


def run_lam(
    config: RunConfig, lam: LamConfig, backbone: EncoderView, videos: Path | None = None
) -> LamOutcome:
    """Train a latent action model; what is finished is reused, an interrupted training goes on.

    Args:
        config: Source of the frames, seed, device and folders; its encoders and questions do not count.
        lam: What is trained, and how.
        backbone: Frozen encoder whose features the model sees; `pixels` for a model with its own patches.
        videos: A folder of plain videos instead of the source.

    Raises:
        ConfigError: The backbone has no square grid of tokens, or sizes do not fit each other.
        DatasetError: There are no two frames of one recording as far apart as asked for.
        TrainingError: The loss stops being finite.
        LaryPolicyError: See `run_extract`.
    """
    config = replace(config, encoders=(backbone,), probes=(), rollouts=(), heads=())
    _require_plain(backbone)
    if config.protocol == "both":
        raise ConfigError(
            expected="one protocol, whose latents it sees", got="both", fix="Pass protocol=native or lary."
        )
    encoder_spec(backbone.name)  # an unknown one is said as it was typed
    kind = lam_kind(lam.model)
    name = kind.encoder.format(backbone.name)
    encoder_spec(name)  # a backbone without a grid of tokens is refused before it encodes
    connect(resolve_device(config.device))
    _require_folder(config, lam)
    task = first_then_all(lambda: LamTask.open(config, lam, backbone, videos))
    cell = task.cell()
    result = cell.compute_together(lambda: _train(task, cell))
    folder = agree(run_folder(config.output_dir, config.run, "lam") if is_main_process() else Path())
    if is_main_process():
        _publish(cell, (*kind.files, CARD, SHEET, METRICS, TRAINED_CONFIG), folder)
        frames = {"of": task.frames, "content": task.content}
        asked = plain(config) if videos is None else {**plain(config), "tasks": [], "source": "videos"}
        facts = {"config": asked, "lam": plain(lam), "frames": frames, "result": result}
        write_result(folder / RUN_FILE, facts)
        write_checksums(folder)
        point_latest(config.output_dir, folder)
    history = tuple(LamRecord(**{k: v for k, v in one.items() if k != "gain"}) for one in result["history"])
    return LamOutcome(folder, name, history, tuple(task.quarantined))


def _require_folder(config: RunConfig, lam: LamConfig) -> None:
    """Refuse, before anything is trained, a folder that the model must not be written to.

    Raises:
        ConfigError: It is a link, holds a run of another verb, or the first stage that is read.
    """
    if config.run is None:
        return
    folder = config.output_dir / config.run
    check_run_folder(folder, "lam")
    if lam.stage_one is not None and folder.resolve() == Path(lam.stage_one).resolve():
        raise ConfigError(
            expected="another folder than that of stage_one",
            got=str(folder),
            fix="Pass run=stage2, for example.",
        )


def _publish(cell: Cell, names: Sequence[str], folder: Path) -> None:
    """Copy a finished model into the folder of its run; the description, without which none loads, last.

    Raises:
        StoreError: A file of the cell is not what training wrote, or the disk is full.
    """
    problems = [] if cell.is_older else verify_cell(cell.folder).problems
    if problems:
        raise StoreError(
            expected=f"the trained model in {cell.folder} as it was written",
            got=f"{problems[0].item}: {problems[0].reason}",
            fix=f"Delete {cell.folder} and start the command again.",
        )
    (folder / TRAINED_CONFIG).unlink(missing_ok=True)
    for name in names:
        with atomic_write(folder / name) as temporary:
            shutil.copyfile(cell.folder / name, temporary)


def _require_plain(backbone: EncoderView) -> None:
    """Refuse settings of a view that the trained encoder would not have.

    Raises:
        ConfigError: One is set.
    """
    usual = EncoderView(backbone.name)
    names = ("preprocess", "output", "components", "noise")
    changed = [name for name in names if getattr(backbone, name) != getattr(usual, name)]
    if changed:
        raise ConfigError(
            expected="a backbone with its own pipeline and latents as they are",
            got=", ".join(f"{name} {getattr(backbone, name)}" for name in changed),
            fix="Leave them out; name, weights, image_px, dtype and layer may be set.",
        )


def _train(task: LamTask, cell: Cell) -> dict[str, Any]:
    """Train the model and write it into its cell."""
    run, config = task.build(), task.context.config
    pairs = {"train": len(run.train.starts), "held out": len(run.val.starts)}
    lost = len(task.quarantined)
    console.print(
        f"    {cell.label}: {pairs['train']} first frames to learn from, {pairs['held out']} held out, "
        f"{task.offset} to {int(1.5 * task.offset)} steps apart"
        + (f"; {lost} items set aside" if lost else ""),
        soft_wrap=True,
    )
    cell.folder.mkdir(parents=True, exist_ok=True)
    loggers = [open_logger(n, cell.folder, plain(task.lam)) for n in ("jsonl", *config.loggers)]
    checkpoint = cell.folder / "training.safetensors"
    with progress(f"lam {cell.label}") as update, intra_op_threads(task.context.cores):
        network, history = train_lam(
            run,
            checkpoint=checkpoint,
            loggers=loggers,
            on_step=update,
            on_record=lambda record, kept: _draw(task, run, kept, cell.folder / SHEET),
        )
    if history[-1].gain <= 0:
        console.print(
            f"    it predicts later frames no better than copying the earlier one ({history[-1].compared} "
            "error): make more steps, or lower lr"
        )
    for logger in loggers:
        logger.close()
    if is_main_process():
        _save(task, network, history, cell.folder)
        _draw(task, run, network, cell.folder / SHEET)  # one that was cut off there may lack the last
        with atomic_write(cell.folder / METRICS) as temporary:  # nor a line, nor one twice
            temporary.write_text(
                "".join(json_line(one.step, one.values) for one in history), encoding="utf-8"
            )
        checkpoint.unlink(missing_ok=True)
    sizes = {"parameters": sum(p.numel() for p in network.parameters()), "tokens": run.module.tokens}
    return {"history": plain_history(history), "pairs": pairs, **sizes, "quarantined": task.quarantined}


def _save(task: LamTask, network: Any, history: Sequence[LamRecord], folder: Path) -> None:
    view, shelf = task.backbone, task.context.shelf
    weights = NO_WEIGHTS.sha256 if view.name == OWN_PATCHES else shelf.weights_key(view)
    about = TrainedLam(
        task.lam.model, view.name, view.weights, weights, view.preprocess, view.layer, task.image_px,
        shelf.seed, network.config,
    )  # fmt: skip
    training = {
        **plain(task.lam),
        "frames": task.frames,
        "offset": task.offset,
        "commit": git_revision(),
        "lary_policy": __version__,
    }
    save_lam(folder, lam_kind(task.lam.model), network, about, training, history)


def _draw(task: LamTask, run: LamRun, network: nn.Module, path: Path) -> None:
    """Draw a sheet of held-out pairs."""
    precision = resolve_precision(task.lam.compute, run.device)
    footage, places = run.val.footage, run.val.footage.place[torch.stack(run.val.spread(SHEET_ROWS), dim=1)]
    images = footage.images
    if images is None:
        some = [footage.frames[place] for place in places.flatten().tolist()]
        shown, *_ = image_bank(some, task.image_px, task.pipeline, 1)
    else:
        shown = images[places.flatten()]
    write_sheet(path, shown.unflatten(0, (-1, 2)), next(scores(run, network, SHEET_ROWS, precision)))
