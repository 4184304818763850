import dataclasses
import gzip
import importlib.util

import pytest
import torch
from torch.testing import assert_close

from saehelpers.datasets import go
from saehelpers.evaluation import spliced
from saehelpers.experiments import turned_boards, turned_samples
from saehelpers.networks import (
    drawn_pixels,
    load_go_network,
    make_go_network,
    named_go_network,
    orbit_activations,
    orbit_pixels,
    read_activations,
    reading,
    recording_prefix,
    replaying,
    splice,
    to_feature_maps,
)
from saehelpers.networks.go import Norm, PoolingBlock, pooled
from saehelpers.networks.go_files import IN_WHEEL
from saehelpers.runs import identity
from saehelpers.saes import SAEConfig, make_sae
from saehelpers.symmetry import Group, image_action

D4 = Group.named("D4")


@pytest.fixture(scope="module")
def network():
    return make_go_network()


@pytest.fixture(scope="module")
def games(network) -> go.Games:
    return go.play_games(network.policy, 3, size=5, seed=0)


@pytest.fixture(scope="module")
def inputs(games) -> torch.Tensor:
    return go.input_planes(go.replay(games))[:20]


def test_a_network_says_what_becomes_of_positions(network, inputs):
    opinion = network(inputs)
    assert opinion.policy.shape == (20, 26) and opinion.value.shape == (20, 3)
    assert opinion.score.shape == (20,) and opinion.ownership.shape == (20, 5, 5)
    assert torch.equal(network.policy(inputs), opinion.policy)
    assert opinion.ownership.abs().max() < 1
    with pytest.raises(ValueError, match=r"planes must have the shape \(n, 41, size, size\)"):
        network(inputs[:, :22])


def test_what_holds_for_a_whole_board_reaches_every_point(network, inputs):
    passed = inputs.clone()
    passed[:, 22] = 1 - passed[:, 22]
    before = read_activations(network, inputs, "blocks.0.input")
    added = read_activations(network, passed, "blocks.0.input") - before
    assert added.abs().amax(dim=(1, 2, 3)).min() > 1e-3
    assert_close(added, added[:, :1, :1].expand_as(added), atol=1e-5, rtol=0)


def test_pooling_is_by_mean_width_and_maximum():
    x = torch.randn(2, 9, 9, 3)
    for i in range(2):
        mean = [x[i, :, :, c].mean().item() for c in range(3)]
        largest = [x[i, :, :, c].max().item() for c in range(3)]
        assert_close(pooled(x)[i], torch.tensor([*mean, *(-0.5 * m for m in mean), *largest]))


def test_a_pooling_block_is_what_its_docstring_says():
    block, x = PoolingBlock(4, 3, 2), torch.randn(2, 5, 5, 4)
    inner = block.norm1(x).relu()
    added = block.linear(pooled(block.pool_norm(block.pool(inner)).relu()))
    middle = block.conv1(inner) + added.view(2, 1, 1, 3)
    assert_close(block(x), x + block.conv2(block.norm2(middle).relu()))


# --- under the symmetries of the board ---


def symmetrised(network):
    """The network with kernels that turns and mirrors leave as they are."""
    act = image_action(D4)
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.weight.copy_(torch.stack([act(module.weight, g) for g in range(8)]).mean(dim=0))
    return network


def test_a_symmetric_network_turns_with_the_board(inputs):
    network, act, points = symmetrised(make_go_network()), image_action(D4), go.turned_points(D4, 5)
    opinion = network(inputs)
    for element in range(8):
        turned = network(act(inputs, element))
        assert_close(turned.policy[:, points[element]], opinion.policy)
        assert_close(turned.value, opinion.value)
        assert_close(turned.ownership, act(opinion.ownership, element))


