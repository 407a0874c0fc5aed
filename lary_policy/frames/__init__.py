"""A frame is a file, a frame of a video or a row of a table; how it is decoded."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
