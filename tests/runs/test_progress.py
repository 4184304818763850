import re

import pytest

from saehelpers.runs.progress import LINES, Lines, progress_line, seconds_each

DAY = "2024-05-01T"


def test_seconds_each_leaves_breaks_out():
    times = [f"{DAY}{time}Z" for time in ("10:00:40", "10:00:00", "10:00:10", "10:00:10")]
    assert seconds_each(times) == pytest.approx(40 / 3)
    assert seconds_each([*times, f"{DAY}23:00:00Z"]) == pytest.approx(40 / 3)
    assert seconds_each([*times, f"{DAY}23:00:00Z"], pause=1e6) == pytest.approx(13 * 3600 / 4)


@pytest.mark.parametrize("times", [[], [f"{DAY}10:00:00Z"], [f"{DAY}10:00:00Z"] * 3])
def test_no_rate_where_no_time_has_passed(times):
    assert seconds_each(times) is None
    assert progress_line("SAEs", 3, 5, times) == "SAEs: 3 of 5 done, 2 left"


def test_hours_that_are_left():
    times = [f"{DAY}10:00:00Z", f"{DAY}10:01:00Z"]
    assert (
        progress_line("SAEs", 2, 1202, times) == "SAEs: 2 of 1,202 done, 1,200 left, about 20.0 h"
    )
    assert progress_line("SAEs", 2, 32, times) == "SAEs: 2 of 32 done, 30 left, about 30 min"
    assert progress_line("SAEs", 2, 2, times) == "SAEs: 2 of 2 done"


def lines_of(capsys, n: int, seconds_each: float, monkeypatch, **settings) -> list[str]:
    """What a plain bar writes, by a clock that its steps move on."""
    clock = [0.0]
    monkeypatch.setattr("tqdm.std.time", lambda: clock[0])
    for i in (bar := Lines(range(n), "SAEs", mininterval=0, **settings)):
        bar._time = lambda: clock[0]
        clock[0] += seconds_each
        bar.set_postfix(loss=i, refresh=False)
    return [
        line for line in capsys.readouterr().out.replace("\n", "\r").split("\r") if line.strip()
    ]


@pytest.mark.parametrize(("n", "seconds"), [(3, 20.0), (44, 5.0), (60, 0.2), (1000, 0.5)])
def test_a_plain_bar_has_few_lines(n, seconds, capsys, monkeypatch):
    lines = lines_of(capsys, n, seconds, monkeypatch)
    assert 1 <= len(lines) <= LINES
    times = [re.search(r"\[(.*?)<", line)[1] for line in lines]
    assert len(set(times)) == len(times)
    assert f"{n}/{n}" in lines[-1] and "loss=" in lines[0]


def test_a_plain_bar_of_less_than_a_second_has_none(capsys, monkeypatch):
    assert lines_of(capsys, 60, 0.001, monkeypatch) == []
