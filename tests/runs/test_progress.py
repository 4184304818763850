import pytest

from saehelpers.runs.progress import progress_line, seconds_each

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
