"""Go: its rules on many boards at once."""

from saehelpers.datasets.go.rules import (
    Boards,
    area,
    area_scores,
    chains,
    count_liberties,
    empty_boards,
    legal_moves,
    play,
)

__all__ = [
    "Boards",
    "area",
    "area_scores",
    "chains",
    "count_liberties",
    "empty_boards",
    "legal_moves",
    "play",
]
