"""One file a task; each registers itself with `lary_envs.tasks.spec.register_task`."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
