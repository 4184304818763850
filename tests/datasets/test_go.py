import dataclasses
from itertools import product

import pytest
import torch

from saehelpers.datasets import go
from saehelpers.datasets.go import ladders
from saehelpers.symmetry import Group, image_action

from . import slow_go


def boards_of(*pictures: str, to_move: int = 1) -> go.Boards:
    """Boards drawn with X for black, O for white."""
    colours = {"X": 1, "O": -1, ".": 0}
    stones = [[[colours[c] for c in row] for row in picture.split()] for picture in pictures]
    n = len(pictures)
    return go.Boards(
        torch.tensor(stones, dtype=torch.int8), torch.full((n,), to_move), torch.full((n,), -1)
    )


def picture(stones: torch.Tensor) -> str:
    return " ".join("".join(".XO"[colour] for colour in row) for row in stones.tolist())


def as_dict(stones: torch.Tensor) -> dict:
    size = len(stones)
    points = product(range(size), repeat=2)
    return {p: int(stones[p]) for p in points if stones[p] != 0}


def random_games(n: int, size: int, plies: int, seed: int = 0):
    """(boards, moves) of games side by side that draw from the legal moves."""
    generator = torch.Generator().manual_seed(seed)
    boards = go.empty_boards(n, size)
    for _ in range(plies):
        chances = go.legal_moves(boards).float()
        chances[:, -1] = 0.3
        moves = torch.multinomial(chances, 1, generator=generator)[:, 0]
        yield boards, moves
        boards = go.play(boards, moves)


# --- rules ---


@pytest.mark.parametrize("size, plies", [(1, 3), (2, 20), (4, 50), (5, 60)])
def test_random_games_are_those_of_the_slow_rules(size, plies):
    slow = [({}, None)] * 8
    captures = kos = 0
    for boards, moves in random_games(8, size, plies):
        legal, labels = go.legal_moves(boards), go.chains(boards.stones)
        free, owner = go.count_liberties(boards.stones), go.area(boards.stones)
        for i, (board, ko) in enumerate(slow):
            colour, move = int(boards.to_move[i]), int(moves[i])
            assert as_dict(boards.stones[i]) == board
            owned = slow_go.owners(board, size)
            for number, point in enumerate(product(range(size), repeat=2)):
                after = slow_go.played(board, point, colour, size, ko)
                assert bool(legal[i, number]) == (after is not None)
                assert owner[i][point] == owned[point]
                if point in board:
                    assert free[i][point] == len(slow_go.liberties(board, point, size))
                    first = min(slow_go.region(board, point, size)[0])
                    assert labels[i][point] == first[0] * size + first[1]
                else:
                    assert free[i][point] == 0 and labels[i][point] == -1
            assert legal[i, -1]
            if move == size**2:
                slow[i] = board, None
            else:
                slow[i] = slow_go.played(board, divmod(move, size), colour, size, ko)
            captures += len(slow[i][0]) < len(board)
            kos += slow[i][1] is not None
    assert size < 3 or (captures > 20 and kos > 0)


def test_large_boards_are_played_as_small_ones_are():
    *_, (boards, moves) = random_games(2, 19, 150)
    after = go.play(boards, moves)
    for i, move in enumerate(moves.tolist()):
        board, colour = as_dict(boards.stones[i]), int(boards.to_move[i])
        slow = slow_go.played(board, divmod(move, 19), colour, 19) if move < 361 else (board,)
        assert as_dict(after.stones[i]) == slow[0]


def test_ko_forbids_to_take_back_at_once_and_not_later():
    boards = go.play(boards_of(".XO. XO.O .XO. ...."), torch.tensor([6]))
    assert picture(boards.stones[0]) == ".XO. X.XO .XO. ...."
    assert boards.ko.tolist() == [5]
    assert not go.legal_moves(boards)[0, 5]
    with pytest.raises(ValueError, match="moves: 5 on board 0 is forbidden by ko"):
        go.play(boards, torch.tensor([5]))
    for _ in range(2):
        boards = go.play(boards, torch.tensor([16]))
    assert picture(go.play(boards, torch.tensor([5])).stones[0]) == ".XO. XO.O .XO. ...."


