"""Sparse autoencoders for networks whose data has symmetries."""

import lazy_loader

from saehelpers import moved as _moved  # noqa: F401 (it tells `import` where modules are now)

__version__ = "0.2.0"
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
