"""Every configuration trains on every question that it fits, and is refused by name elsewhere."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch

from lary_policy.actions.statistics import ActionStats
from lary_policy.errors import HeadMismatchError, ShapeError, UnknownNameError
from lary_policy.heads.config import list_head_configs, load_head_config, parse_head_config, require_fit
from lary_policy.heads.files import HeadMeta, load_head, save_head
from lary_policy.heads.objective import action_objective
from lary_policy.heads.registry import QUESTIONS, HeadKind, head_kind, head_kinds, register_head
from lary_policy.heads.training.batches import LatentBatches
from lary_policy.heads.training.fit import fit, predict

NAMES, ACTIONS = list_head_configs(), 3
CLASSES = ("+x", "-x", "Open")


# What a head sees at a question: frames, whether numbers beside them (the pose, the given actions), and how
# many vectors of numbers it answers with; classes are no vectors.
SEEN = {
    "pair": (2, False, 2), "subgoal": (2, False, 2), "policy": (1, True, 2), "state": (1, False, 1),
    "forward": (1, True, 1), "atomic": (2, False, 0), "composite": (4, False, 0),
}  # fmt: skip


def samples(question, count=4):
    """Samples as the stages of this question make them, of random numbers."""
    generator = torch.Generator().manual_seed(0)
    frames, beside, chunk = SEEN[question]
    index = torch.arange(count * frames).view(count, frames, 1)
    targets = torch.randn(count, chunk, ACTIONS, generator=generator)
    if QUESTIONS[question] == "class":
        targets = torch.arange(count) % len(CLASSES)
    proprio = torch.randn(count, 4, generator=generator) if beside else None
    return LatentBatches(torch.randn(count * frames, 4, 6, generator=generator), index, targets, proprio)


def describe(name, question):
    """Describe a head; those that sample take few steps, or the test would only wait for them."""
    model = load_head_config(name).model
    model = replace(model, sample_steps=3) if hasattr(model, "sample_steps") else model
    numbers = QUESTIONS[question] == "numbers"
    _, beside, chunk = SEEN[question]
    stats = ActionStats((0.0,) * 4, (1.0,) * 4, 1)
    return HeadMeta(
        model=model,
        encoder="pixels",
        fingerprint="0123456789abcdef",
        latent_shape=samples(question).latent_shape,
        cameras=("front",),
        embodiment="arm7",
        task="reach",
        mode=question,
        target="absolute" if numbers else "class",
        chunk=chunk,
        action_dim=ACTIONS if numbers else 0,
        proprio_stats=stats if beside else None,
        class_names=() if numbers else CLASSES,
    )


@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize("name", NAMES)
def test_a_head_trains_on_every_question_it_fits_and_is_refused_elsewhere(name, question):
    config = replace(load_head_config(name).train, epochs=1, batch_size=4, warmup_fraction=0.0)
    data = samples(question)
    if head_kind(load_head_config(name).model.kind).fits(question):
        head, trained = fit(describe(name, question), data, data, config)
        answers = predict(head, data)
        assert torch.isfinite(answers).all()
        classes = (4, len(CLASSES)) if QUESTIONS[question] == "class" else None
        assert answers.shape == (classes or (4, SEEN[question][2], ACTIONS))
        assert len(trained.history) == 1
    else:
        with pytest.raises(HeadMismatchError, match=f"'{question}'") as error:
            fit(describe(name, question), data, data, config)
        named = re.findall(r"[\w-]+", error.value.fix)
        assert name not in named
        assert set(list_head_configs(question)) <= set(named)


def test_every_configuration_fits_a_question_and_every_question_has_heads():
    assert len(NAMES) == 9
    fitting = {question: list_head_configs(question) for question in QUESTIONS}
    assert all(fitting.values())
    assert {name for names in fitting.values() for name in names} == set(NAMES)
    with pytest.raises(UnknownNameError, match="pair"):
        require_fit(load_head_config("mlp-small").model, "pairs")


def test_kinds_are_found_in_the_files_of_the_package():
    assert set(head_kinds()) == {"attentive", "dit", "mlp"}
    for name, kind in head_kinds().items():
        assert kind.config.kind == name
        json.dumps(kind.answer)


@dataclass(frozen=True)
class Linear:
    """A head that one file could add."""

    bias: bool = True
    kind: ClassVar[str] = "linear"

    @property
    def label(self):
        return "linear"


class LinearHead(torch.nn.Module):
    def __init__(self, config, sizes):
        super().__init__()
        self.map = torch.nn.Linear(math.prod(sizes.latent_shape), sizes.chunk * sizes.action_dim, config.bias)
        self.shape = (sizes.chunk, sizes.action_dim)

    def forward(self, latents):
        return self.map(latents.flatten(1)).unflatten(1, self.shape)


def test_a_head_is_one_registration(tmp_path):
    """It is then parsed, refused, trained, stored and read back like any other."""
    register_head(HeadKind(Linear, LinearHead, "numbers", lambda _: action_objective()))
    try:
        config = parse_head_config({"kind": "linear", "bias": False, "train": {"epochs": 2}})
        meta, data = replace(describe("mlp-small", "pair"), model=config.model), samples("pair")
        head, _ = fit(meta, data, data, config.train)
        save_head(tmp_path, head, meta)
        again, found = load_head(tmp_path)
        assert found == meta
        assert torch.equal(predict(again, data), predict(head, data))
        with pytest.raises(HeadMismatchError, match="attentive-small"):
            require_fit(config.model, "composite")
    finally:
        del head_kinds()["linear"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"chunk": 3}, r"targets \[N, 3, 3\]"),
        ({"action_dim": 2}, r"targets \[N, 2, 2\]"),
        ({"latent_shape": (2, 1, 4, 7)}, r"latents \(2, 1, 4, 7\)"),
        ({"proprio_stats": ActionStats((0.0,), (1.0,), 1)}, "1 numbers of proprioception"),
    ],
)
def test_samples_of_another_shape_are_refused_before_training(change, message):
    data, config = samples("pair"), replace(load_head_config("mlp-small").train, epochs=1)
    with pytest.raises(ShapeError, match=message):
        fit(replace(describe("mlp-small", "pair"), **change), data, data, config)


def test_classes_beyond_the_heads_are_refused():
    data, config = samples("atomic"), replace(load_head_config("attentive-small").train, epochs=1)
    meta = replace(describe("attentive-small", "atomic"), class_names=("+x", "-x"))
    with pytest.raises(ShapeError, match=r"classes 0\.\.1"):
        fit(meta, data, data, config)
