from .renderer import RayTracer as RayTracer
from .textures import TABLE_TEXTURES as TABLE_TEXTURES
