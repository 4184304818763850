"""Progress bars: widgets in a notebook, lines of text where its output goes to a terminal."""

import os

from tqdm import auto, std

# `make run` sets it: what executes a notebook without a browser cannot show a widget
PLAIN = "PLAIN_PROGRESS" in os.environ

tqdm = std.tqdm if PLAIN else auto.tqdm
