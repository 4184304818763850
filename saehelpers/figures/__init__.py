"""Figures that notebooks share, dashboards, and what rows of results say."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
