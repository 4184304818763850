"""Damaged files, from a seed: what disks, copies, editors and other programs make of them."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
from torch import Tensor, nn

JUNK = (b"", b"[]", b"null", b"{}", b"\x00" * 64, b"[" * 20_000, b"<html>404</html>", b"a,b\n1,2\n")


def _flip_a_bit(data: bytearray, draw: random.Random) -> bytes:
    data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    return data


def _change_a_byte(data: bytearray, draw: random.Random) -> bytes:
    data[draw.randrange(len(data))] = draw.randrange(256)
    return data


def _change_a_digit(data: bytearray, draw: random.Random) -> bytes:
    places = [i for i, byte in enumerate(data) if byte in b"0123456789"]
    data[draw.choice(places or [0])] = ord(draw.choice("0123456789"))
    return data


def _cut(data: bytearray, draw: random.Random) -> bytes:
    return data[: draw.randrange(len(data))]


def _part(data: bytearray, draw: random.Random) -> slice:
    start = draw.randrange(len(data))
    return slice(start, start + draw.choice([1, 8, 64, 512]))


def _leave_out(data: bytearray, draw: random.Random) -> bytes:
    del data[_part(data, draw)]
    return data


def _blank(data: bytearray, draw: random.Random) -> bytes:
    part = _part(data, draw)
    data[part] = bytes(len(data[part]))
    return data


def _repeat(data: bytearray, draw: random.Random) -> bytes:
    part = _part(data, draw)
    return data[: part.stop] + data[part] + data[part.stop :]


def _append(data: bytearray, draw: random.Random) -> bytes:
    return data + draw.randbytes(draw.choice([1, 8, 100]))


def _in_front(data: bytearray, draw: random.Random) -> bytes:
    return draw.choice([b"\xef\xbb\xbf", b" ", b"\n", b"\x00"]) + data


def _replace(data: bytearray, draw: random.Random) -> bytes:
    return draw.choice(JUNK)


KINDS = (
    _flip_a_bit, _flip_a_bit, _change_a_byte, _change_a_digit, _cut, _leave_out, _blank, _repeat,
    _append, _in_front, _replace,
)  # fmt: skip


def damages(path: Path, n: int, seed: int) -> Iterator[str]:
    """Damage a file n times, each time anew, and yield how; it is as it was in the end."""
    data, draw = path.read_bytes(), random.Random(seed)
    try:
        for number in range(n):
            kind = KINDS[number % len(KINDS)]
            _put(path, kind(bytearray(data), draw))
            yield f"{kind.__name__} {number} of {path.name}"
    finally:
        _put(path, data)


def _put(path: Path, data: bytes) -> None:
    """In another file, since who has mapped the last one would die of its being cut short."""
    path.unlink()
    path.write_bytes(data)


def contents(value: Any) -> Any:
    """All that a value holds, to be compared: tensors by their bytes, whatever they came from."""
    if isinstance(value, Tensor):
        plain = value.detach().cpu().contiguous()
        return str(plain.dtype), tuple(plain.shape), plain.numpy().tobytes()
    if isinstance(value, nn.Module):
        return [contents(part) for part in value.state_dict().items()]
    if isinstance(value, pd.DataFrame):
        return value.to_csv()
    if isinstance(value, dict):
        return {name: contents(part) for name, part in value.items()}
    return [contents(part) for part in value] if isinstance(value, list | tuple) else repr(value)


def outcomes(load: Callable[[], Any], path: Path, n: int, seed: int, named: Path) -> dict[str, int]:
    """How often damage to a file was an error that names it (or its folder), or changed nothing.

    Raises:
        AssertionError: what was loaded differs in silence, or the error is not clear.
    """
    expected, found = contents(load()), {"errors": 0, "equal": 0}
    for how in damages(path, n, seed):
        before = sorted(path.parent.iterdir())
        try:
            loaded = contents(load())
        except (ValueError, FileNotFoundError) as error:
            assert str(named) in str(error), f"{how}: {error}"
            found["errors"] += 1
        else:
            assert loaded == expected, f"{how}: differs in silence"
            found["equal"] += 1
        assert sorted(path.parent.iterdir()) == before, f"{how}: files were made or deleted"
    return found
