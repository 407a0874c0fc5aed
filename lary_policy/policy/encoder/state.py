"""What of an observation encoder a checkpoint holds, and that it is loaded strictly: module hooks.

The hooks survive deepcopy. LeRobot's `from_pretrained` asks torch not to be strict; `load_exactly` is.

Base tensors are those that the backbone had when it was built. They are left out of state dicts unless the
configuration stores them, and filled in with the present ones before loading; adapters are always kept. A
checkpoint may bring other base tensors (it was trained); from then on they are stored, whatever trains now.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lary_policy.encoders.weights import Weights, raise_on_mismatch
from lary_policy.errors import WeightsMismatchError

BACKBONE = "backbone."
# Where peft puts the tensors of a layer that it wraps.
WRAPPED = (".base_layer.", ".original_module.")


def attach_state_hooks(encoder: Any) -> None:
    """Let state dicts hold what the ObservationEncoder's `config` says; before adapters are injected."""
    encoder.base_names = frozenset(encoder.backbone.state_dict())
    encoder.register_state_dict_post_hook(_leave_out)
    encoder.register_load_state_dict_pre_hook(_fill_in)


def missing_keys(own: Mapping[str, Tensor], given: Iterable[str]) -> list[str]:
    """Return the names of `own` that are not `given` under any of their names; tied tensors are stored once.

    `own` are tensors as `state_dict(keep_vars=True)` returns them.
    """
    names = set(given)
    present = {id(tensor) for name, tensor in own.items() if name in names}
    return [name for name, tensor in own.items() if name not in names and id(tensor) not in present]


def _leave_out(module: Any, state_dict: dict[str, Any], prefix: str, local_metadata: Any) -> None:
    if not module.config.stores_backbone:
        for name in _base_tensors(module, prefix):
            state_dict.pop(name, None)


def _fill_in(module: Any, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    held = _base_tensors(module, prefix)
    given = {name: state_dict[name] for name in held if name in state_dict}
    if any(not torch.equal(tensor.to(held[name].device), held[name]) for name, tensor in given.items()):
        _keep(module, {name.removeprefix(prefix): tensor for name, tensor in given.items()})
    if not module.config.stores_backbone:
        for name, tensor in held.items():
            state_dict.setdefault(name, tensor.detach())
    elif not missing_keys(held, given):
        module.awaits = None


def _keep(module: Any, given: Mapping[str, Tensor]) -> None:
    """Store weights that the configuration does not refer to, and give the encoder another fingerprint."""
    config = module.config
    if config.save is False:
        raise WeightsMismatchError(
            expected=f"the weights of '{config.name}' that encoder.save=false refers to ({config.revision})",
            got="others in the checkpoint, where the encoder was trained",
            fix="Leave encoder.save out, or set it to true.",
        )
    if not config.stores_backbone:
        config.save = True
    digest = hashlib.sha256(module.fingerprint.encode())
    for name in sorted(given):
        digest.update(name.encode())
        digest.update(given[name].detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    module.fingerprint = digest.hexdigest()[:16]


def _base_tensors(module: Any, prefix: str) -> dict[str, Tensor]:
    backbone: nn.Module = module.backbone
    tensors = backbone.state_dict(prefix=prefix + BACKBONE, keep_vars=True)
    start = len(prefix + BACKBONE)
    return {name: tensor for name, tensor in tensors.items() if _base_name(name[start:]) in module.base_names}


def _base_name(name: str) -> str:
    for wrapper in WRAPPED:
        name = name.replace(wrapper, ".")
    return name


def load_exactly(policy: nn.Module) -> None:
    """Make `policy.load_state_dict` refuse state dicts that do not fit, whatever its `strict` says.

    Weights that an ObservationEncoder does not store may be there or not; everything else must be there, once
    for tied tensors, with its shape, or loading raises WeightsMismatchError that names the tensors. Call it
    at the end of the policy's constructor. Loading a part of the policy, or the policy as a part of another
    module (adapters of peft), stays as torch does it.
    """
    policy.register_load_state_dict_pre_hook(_check)


def _check(policy: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    if prefix:
        return
    own = {k: v for k, v in policy.state_dict(keep_vars=True).items() if isinstance(v, Tensor)}
    known = own | _backbones(policy)
    given = {k: tuple(v.shape) for k, v in state_dict.items() if isinstance(v, Tensor)}
    problems = [
        *(f"{key} missing" for key in missing_keys(own, given)),
        *(f"{key} not in the policy" for key in given if key not in known),
        *(
            f"{key} is {shape}, policy {tuple(known[key].shape)}"
            for key, shape in given.items()
            if key in known and shape != tuple(known[key].shape)
        ),
    ]
    raise_on_mismatch(problems, Weights(sha256="none", source=f"checkpoint of {type(policy).__name__}"))


def _backbones(policy: nn.Module) -> dict[str, Tensor]:
    """Return the tensors of all encoders by the names they have where they are stored."""
    found: dict[str, Tensor] = {}
    for name, module in policy.named_modules(remove_duplicate=False):
        if hasattr(module, "base_names"):
            prefix = f"{name}.{BACKBONE}" if name else BACKBONE
            found |= module.backbone.state_dict(prefix=prefix, keep_vars=True)
    return found
