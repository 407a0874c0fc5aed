"""Where LeRobot looks for the policies of `configuration_drop_in`; each is imported when it is asked for."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__package__, __file__)
