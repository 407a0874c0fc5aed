from .renderer import TABLE_TEXTURES as TABLE_TEXTURES
from .renderer import RayTracer as RayTracer
