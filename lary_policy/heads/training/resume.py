"""The state of an unfinished training on disk; going on from it gives the weights of an unbroken run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from lary_policy.errors import TrainingError, summary
from lary_policy.heads.config import TrainConfig
from lary_policy.heads.files import write_tensors
from lary_policy.heads.training.batches import LatentBatches
from lary_policy.heads.training.epoch import members_of
from lary_policy.paths import open_regular, parse_json


@dataclass(frozen=True)
class EpochRecord:
    """One line of a training history.

    Attributes:
        epoch: 1-based.
        epochs: Planned epochs.
        train_loss: Mean loss over the epoch, of the best head of a sweep.
        val_score: Mean of the objective's score on val, lower is better; the best of a sweep.
        learning_rate: At the last step of the epoch, of the best head of a sweep.
        seconds: Wall time of the epoch.
        member_scores: `val_score` of each head of a sweep, or of the one head.
    """

    epoch: int
    epochs: int
    train_loss: float
    val_score: float
    learning_rate: float
    seconds: float
    member_scores: tuple[float, ...] = ()


@dataclass(frozen=True)
class TrainResult:
    """Outcome of a training run; the head itself holds the selected weights.

    Attributes:
        best_epoch: 1-based epoch of the selected weights.
        best_score: Its val score.
        history: One record an epoch.
        seconds: Wall time.
        num_params: Trained parameters of one head.
        precision: `float32` or `bfloat16`.
        best_member: Index of the selected head of a sweep.
        member_lr: Peak learning rate and weight decay of each head of a sweep, or of the one head.
        skipped: Steps that each head of a sweep left out because its loss was not finite.
    """

    best_epoch: int
    best_score: float
    history: tuple[EpochRecord, ...]
    seconds: float
    num_params: int
    precision: str
    best_member: int = 0
    member_lr: tuple[tuple[float, float], ...] = ()
    skipped: tuple[int, ...] = ()


@dataclass
class Progress:
    """How far a training is.

    Attributes:
        epoch: Finished epochs.
        best_score: Lowest val score so far.
        best_epoch: Its epoch, 1-based.
        best_member: The head of a sweep that reached it.
        best_weights: Weights of that head at that epoch.
        skipped: Steps that each head left out because its loss was not finite.
        history: One record an epoch.
    """

    epoch: int = 0
    best_score: float = float("inf")
    best_epoch: int = 0
    best_member: int = 0
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    skipped: list[int] = field(default_factory=list)
    history: list[EpochRecord] = field(default_factory=list)


def identity(
    head: nn.Module, train_set: LatentBatches, val_set: LatentBatches, objective: str, config: TrainConfig
) -> dict[str, Any]:
    """Return everything that two runs must share for one to go on where the other stopped."""
    shapes = {name: list(value.shape) for name, value in head.state_dict().items()}
    settings = asdict(replace(config, device="any"))
    data = {"train samples": train_set.digest(), "val samples": val_set.digest()}
    return json.loads(json.dumps({**settings, **data, "objective": objective, "head": shapes}))


def save_progress(
    path: Path,
    wanted: Mapping[str, Any],
    progress: Progress,
    head: nn.Module,
    optimisers: Sequence[torch.optim.Optimizer],
    generator: torch.Generator,
) -> None:
    """Write one file that holds everything; it replaces the previous one as a whole.

    Raises:
        StoreError: The disk is full or not writable.
    """
    tensors = {f"head/{name}": value for name, value in head.state_dict().items()}
    tensors |= {f"best/{name}": value for name, value in progress.best_weights.items()}
    for number, optimiser in enumerate(optimisers):
        for index, state in optimiser.state_dict()["state"].items():
            tensors |= {f"adam/{number}/{index}/{name}": value for name, value in state.items()}
    tensors["generator"] = generator.get_state()
    facts = {name: value for name, value in vars(progress).items() if name not in ("best_weights", "history")}
    facts["history"] = [asdict(record) for record in progress.history]
    write_state(path, tensors, {"identity": json.dumps(wanted), "progress": json.dumps(facts)})


def load_progress(
    path: Path,
    wanted: Mapping[str, Any],
    head: nn.Module,
    optimisers: Sequence[torch.optim.Optimizer],
    generator: torch.Generator,
) -> Progress:
    """Restore a state written by `save_progress`; a new one if there is no file.

    Raises:
        TrainingError: The file is damaged, of another shape or version, or belongs to a run with other
            settings or data.
    """
    if not path.exists():
        return Progress()
    try:
        tensors, metadata = read_state(path)
        found, facts = parse_json(metadata["identity"]), parse_json(metadata["progress"])
        _require_same(path, found, wanted)
        head.load_state_dict(_part(tensors, "head/"))
        for number, optimiser in enumerate(optimisers):
            restore_optimiser(optimiser, _part(tensors, f"adam/{number}/"))
        generator.set_state(tensors["generator"])
        progress = _progress(facts, _part(tensors, "best/"), len(optimisers))
        chosen = members_of(head)[progress.best_member].state_dict()
        if progress.best_weights and _shapes(progress.best_weights) != _shapes(chosen):
            raise ValueError("the best weights are of another head")
        return progress
    except TrainingError:
        raise
    except Exception as error:
        raise TrainingError(
            expected=f"a readable training checkpoint at {path}",
            got=summary(error, 400),
            fix="Delete the file to train from the start.",
        ) from error


def write_state(path: Path, tensors: Mapping[str, Tensor], texts: Mapping[str, str]) -> None:
    """Write tensors and texts to one file with the digest of both; it replaces the previous one as a whole.

    Raises:
        StoreError: The disk is full or not writable.
    """
    plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    write_tensors(path, plain, {**texts, "sha256": content_sha256(plain, texts)})


def read_state(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read what `write_state` wrote.

    Raises:
        ValueError: It is not what was written; files of others raise whatever safetensors does.
    """
    with open_regular(path), safe_open(path, framework="pt") as file:
        texts = dict(file.metadata() or {})
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if texts.pop("sha256") != content_sha256(tensors, texts):
        raise ValueError("its content is not what was written")
    return tensors, texts


