"""One file a robot; each registers itself with `lary_envs.robots.robot.register_robot`."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
