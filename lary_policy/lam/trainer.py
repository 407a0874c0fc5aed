"""The training loop of latent action models: Adam, moving average, exact resume, several processes."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from lary_policy.console import console
from lary_policy.encoders import CodebookCounter, CodebookHealth, Preprocess
from lary_policy.errors import ConfigError, TrainingError, summary
from lary_policy.heads.training import (
    MetricLogger,
    Workers,
    open_workers,
    read_state,
    restore_optimiser,
    write_state,
)
from lary_policy.lam.config import LamConfig
from lary_policy.lam.footage import PairSampler, seen_pairs
from lary_policy.lam.registry import FramePair, LamModule, LamScore
from lary_policy.machine import autocast, made_ahead, resolve_precision
from lary_policy.paths import parse_json

HELD_OUT = 512  # pairs that are looked at while it trains
SAVE_EVERY_S = 60.0
# ema_pytorch's, which the reference uses with its defaults: the average forgets faster in the beginning.
EMA_POWER, EMA_MOST = 2 / 3, 0.9999
COLLAPSED = 1.5  # perplexity of a codebook below which nearly everything becomes one code


@dataclass(frozen=True)
class LamRecord:
    """What held-out pairs said after so many steps.

    Attributes:
        step: Optimiser steps made.
        loss: Mean training loss since the record before.
        error: Mean squared error of the later frame predicted from the codes.
        copied: The same of predicting that nothing changes.
        used: Codes used on the held-out pairs.
        perplexity: Of that use.
        replaced: Codes replaced since the record before.
        seconds: Training time so far, of all runs that made it.
    """

    step: int
    loss: float
    error: float
    copied: float
    used: int
    perplexity: float
    replaced: int
    seconds: float

    @property
    def gain(self) -> float:
        """How much smaller the error is than that of copying the earlier frame, 1 at best."""
        return 1 - self.error / self.copied if self.copied else 0.0

    @property
    def values(self) -> dict[str, float]:
        """What loggers are told."""
        return {
            "train/loss": self.loss, "val/error": self.error, "val/copied": self.copied,
            "val/gain": self.gain, "val/codes": float(self.used), "val/perplexity": self.perplexity,
        }  # fmt: skip

    @property
    def compared(self) -> str:
        """`gain` in words."""
        return f"{abs(self.gain):.0%} {'less' if self.gain >= 0 else 'more'}"


@dataclass
class _State:
    step: int = 0
    seconds: float = 0.0
    losses: float = 0.0  # sum since the last record
    replaced: int = 0
    history: list[LamRecord] = field(default_factory=list)


@dataclass(eq=False)
class LamRun:
    """One training.

    Attributes:
        module: The model, trained in place.
        train: Pairs to learn from.
        val: Held-out pairs.
        pipeline: How frames become images in [0, 1] or another range, where the model sees images.
        image_px: Side of those images.
        config: Settings.
        seed: Decides weights, pairs and noise.
        device: Torch device.
    """

    module: LamModule
    train: PairSampler
    val: PairSampler
    pipeline: Preprocess
    image_px: int
    config: LamConfig
    seed: int
    device: str

    def __post_init__(self) -> None:
        """Check that a batch can use the whole codebook.

        Raises:
            ConfigError: There are more codes than tokens in a batch.
        """
        most = self.config.batch_size * self.module.tokens
        if self.module.codes > most:
            raise ConfigError(
                expected=f"a codebook of at most {most} codes, the codes of a batch",
                got=f"codebook={self.module.codes}",
                fix=f"Pass batch_size={-(-self.module.codes // self.module.tokens)} or a smaller codebook.",
            )

    def batch(self, sampler: PairSampler, first: Tensor, second: Tensor) -> FramePair:
        """Return pairs of frames of a sampler, given which of its frames, as the model sees them."""
        return seen_pairs(sampler.footage, first, second, self.pipeline, self.image_px, self.device)


def train_lam(
    run: LamRun,
    *,
    checkpoint: Path | None = None,
    loggers: Sequence[MetricLogger] = (),
    on_step: Callable[[int, int], None] | None = None,
    on_record: Callable[[LamRecord, nn.Module], None] | None = None,
) -> tuple[nn.Module, tuple[LamRecord, ...]]:
    """Train a latent action model.

    Pairs and noise of a step depend on the seed and its number alone, so an interrupted training that goes on
    ends, on a CPU and with equally many threads, with the same bits. Started by `accelerate launch` or
    `torchrun`, each process takes its part of every batch.

    Args:
        run: What is trained, and on what.
        checkpoint: File from which an interrupted run goes on.
        loggers: Where the history also goes.
        on_step: Called with (steps, of how many).
        on_record: Called after each look at held-out pairs, with the weights that would be saved.

    Returns:
        The network with the weights to keep, averaged if the settings say so; and the history.

    Raises:
        TrainingError: The loss stops being finite, or the checkpoint is damaged or belongs to another run.
    """
    loop = _Loop.create(run, checkpoint)
    state, config = loop.state, run.config
    started, saved = time.perf_counter() - state.seconds, time.perf_counter()
    while state.step < config.steps:
        for draws, pairs in loop.batches(state.step):
            loop.update(draws, pairs)
            state.seconds = time.perf_counter() - started
            if on_step is not None:
                on_step(state.step, config.steps)
            record = None
            if state.step == config.steps or state.step % config.eval_every == 0:
                record = _look(loop)
            due = record is not None or time.perf_counter() - saved > SAVE_EVERY_S
            if due and checkpoint is not None and loop.workers.rank == 0:
                loop.save(checkpoint)
                saved = time.perf_counter()
            if record is not None and loop.workers.rank == 0:  # after it is kept: nothing is told twice
                _tell(loop, record, loggers, on_record)
    return loop.kept, tuple(state.history)


@dataclass(eq=False)
class _Loop:
    run: LamRun
    workers: Workers
    wrapped: nn.Module
    optimiser: torch.optim.Optimizer
    average: AveragedModel | None
    precision: torch.dtype
    state: _State

    @classmethod
    def create(cls, run: LamRun, checkpoint: Path | None) -> _Loop:
        workers = open_workers(run.device)
        module: Any = run.module
        module.to(workers.device).train()
        lr, decay, betas = run.config.lr, run.config.weight_decay, (0.9, run.config.beta2)
        optimiser = torch.optim.AdamW(_trained(module), lr=lr, betas=betas, weight_decay=decay)
        average = AveragedModel(run.module.network, avg_fn=_forget) if run.config.ema else None
        precision = resolve_precision(run.config.compute, workers.device)
        loop = cls(run, workers, workers.wrap(module), optimiser, average, precision, _State())
        if checkpoint is not None and checkpoint.exists():
            loop.load(checkpoint)
        return loop

    @property
    def kept(self) -> nn.Module:
        """The network with the weights that would be saved now."""
        return self.run.module.network if self.average is None else self.average.module

    def batches(self, step: int) -> Iterator[tuple[Tensor, FramePair]]:
        """Yield what each step from `step` on takes, read ahead."""
        yield from made_ahead(range(step, self.run.config.steps), self._batch, 1)

    def _batch(self, step: int) -> tuple[Tensor, FramePair]:
        run, size = self.run, self.run.config.batch_size
        generator = torch.Generator().manual_seed(_seed_of(run.seed, step))
        first, second = run.train.draw(size, generator)
        draws = torch.randn(size, *run.module.draws, generator=generator)
        mine = slice(self.workers.rank, None, self.workers.count)
        return draws[mine].to(self.workers.device), run.batch(run.train, first[mine], second[mine])

    def update(self, draws: Tensor, pairs: FramePair) -> None:
        """Make one optimiser step."""
        run, state = self.run, self.state
        with autocast(self.workers.device, self.precision):
            loss, codes = self.wrapped(pairs, draws)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(_trained(self.run.module), run.config.grad_clip)
        mean = float(self.workers.mean(loss.detach()))
        if not (math.isfinite(mean) and math.isfinite(float(norm))):
            raise TrainingError(
                expected=f"a finite loss and gradient in step {state.step + 1}",
                got=f"loss {mean}, gradient {float(norm)}",
                fix=f"Lower lr (now {run.config.lr}), or pass precision=float32.",
            )
        used = torch.zeros(run.module.codes, device=codes.device)
        used[codes.flatten()] = 1.0
        used = (self.workers.mean(used) > 0).float()
        seed = _seed_of(run.seed, state.step) + 1
        state.replaced += run.module.tend(state.step, used, run.config.batch_size, seed)
        for group in self.optimiser.param_groups:
            group["lr"] = rate_at(run.config, state.step)
        self.optimiser.step()
        if self.average is not None:
            self.average.update_parameters(run.module.network)
        state.losses += mean
        state.step += 1

    def identity(self) -> dict[str, Any]:
        """Return what two runs must share for one to go on where the other stopped."""
        shapes = {name: list(v.shape) for name, v in self._weights().items()}
        sizes = {"train pairs": len(self.run.train.starts), "val pairs": len(self.run.val.starts)}
        return json.loads(
            json.dumps({**asdict(self.run.config), **sizes, "seed": self.run.seed, "weights": shapes})
        )

    def _weights(self) -> dict[str, Tensor]:
        module: Any = self.run.module
        found = {f"model/{k}": v for k, v in module.state_dict().items()}
        if self.average is not None:
            found |= {f"average/{k}": v for k, v in self.average.state_dict().items()}
        return found

    def save(self, path: Path) -> None:
        """Write everything to one file, which replaces the one before as a whole."""
        tensors = self._weights()
        for index, moments in self.optimiser.state_dict()["state"].items():
            tensors |= {f"adam/{index}/{name}": value for name, value in moments.items()}
        facts = {**vars(self.state), "history": [asdict(one) for one in self.state.history]}
        write_state(path, tensors, {"identity": json.dumps(self.identity()), "state": json.dumps(facts)})

    def load(self, path: Path) -> None:
        """Go on where `save` was called.

        Raises:
            TrainingError: The file is damaged, or of a run with other settings or data.
        """
        try:
            tensors, texts = read_state(path)
            found, wanted = parse_json(texts["identity"]), self.identity()
            different = sorted(k for k in {*found, *wanted} if found.get(k) != wanted.get(k))
            if different:
                raise ValueError(f"it is of a run with other {', '.join(different)}")
            self._restore(tensors)
            facts: Mapping[str, Any] = parse_json(texts["state"])
            history = [LamRecord(**one) for one in facts["history"]]
            self.state = _State(**{**facts, "history": history})
        except Exception as error:
            raise TrainingError(
                expected=f"the checkpoint of this training at {path}",
                got=summary(error, 300),
                fix="Delete the file to train from the start.",
            ) from error

    def _restore(self, tensors: Mapping[str, Tensor]) -> None:
        parts: dict[str, dict[str, Tensor]] = {"model": {}, "average": {}, "adam": {}}
        for name, value in tensors.items():
            first, _, rest = name.partition("/")
            parts[first][rest] = value
        module: Any = self.run.module
        module.load_state_dict(parts["model"])
        if self.average is not None:
            self.average.load_state_dict(parts["average"])
        restore_optimiser(self.optimiser, parts["adam"])


def _trained(module: Any) -> list[nn.Parameter]:
    """Return the parameters that want a gradient, of the network and of what is beside it."""
    return [p for p in module.parameters() if p.requires_grad]


def rate_at(config: LamConfig, step: int) -> float:
    """Return the learning rate of step `step`, from 0: a linear rise, then `schedule`."""
    rise = min(1.0, (step + 1) / (config.warmup_steps + 1))
    if config.schedule == "constant" or rise < 1:
        return config.lr * rise
    done = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return config.lr * 0.5 * (1 + math.cos(math.pi * done))


def _forget(average: Tensor, new: Tensor, count: Tensor | int) -> Tensor:
    """Return the next moving average after `count` updates; the first two only copy."""
    count = int(count)
    keep = 0.0 if count < 2 else min(EMA_MOST, 1 - (1 + count) ** -EMA_POWER)
    return torch.lerp(average, new, 1 - keep)  # what does not change stays as it is, to the bit


def _seed_of(seed: int, step: int) -> int:
    return (seed * (1 << 32) + 2 * step) % (1 << 63)


def _look(loop: _Loop) -> LamRecord:
    """Look at held-out pairs and write down what they say."""
    state, before = loop.state, loop.state.history[-1].step if loop.state.history else 0
    error, copied, health = look(loop.run, loop.kept, loop.precision)
    if not (math.isfinite(error) and copied > 0):
        still, lower = "Choose recordings in which something moves.", "Lower lr, or pass precision=float32."
        raise TrainingError(
            expected=f"a finite error on held-out pairs after step {state.step}, of frames that differ",
            got=f"error {error:.4g}, and {copied:.4g} of copying",
            fix=lower if copied > 0 else still,
        )
    loss, seconds = state.losses / (state.step - before), round(state.seconds, 2)
    record = LamRecord(
        state.step, loss, error, copied, health.used, health.perplexity, state.replaced, seconds
    )
    state.history.append(record)
    state.losses, state.replaced = 0.0, 0
    return record


def _tell(
    loop: _Loop,
    record: LamRecord,
    loggers: Sequence[MetricLogger],
    on_record: Callable[[LamRecord, nn.Module], None] | None,
) -> None:
    """Say what held-out pairs said."""
    codes = loop.run.module.codes
    if record.perplexity < min(COLLAPSED, codes):
        console.print(
            f"    step {record.step}: the codebook has collapsed, {record.used} of {codes} codes used, "
            f"perplexity {record.perplexity:.1f}; try a larger one or a lower lr",
            soft_wrap=True,
        )
    for logger in loggers:
        logger.log(record.step, record.values)
    if on_record is not None:
        on_record(record, loop.kept)


@torch.no_grad()
def look(run: LamRun, network: nn.Module, precision: torch.dtype) -> tuple[float, float, CodebookHealth]:
    """Return the error on held-out pairs, that of copying, and how the codebook is used on them."""
    counter, errors, copies = CodebookCounter(run.module.codes), [], []
    for score in scores(run, network, HELD_OUT, precision):
        counter.update(score.codes)
        errors.append(score.error.flatten().double())
        copies.append(score.copied.flatten().double())
    return float(torch.cat(errors).mean()), float(torch.cat(copies).mean()), counter.health()


@torch.no_grad()
def scores(run: LamRun, network: nn.Module, pairs: int, precision: torch.dtype) -> Iterator[LamScore]:
    """Score held-out pairs with the weights of `network`, batch by batch."""
    module: Any = run.module
    own, module.network = module.network, network
    module.eval()
    try:
        for first, second in zip(*(x.split(64) for x in run.val.spread(pairs)), strict=True):
            with autocast(run.device, precision):
                yield module.score(run.batch(run.val, first, second))
    finally:
        module.network = own
        module.train()