def test_orbits_are_read_by_the_action_on_images(network, inputs):
    orbits = orbit_activations(network, inputs, D4, "blocks.1")
    assert orbits.shape == (20, 8, 5, 5, 16)
    assert torch.equal(orbits[:, 0], read_activations(network, inputs, "blocks.1"))
    given = orbit_activations(network, inputs, D4, "blocks.1", act=image_action(D4))
    assert torch.equal(orbits, given)
    of_symmetric = orbit_activations(symmetrised(make_go_network()), inputs, D4, "blocks.1")
    for element in range(8):
        maps = to_feature_maps(of_symmetric[:, 0]), to_feature_maps(of_symmetric[:, element])
        assert_close(maps[1], image_action(D4)(maps[0], element))


def test_points_of_boards_are_pixels_over_the_orbit(inputs, tmp_path):
    network = symmetrised(make_go_network())
    points = orbit_pixels(network, inputs, D4, "blocks.1", tmp_path / "points.npy")
    assert points.shape == (20 * 25, 8, 16)
    assert_close(points, points[:, :1].expand_as(points))


def test_a_block_is_read_and_spliced(network, inputs):
    before, seen = network(inputs), []
    read = read_activations(network, inputs, "blocks.2.input")
    assert torch.equal(read, read_activations(network, inputs, "blocks.1"))
    with splice(network, {"blocks.1": lambda x: seen.append(x) or x}):
        assert torch.equal(network(inputs).policy, before.policy)
    assert torch.equal(seen[0], read)
    with splice(network, {"blocks.1": torch.zeros_like}):
        assert not torch.allclose(network(inputs).policy, before.policy)
        assert torch.equal(network.policy(inputs), network(inputs).policy)
    sae = make_sae(SAEConfig(16, 24, topk=4)).eval().requires_grad_(False)
    with spliced(network, {"blocks.1": sae}), reading(network, ["blocks.2"]) as after:
        changed = network(inputs).policy
    recons = sae(read.flatten(0, 2)).view_as(read)
    assert_close(after["blocks.2"], network.blocks[2](recons))
    assert not torch.allclose(changed, before.policy)
    with recording_prefix(network, ["blocks.1"]) as kept:
        network(inputs)
    with replaying(network, kept):
        assert torch.equal(network(inputs).value, before.value)


# --- games ---


def test_games_are_those_of_their_seed_and_legal(network, games):
    again = go.play_games(network.policy, 3, size=5, seed=0)
    assert torch.equal(again.moves, games.moves)
    assert not torch.equal(go.play_games(network.policy, 3, size=5, seed=1).moves, games.moves)
    for i, length in enumerate(games.lengths.tolist()):
        assert length == 50 or games.moves[i, length - 2 : length].tolist() == [25, 25]


def test_the_policy_is_what_moves_are_drawn_from(inputs):
    def favours(planes):
        logits = torch.zeros(len(planes), 26)
        logits[:, 7], logits[:, 25] = 30, -30
        return logits

    assert (go.play_games(favours, 4, size=5).moves[:, 0] == 7).all()
    mixed = go.play_games(favours, 4, size=5, opponent=lambda x: favours(x).flip(1))
    assert mixed.moves[:, 0].tolist() == [7, 18, 7, 18]


def test_a_policy_is_given_the_inputs_of_its_positions(network):
    seen = []
    games = go.play_games(lambda x: seen.append(x) or network.policy(x), 4, size=4, seed=2)
    positions = go.replay(games)
    inputs = go.input_planes(positions)
    assert len(seen) == games.lengths.max() > games.lengths.min()
    for ply, given in enumerate(seen):
        assert torch.equal(given, inputs[positions.ply == ply])


def test_games_are_kept_in_a_small_file(games, tmp_path):
    path = go.save_games(tmp_path / "games.safetensors", games)
    read = go.load_games(path)
    assert torch.equal(read.moves, games.moves) and torch.equal(read.komi, games.komi)
    assert identity(read) == identity(go.load_games(path)) != identity(games)
    assert path.stat().st_size < 2 * games.moves.numel() + 1000
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match="is no file of games, or is cut short"):
        go.load_games(path)
    with pytest.raises(FileNotFoundError, match="there is no file of games at"):
        go.load_games(tmp_path / "nothing")


