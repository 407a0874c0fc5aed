"""The generative regression head: a diffusion transformer that draws chunks of actions given latents."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, field
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lary_policy.errors import ConfigError, ShapeError
from lary_policy.heads.mlp import embed_proprio
from lary_policy.heads.objective import Batch, Objective, Share
from lary_policy.heads.pool import LatentShape, Pool, PoolConfig, TokenGrid, attend
from lary_policy.heads.registry import HeadKind, HeadSizes, register_head

_MAX_BETA = 0.999  # Nichol and Dhariwal, arXiv 2102.09672, section 3.2
_OFFSET = 0.008  # same place: keeps the first betas from vanishing
_LEAST_VARIANCE = 1e-20  # of the reverse process, as its square root is taken


@dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """A DDPM (Ho et al., arXiv 2006.11239) with the squared-cosine schedule and fixed small variance.

    Attributes:
        kept: `[steps]` share of the signal's variance that is left at each step (alpha bar).
    """

    kept: Tensor

    @property
    def steps(self) -> int:
        """Number of steps of the process."""
        return len(self.kept)

    def add_noise(self, clean: Tensor, noise: Tensor, steps: Tensor) -> Tensor:
        """Return `clean` `[b ...]` as it is after `steps` `[b]` of the process, with the given noise."""
        kept = self.kept.to(clean.device)[steps].view(-1, *(1 for _ in clean.shape[1:]))
        return kept.sqrt() * clean + (1 - kept).sqrt() * noise

    def denoise(
        self, noisy: Tensor, noise: Tensor, step: int, previous: int, fresh: Tensor, clip: float | None
    ) -> Tensor:
        """Go back from `step` to `previous` (-1: the clean sample) by one draw of the reverse process.

        Args:
            noisy: `[b ...]` at `step`.
            noise: Predicted noise in it.
            step: Step of `noisy`.
            previous: Step to go to.
            fresh: Unit noise to add; not used if `step` is 0.
            clip: The predicted clean sample is cut to this range around 0; None leaves it.
        """
        kept, kept_before = (float(self.kept[i]) if i >= 0 else 1.0 for i in (step, previous))
        ratio = kept / kept_before
        clean = (noisy - math.sqrt(1 - kept) * noise) / math.sqrt(kept)
        if clip is not None:
            clean = clean.clamp(-clip, clip)
        of_clean = math.sqrt(kept_before) * (1 - ratio) / (1 - kept)
        of_noisy = math.sqrt(ratio) * (1 - kept_before) / (1 - kept)
        mean = of_clean * clean + of_noisy * noisy
        if step == 0:
            return mean
        variance = (1 - kept_before) / (1 - kept) * (1 - ratio)
        return mean + math.sqrt(max(variance, _LEAST_VARIANCE)) * fresh

    def reverse_steps(self, count: int) -> list[tuple[int, int]]:
        """Return (step, next lower step) of `count` evenly spaced steps, from noise to the clean sample."""
        stride = self.steps // count
        return [(i * stride, (i - 1) * stride) for i in reversed(range(count))]


@functools.cache
def squared_cosine(steps: int) -> NoiseSchedule:
    """Return the squared-cosine schedule of arXiv 2102.09672 (`squaredcos_cap_v2`) in float32."""

    def left(time: float) -> float:
        return math.cos((time + _OFFSET) / (1 + _OFFSET) * math.pi / 2) ** 2

    betas = [min(1 - left((i + 1) / steps) / left(i / steps), _MAX_BETA) for i in range(steps)]
    return NoiseSchedule(torch.cumprod(1 - torch.tensor(betas, dtype=torch.float32), 0))


_FREQUENCIES = 256  # length of the sinusoidal embedding of the step (protocol section 5.2)
_LONGEST_PERIOD = 10_000.0
_NORM_EPS = 1e-6
_INIT_STD = 0.02


@dataclass(frozen=True)
class DiffusionExpertConfig:
    """Size and process of a `DiffusionExpert`; the defaults are LARYBench's DiT (protocol section 5.2).

    Attributes:
        width: Model width.
        depth: Transformer blocks.
        num_heads: Attention heads; must divide `width`.
        mlp_ratio: Hidden width of the MLPs over `width`.
        condition_dropout: Part of the training samples whose condition is replaced by a learned vector.
        train_steps: Steps of the diffusion process.
        sample_steps: Steps taken when sampling.
        clip_sample: Predicted clean actions are cut to this range. The reference cuts to 1, although a third
            of targets of unit variance lies outside; 5 cuts none and keeps sampling stable; null does not
            cut, and errors of the first steps may grow without bound.
        pool: Reduction of the latents in front.

    Raises:
        ConfigError: A size or step count is out of range.
    """

    width: int = 512
    depth: int = 6
    num_heads: int = 8
    mlp_ratio: float = 4.0
    condition_dropout: float = 0.1
    train_steps: int = 1000
    sample_steps: int = 500
    clip_sample: float | None = 1.0
    pool: PoolConfig = field(default_factory=PoolConfig)
    kind: ClassVar[str] = "dit"

    def __post_init__(self) -> None:
        rules = {
            "width, depth and num_heads >= 1": min(self.width, self.depth, self.num_heads) >= 1,
            "num_heads that divides an even width": self.width % 2
            == 0
            == self.width % max(self.num_heads, 1),
            "0 <= condition_dropout < 1": 0 <= self.condition_dropout < 1,
            "1 <= sample_steps <= train_steps": 1 <= self.sample_steps <= self.train_steps,
            "clip_sample > 0 or null": self.clip_sample is None or self.clip_sample > 0,
        }
        broken = [rule for rule, holds in rules.items() if not holds]
        if broken:
            raise ConfigError(expected="; ".join(broken), got=f"{self}", fix="Correct the head.")

    @property
    def label(self) -> str:
        """Short name used in scores, e.g. `dit512x6-flatten`."""
        return f"dit{self.width}x{self.depth}-{self.pool.label}"


class DiffusionBlock(nn.Module):
    """Pre-norm transformer block with norms that have no parameters."""

    def __init__(self, width: int, num_heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm = nn.LayerNorm(width, eps=_NORM_EPS, elementwise_affine=False)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.fc1 = nn.Linear(width, int(width * mlp_ratio))
        self.fc2 = nn.Linear(int(width * mlp_ratio), width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map `[b n d]` to `[b n d]`."""
        packed = self.qkv(self.norm(tokens)).unflatten(-1, (3, self.num_heads, -1))
        mixed = attend(*packed.permute(2, 0, 3, 1, 4).unbind(0))
        tokens = tokens + self.proj(mixed.transpose(1, 2).flatten(2))
        return tokens + self.fc2(F.gelu(self.fc1(self.norm(tokens)), approximate="tanh"))


