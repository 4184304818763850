"""Experiments: base models, actions and SAEs, trained once, then loaded, and measured once."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
