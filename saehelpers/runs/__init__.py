"""Runs: a config, its identity and its folder; results; many jobs; several processes; progress."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
