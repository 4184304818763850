"""Progress bars: widgets in a notebook, lines of text where its output goes to a terminal."""

import functools
import os
import sys

from tqdm import auto, std

# `make run` sets it: what executes a notebook without a browser cannot show a widget
PLAIN = "PLAIN_PROGRESS" in os.environ

tqdm = functools.partial(std.tqdm, file=sys.stdout) if PLAIN else auto.tqdm
