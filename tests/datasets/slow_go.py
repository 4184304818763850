"""Go on one board, written from the rules without the package: dicts, sets and recursion."""

from itertools import product


def around(point, size):
    row, column = point
    near = [(row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)]
    return [(r, c) for r, c in near if 0 <= r < size and 0 <= c < size]


def region(board, point, size):
    """The points that equal neighbours lead to, and what lies around them."""
    inside, border, left = {point}, set(), [point]
    while left:
        for other in around(left.pop(), size):
            if board.get(other) != board.get(point):
                border.add(other)
            elif other not in inside:
                inside.add(other)
                left.append(other)
    return inside, border


def liberties(board, point, size):
    return {other for other in region(board, point, size)[1] if other not in board}


def played(board, point, colour, size, ko=None):
    """(board, ko) after a move; None where it is illegal. `board` has the colours of stones."""
    if point in board or point == ko:
        return None
    board = {**board, point: colour}
    taken = set()
    for other in around(point, size):
        if board.get(other) == -colour and not liberties(board, other, size):
            taken |= region(board, other, size)[0]
    board = {p: c for p, c in board.items() if p not in taken}
    free = liberties(board, point, size)
    if not free:
        return None
    is_ko = len(taken) == 1 and free == taken and len(region(board, point, size)[0]) == 1
    return board, (next(iter(taken)) if is_ko else None)


def owners(board, size):
    found = dict(board)
    for point in product(range(size), repeat=2):
        if point not in board:
            touched = {board[p] for p in region(board, point, size)[1]}
            found[point] = touched.pop() if len(touched) == 1 else 0
    for colour in (1, -1):
        found |= dict.fromkeys(enclosed(board, colour, size), colour)
    return found


def enclosed(board, colour, size):
    """What unconditionally living chains of a colour enclose: Benson's algorithm."""
    own = {point: colour for point in board if board[point] == colour}
    chains = {frozenset(region(own, point, size)[0]) for point in own}
    others = [point for point in product(range(size), repeat=2) if point not in own]
    regions = {frozenset(region(own, point, size)[0]) for point in others}

    def touching(points):
        near = {other for point in points for other in around(point, size)}
        return {chain for chain in chains if chain & near}

    def vital(points, chain):
        empty = [point for point in points if point not in board]
        return all(set(around(point, size)) & chain for point in empty)

    borders = {points: touching(points) for points in regions}
    left = set(chains)
    while True:
        sound = [points for points in regions if borders[points] <= left]
        lives = {
            chain for chain in left
            if sum(chain in borders[points] and vital(points, chain) for points in sound) >= 2
        }  # fmt: skip
        if lives == left:
            break
        left = lives
    found = set()
    for points in sound:
        inner = [point for point in points if not set(around(point, size)) & set(own)]
        if borders[points] and len(inner) <= 1:
            found |= points
    return found


# --- ladders ---


def is_captured(board, point, size, ko=None, defends=True, forgives=True):
    """Whether the chain at a point is captured if its owner, or the other one, moves next."""
    colour, free = board[point], liberties(board, point, size)
    if not defends:
        if len(free) != 2:
            return len(free) < 2
        after = [played(board, move, -colour, size, ko) for move in free]
        return any(is_captured(*a[:1], point, size, a[1], True, False) for a in after if a)
    if len(free) > 1 or (ko is not None and not forgives):
        return False
    moves = set(free)
    for other in region(board, point, size)[1]:
        if other in board and len(liberties(board, other, size)) == 1:
            moves |= liberties(board, other, size)
    after = [played(board, move, colour, size) for move in moves]
    return all(is_captured(*a[:1], point, size, a[1], False) for a in after if a)


def ladders(board, size, ko=None):
    """Stones that can be captured in a ladder, and for each colour the moves that start one."""
    captured, starts = set(), {1: set(), -1: set()}
    for point, colour in board.items():
        free = liberties(board, point, size)
        if len(free) == 1 and is_captured(board, point, size):
            captured.add(point)
        for move in free if len(free) == 2 else ():
            after = played(board, move, -colour, size, ko)
            if after and is_captured(after[0], point, size):
                captured.add(point)
                starts[colour].add(move)
    return captured, starts


# --- what the network is given ---


def planes(moves, size, komi):
    """{(plane, row, column): number}, but for zeros, after moves: points, None for a pass."""
    history, colour = [({}, None)], 1
    for move in moves:
        board, ko = history[-1]
        history.append((board, None) if move is None else played(board, move, colour, size, ko))
        colour = -colour
    board, ko = history[-1]
    found = {}
    for point, stone in board.items():
        found[1 if stone == colour else 2, *point] = 1
        n = len(liberties(board, point, size))
        if n <= 3:
            found[2 + n, *point] = 1
    if ko:
        found[6, *ko] = 1
    whole = {0: 1, 27: (-komi if colour == 1 else komi) / 20}
    for i, move in enumerate(moves[::-1][:5]):
        if move is None:
            whole[22 + i] = 1
        else:
            found[9 + i, *move] = 1
    for i in range(3):
        past, past_ko = history[max(len(history) - 1 - i, 0)]
        captured, starts = ladders(past, size, past_ko)
        found |= {(14 + i, *point): 1 for point in captured}
        if i == 0:
            found |= {(17, *point): 1 for point in starts[-colour]}
    for point, owner in owners(board, size).items():
        if owner:
            found[18 if owner == colour else 19, *point] = 1
    if moves and moves[-1] is None:
        whole[36] = 1
    own = -komi if colour == 1 else komi
    above = (own - size) % 2
    whole[40] = above if above < 0.5 else 1 - above if above < 1.5 else above - 2
    for plane, number in whole.items():
        found |= {(plane, *p): number for p in product(range(size), repeat=2) if number}
    return found