def test_games_are_told_by_what_plays_them_and_how(network, games, tmp_path):
    settings = {"n_games": 3, "size": 5, "seed": 0}
    told = identity(games)
    assert identity(go.play_games(network.policy, **settings)) == told
    few = {"n_games": 1, "size": 3}
    others = [{"n_games": 2}, {"size": 2}, {"seed": 1}, {"komi": 6.5}, {"opponent": network.policy}]
    told_by = [identity(go.play_games(network.policy, **few | other)) for other in ({}, *others)]
    told_by.append(identity(go.play_games(make_go_network(seed=1).policy, **few)))
    assert len(set(told_by)) == 7
    loaded = [go.load_or_play_games(network.policy, 3, tmp_path, 5) for _ in range(2)]
    assert [identity(one) for one in loaded] == [told, told]
    assert torch.equal(loaded[1].moves, games.moves)
    assert len([*tmp_path.glob("games-*.safetensors")]) == 1
    go.load_or_play_games(network.policy, 3, tmp_path, 5, seed=1)
    assert len([*tmp_path.glob("games-*.safetensors")]) == 2


def test_what_is_made_of_games_is_told_by_them(network, games):
    def told(played, seed=0, n=20):
        planes = go.input_planes(go.draw_positions(played, n, seed))
        return identity(read_activations(network, planes, "blocks.1"))

    again = dataclasses.replace(games, moves=games.moves.clone())  # the same moves, but no cause
    assert told(games) == told(games)
    assert len({told(games), told(games, 1), told(games, n=19), told(again)}) == 4
    changed = go.draw_positions(games, 20)
    changed.moves[0, 0] = 3
    planes = go.input_planes(changed)
    assert identity(planes) != identity(go.input_planes(go.draw_positions(games, 20)))
    assert identity(go.replay(games)) != identity(go.draw_positions(games, 10**6))


def test_positions_are_drawn_in_the_order_of_games(games):
    drawn, every = go.draw_positions(games, 20, seed=4), go.replay(games)
    places = [(int(game), int(ply)) for game, ply in zip(drawn.game, drawn.ply, strict=True)]
    assert len(drawn) == len(set(places)) == 20 and places == sorted(places)
    there = [(int(game), int(ply)) for game, ply in zip(every.game, every.ply, strict=True)]
    for i, place in enumerate(places):
        assert torch.equal(drawn.stones[i], every.stones[there.index(place)])
    assert torch.equal(go.draw_positions(games, 10**6).stones, every.stones)


def test_samples_of_turned_boards_are_those_of_orbits(network, games, tmp_path):
    positions = go.draw_positions(games, 10)
    planes, points = go.input_planes(positions), drawn_pixels(10, 25, 4)
    samples = turned_samples(games, positions, planes, points, D4, seed=1)
    orbits = orbit_pixels(network, planes, D4, "blocks.2.input", tmp_path / "points.npy", 4)
    own = orbits[torch.arange(40), samples.elements]
    assert_close(samples.read(network, "blocks.2.input"), own)
    inputs = samples.around(3)
    assert inputs.shape == (40, 22 * 9) and len(samples.elements.unique()) > 4
    assert torch.equal(inputs[:, 9 + 4] > 0, samples.labels[:, 0])  # own stones
    assert torch.equal(inputs[:, 18 + 4] > 0, samples.labels[:, 1])
    above = inputs[:, 9 + 1] + 2 * inputs[:, 18 + 1]
    middle = inputs[:, 9 + 4] + 2 * inputs[:, 18 + 4]
    number = go.list_point_tasks()["task"].tolist().index("opposed up")
    assert torch.equal(samples.labels[:, number], above * middle == 2)


def test_boards_under_every_element_are_turned_with_their_last_moves(games):
    positions = go.draw_positions(games, 6)
    planes, act, points = go.input_planes(positions), image_action(D4), go.turned_points(D4, 5)
    turned, stones, last = turned_boards(positions, planes, D4)
    moves, mover = positions.moves[:, 0], -positions.to_move
    for g in range(8):
        rows = slice(6 * g, 6 * (g + 1))
        assert torch.equal(turned[rows], act(planes, g))
        assert torch.equal(stones[rows], act(positions.stones[:, 0], g))
        for n in range(6):
            there = int(last[rows][n])
            assert there == (points[g][moves[n]] if moves[n] >= 0 else -1)
            if 0 <= there < 25:
                assert stones[rows][n].flatten()[there] == mover[n]


