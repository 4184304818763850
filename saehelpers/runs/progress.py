"""Progress: bars (widgets in a notebook, lines of text in a terminal), and how much is left."""

import itertools
import os
import sys
from collections.abc import Iterable
from datetime import datetime

from tqdm import auto, std

from saehelpers.runs.checking import checked
from saehelpers.runs.wanted import Count, Positive, Weight

# `make run` sets it: what executes a notebook without a browser cannot show a widget
PLAIN = "PLAIN_PROGRESS" in os.environ
LINES = 10  # of a plain bar, at most


class Lines(std.tqdm):
    """A bar as lines of text: ten at most, none at its start, and never two of one second."""

    def __init__(self, iterable=None, desc=None, total=None, **settings):
        self.between = -(-(len(iterable) if total is None else total) // (LINES - 1))
        self.shown_at, self.is_closing = None, False
        settings |= {"file": sys.stdout, "miniters": max(1, self.between), "delay": 1}
        super().__init__(iterable, desc, total, **settings)

    def display(self, msg=None, pos=None):
        second = int(self.format_dict["elapsed"])
        nearly_done = self.total - self.n < self.between and not self.is_closing
        if msg == "" or not (nearly_done or second == self.shown_at):
            super().display(msg, pos)
            self.shown_at = second

    def close(self):
        self.is_closing = True
        super().close()


tqdm = Lines if PLAIN else auto.tqdm


@checked
def progress_line(label: str, done: Count, total: Positive, times: Iterable[str] = ()) -> str:
    """A line that says how much is done, and how long the rest takes at the rate so far.

    times: when each of those that are done was (ISO 8601, to the second); see `seconds_each`.
    """
    text = f"{label}: {done:,} of {total:,} done"
    if done >= total:
        return text
    text, seconds = f"{text}, {total - done:,} left", seconds_each(times)
    if seconds is None:
        return text
    minutes = (total - done) * seconds / 60
    return f"{text}, about " + (f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h")


@checked
def seconds_each(times: Iterable[str], pause: Weight = 600) -> float | None:
    """Mean seconds between results that came one after another, from their times.

    Gaps longer than `pause` seconds are breaks between runs, and do not count. None where no
    time has passed between results.
    """
    stamps = sorted(datetime.fromisoformat(time).timestamp() for time in times)
    gaps = [b - a for a, b in itertools.pairwise(stamps) if b - a <= pause]
    return sum(gaps) / len(gaps) if sum(gaps) else None