def test_snapback_takes_back_more_than_was_taken():
    boards = boards_of("..XO. XXXO. OOOO. ..... .....", to_move=-1)
    boards = go.play(go.play(boards, torch.tensor([1])), torch.tensor([0]))
    assert picture(boards.stones[0]) == "X.XO. XXXO. OOOO. ..... ....."
    assert boards.ko.tolist() == [-1]
    boards = go.play(boards, torch.tensor([1]))
    assert picture(boards.stones[0]) == ".O.O. ...O. OOOO. ..... ....."


def test_points_between_living_stones_are_nobodys():
    boards = boards_of("OX.OX OXXOX .XXO. OXXOX OX.OX")
    assert go.legal_moves(boards)[0, 2] and go.count_liberties(boards.stones)[0, 2, 1] == 3
    assert (go.area(boards.stones)[0] == boards.stones[0]).all()
    assert go.area_scores(boards.stones, 1.5).tolist() == [12 - 9 - 1.5]
    assert go.area_scores(boards_of("X... .... .... ....").stones).tolist() == [16]


def test_what_cannot_live_among_the_living_is_dead():
    two_eyes, one_eye = ".XOX. XX.X. .XXX. ..... OO...", "XXOX. XX.X. .XXX. ..... OO..."
    owners = go.area(boards_of(two_eyes, one_eye).stones)
    assert picture(owners[0]) == "XXXX. XXXX. .XXX. ..... OO..."
    assert picture(owners[1]) == picture(boards_of(one_eye).stones[0])


def test_unconditional_life_is_that_of_the_slow_search():
    n_enclosed = 0
    for ply, (boards, _) in enumerate(random_games(6, 5, 80, seed=10)):
        if ply % 10 != 9:
            continue
        owners = go.area(boards.stones)
        for i in range(len(boards)):
            board = as_dict(boards.stones[i])
            slow = slow_go.owners(board, 5)
            assert all(owners[i][point] == owner for point, owner in slow.items())
            n_enclosed += any(slow[point] != colour for point, colour in board.items())
    assert n_enclosed > 5


def test_suicide_is_refused_also_of_several_stones():
    one, two = boards_of(".O. O.. ..."), boards_of(".XO OO. ...")
    for boards in (one, two):
        assert not go.legal_moves(boards)[0, 0]
        with pytest.raises(ValueError, match="moves: 0 on board 0 would be suicide"):
            go.play(boards, torch.tensor([0]))
    assert go.legal_moves(boards_of(".O. O.. ...", to_move=-1))[0, 0]
    captures = boards_of(".OX OX. X..")
    assert picture(go.play(captures, torch.tensor([0])).stones[0]) == "X.X .X. X.."


def test_a_move_captures_several_groups():
    boards = go.play(boards_of("..X.. .XOX. XO.X. .XOX. ..X.."), torch.tensor([12]))
    assert picture(boards.stones[0]) == "..X.. .X.X. X.XX. .X.X. ..X.."
    assert boards.ko.tolist() == [-1]


def test_bad_boards_and_moves_are_told():
    boards = boards_of("X.. ... ...", "... ... ...")
    for move, why in ((0, "is on a stone"), (10, "is outside: points are 0 to 8, a pass is 9"),
                      (-1, "is outside")):  # fmt: skip
        with pytest.raises(ValueError, match=f"moves: {move} on board 0 {why}"):
            go.play(boards, torch.tensor([move, 4]))
    with pytest.raises(ValueError, match="size must be 19 points a side or fewer, got 20"):
        go.empty_boards(1, 20)
    with pytest.raises(ValueError, match="19 points a side or fewer"):
        go.area(torch.zeros(1, 20, 20, dtype=torch.int8))
    with pytest.raises(ValueError, match="stones must have the shape"):
        go.area(torch.zeros(1, 9, 8, dtype=torch.int8))
    with pytest.raises(ValueError, match="each chain with a liberty"):
        go.area(boards_of(".O. OXO .O.").stones)


