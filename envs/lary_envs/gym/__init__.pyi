from .lerobot import LaryMetaWorldEnv as LaryMetaWorldEnv
from .lerobot import LarySimEnv as LarySimEnv
from .registration import gym_ids as gym_ids
from .registration import register_envs as register_envs
from .single import LaryEnv as LaryEnv
from .vector import LATCHED as LATCHED
from .vector import LaryVectorEnv as LaryVectorEnv
