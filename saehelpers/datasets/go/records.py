"""Games of Go from records: folders of SGF files."""

import itertools
from pathlib import Path

import torch

from saehelpers.datasets.go.games import Games, final_boards
from saehelpers.datasets.go.rules import NO_POINT, Size
from saehelpers.runs.checking import checked
from saehelpers.runs.extras import extra

COLOURS = {"b": 1, "w": -1}


@checked
def load_sgf_folder(folder: Path | str, size: Size = 19, skip_broken: bool = False) -> Games:
    """The games of a folder's SGF files, and of the folders in it, in the order of their names.

    Of each its main line, with the stones of a handicap and the komi, 0 if none is said.

    Args:
        size: of the boards of all games.
        skip_broken: leave out files that are broken, and say which.

    Raises:
        FileNotFoundError: there is no such folder, or no game in it.
        ValueError: a file is broken: it cannot be read, is of another game or size, has no moves,
            two of one colour after each other, or one that is illegal; names it.
    """
    folder = Path(folder)
    found = folder.rglob("*")
    paths = sorted(path for path in found if path.suffix.lower() == ".sgf" and path.is_file())
    if not paths:
        raise FileNotFoundError(f"no games in {folder}: it should hold files ending in .sgf")
    games = []
    for path in paths:
        try:
            games.append(_read(path, size))
        except (ValueError, OSError) as error:
            if not skip_broken:
                raise ValueError(
                    f"{path} is broken ({error}): remove it, or pass skip_broken=True"
                ) from error
            print(f"left out, broken: {path} ({error})")
    if not games:
        raise FileNotFoundError(f"none of the {len(paths)} games in {folder} can be read")
    moves = [torch.tensor(one) for _, _, one, _ in games]
    return Games(
        torch.stack([stones for stones, _, _, _ in games]),
        torch.tensor([first for _, first, _, _ in games]),
        torch.nn.utils.rnn.pad_sequence(moves, batch_first=True, padding_value=NO_POINT),
        torch.tensor([komi for _, _, _, komi in games]),
    )


def _read(path: Path, size: int) -> tuple[torch.Tensor, int, list[int], float]:
    with extra("go"):
        from sgfmill import sgf, sgf_moves

    game = sgf.Sgf_game.from_bytes(path.read_bytes())
    if game.get_size() != size:
        raise ValueError(f"its size is {game.get_size()}, not {size}")
    root = game.get_root()
    if root.has_property("GM") and root.get_raw("GM").strip() != b"1":
        raise ValueError(
            f"it is of another game, GM[{root.get_raw('GM').decode(errors='replace')}]"
        )
    try:
        board, played = sgf_moves.get_setup_and_moves(game)
    except ValueError as error:
        raise ValueError(str(error) or f"a move is not on a board of {size}") from error
    colours = [COLOURS[colour] for colour, _ in played]
    if not colours:
        raise ValueError("it has no moves")
    for i, (one, other) in enumerate(itertools.pairwise(colours)):
        if one == other:
            raise ValueError(f"moves {i + 1} and {i + 2} are of one colour")
    stones = torch.zeros(size, size, dtype=torch.int8)
    for colour, (row, column) in board.list_occupied_points():
        stones[size - 1 - row, column] = COLOURS[colour]
    moves = [
        size**2 if where is None else (size - 1 - where[0]) * size + where[1] for _, where in played
    ]
    komi = float(game.get_komi())
    first = torch.tensor(colours[:1])
    final_boards(Games(stones[None], first, torch.tensor([moves]), torch.tensor([komi])))
    return stones, colours[0], moves, komi
