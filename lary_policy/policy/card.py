"""The model card: LeRobot's own, with the encoder's identity and what probe and rollout measured."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData
from lerobot.policies import PreTrainedPolicy

from lary_policy.data import require_written
from lary_policy.encoders import encoder_spec
from lary_policy.errors import DatasetError
from lary_policy.paths import MAX_JSON_BYTES, parse_json, read_json, read_regular
from lary_policy.policy.configuration_lary import LaryConfig
from lary_policy.scores import Score

TAGS = ("lary", "mujoco")
_COLUMNS = ("stage", "task", "mode", "target", "metric", "value", "95 % CI", "n", "split", "seed")


def card_scores(path: Path) -> list[dict[str, Any]]:
    """Read the scores of a report.json, or of a cell (or its result.json); DatasetError if there are none."""
    file = path / "result.json" if path.is_dir() else path
    try:
        require_written(file)
        if not isinstance(raw := parse_json(read_regular(file, MAX_JSON_BYTES)), list):
            raw = read_json(file)["scores"]  # a cell's result; a report is a list
        return [Score.from_dict(row).to_dict() for row in raw]
    except Exception as error:
        raise DatasetError(
            expected=f"a report.json or result.json of lary with scores in {path}",
            got=f"{type(error).__name__}: {error}",
            fix="Pass --policy.scores_from=<output folder>/<run>/report.json.",
        ) from error


def lerobots_card(policy: PreTrainedPolicy, *args: Any, **kwargs: Any) -> ModelCard:
    """Return LeRobot's own card of a policy: up to 0.6.1 a method, since then a function of the config.

    Later versions push the card of the configuration alone; of what `extend_card` adds they know the tags.
    The first branch can go when pyproject.toml asks for more than 0.6.1.
    """
    if hasattr(PreTrainedPolicy, "generate_model_card"):
        return PreTrainedPolicy.generate_model_card(policy, *args, **kwargs)
    return importlib.import_module("lerobot.common.train_utils").generate_model_card(policy.config)


def extend_card(card: ModelCard, config: LaryConfig) -> ModelCard:
    """Add tags, the encoder and the scores to LeRobot's card."""
    spec = encoder_spec(config.encoder.name)
    card.data["tags"] = sorted({*(card.data.get("tags") or []), *TAGS, spec.name})
    card.text = f"{card.text.rstrip()}\n\n{encoder_section(config)}\n{score_section(config.scores)}"
    return card


def local_card(config: LaryConfig, task: str, command: str) -> ModelCard:
    """Return a card for a checkpoint on disk; unlike LeRobot's, it is not sent to the hub for validation.

    `task` is what it was trained on, `command` how to evaluate it.
    """
    data = ModelCardData(
        license=config.license or "apache-2.0",
        library_name="lerobot",
        pipeline_tag="robotics",
        tags=["robotics", "lerobot", config.type, *(config.tags or [])],
        model_name=config.type,
    )
    needs = "It needs the package `lerobot_policy_lary`, installed from its clone or wheel."
    text = f"# Policy `{config.type}` for {task}\n\n{needs}\n\n```bash\n{command}\n```\n"
    return extend_card(ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}"), config)


def encoder_section(config: LaryConfig) -> str:
    """Return the Markdown about encoder and head."""
    encoder, spec = config.encoder, encoder_spec(config.encoder.name)
    stored = "stored in this checkpoint" if encoder.stores_backbone else "not stored here; referenced by hash"
    lines = [
        "## Encoder and head",
        "",
        f"- Encoder: `{encoder.name}` ({spec.family}), output `{encoder.output}`, trained part: "
        f"{encoder.trainable}",
        f"- Weights: {encoder.weights}, revision `{encoder.revision}`, sha256 `{encoder.sha256}`; {stored}",
        f"- Licence of the encoder's weights: {spec.licence}; paper: {spec.paper}",
        f"- Head: {config.head}, width {config.head_width}, pool {config.pool}; chunk {config.chunk_size}, "
        f"{config.n_action_steps} actions executed a plan",
        f"- Actions: {config.action_mode}, embodiment {config.embodiment or 'not stated'}, "
        f"{config.control_hz or '?'} Hz",
    ]
    if config.head_origin:
        lines.append(f"- The head started as that of a probe: {config.head_origin}")
    return "\n".join(lines) + "\n"


def score_section(rows: Sequence[dict[str, Any]]) -> str:
    """Return the Markdown table of scores; it says so when there are none."""
    lines = ["## Probe and rollout scores", ""]
    if not rows:
        return "\n".join([*lines, "None were given (`--policy.scores_from=<report.json>`).", ""])
    lines += ["| " + " | ".join(_COLUMNS) + " |", "|" + " --- |" * len(_COLUMNS)]
    for row in rows:
        cells = [*(str(row[name]) for name in _COLUMNS[:5]), f"{row['value']:.4g}"]
        ends = row["ci95"]
        interval = f"{ends[0]:.4g} to {ends[1]:.4g}" if ends else f"not estimable: {row['no_interval']}"
        cells += [interval, str(row["n"]), str(row["split"]), str(row["seed"])]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, ""])
