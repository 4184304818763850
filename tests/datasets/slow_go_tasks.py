"""Questions about points of a board, answered one point after another, as a player would."""

from itertools import product

from .slow_go import around, ladders, liberties, owners, played, region

SIDES = {"up": (-1, 0), "down": (1, 0), "left": (0, -1), "right": (0, 1)}


def history(moves, size):
    """(board, ko) before every move and after the last: points, None for a pass."""
    boards, colour = [({}, None)], 1
    for move in moves:
        board, ko = boards[-1]
        boards.append((board, None) if move is None else played(board, move, colour, size, ko))
        colour = -colour
    return boards


def eyes(board, size):
    found = {}
    for point in product(range(size), repeat=2):
        colours = {board.get(other) for other in around(point, size)}
        if point not in board and len(colours) == 1 and None not in colours:
            found[point] = colours.pop()
    return found


def answers(moves, ply, size):
    """{question: points} of a game at a ply."""
    past = history(moves, size)
    board, ko = past[ply]
    to_move = 1 if ply % 2 == 0 else -1
    points = list(product(range(size), repeat=2))
    owner, owner_now = owners(past[-1][0], size), owners(board, size)
    own_eyes = eyes(board, size)
    in_ladder, starts = ladders(board, size, ko)
    found = {}

    def yes(question, point):
        found.setdefault(question, set()).add(point)

    def captured_within(point, n):
        later = past[ply + 1 : ply + 1 + n]
        return point in board and any(b.get(point) != board[point] for b, _ in later)

    def of_chain(point):
        return region(board, point, size)[0]

    def n_eyes(point):
        chain = of_chain(point)
        return sum(bool(set(around(eye, size)) & chain) for eye in own_eyes)

    def n_free(point):
        return len(liberties(board, point, size))

    def weak(point):
        return n_free(point) <= 3 and not n_eyes(point)

    for point in points:
        row, column = point
        near = around(point, size)
        colour = board.get(point)
        lines = [row, size - 1 - row, column, size - 1 - column]
        if colour is not None:
            free = n_free(point)
            enemies = [other for other in near if board.get(other) == -colour]
            facts = {
                "in atari": free == 1, "two liberties": free == 2, "three liberties": free == 3,
                "five liberties or more": free >= 5, "alone": len(of_chain(point)) == 1,
                "chain of three or more": len(of_chain(point)) >= 3,
                "chain of six or more": len(of_chain(point)) >= 6,
                "two neighbours oppose": len(enemies) >= 2,
                "beside an opposing chain in atari": any(n_free(e) == 1 for e in enemies),
                "beside a chain of fewer liberties": any(n_free(e) < free for e in enemies),
                "in a race": weak(point) and any(weak(e) for e in enemies),
                "in a ladder": point in in_ladder, "has an eye": n_eyes(point) >= 1,
                "has two eyes": n_eyes(point) >= 2,
                "captured within 5 moves": captured_within(point, 5),
                "captured within 20 moves": captured_within(point, 20),
                "dead at the end": owner[point] == -colour,
            }  # fmt: skip
        else:
            after = {c: played(board, point, c, size) for c in (1, -1)}
            mine = played(board, point, to_move, size)
            joined = {frozenset(of_chain(o)) for o in near if board.get(o) == to_move}
            facts = {
                "an eye": point in own_eyes, "an own eye": own_eyes.get(point) == to_move,
                "takes a ko": any(a and a[1] for a in after.values()),
                "captures": mine is not None and len(mine[0]) <= len(board),
                "self-atari": mine is not None and len(liberties(mine[0], point, size)) == 1,
                "connects": len(joined) >= 2, "starts a ladder": point in starts[-to_move],
            }  # fmt: skip
        facts |= {
            "own stone": colour == to_move, "opposing stone": colour == -to_move,
            "played within 5 moves": point in moves[ply : ply + 5],
            "own at the end": owner[point] == to_move,
            "changes hands": owner[point] == to_move and owner_now[point] != to_move,
            "first line": min(lines) == 0, "second line": min(lines) == 1,
        }  # fmt: skip
        for name, (down, right) in SIDES.items():
            there = row + down, column + right
            inside = there in near
            facts |= {
                f"opposed {name}": colour is not None and board.get(there) == -colour,
                f"border at the end {name}": inside and owner[point] * owner[there] == -1,
                f"stone captured within 20 moves {name}": inside and captured_within(there, 20),
            }
            after = None
            if colour is not None and n_free(point) <= 2 and inside:
                after = played(board, there, colour, size)
            gained = after and len(liberties(after[0], point, size)) > n_free(point)
            facts[f"escapes {name}"] = bool(gained)
        nearest = {name: size for name in SIDES}
        for other in points:
            if colour is None or board.get(other) != -colour:
                continue
            step = other[0] - row, other[1] - column
            for name, (down, right) in SIDES.items():
                ahead, aside = step[0] * down + step[1] * right, step[0] * right + step[1] * down
                if ahead > abs(aside):
                    nearest[name] = min(nearest[name], ahead)
        for name, line in zip(SIDES, lines, strict=True):
            edges = sorted(lines)
            facts[f"nearest edge {name}"] = line == edges[0] < edges[1]
            others = sorted(nearest.values())
            facts[f"nearest opponent {name}"] = nearest[name] == others[0] < others[1]
        for side, is_row in (("upper", row < size - 1 - row), ("lower", row > size - 1 - row)):
            facts[f"corner {side} left"] = is_row and column < size - 1 - column
            facts[f"corner {side} right"] = is_row and column > size - 1 - column
        for question, is_so in facts.items():
            if is_so:
                yes(question, point)
    return found
