from .act import LaryACTPolicy as LaryACTPolicy
from .diffusion import LaryDiffusionPolicy as LaryDiffusionPolicy
from .gaussian_actor import LaryGaussianActorPolicy as LaryGaussianActorPolicy
from .multi_task_dit import LaryMultiTaskDiTPolicy as LaryMultiTaskDiTPolicy
from .vqbet import LaryVQBeTPolicy as LaryVQBeTPolicy
