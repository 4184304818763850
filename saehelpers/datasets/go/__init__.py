"""Go: its rules on many boards at once, ladders, what networks are given, and games."""

from saehelpers.datasets.go.games import (
    Games,
    final_boards,
    load_games,
    play_games,
    replay,
    save_games,
    turned_points,
)
from saehelpers.datasets.go.ladders import Ladders, find_ladders
from saehelpers.datasets.go.planes import N_GLOBAL, N_PLANES, N_SPATIAL, Positions, input_planes
from saehelpers.datasets.go.records import load_sgf_folder
from saehelpers.datasets.go.rules import (
    Boards,
    chains,
    count_liberties,
    empty_boards,
    legal_moves,
    play,
)
from saehelpers.datasets.go.scoring import area, area_scores

__all__ = [
    "N_GLOBAL",
    "N_PLANES",
    "N_SPATIAL",
    "Boards",
    "Games",
    "Ladders",
    "Positions",
    "area",
    "area_scores",
    "chains",
    "count_liberties",
    "empty_boards",
    "final_boards",
    "find_ladders",
    "input_planes",
    "legal_moves",
    "load_games",
    "load_sgf_folder",
    "play",
    "play_games",
    "replay",
    "save_games",
    "turned_points",
]
