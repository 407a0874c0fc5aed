"""Run by `test_workers.py` in two processes: trains heads together and alone, and writes how they differ."""

import copy
import json
import os
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from lary_policy.actions.statistics import ActionStats
from lary_policy.heads.attentive import AttentiveProbeConfig
from lary_policy.heads.config import TrainConfig
from lary_policy.heads.dit import DiffusionExpertConfig
from lary_policy.heads.files import HeadMeta, build_head
from lary_policy.heads.mlp import ActionExpertConfig
from lary_policy.heads.pool import PoolConfig
from lary_policy.heads.registry import head_kind
from lary_policy.heads.training.batches import LatentBatches
from lary_policy.heads.training.fit import build_stack
from lary_policy.heads.training.loop import train
from lary_policy.machine import is_main_process

torch.set_num_threads(1)
GRADIENTS = {}  # of each parameter at its last step, averaged over processes


@register_optimizer_step_pre_hook
def remember(optimiser, *_):
    for group in optimiser.param_groups:
        for parameter in group["params"]:
            GRADIENTS[parameter] = None if parameter.grad is None else parameter.grad.clone()


POOL = PoolConfig("project", 3)
MODELS = {
    "mlp": ActionExpertConfig(16, 1, POOL),
    "dit": DiffusionExpertConfig(16, 1, 2, condition_dropout=0.5, sample_steps=3, pool=POOL),
    "probe": AttentiveProbeConfig(16, 1, 2),  # one frame: its temporal embedding has no gradient
    "sweep": AttentiveProbeConfig(16, 1, 2),
}


def describe(name):
    actions = name in ("mlp", "dit")
    return HeadMeta(
        model=MODELS[name],
        encoder="pixels",
        fingerprint="0",
        latent_shape=(1, 1, 4, 8),
        cameras=("front",),
        embodiment="arm7",
        task="reach",
        mode="pair" if actions else "atomic",
        target="absolute" if actions else "class",
        chunk=2,
        action_dim=3,
        stats=ActionStats((0.0,) * 3, (1.0,) * 3, 1),
        class_names=() if actions else ("a", "b", "c"),
    )


def samples(name, count):
    g = torch.Generator().manual_seed(1)
    bank, index = torch.randn(count, 4, 8, generator=g), torch.arange(count).view(-1, 1, 1)
    actions, classes = torch.randn(count, 2, 3, generator=g), torch.randint(0, 3, (count,), generator=g)
    return LatentBatches(bank, index, actions if name in ("mlp", "dit") else classes)


@contextmanager
def alone():
    """Hide the launcher, so that this process trains on its own."""
    hidden = {name: os.environ.pop(name) for name in ("WORLD_SIZE", "RANK")}
    yield
    os.environ.update(hidden)


def effective(name, value):
    """Leave out the bias of keys: it moves all scores alike, and Adam scales its rounding errors up."""
    return torch.cat(value.detach().chunk(3)[::2]) if name.endswith("qkv.bias") else value.detach()


def difference(name, count, config):
    """Return the largest difference of gradients and weights between two processes and one."""
    meta = describe(name)
    objective = head_kind(meta.model.kind).objective(meta.model)
    head = build_head(meta)
    if name == "sweep":
        head = build_stack(meta, 2)
        config = replace(config, sweep=((1e-2, 0.0), (1e-3, 0.1)))
    if name == "dit":
        torch.nn.init.normal_(head.fc_out.weight, generator=torch.Generator().manual_seed(2))
    twin = copy.deepcopy(head)
    data = samples(name, count), samples(name, 5)
    together = train(head, *data, objective, config)
    with alone():
        single = train(twin, *data, objective, config)
    pairs = list(zip(head.parameters(), twin.parameters(), strict=True))
    recorded = [(GRADIENTS[a], GRADIENTS[b]) for a, b in pairs]
    none = [(a is None) == (b is None) for a, b in recorded]
    gradients = [(a, b) for a, b in recorded if b is not None]
    return {
        "same parameters have gradients": all(none),
        "gradient": max(float((a - b).abs().max() / (1e-12 + b.abs().max())) for a, b in gradients),
        "weight": max(
            float((effective(n, a) - effective(n, b)).abs().max())
            for (n, a), b in zip(head.named_parameters(), twin.parameters(), strict=True)
        ),
        "score": abs(together.best_score - single.best_score),
        "loss": abs(together.history[-1].train_loss - single.history[-1].train_loss),
        "losses": [r.train_loss for r in together.history],
    }


def main():
    step = TrainConfig(1, 64, 1e-2, 0.0, 0.0, precision="float32", seed=0)
    found = {name: difference(name, 7, step) for name in MODELS}  # 4 samples and 3: shares of unequal size
    # Batches of 5 over 11 samples: the last has one, so the second process has none of its own.
    longer = replace(step, epochs=3, batch_size=5, balanced=False)
    found |= {f"{name}/epochs": difference(name, 11, longer) for name in MODELS}
    if is_main_process():
        Path(sys.argv[1]).write_text(json.dumps(found))


main()
