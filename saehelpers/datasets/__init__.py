"""Data: generated, simulated, downloaded or the user's own; activations on disk."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
