"""The way of LARYBench's loaders, written anew: what the probe benchmarks are compared to.

One compressed npz a row, whole clips decoded to keep nine frames, both frames of every pair encoded, five
heads one after the other with a plain pooling attention.
"""

from __future__ import annotations

import contextlib
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint
from torch.utils.data import Dataset

from lary_policy.heads import FeedForward
from lary_policy.heads.training import REFERENCE_SWEEP
from lary_policy.latents import WindowEncoder
from lary_policy.machine import Precision, autocast, resolve_precision
from timing import timed

EXTRACT_BATCH = 16  # pairs; protocol section 0


def extract_rows(pairs: Sequence[tuple[Path, Path]], encoder: WindowEncoder, folder: Path) -> list[Path]:
    """Encode both frames of every pair and write a compressed npz a row, float32 `[2 n d]`."""
    files = []
    for start in range(0, len(pairs), EXTRACT_BATCH):
        batch = pairs[start : start + EXTRACT_BATCH]
        images = [[np.array(Image.open(path).convert("RGB")) for path in pair] for pair in batch]
        latents = encoder.encode(torch.from_numpy(np.array(images))).float().numpy()
        for number, tokens in enumerate(latents, start):
            files.append(folder / f"latent_action_{number:08d}.npz")
            np.savez_compressed(files[-1], tokens=tokens, indices=np.zeros(0))
    return files


class NpzRows(Dataset[tuple[Tensor, Tensor]]):
    """Rows of one npz and one npy each, opened whenever a row is asked for.

    Args:
        latents: File of each row.
        actions: File of each row.
        mean: Of the actions.
        std: Of the actions.
    """

    def __init__(
        self,
        latents: Sequence[Path],
        actions: Sequence[Path],
        mean: NDArray[np.float64],
        std: NDArray[np.float64],
    ) -> None:
        self._latents, self._actions, self._mean, self._std = latents, actions, mean, std

    def __len__(self) -> int:
        return len(self._latents)

    def __getitem__(self, row: int) -> tuple[Tensor, Tensor]:
        with np.load(self._latents[row]) as file:
            tokens = file["tokens"].astype(np.float32)
        action = (np.load(self._actions[row]) - self._mean) / self._std
        return torch.from_numpy(tokens), torch.from_numpy(action.astype(np.float32))


def decode_whole_clip(path: Path, indices: Sequence[int]) -> NDArray[np.uint8]:
    """Decode every frame to RGB and return those asked for, `[t h w 3]`.

    In one thread, as ours: loaders have a worker a core, and each decodes whole clips.
    """
    capture, frames = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1]), []
    while True:
        there, frame = capture.read()
        if not there:
            break
        frames.append(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))
    capture.release()
    return np.stack([frames[min(i, len(frames) - 1)] for i in indices])


class _Block(nn.Module):
    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = FeedForward(width, 4 * width)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(self.norm1(x)).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(*qkv.unbind(0))
        x = x + self.proj(mixed.transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm2(x))


class PlainProbe(nn.Module):
    """The attentive probe with keys and values formed for every token.

    Activations inside its self-attention blocks are computed again in the backward pass, as the reference has
    it (protocol section 4.1).

    Args:
        width_in: Width of the latents.
        num_classes: Classes.
        width: Model width.
        num_heads: Attention heads.
    """

    def __init__(self, width_in: int, num_classes: int, width: int = 768, num_heads: int = 16) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.projector = nn.Sequential(nn.Linear(width_in, width), nn.LayerNorm(width), nn.GELU())
        self.temporal = nn.Parameter(torch.zeros(1, 128, 1, width))
        self.query = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.blocks = nn.Sequential(*(_Block(width, num_heads) for _ in range(3)))
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.q, self.kv, self.mlp = (
            nn.Linear(width, width),
            nn.Linear(width, 2 * width),
            FeedForward(width, 4 * width),
        )
        self.linear = nn.Linear(width, num_classes)

    def forward(self, latents: Tensor) -> Tensor:
        """Map `[b t n d]` to logits `[b classes]`."""
        x = (self.projector(latents) + self.temporal[:, : latents.shape[1]]).flatten(1, 2)
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False) if self.training else block(x)
        query = self.query.expand(len(x), -1, -1)
        keys, values = (
            self.kv(self.norm1(x)).unflatten(-1, (2, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        )
        asked = self.q(query).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        pooled = query + F.scaled_dot_product_attention(asked, keys, values).transpose(1, 2).flatten(2)
        return self.linear((pooled + self.mlp(self.norm2(pooled))).squeeze(1))


@contextmanager
def timed_sweep(
    latents: Tensor, labels: Tensor, precision: Precision, device: str
) -> Iterator[Callable[[], float]]:
    """Yield a call that returns the seconds of a training step of the five heads, in a process of its own.

    So each side of a comparison has the memory allocator as it would have it alone.
    """
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    settings = (there, latents.numpy(), labels.numpy(), precision, device, torch.get_num_threads())
    process = context.Process(target=_time_steps, args=settings)
    process.start()
    there.close()

    def step() -> float:
        here.send("step")
        return float(here.recv())

    try:
        for _ in range(1 if device == "cpu" else 3):
            step()
        yield step
    finally:
        here.close()
        process.join()


def _time_steps(
    connection: Connection,
    clips: NDArray[np.float32],
    classes: NDArray[np.int64],
    precision: Precision,
    device: str,
    threads: int,
) -> None:
    """Time a step whenever something comes through the connection, until it is closed.

    As the reference, also with one process: every head in a `DistributedDataParallel`, all forward passes
    before the first backward pass, loss and accuracy of each head read in every step.
    """
    torch.set_num_threads(threads)
    latents, labels = torch.from_numpy(clips).to(device), torch.from_numpy(classes).to(device)
    dtype = resolve_precision(precision, device)
    bare = [PlainProbe(latents.shape[-1], int(labels.max()) + 1).to(device) for _ in REFERENCE_SWEEP]
    dist.init_process_group(
        "nccl" if device != "cpu" else "gloo", store=dist.HashStore(), world_size=1, rank=0
    )
    probes = [DistributedDataParallel(probe, static_graph=True) for probe in bare]
    optimisers = [
        torch.optim.AdamW(p.parameters(), lr=lr, weight_decay=decay)
        for p, (lr, decay) in zip(probes, REFERENCE_SWEEP, strict=True)
    ]

    def step() -> None:
        with autocast(device, dtype):
            logits = [probe(latents) for probe in probes]
            found = [F.cross_entropy(one, labels, label_smoothing=0.1) for one in logits]
        for loss, one in zip(found, logits, strict=True):  # its log of the step
            loss.item(), one.float().softmax(1).argmax(1).eq(labels).sum().item()
        for loss, one in zip(found, optimisers, strict=True):
            loss.backward()
            one.step()
        for one in optimisers:
            one.zero_grad()

    with contextlib.suppress(EOFError):
        while connection.recv():
            connection.send(timed(step, device))