# --- ladders ---


@pytest.mark.parametrize("size, plies", [(4, 24), (5, 30), (7, 40)])
def test_ladders_are_those_of_the_slow_search(size, plies):
    n_captured = n_attacks = 0
    for ply, (boards, _) in enumerate(random_games(4, size, plies)):
        if ply % 6 != 5:
            continue
        found = go.find_ladders(boards)
        for i in range(len(boards)):
            ko = int(boards.ko[i])
            ko = None if ko < 0 else divmod(ko, size)
            captured, starts = slow_go.ladders(as_dict(boards.stones[i]), size, ko)
            assert {tuple(p) for p in found.captured[i].nonzero().tolist()} == captured
            for row, colour in enumerate((1, -1)):
                own = {tuple(p) for p in found.attacks[i, row].nonzero().tolist()}
                assert own == starts[colour]
            n_captured, n_attacks = n_captured + len(captured), n_attacks + len(starts[1])
    assert n_captured > 5 and n_attacks > 0


def test_ladders_of_many_boards_are_searched_in_parts(monkeypatch):
    *_, (boards, _) = random_games(7, 5, 20)
    whole = go.find_ladders(boards)
    monkeypatch.setattr(ladders, "POINTS_AT_ONCE", 60)
    parts = go.find_ladders(boards)
    assert torch.equal(parts.captured, whole.captured)
    assert torch.equal(parts.attacks, whole.attacks)


def test_a_ladder_works_unless_a_stone_breaks_it():
    start, row = "...XX.... ..XO..... ...X..... ......... .........", "......... ........."
    boards = boards_of(f"{start} {row} {row}", f"{start} .......O. ......... {row}")
    assert go.find_ladders(boards).captured[:, 1, 3].tolist() == [True, False]
    before = boards_of(f"...XX.... ..XO..... {row} ......... {row} {row}")
    assert go.find_ladders(before).attacks[0, 1].nonzero().tolist() == [[2, 3]]


# --- positions and what the network is given ---


def random_moves(n: int, size: int, plies: int, seed: int = 0) -> go.Games:
    moves = torch.stack([moves for _, moves in random_games(n, size, plies, seed)], dim=1)
    boards = go.empty_boards(n, size)
    return go.Games(boards.stones, boards.to_move, moves, torch.linspace(4.5, 7.5, n))


@pytest.mark.parametrize("size, plies", [(4, 25), (5, 35)])
def test_input_planes_are_those_of_the_slow_computation(size, plies):
    games = random_moves(12, size, plies)
    positions = go.replay(games)
    inputs, without = go.input_planes(positions), go.input_planes(positions, ladders=False)
    assert inputs.shape == (12 * plies, go.N_PLANES, size, size)
    for i in range(0, len(inputs), 7):
        game, ply = int(positions.game[i]), int(positions.ply[i])
        moves = [divmod(m, size) if m < size**2 else None for m in games.moves[game, :ply].tolist()]
        slow = torch.zeros(inputs.shape[1:])
        for place, number in slow_go.planes(moves, size, float(games.komi[game])).items():
            slow[place] = number
        assert torch.allclose(inputs[i], slow, atol=1e-6)
        slow[14:18] = 0
        assert torch.allclose(without[i], slow, atol=1e-6)
    used = inputs.flatten(2).any(dim=2).any(dim=0).nonzero().flatten().tolist()
    assert used == [*range(7), *range(9, 20), *range(22, 28), 36, 40]


