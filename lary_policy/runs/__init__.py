"""Runs: one configuration, one grid of jobs, one set of cells, whatever is read."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
