"""Progress: bars (widgets in a notebook, lines of text in a terminal), and how much is left."""

import functools
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

tqdm = functools.partial(std.tqdm, file=sys.stdout) if PLAIN else auto.tqdm


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
