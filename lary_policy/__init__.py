"""Does this encoder's latent space drive a robot? Probes and closed-loop rollouts for LARYBench."""

from typing import Any

import lazy_loader

__version__ = "0.1.0"

_attribute, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> Any:
    """Import public names on first use, so that `import lary_policy` and `lary --help` stay fast."""
    if name not in __all__:
        raise AttributeError(f"lary_policy has no attribute '{name}'. Public names: {', '.join(__all__)}")
    return _attribute(name)
