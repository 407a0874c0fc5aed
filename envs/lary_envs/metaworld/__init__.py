"""MetaWorld's fifty tasks as worlds of ours; needs `pip install lerobot_policy_lary[metaworld]`."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