class DiffusionExpert(nn.Module):
    """LARYBench's DiT expert behind a pool.

    One condition token (latent vector plus diffusion step, plus proprioception if any) stands in front of
    the k noisy actions; the output is the noise in them. Called without noisy actions, the head draws a chunk
    from a fixed seed: the same latents give the same actions.

    Args:
        latent_shape: (t, c, n, d) of the latents.
        chunk: Actions k of one chunk.
        action_dim: Numbers a of one action.
        config: Sizes and process.
        proprio_dim: Length of the proprioception vector, 0 for none.
        token_grid: Layout of the tokens, needed by the pool `grid`.
    """

    def __init__(
        self,
        latent_shape: LatentShape,
        chunk: int,
        action_dim: int,
        config: DiffusionExpertConfig,
        *,
        proprio_dim: int = 0,
        token_grid: TokenGrid | None = None,
    ) -> None:
        super().__init__()
        self.config, self.chunk, self.action_dim, self.proprio_dim = config, chunk, action_dim, proprio_dim
        width = config.width
        self.pool = Pool(config.pool, latent_shape, token_grid)
        self.uncondition = nn.Parameter(torch.empty(self.pool.out_features))
        self.fc_condition = nn.Linear(self.pool.out_features, width)
        self.fc_proprio = nn.Linear(proprio_dim, width, bias=False) if proprio_dim else None
        self.fc_step = nn.Sequential(nn.Linear(_FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))
        self.fc_action = nn.Linear(action_dim, width)
        self.positions = nn.Parameter(torch.empty(chunk + 1, width))
        self.blocks = nn.Sequential(
            *(DiffusionBlock(width, config.num_heads, config.mlp_ratio) for _ in range(config.depth))
        )
        self.norm_out = nn.LayerNorm(width, eps=_NORM_EPS, elementwise_affine=False)
        self.fc_out = nn.Linear(width, action_dim)
        self._initialise()

    @property
    def schedule(self) -> NoiseSchedule:
        """The diffusion process."""
        return squared_cosine(self.config.train_steps)

    def forward(
        self,
        latents: Tensor,
        proprio: Tensor | None = None,
        *,
        noisy: Tensor | None = None,
        steps: Tensor | None = None,
        dropped: Tensor | None = None,
        share: Share | None = None,
    ) -> Tensor:
        """Predict the noise in `noisy`, or draw actions if there is none; `[b k a]` either way.

        Args:
            latents: `[b t c n d]`.
            proprio: `[b p]` or None.
            noisy: Noisy normalised actions `[b k a]`.
            steps: Diffusion step of each sample, int64 `[b]`; needed with `noisy`.
            dropped: bool `[b]`, samples that must do without their condition; None keeps all.
            share: Part of a larger batch that the latents are: the drawn actions are that part of its own.

        Raises:
            ShapeError: Inputs do not fit the head, or `noisy` comes without `steps`.
        """
        condition = self.pool(latents)
        if noisy is None:
            return self._sample(condition, proprio, torch.Generator(condition.device).manual_seed(0), share)
        if steps is None or noisy.shape[1:] != (self.chunk, self.action_dim):
            raise ShapeError(
                expected=f"noisy actions [b, {self.chunk}, {self.action_dim}] with their diffusion steps",
                got=f"{tuple(noisy.shape)}, steps {'missing' if steps is None else tuple(steps.shape)}",
                fix="Pass both, or none to draw actions.",
            )
        if dropped is not None:
            condition = torch.where(dropped[:, None], self.uncondition, condition)
        return self._noise(condition, proprio, noisy, steps)

    @torch.no_grad()
    def sample(self, latents: Tensor, proprio: Tensor | None = None, *, generator: torch.Generator) -> Tensor:
        """Draw normalised actions `[b k a]` from latents `[b t c n d]` with a generator on their device."""
        return self._sample(self.pool(latents), proprio, generator)

    @torch.no_grad()
    def _sample(
        self,
        condition: Tensor,
        proprio: Tensor | None,
        generator: torch.Generator,
        share: Share | None = None,
    ) -> Tensor:
        def normal(count: int) -> Tensor:
            shape = (count, self.chunk, self.action_dim)
            return torch.randn(shape, generator=generator, device=condition.device)

        def draw() -> Tensor:
            return normal(len(condition)) if share is None else share.draw(normal)

        actions = draw()
        for step, previous in self.schedule.reverse_steps(self.config.sample_steps):
            steps = torch.tensor([step], device=condition.device)
            noise = self._noise(condition, proprio, actions, steps).float()
            fresh = draw() if step else noise
            actions = self.schedule.denoise(actions, noise, step, previous, fresh, self.config.clip_sample)
        return actions

    def _noise(self, condition: Tensor, proprio: Tensor | None, noisy: Tensor, steps: Tensor) -> Tensor:
        head = self.fc_condition(condition) + self.fc_step(embed_steps(steps))
        if self.fc_proprio is not None or proprio is not None:
            head = head + embed_proprio(self.fc_proprio, self.proprio_dim, proprio)
        tokens = torch.cat([head[:, None], self.fc_action(noisy)], 1) + self.positions
        return self.fc_out(self.norm_out(self.blocks(tokens)))[:, 1:]

    @torch.no_grad()
    def _initialise(self) -> None:
        """Initialise as the reference does: Xavier, 0.02 for what embeds, zeros for the last layer."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.normal_(self.positions, std=self.config.width**-0.5)
        for weight in (
            self.fc_action.weight,
            self.uncondition,
            self.fc_condition.weight,
            self.fc_step[0].weight,
            self.fc_step[2].weight,
        ):
            nn.init.normal_(weight, std=_INIT_STD)  # type: ignore[arg-type]
        nn.init.zeros_(self.fc_out.weight)


def embed_steps(steps: Tensor) -> Tensor:
    """Embed diffusion steps `[b]` as cosines and sines of falling frequencies `[b 256]`."""
    half = _FREQUENCIES // 2
    exponents = torch.arange(half, dtype=torch.float32, device=steps.device) / half
    angles = steps[:, None].float() * torch.exp(-math.log(_LONGEST_PERIOD) * exponents)
    return torch.cat([angles.cos(), angles.sin()], -1)


def diffusion_objective(config: DiffusionExpertConfig) -> Objective:
    """Huber loss (delta 1) on predicted noise, selected by the MSE of drawn actions (protocol section 5.2).

    Steps, noise and dropped conditions come from torch's global generator, in the reference's order.
    """
    schedule = squared_cosine(config.train_steps)

    def loss(head: nn.Module, batch: Batch, *, reduction: str = "mean") -> Tensor:
        clean = batch.targets
        device = clean.device
        steps = batch.draw(lambda n: torch.randint(0, schedule.steps, (n,), device=device))
        noise = batch.draw(lambda n: torch.randn((n, *clean.shape[1:]), device=device))
        dropped = None
        if config.condition_dropout:
            dropped = batch.draw(lambda n: torch.rand(n, device=device)) < config.condition_dropout
        noisy = schedule.add_noise(clean, noise, steps)
        predicted = head(*batch.inputs, noisy=noisy, steps=steps, dropped=dropped)
        return F.huber_loss(predicted.float(), noise, reduction=reduction, delta=1.0)

    def score(head: nn.Module, batch: Batch) -> Tensor:
        return (head(*batch.inputs, share=batch.share).float() - batch.targets).square().flatten(1).mean(1)

    return Objective("mse", loss, score)


def _build(config: DiffusionExpertConfig, sizes: HeadSizes) -> DiffusionExpert:
    return DiffusionExpert(
        sizes.latent_shape,
        sizes.chunk,
        sizes.action_dim,
        config,
        proprio_dim=sizes.proprio_dim,
        token_grid=sizes.token_grid,
    )


register_head(HeadKind(DiffusionExpertConfig, _build, "numbers", diffusion_objective))