def test_a_turned_game_has_turned_inputs():
    games, d4 = random_moves(4, 5, 40), Group.named("D4")
    inputs, act = go.input_planes(go.replay(games)), image_action(d4)
    for element, points in enumerate(go.turned_points(d4, 5)):
        moves = torch.where(games.moves < 0, games.moves, points[games.moves])
        turned = go.replay(dataclasses.replace(games, moves=moves))
        assert torch.equal(go.input_planes(turned), act(inputs, element))


def test_games_are_told_and_played_to_their_end():
    games = random_moves(3, 5, 30)
    games.moves[1, 12:] = -1
    assert games.lengths.tolist() == [30, 12, 30]
    positions, last = go.replay(games), go.final_boards(games)
    assert positions.game.tolist() == [0] * 30 + [1] * 12 + [2] * 30
    assert positions.ply[:31].tolist() == [*range(30), 0]
    for game, row in enumerate((29, 41, 71)):
        one = positions[torch.tensor([row])].boards
        after = go.play(one, games.moves[game, int(positions.ply[row])].view(1))
        assert torch.equal(after.stones[0], last.stones[game])
    games.moves[2, 20] = games.moves[2, 19]
    with pytest.raises(ValueError, match=r"moves: \d+ on game 2 is"):
        go.replay(games)


# --- records ---

GAME = "(;GM[1]FF[4]SZ[5]KM[6.5]AB[aa][bb];W[cc];B[ac](;W[];B[dd])(;W[ea]))"


def test_records_are_read_in_the_order_of_their_names(tmp_path):
    (tmp_path / "b.sgf").write_text(GAME)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "a.SGF").write_text("(;SZ[5];B[ba];W[tt])")
    games = go.load_sgf_folder(tmp_path, 5)
    assert games.moves.tolist() == [[1, 25, -1, -1], [12, 10, 25, 18]]
    assert games.first.tolist() == [1, -1] and games.komi.tolist() == [0, 6.5]
    assert [picture(stones) for stones in games.stones] == [
        "..... ..... ..... ..... .....",
        "X.... .X... ..... ..... .....",
    ]
    assert picture(go.final_boards(games).stones[1]) == "X.... .X... X.O.. ...X. ....."
    assert len(go.replay(games)) == 6


@pytest.mark.parametrize(
    "text, why",
    [
        ("no record", "no SGF data found"),
        (GAME[:30], "unexpected end of SGF data"),
        (GAME.replace("SZ[5]", "SZ[9]"), "its size is 9, not 5"),
        ("(;SZ[5])", "it has no moves"),
        ("(;SZ[5];B[aa];B[bb])", "moves 1 and 2 are of one colour"),
        ("(;SZ[5];B[aa];W[aa])", "moves: 0 on game 0 is on a stone"),
        ("(;SZ[5];B[aa];W[ff])", "a move is not on a board of 5"),
        ("(;GM[2]SZ[5];B[aa])", r"it is of another game, GM\[2\]"),
    ],
)
def test_broken_records_are_named_and_left_out_if_asked(text, why, tmp_path, capsys):
    (tmp_path / "good.sgf").write_text(GAME)
    (tmp_path / "bad.sgf").write_text(text)
    with pytest.raises(ValueError, match=rf"bad.sgf is broken \(.*{why}.*skip_broken=True"):
        go.load_sgf_folder(tmp_path, 5)
    assert len(go.load_sgf_folder(tmp_path, 5, skip_broken=True)) == 1
    assert "bad.sgf" in capsys.readouterr().out


def test_a_folder_without_records_is_told(tmp_path):
    for folder in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(FileNotFoundError, match="no games in"):
            go.load_sgf_folder(folder)
    (tmp_path / "folder.sgf").mkdir()
    (tmp_path / "bad.sgf").write_text("no record")
    with pytest.raises(FileNotFoundError, match="none of the 1 games in"):
        go.load_sgf_folder(tmp_path, skip_broken=True)
