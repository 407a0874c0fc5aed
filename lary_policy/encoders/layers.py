"""Several layers of one model out of one pass: what views that differ only by `layer` share."""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lary_policy.encoders.base import LatentEncoder
from lary_policy.encoders.kinds import FrameEncoder
from lary_policy.encoders.modules import find_blocks
from lary_policy.encoders.preprocess import check_frames


class _Known(nn.Module):
    """Stands for the blocks up to some layer of a model: returns what they returned in another one.

    Threads encode a batch each with the same model, so each has its own memory.
    """

    def __init__(self, known: threading.local, layer: int) -> None:
        super().__init__()
        self._known, self._layer = known, layer

    def __deepcopy__(self, memo: dict[int, Any]) -> _Known:
        return _Known(self._known, self._layer)

    def forward(self, *_: Any, **__: Any) -> Any:
        """Return the output of the last of these blocks in this thread."""
        return self._known.outputs[self._layer]


def share_a_pass(encoders: Sequence[LatentEncoder]) -> bool:
    """Tell whether encoders that differ by their layer only can be computed together: they have blocks."""
    plain = all(isinstance(e, FrameEncoder) and type(e).encode is FrameEncoder.encode for e in encoders)
    return plain and _place(encoders) is not None


def _place(encoders: Sequence[Any]) -> tuple[str, str] | None:
    """Return where the blocks of all models are: the name of the module that holds the list, and the list's.

    A model that stops after its first block does not show that it is a list of them; a deeper one does.
    """
    for encoder in encoders:
        found = find_blocks(encoder.model)
        if found is not None:
            parent, name = found
            return next(path for path, module in encoder.model.named_modules() if module is parent), name
    return None


@contextmanager
def layers_together(encoders: Sequence[LatentEncoder]) -> Iterator[Any]:
    """Yield a function from uint8 frames `[b t h w 3]` to the latents `[b t n d]` of each encoder.

    The encoders are equal but for the block after which they stop (`load_encoder(layer=...)`). The deepest
    runs; of the others only what stands before and behind the blocks does. Latents are those of passes of
    their own, bit for bit: it is the same arithmetic.

    Args:
        encoders: That `share_a_pass`.
    """
    every: list[Any] = list(encoders)
    path, name = _place(every) or ("", "")
    lists = [getattr(one.model.get_submodule(path), name) for one in every]
    depths = [len(list(blocks)) for blocks in lists]
    place = depths.index(max(depths))
    deepest, known, hooks = every[place], threading.local(), []
    for layer in sorted(set(depths)):

        def keep(_: nn.Module, __: Any, output: Any, layer: int = layer) -> None:
            known.outputs[layer] = output

        hooks.append(lists[place][layer - 1].register_forward_hook(keep))
    models = [
        one.model if one is deepest else _behind(one.model, path, name, _Known(known, depth))
        for one, depth in zip(every, depths, strict=True)
    ]

    def encode(frames: Tensor) -> tuple[Tensor, ...]:
        check_frames(frames)
        known.outputs = {}
        with torch.no_grad():
            images = deepest.prepared(frames, video=frames.shape[1] > 2)
            first = deepest.checked(deepest.model(images))
            found = [
                first if one is deepest else one.checked(model(images))
                for one, model in zip(every, models, strict=True)
            ]
        known.outputs = {}
        return tuple(one.unflatten(0, frames.shape[:2]) for one in found)

    try:
        yield encode
    finally:
        for hook in hooks:
            hook.remove()


def _behind(own: nn.Module, path: str, name: str, known: _Known) -> nn.Module:
    """Return a model with what is known in place of its blocks; its weights are shared."""
    model: nn.Module = copy.deepcopy(own, {id(one): one for one in (*own.parameters(), *own.buffers())})
    parent = model.get_submodule(path)
    listed = isinstance(getattr(parent, name), nn.ModuleList)
    setattr(parent, name, nn.ModuleList([known]) if listed else nn.Sequential(known))
    return model
