"""Batched tabletop simulation for closed-loop evaluation: MuJoCo physics, ray-traced frames, no OpenGL."""

import lazy_loader

from lary_envs.gym import register_envs

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

register_envs()