def _progress(facts: dict[str, Any], best: dict[str, Tensor], members: int) -> Progress:
    """Rebuild how far a training is.

    Raises:
        ValueError: Its numbers contradict each other.
    """
    history = [_record(raw) for raw in facts.pop("history")]
    progress = Progress(**facts, best_weights=best, history=history)
    whole = isinstance(progress.epoch, int) and [r.epoch for r in history] == [*range(1, progress.epoch + 1)]
    if not whole or not 0 <= progress.best_member < members or len(progress.skipped) not in (0, members):
        raise ValueError(f"epoch {progress.epoch} of {len(history)} records, head {progress.best_member}")
    return progress


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in tensors.items()}


def content_sha256(tensors: Mapping[str, Tensor], texts: Mapping[str, str]) -> str:
    """Return the digest of names and bytes of tensors on the CPU, and of texts beside them."""
    digest = hashlib.sha256(json.dumps(texts, sort_keys=True).encode())
    for name in sorted(tensors):
        digest.update(f"{name} {tuple(tensors[name].shape)}".encode())
        digest.update(tensors[name].reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _require_same(path: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    different = [name for name in wanted if found.get(name) != wanted[name]]
    if different:
        raise TrainingError(
            expected="; ".join(f"{name} {wanted[name]}" for name in different),
            got="; ".join(f"{name} {found.get(name)}" for name in different) + f" in {path}",
            fix="Choose another checkpoint, or delete this one to train from the start.",
        )


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def restore_optimiser(optimiser: torch.optim.Optimizer, flat: Mapping[str, Tensor]) -> None:
    """Give an optimiser its moments, named `<number of the parameter>/<name>`.

    Raises:
        ValueError: One is of another shape than its parameter.
    """
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in flat.items():
        index, name = key.split("/")
        state.setdefault(int(index), {})[name] = value
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    for number, values in state.items():
        # PyTorch takes moments of any shape, and fails with them in the next step.
        if any(v.dim() and v.shape != parameters[number].shape for v in values.values()):
            raise ValueError(f"moments of parameter {number} are of another shape")
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})


def _record(raw: Mapping[str, Any]) -> EpochRecord:
    return EpochRecord(**{**raw, "member_scores": tuple(raw["member_scores"])})