# --- files ---


def written(network, version: int = 8) -> bytes:
    """A network in KataGo's format, its norms as the statistics and factors of a batch norm."""
    parts: list[bytes] = []
    generator = torch.Generator().manual_seed(1)

    def words(*given):
        parts.append(("".join(f"{word}\n" for word in given)).encode())

    def array(x):
        parts.append(b"@BIN@" + x.detach().contiguous().numpy().astype("<f4").tobytes() + b"\n")

    def conv(x):
        n_out, n_in, height, width = x.weight.shape
        words("conv", height, width, n_in, n_out, 1, 1)
        array(x.weight.permute(2, 3, 1, 0))

    def norm(x: Norm):
        n = len(x.scale)
        mean = torch.randn(n, generator=generator)
        spread = torch.rand(n, generator=generator) + 0.5
        words("norm", n, 0.001, 1, 1)
        for numbers in (mean, spread - 0.001, torch.ones(n) * 2, torch.ones(n) / 3):
            array(numbers)
        words("relu")
        x.scale.copy_(2 / spread.sqrt())
        x.bias.copy_(1 / 3 - 2 * mean / spread.sqrt())

    def linear(x):
        words("matmul", x.in_features, x.out_features)
        array(x.weight.T)
        if x.bias is not None:
            words("bias", x.out_features)
            array(x.bias)

    channels, policy, value = len(network.norm.scale), network.policy_head, network.value_head
    half = channels // 2
    words("tiny", version, 22, 19, "trunk", len(network.blocks))
    words(channels, channels, half, half, half)
    conv(network.stem)
    linear(network.from_global)
    for block in network.blocks:
        pools = isinstance(block, PoolingBlock)
        words("gpool_block" if pools else "ordinary_block", "block")
        norm(block.norm1)
        conv(block.conv1)
        if pools:
            conv(block.pool)
            norm(block.pool_norm)
            linear(block.linear)
        norm(block.norm2)
        conv(block.conv2)
    norm(network.norm)
    words("policyhead")
    conv(policy.conv)
    conv(policy.pool)
    norm(policy.pool_norm)
    linear(policy.linear)
    norm(policy.norm)
    conv(policy.points)
    linear(policy.passing)
    words("valuehead")
    conv(value.conv)
    norm(value.norm)
    linear(value.hidden)
    words("relu")
    linear(value.value)
    linear(value.score)
    conv(value.ownership)
    return b"".join(parts)


def test_a_network_is_read_from_its_file(inputs, tmp_path):
    network = make_go_network(n_blocks=3, channels=8)
    path = tmp_path / "tiny.bin.gz"
    path.write_bytes(gzip.compress(written(network)))
    plain = tmp_path / "tiny.bin"
    plain.write_bytes(gzip.decompress(path.read_bytes()))
    read = load_go_network(path)
    for ours, theirs in zip(network(inputs), read(inputs), strict=True):
        assert_close(ours, theirs, atol=1e-5, rtol=1e-4)
    assert torch.equal(load_go_network(plain)(inputs).policy, read(inputs).policy)
    assert identity(read) == identity(load_go_network(str(path)))
    assert not any(p.requires_grad for p in read.parameters()) and not read.training


