"""Loading a policy's weights strictly, although LeRobot's `from_pretrained` asks torch not to."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from lary_policy.encoders.weights import Weights, raise_on_mismatch
from lary_policy.policy.encoder.observation import ObservationEncoder
from lary_policy.policy.encoder.state import BACKBONE, missing_keys


def load_exactly(policy: nn.Module) -> None:
    """Make `policy.load_state_dict` refuse state dicts that do not fit, whatever its `strict` says.

    Weights that an ObservationEncoder does not store may be there or not; everything else must be there, once
    for tied tensors, with its shape. Call it at the end of the policy's constructor. Loading a part of the
    policy, or the policy as a part of another module (adapters of peft), stays as torch does it.

    Args:
        policy: The policy; loading then raises WeightsMismatchError that names the tensors.
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
        if isinstance(module, ObservationEncoder):
            prefix = f"{name}.{BACKBONE}" if name else BACKBONE
            found |= module.backbone.state_dict(prefix=prefix, keep_vars=True)
    return found
