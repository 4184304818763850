"""Go: its rules on many boards at once, ladders, what networks are given, and games."""

from saehelpers.datasets.go.games import (
    Games,
    draw_positions,
    final_boards,
    load_games,
    load_or_play_games,
    play_games,
    replay,
    save_games,
    turned_points,
)
from saehelpers.datasets.go.ladders import Ladders, find_ladders
from saehelpers.datasets.go.planes import N_GLOBAL, N_PLANES, N_SPATIAL, Positions, input_planes
from saehelpers.datasets.go.players import capture_first, policy_wins, random_player
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
from saehelpers.datasets.go.tasks import (
    list_point_tasks,
    point_tasks,
    turned_labels,
    turned_tasks,
)

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
    "capture_first",
    "chains",
    "count_liberties",
    "draw_positions",
    "empty_boards",
    "final_boards",
    "find_ladders",
    "input_planes",
    "legal_moves",
    "list_point_tasks",
    "load_games",
    "load_or_play_games",
    "load_sgf_folder",
    "play",
    "play_games",
    "point_tasks",
    "policy_wins",
    "random_player",
    "replay",
    "save_games",
    "turned_labels",
    "turned_points",
    "turned_tasks",
]