def test_files_that_are_no_such_network_are_told(tmp_path):
    path, whole = tmp_path / "tiny.bin", written(make_go_network(n_blocks=2, channels=8))
    for end in (0, 3, 40, 60, 300, len(whole) // 2, len(whole) - 5):
        path.write_bytes(whole[:end])
        with pytest.raises(ValueError, match=r"is cut short.* Read are KataGo networks of version"):
            load_go_network(path)
    path.write_bytes(written(make_go_network(n_blocks=2, channels=8), version=14))
    with pytest.raises(ValueError, match=r"is a network of version 14\. Read are .* version 8"):
        load_go_network(path)
    for data in (b"\0" * 1000, b"a picture of a cat", b"tiny 8 17 2 "):
        path.write_bytes(data)
        with pytest.raises(ValueError, match="Read are KataGo networks of version 8"):
            load_go_network(path)
    path.write_bytes(gzip.compress(whole)[:-20])
    with pytest.raises(ValueError, match="is cut short or damaged"):
        load_go_network(path)


def test_where_a_network_comes_from_is_told(tmp_path, monkeypatch):
    install = "pip install --no-deps KaTrain==1.13.0, or set NETWORK"
    with pytest.raises(FileNotFoundError, match=install):
        load_go_network(tmp_path / "nothing.bin.gz")
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match=install):
        load_go_network()
    (tmp_path / "katrain").mkdir()
    (tmp_path / "katrain" / "__init__.py").touch()
    monkeypatch.setattr(importlib.util, "find_spec", found)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(FileNotFoundError, match=f"newer ones carry another network. {install}"):
        load_go_network()
    path = tmp_path / "katrain" / IN_WHEEL
    path.parent.mkdir()
    path.write_bytes(written(make_go_network(n_blocks=2, channels=8)))
    with pytest.raises(ValueError, match="is damaged: its SHA-256 is"):
        load_go_network()


def test_a_network_has_a_name(tmp_path, monkeypatch, capsys):
    network, source = named_go_network("tiny", 3)
    assert source == "tiny" and len(network.blocks) == 3
    path = tmp_path / "mine.bin"
    path.write_bytes(written(make_go_network(n_blocks=2, channels=8)))
    network, source = named_go_network(str(path))
    assert source == "mine.bin" and identity(network) == identity(load_go_network(path))
    with pytest.raises(FileNotFoundError, match="no Go network at nowhere"):
        named_go_network("nowhere")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    network, source = named_go_network("katago", 2)
    assert source == "tiny" and identity(network) == identity(make_go_network(2))
    assert "KaTrain, which brings the Go network, is not installed" in capsys.readouterr().out


# --- the real network, where its wheel is installed ---


@pytest.fixture(scope="module")
def real():
    try:
        return load_go_network()
    except FileNotFoundError:
        pytest.skip("KaTrain is not installed")


def test_the_real_network_opens_in_the_middle_and_agrees_with_itself(real):
    boards = go.empty_boards(1, 9)
    games = go.Games(
        boards.stones, boards.to_move, torch.tensor([[40, 24, 22, 31, 81]]), torch.tensor([7.0])
    )
    inputs, points, act = (
        go.input_planes(go.replay(games)),
        go.turned_points(D4, 9),
        image_action(D4),
    )
    views = [real(act(inputs, g)).policy[:, points[g]].log_softmax(1) for g in range(8)]
    views = torch.stack(views)
    assert views[:, 0].argmax(dim=1).tolist() == [40] * 8
    mean = views.exp().mean(dim=0).log()
    assert (views.exp() * (views - mean)).sum(dim=2).mean() < 0.1


def test_the_real_network_knows_who_has_won(real):
    stones = torch.zeros(2, 9, 9, dtype=torch.int8)
    stones[:, :, 3], stones[:, :, 4] = 1, -1  # 36 points for black, 45 for white
    moves, komi = torch.tensor([[81], [81]]), torch.tensor([-20.0, 7.0])
    games = go.Games(stones, torch.ones(2).long(), moves, komi)
    opinion = real(go.input_planes(go.replay(games)))
    win = opinion.value.softmax(1)[:, 0]
    assert win[0] > 0.9 and win[1] < 0.1
    assert_close(opinion.score, torch.tensor([11.0, -16.0]), atol=3, rtol=0)
    assert (opinion.ownership[:, :, :4] > 0.8).all() and (opinion.ownership[:, :, 4:] < -0.8).all()


def test_the_real_network_beats_who_only_captures(real):
    assert go.policy_wins(go.play_games(real.policy, 2, opponent=go.capture_first)).all()
