"""Trained heads on disk: `head.safetensors`, and a `head.json` that says what they may be used for.

`head.json` holds the sha256 of the weights and of itself: a flipped byte in either is found.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from lary_policy.actions import ActionContract, ActionStats
from lary_policy.encoders.weights import check_weight_file, tensor_parts
from lary_policy.errors import HeadMismatchError, LaryPolicyError, WeightsMismatchError, summary
from lary_policy.heads.config import parse_model_config
from lary_policy.heads.pool import LatentShape, TokenGrid
from lary_policy.heads.registry import Head, ModelConfig, build_module
from lary_policy.paths import MAX_JSON_BYTES, atomic_write, open_regular, parse_json, read_regular

HEAD_FORMAT = 3  # 2 had no digests
_WEIGHTS, _META = "head.safetensors", "head.json"
_AGAIN = "Train the head again: delete its folder, then start the same command."


@dataclass(frozen=True)
class HeadMeta:
    """Everything needed to rebuild a head and to refuse a wrong use of it.

    Attributes:
        model: Sizes of the head; its kind says whether it predicts actions or classes.
        encoder: Registry name of the encoder.
        fingerprint: Fingerprint of the encoder (weights, preprocessing, dtype).
        latent_shape: (t, c, n, d) of one sample.
        cameras: Names of the c cameras, in order.
        embodiment: Embodiment name.
        task: Task or dataset the head was trained on.
        mode: What it is asked: one of `QUESTIONS`.
        target: A target of `lary_policy.actions.targets`, or `class`.
        chunk: Actions k of one chunk (0 for classes).
        action_dim: Numbers a of one action (0 for classes).
        stats: Statistics that undo the normalisation of actions, or None for classes.
        proprio_stats: Statistics of the proprioceptive input, or None without one.
        class_names: Classes in order, empty for actions.
        token_grid: Layout of the n tokens, or None.
        seed: Seed of training.
        contract: Meaning of the predicted actions, or None for classes.
        rotation: `native` if rotations are predicted in the embodiment's convention, or `rot6d`; `action_dim`
            and `stats` are then of the six-number layout.
    """

    model: ModelConfig
    encoder: str
    fingerprint: str
    latent_shape: LatentShape
    cameras: tuple[str, ...]
    embodiment: str
    task: str
    mode: str
    target: str
    chunk: int = 0
    action_dim: int = 0
    stats: ActionStats | None = None
    proprio_stats: ActionStats | None = None
    class_names: tuple[str, ...] = ()
    token_grid: TokenGrid | None = None
    seed: int = 0
    contract: ActionContract | None = None
    rotation: Literal["native", "rot6d"] = "native"

    @property
    def label(self) -> str:
        """Short name used in scores, e.g. `mlp512-project32`."""
        return self.model.label

    def require(self, *, fingerprint: str | None = None, embodiment: str | None = None) -> None:
        """Refuse an encoder or embodiment the head was not trained with.

        Raises:
            HeadMismatchError: One of the given values differs; the message prints both.
        """
        wanted = {"fingerprint": fingerprint, "embodiment": embodiment}
        for name, value in wanted.items():
            own = getattr(self, name)
            if value is not None and value != own:
                raise HeadMismatchError(
                    expected=f"{name} '{own}' (encoder {self.encoder}), which the head was trained with",
                    got=f"{name} '{value}'",
                    fix="Use the encoder and embodiment named in head.json, or train a head for this one.",
                )


def build_head(meta: HeadMeta, *, seed: int | None = None) -> Head:
    """Build the untrained head that `meta` describes; initial weights depend on the seed alone.

    Args:
        meta: Description of the head.
        seed: Of the initial weights; `meta.seed` by default.
    """
    return build_module(
        meta.model,
        meta.latent_shape,
        chunk=meta.chunk,
        action_dim=meta.action_dim,
        num_classes=len(meta.class_names),
        proprio_dim=len(meta.proprio_stats.mean) if meta.proprio_stats else 0,
        token_grid=meta.token_grid,
        seed=meta.seed if seed is None else seed,
    )


def count_parameters(meta: HeadMeta) -> int:
    """Return the number of weights of the head that `meta` describes, without making room for them."""
    with torch.device("meta"):
        return sum(p.numel() for p in build_head(meta).parameters())


def write_tensors(path: Path, tensors: Mapping[str, Tensor], texts: Mapping[str, str] | None = None) -> None:
    """Write contiguous tensors on the CPU as safetensors, straight from where they lie.

    The reference's head on DINOv2-S has 805 million parameters, too many to copy for its checkpoint.

    Raises:
        StoreError: The disk is full or not writable; the previous file, if any, is untouched.
    """
    ordered = dict(sorted(tensors.items(), key=lambda item: (-item[1].itemsize, item[0])))
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        file.writelines(tensor_parts(ordered, texts))


def save_head(folder: Path, head: nn.Module, meta: HeadMeta) -> None:
    """Write weights and description into `folder`; each file is replaced as a whole.

    Raises:
        StoreError: The disk is full or not writable.
    """
    weights = {name: value.detach().cpu().contiguous() for name, value in head.state_dict().items()}
    write_tensors(folder / _WEIGHTS, weights)
    with (folder / _WEIGHTS).open("rb") as file:
        facts = {**meta_to_dict(meta), "weights_sha256": hashlib.file_digest(file, "sha256").hexdigest()}
    with atomic_write(folder / _META) as path:
        path.write_text(json.dumps({**facts, "sha256": facts_sha256(facts)}, indent=2) + "\n")


def load_head(
    folder: Path, device: str = "cpu", *, fingerprint: str | None = None, embodiment: str | None = None
) -> tuple[Head, HeadMeta]:
    """Read a head, in eval mode on `device`.

    Args:
        folder: Folder written by `save_head`.
        device: Torch device.
        fingerprint: Fingerprint of the encoder it will be used with; None skips the check.
        embodiment: Name of the embodiment it will be used with; None skips the check.

    Raises:
        HeadMismatchError: A file is missing, damaged or of another version, or the head was trained with
            another encoder or embodiment.
        WeightsMismatchError: The weights do not fit the description.
    """
    meta, facts = _read(folder)
    meta.require(fingerprint=fingerprint, embodiment=embodiment)
    head = build_head(meta)
    weights = _read_weights(folder / _WEIGHTS, str(facts["weights_sha256"]))
    try:
        head.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        raise WeightsMismatchError(
            expected=f"the weights of a {meta.label} head for latents {meta.latent_shape}",
            got=" ".join(str(error).split()),
            fix=f"Train the head again; {folder} mixes two heads.",
        ) from error
    return head.to(device).eval(), meta


def load_meta(folder: Path) -> HeadMeta:
    """Read the description of a head without its weights.

    Raises:
        HeadMismatchError: The file is missing, damaged or of another version.
    """
    return _read(folder)[0]


def facts_sha256(facts: Mapping[str, Any]) -> str:
    """Return the digest that `head.json` holds of all else in it."""
    plain = {name: value for name, value in facts.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def _read(folder: Path) -> tuple[HeadMeta, dict[str, Any]]:
    """Return the description of a head, and all that its file holds; any fault of it is one named error."""
    path = folder / _META
    try:
        facts = parse_json(read_regular(path, MAX_JSON_BYTES).decode("utf-8"))
        version, known = facts["format_version"], facts.get("sha256")
        if version == HEAD_FORMAT and known != facts_sha256(facts):
            raise HeadMismatchError(
                expected=f"{path} as it was written, of sha256 {known}",
                got=f"sha256 {facts_sha256(facts)}",
                fix=_AGAIN,
            )
        digests = ("weights_sha256", "sha256")
        return meta_from_dict({k: v for k, v in facts.items() if k not in digests}), facts
    except LaryPolicyError:
        raise
    except Exception as error:
        raise _unreadable(path, error) from error


def _read_weights(path: Path, sha256: str) -> dict[str, Tensor]:
    """Return the tensors of a file; any fault of it is one named error."""
    try:
        with open_regular(path) as (file, _):
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != sha256:
            raise HeadMismatchError(
                expected=f"{path} of sha256 {sha256}, as its {_META} says", got=found, fix=_AGAIN
            )
        return load_file(path)
    except LaryPolicyError:
        raise
    except Exception as error:
        raise _unreadable(path, error) from error


def meta_to_dict(meta: HeadMeta) -> dict[str, Any]:
    """Return the JSON form of `meta`."""
    model = {"kind": meta.model.kind, **asdict(meta.model)}
    return {"format_version": HEAD_FORMAT, **asdict(meta), "model": model}


def meta_from_dict(raw: dict[str, Any]) -> HeadMeta:
    """Rebuild `meta_to_dict`.

    Raises:
        HeadMismatchError: The format version is another one.
        KeyError: A field is missing.
        TypeError: A field is unknown.
    """
    values = dict(raw)
    version = values.pop("format_version")
    if version != HEAD_FORMAT:
        raise HeadMismatchError(expected=f"head.json of format {HEAD_FORMAT}", got=f"{version}", fix=_AGAIN)
    model = dict(values.pop("model"))
    kind = model.pop("kind")
    for name in ("stats", "proprio_stats"):
        values[name] = _stats(values[name])
    for name in ("latent_shape", "cameras", "class_names", "token_grid"):
        values[name] = None if values[name] is None else tuple(values[name])
    if values["contract"] is not None:
        values["contract"] = ActionContract.from_dict(values["contract"])
    return HeadMeta(model=parse_model_config(kind, model), **values)


def _stats(raw: dict[str, Any] | None) -> ActionStats | None:
    return None if raw is None else ActionStats(tuple(raw["mean"]), tuple(raw["std"]), raw["count"])


def _unreadable(path: Path, error: Exception) -> LaryPolicyError:
    return HeadMismatchError(
        expected=f"a readable {path}", got=f"{type(error).__name__}: {error}", fix=_AGAIN
    )


# (its name, ours), applied in order to every name; protocol sections 4.1 and 5.2. Names without a
# match, as the projector's, are the same.
_RENAMES = tuple(
    (re.compile(pattern), ours)
    for pattern, ours in (
        (r"^module\.", ""),
        (r"^(classifier|model|dit)\.", ""),
        (r"^pooler\.", ""),
        (r"^(blocks\.\d+)\.attn\.", r"\1."),
        (r"^cross_attention_block\.xattn\.", "cross_attention_block."),
        (r"^layer_norm1\.", "norm_in."),
        (r"^layer_norm2\.", "norm_out."),
        (r"^fc1\.", "fc_in."),
        (r"^fc2\.", "fc_out."),
        (r"^mlp_resnet_blocks\.(\d+)\.ffn\.0\.", r"blocks.\1.norm."),
        (r"^mlp_resnet_blocks\.(\d+)\.ffn\.1\.", r"blocks.\1.linear."),
        (r"^x_embedder\.linear\.", "fc_action."),
        (r"^t_embedder\.mlp\.", "fc_step."),
        (r"^z_embedder\.linear\.", "fc_condition."),
        (r"^z_embedder\.uncondition$", "uncondition"),
        (r"^positional_embedding$", "positions"),
        (r"^final_layer\.linear\.", "fc_out."),
    )
)
_DIFFUSION_MLP = re.compile(r"^(blocks\.\d+)\.mlp\.")
_UNUSED = re.compile(r"(^|\.)history_embedder\.")  # made by its DiT, never called


def reference_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the weights of LARYBench's attentive probe, MLP expert or DiT expert for our heads."""
    diffusion = any("x_embedder" in name for name in weights)
    renamed = {}
    for name, value in weights.items():
        if _UNUSED.search(name):
            continue
        for pattern, ours in _RENAMES:
            name = pattern.sub(ours, name)
        if diffusion:
            name = _DIFFUSION_MLP.sub(r"\1.", name)
        renamed[name] = value.flatten() if name in ("query_tokens", "uncondition") else value
    return renamed


def load_reference_head(head: nn.Module, path: Path, *, member: int = 0) -> None:
    """Fill a head of the reference's size with a checkpoint that the reference wrote.

    Args:
        head: An `AttentiveProbe`, `ActionExpert` or `DiffusionExpert` with the pool `flatten`.
        path: Its `best_model.pth` (regression) or `latest.pt` (classification).
        member: Which head of a classification sweep.

    Raises:
        WeightsMismatchError: The file cannot be read safely, has no such head, or another architecture.
    """
    try:
        check_weight_file(path)
        file = torch.load(path, map_location="cpu", weights_only=True)
        weights = file["model_state_dict"] if "model_state_dict" in file else file["classifiers"][member]
        head.load_state_dict(reference_weights(weights), strict=True)
    except Exception as error:
        raise WeightsMismatchError(
            expected=f"head {member} of a LARYBench checkpoint that fits {type(head).__name__} in {path}",
            got=summary(error, 400),
            fix="Build the head for the latents, classes or chunk that it was trained with.",
        ) from error
