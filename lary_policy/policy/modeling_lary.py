"""The policy `lary`: latents of an encoder to chunks of actions, behind LeRobot's interface."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import ModelCard
from lerobot.policies import PreTrainedPolicy
from lerobot.policies.utils import populate_queues
from lerobot.utils.constants import ACTION, OBS_STATE
from torch import Tensor

from lary_policy.actions import ActionCodec, RelativeFrame
from lary_policy.errors import ShapeError, UnknownNameError
from lary_policy.policy.configuration_lary import LaryConfig
from lary_policy.policy.encoder import (
    ATTENTION,
    STILL,
    ObservationEncoder,
    arrange,
    camera_images,
    encode_views,
    load_exactly,
    seen_shape,
)
from lary_policy.policy.features import dataset_rate, require_env
from lary_policy.policy.head import build_policy_head, head_loss, head_model, masked_mean
from lary_policy.policy.relative_actions import target_statistics

REDUCTIONS = ("mean", "none")
# What `lerobot-train --peft.method_type=LORA` adapts.
LORA_TARGETS = rf".*encoder\.backbone\..*\.({'|'.join(ATTENTION)})"


class LaryPolicy(PreTrainedPolicy):
    """Encodes all cameras with one encoder and predicts a chunk of actions.

    In the modes `relative` and `delta` the head's offsets are added to the state at the time of planning, so
    that absolute actions leave the policy. With `use_relative_actions` relative ones do, and LeRobot's step
    adds the state of the step an action is executed at; so `select_action` keeps absolute actions queued and
    expresses each relative to the state of that step. What leaves the postprocessor is the same.

    Args:
        config: Settings; the facts of dataset and encoder are entered.
        dataset_stats: Statistics of LeRobot's dataset; the processors use them, not the policy.
        dataset_meta: Its description: control rate, and tables for the statistics of relative actions.

    Attributes:
        encoder: One for all cameras.
        head: `ActionExpert` or `DiffusionExpert`.
        codec: Normalisation of relative actions, or None for absolute ones.

    Raises:
        ConfigError: Features, names or sizes do not fit.
        EmbodimentError: Dataset or environment are of another embodiment, control rate or action length.
        HeadMismatchError: `head_from` is not a head that this policy can start with.
    """

    config_class = LaryConfig
    name = "lary"

    def __init__(
        self,
        config: LaryConfig,
        dataset_stats: Mapping[str, Any] | None = None,
        dataset_meta: Any | None = None,
        **_: Any,
    ) -> None:
        super().__init__(config)
        self.config: LaryConfig = config
        config.validate_features()
        require_env(config)
        self.encoder = ObservationEncoder(config.encoder, device=str(config.device))
        if config.head_from is not None:
            from lary_policy.policy.head import match_probe

            match_probe(config, self.encoder)  # cameras may change their order
        feature = config.action_feature
        action_dim = config.action_dim = int(feature.shape[0]) if feature is not None else 0
        shape, grid = seen_shape(self.encoder, config.n_obs_steps, len(config.image_features))
        self.head = build_policy_head(config, shape, grid, action_dim)
        self.codec = _codec(config, action_dim) if config.is_relative else None
        if dataset_meta is not None:
            config.control_hz = dataset_rate(config.control_hz, dataset_meta)
        self._fit(dataset_meta)
        if config.scores_from is not None:
            from lary_policy.policy.card import card_scores

            config.scores, config.scores_from = card_scores(Path(config.scores_from)), None
        self._latents = self._open_latents(dataset_meta)
        self._queues: dict[str, deque[Tensor]] = {}
        self.reset()
        load_exactly(self)

    def get_optim_params(self) -> list[dict[str, Any]]:
        """Return what is trained: the head and, with a rate of its own, parts of the encoder."""
        encoder = [p for p in self.encoder.parameters() if p.requires_grad]
        groups: list[dict[str, Any]] = [{"params": [p for p in self.head.parameters() if p.requires_grad]}]
        if encoder:
            groups.append({"params": encoder, "lr": self.config.optimizer_lr_encoder})
        return groups

    def reset(self) -> None:
        """Forget the frames and actions of the last episode."""
        config, frames = self.config, (self.config.n_obs_steps - 1) * self.config.observation_stride + 1
        self._queues = {ACTION: deque(maxlen=config.n_action_steps)}
        if config.n_obs_steps > 1:
            self._queues |= {name: deque(maxlen=frames) for name in config.image_features}
        self.encoder.reset()

    def forward(self, batch: dict[str, Any], reduction: str = "mean") -> tuple[Tensor, dict[str, float]]:
        """Return the loss over all actions inside their episodes (one a sample if not reduced), and figures.

        Raises:
            UnknownNameError: The reduction is neither `mean` nor `none`.
            ConfigError: A camera is missing.
            ShapeError: The state is missing.
        """
        if reduction not in REDUCTIONS:
            raise UnknownNameError("reduction", reduction, REDUCTIONS)
        targets = batch[ACTION]
        if self.codec is not None:
            if not self.config.use_relative_actions:  # else the processors did it, before any delta
                targets = self.codec.relative(targets, self._state(batch))
            targets = self.codec.encode(targets)
        each = head_loss(
            self.head, head_model(self.config), self.encode(batch), self._proprio(batch), targets
        )
        loss = masked_mean(each, batch.get(f"{ACTION}_is_pad"), reduction)
        return loss, {"huber": float(loss.detach().mean())}

    def encode(self, batch: Mapping[str, Any]) -> Tensor:
        """Return the latents `[b t c n d]` of a batch's images, or the stored ones of its frames."""
        cameras = tuple(self.config.image_features)
        if self._latents is not None and "index" in batch:  # rollouts have frames, not their numbers
            self._latents.require_frozen(self.encoder)
            deltas = self.config.observation_delta_indices or [0]
            latents = self._latents.lookup(batch["index"], cameras, deltas, training=self.training)
            latents = latents.to(batch[ACTION].device)
        else:
            latents = encode_views(self.encoder, camera_images(batch, cameras))
        return arrange(latents, self.encoder.latent.kind)

    @torch.no_grad()
    def predict_action_chunk(self, batch: dict[str, Any], **_: Any) -> Tensor:
        """Return a chunk `[b k a]`, float32 also under autocast, as the postprocessor expects it.

        Images without a time dimension are taken as the present frames of the running episode.
        """
        self.eval()
        queued = self.config.n_obs_steps > 1 and any(
            name in batch and batch[name].ndim == STILL for name in self.config.image_features
        )
        return self._predict(self._remember(batch) if queued else batch)

    @torch.no_grad()
    def select_action(self, batch: dict[str, Any], **_: Any) -> Tensor:
        """Return the next action `[b a]`; a chunk is planned, and frames are encoded, when none is queued."""
        self.eval()
        seen = self._remember({name: value for name, value in batch.items() if name != ACTION})
        frame = self.codec.frame if self.codec is not None and self.config.use_relative_actions else None
        queue = self._queues[ACTION]
        if not queue:
            chunk = self._predict(seen)[:, : self.config.n_action_steps]
            if frame is not None:
                chunk = frame.to_absolute(chunk, self._state(batch))
            queue.extend(chunk.unbind(1))
        action = queue.popleft()
        return action if frame is None else frame.to_relative(action, self._state(batch))

    def generate_model_card(self, *args: Any, **kwargs: Any) -> ModelCard:
        """Return LeRobot's model card with the encoder and the scores of probe and rollout."""
        from lary_policy.policy.card import extend_card, lerobots_card

        return extend_card(lerobots_card(self, *args, **kwargs), self.config)

    def _get_default_peft_targets(self) -> dict[str, Any]:
        return {"target_modules": LORA_TARGETS, "modules_to_save": ["head"]}

    def _predict(self, batch: Mapping[str, Any]) -> Tensor:
        chunk = self.head(self.encode(batch), self._proprio(batch)).float()
        if self.codec is None:
            return chunk
        if self.config.use_relative_actions:
            return self.codec.decode(chunk)
        return self.codec.absolute(chunk, self._state(batch))

    def _remember(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Add the present frames to the history and return the batch with `[b t 3 h w]` images."""
        if self.config.n_obs_steps == 1:
            return batch
        views = camera_images(batch, tuple(self.config.image_features))
        self._queues = populate_queues(
            self._queues, dict(zip(self.config.image_features, views, strict=True)), exclude_keys=[ACTION]
        )
        stride = self.config.observation_stride
        history = {n: torch.stack(list(self._queues[n])[::stride], 1) for n in self.config.image_features}
        return {**batch, **history}

    def _state(self, batch: Mapping[str, Any]) -> Tensor:
        """Return the present state `[b s]`; ShapeError where it is missing or of another length."""
        state, feature = batch.get(OBS_STATE), self.config.robot_state_feature
        if state is None or feature is None or state.shape[-1] != feature.shape[0]:
            raise ShapeError(
                expected=f"'{OBS_STATE}' {list(feature.shape) if feature else ''} in the batch",
                got=", ".join(sorted(batch)) if state is None else f"{list(state.shape)}",
                fix="Use an environment or robot that reports the state the policy was trained with.",
            )
        return state[:, -1] if state.ndim == 3 else state  # [b t s] with a history

    def _proprio(self, batch: Mapping[str, Any]) -> Tensor | None:
        if not self.config.use_proprio:
            return None
        state = self._state(batch)
        return state if self.codec is None else self.codec.state(state)

    def _fit(self, dataset_meta: Any | None) -> None:
        """Take over the statistics and weights of a probe, or compute statistics of relative actions."""
        config = self.config
        if config.head_from is not None:
            from lary_policy.policy.head import take_probe

            take_probe(config, self.head, self.codec, self.encoder.fingerprint)
        elif self.codec is not None and dataset_meta is not None and not config.pretrained_path:
            targets, states = target_statistics(Path(dataset_meta.root), config.chunk_size, self.codec)
            self.codec.fit(targets, states if config.use_proprio else None)

    def _open_latents(self, dataset_meta: Any | None) -> Any | None:
        """Open the stored latents of a training run; a policy that only acts needs none."""
        if self.config.latents is None:
            return None
        from lary_policy.policy.cache import LatentCache

        return LatentCache.of_run(self.config, self.encoder.fingerprint, dataset_meta)


def _codec(config: LaryConfig, action_dim: int) -> ActionCodec:
    frame = RelativeFrame.of(
        action_dim,
        embodiment=config.embodiment,
        exclude=config.relative_exclude_joints,
        names=config.action_feature_names,
    )
    state = config.robot_state_feature if config.use_proprio else None
    state_dim = 0 if state is None else int(state.shape[0])
    return ActionCodec(frame, delta=config.action_mode == "delta", action_dim=action_dim, state_dim=state_dim)
