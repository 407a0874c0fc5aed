"""Whether a device can be trusted: frames, physics, encoders and heads on it against the CPU, in a minute."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lary_policy.encoders import EncoderShelf, EncoderView
from lary_policy.errors import DeviceError, LaryPolicyError, summary
from lary_policy.heads import HeadMeta, load_head_config
from lary_policy.heads.training import LatentBatches, fit
from lary_policy.machine import resolve_device

_WORLDS, _STEPS, _PX = 6, 10, 112
_CAMERAS = ("front", "wrist")
# Half a second of free motion parts MuJoCo's C engine and MuJoCo Warp by 0.0004 mm on a CPU.
_LIMIT_MM = 0.5
_LOSS_LIMIT = 0.05  # of the val error after three epochs; a GPU trains in bfloat16


@dataclass(frozen=True)
class DeviceFinding:
    """One comparison of a device with the CPU: its name, what was found or what is wrong, and its time."""

    name: str
    ok: bool
    detail: str
    seconds: float


def check_device(device: str) -> Iterator[DeviceFinding]:
    """Compare frames, physics, encoders and heads on a device with the CPU, and yield each as it ends.

    On `cpu` the same is computed twice.

    Raises:
        ConfigError: There is no such device.
    """
    device = resolve_device(device)
    checks: dict[str, Callable[[str], str]] = {
        "frames and physics": _worlds,
        "encoder pixels": lambda where: _encoder("pixels", where),
        "encoder efficientnet-lite0": lambda where: _encoder("efficientnet-lite0", where),
        "encoder dinov2-small": lambda where: _encoder("dinov2-small", where),
        "training a head": _head,
    }
    for name, check in checks.items():
        began = time.perf_counter()
        try:
            ok, detail = True, check(device)
        except LaryPolicyError as error:
            ok, detail = False, str(error)
        except Exception as error:  # of a driver or a kernel: a finding about the device too
            ok, detail = False, summary(error)
        yield DeviceFinding(name, ok, detail, time.perf_counter() - began)


def _worlds(device: str) -> str:
    """Play the same commands on both; on a GPU the renderer compares its own first frames with the CPU's."""
    (expected, expected_tools), (frames, tools) = (_play(where) for where in ("cpu", device))
    apart_mm = 1000 * float((tools - expected_tools).norm(dim=-1).max())
    if not apart_mm <= _LIMIT_MM:
        raise DeviceError(
            expected=f"tools within {_LIMIT_MM} mm of the CPU's after {_STEPS} control steps",
            got=f"{apart_mm:.1f} mm on {device}",
            fix="Pass device=cpu, and report it.",
        )
    differs = float((frames - expected).abs().mean())
    return f"tools {apart_mm:.3f} mm apart after {_STEPS} steps, frames {differs:.2f} of 255"


def _play(device: str) -> tuple[Tensor, Tensor]:
    """Return the frames of two episodes' beginnings and the tools' positions after ten steps each."""
    from lary_envs import SimEnv

    env = SimEnv("pick_place", _WORLDS, cameras=_CAMERAS, image_px=_PX, render_device=device)
    frames, tools = [], []
    for seeds in (range(_WORLDS), range(50, 50 + _WORLDS)):
        env.reset(seeds)
        frames.append(env.frames().cpu().float())
        controller = env.controller()
        controller.reset(env.joints())
        target = controller.pose()
        target[..., 1] += 0.05  # metres to the left
        for _ in range(_STEPS):
            env.step(controller.command(target))
            frames.append(env.frames().cpu().float())
        tools.append(env.proprio()[:, :3].cpu())
    env.check()
    env.close()
    return torch.stack(frames), torch.stack(tools)


def _encoder(name: str, device: str) -> str:
    """Load an encoder with drawn weights on the device, which compares its latents where that is a GPU."""
    view = EncoderView(name, weights="random", image_px=_PX)
    for dtype in ("float32", "bfloat16"):
        EncoderShelf(device).load(replace(view, dtype=dtype))
    return "float32 and bfloat16"


def _head(device: str) -> str:
    """Train the small head on drawn latents on both."""
    expected, got = (_trained(where) for where in ("cpu", device))
    part = abs(got / expected - 1)
    if not part <= _LOSS_LIMIT:
        raise DeviceError(
            expected=f"the val error of the CPU, {expected:.4f}, within {_LOSS_LIMIT:.0%}",
            got=f"{got:.4f} on {device}",
            fix="Pass device=cpu, and report it.",
        )
    return f"val error {got:.4f}, on the CPU {expected:.4f}"


def _trained(device: str) -> float:
    drawn = torch.Generator().manual_seed(0)
    latents = torch.randn(512, 64, 48, generator=drawn)
    samples = LatentBatches(
        latents, torch.arange(512).view(512, 1, 1), torch.tanh(4 * latents.mean(1))[:, :42].view(512, 6, 7)
    )
    config = load_head_config("mlp-small")
    meta = HeadMeta(
        model=config.model, encoder="pixels", fingerprint="0" * 16, latent_shape=samples.latent_shape,
        cameras=("front",), embodiment="arm7", task="reach", mode="policy", target="relative", chunk=6,
        action_dim=7,
    )  # fmt: skip
    settings = replace(config.train, epochs=3, patience=None, device=device)
    return fit(meta, samples, samples, settings)[1].best_score
