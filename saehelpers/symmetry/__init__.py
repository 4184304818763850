"""Symmetry: finite groups, how they act on inputs, and how activations transform with them."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
