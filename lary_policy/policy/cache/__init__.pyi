from .build import BuiltCache as BuiltCache
from .build import CachePlan as CachePlan
from .build import Looks as Looks
from .build import build_cache as build_cache
from .index import LatentCache as LatentCache
from .index import verify_view as verify_view
from .table import TableDataset as TableDataset
