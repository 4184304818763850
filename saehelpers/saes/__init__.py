"""The family of sparse autoencoders (SAEs), and the format of SAELens."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
