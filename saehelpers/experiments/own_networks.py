"""A network that a user brings, and what it reads: images, boards or text. For notebook 13."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import torch
from jaxtyping import Float, Shaped, UInt8
from torch import Tensor, nn

from saehelpers.datasets import (
    documentation,
    go,
    held_out,
    list_tasks,
    make_shapes,
    read_documents,
    split,
    task_labels,
    token_blocks,
)
from saehelpers.datasets.galaxies import SOURCES, load_galaxies
from saehelpers.experiments.base_models import acted_on
from saehelpers.experiments.encoders import prepare_pixel_subject
from saehelpers.experiments.loading import load
from saehelpers.experiments.subjects import ActionRun, Subject, load_or_fit_action
from saehelpers.networks import (
    drawn_pixels,
    latent_maps,
    load_encoder,
    load_go_network,
    make_go_network,
    read_activations,
    to_feature_maps,
)
from saehelpers.runs.checking import checked
from saehelpers.runs.identities import identified, identity, part
from saehelpers.runs.wanted import NOT_EMPTY, Count, Device, Name, Positive
from saehelpers.saes import SAE, EquivariantSAE
from saehelpers.symmetry import (
    Group,
    InputAction,
    action_by_generators,
    check_input_action,
    image_action,
    rotations_and_flips,
)

INPUTS = (*SOURCES, "shapes", "go", "documentation")
GO_SIZE, KOMI = 9, 7.5  # of the games that a network plays to be explained by
CONTEXT = 64  # tokens
COLOUR_CHANNELS = 3


def _next_colours(images: Tensor) -> Tensor:
    """What has not three channels is a map: its channels are no colours."""
    return images.roll(1, 1) if images.shape[1] == COLOUR_CHANNELS else images


def _swapped_colours(images: Tensor) -> Tensor:
    return images[:, [1, 0, 2]] if images.shape[1] == COLOUR_CHANNELS else images


def _shifted(axis: int, images: Tensor) -> Tensor:
    side = images.shape[axis]
    if side > 1 and side % 2:  # a map of one place has nowhere to go
        raise ValueError(f"shifts move by half of a side, got {tuple(images.shape[-2:])}")
    return images.roll(side // 2, axis)


PICTURES = {  # groups that act on pictures beside C_n and D_n, and what their generators do
    "colours": (Group.from_permutations("colours", [(1, 2, 0), (1, 0, 2)]),
                (_next_colours, _swapped_colours)),
    "shifts": (Group.product(Group.named("C2"), Group.named("C2"), "shifts"),
               (partial(_shifted, -2), partial(_shifted, -1))),
}  # fmt: skip


@checked
@dataclass(frozen=True)
class Given:
    """What there is to explain.

    train, test: what the network reads. pictures: of `test`, to be shown, for images and boards.
    labels: of `test`, True and False, one column each; None where nobody knows any. vocabulary:
    how each token reads, for text. source: where the inputs come from.
    """

    network: nn.Module
    train: Shaped[Tensor, "n *shape"]
    test: Shaped[Tensor, "m *shape"]
    source: str
    pictures: UInt8[Tensor, "m channels height width"] | None = None
    labels: pd.DataFrame | None = None
    vocabulary: tuple[str, ...] | None = None

    @checked
    def input_action(self, group: Group) -> InputAction:
        """How a group acts on the inputs: on images and boards, or on the places of texts."""
        return image_action(group) if self.vocabulary is None else sequence_action(group)

    @checked
    def named_action(self, name: Name) -> tuple[Group, InputAction]:
        """A group by its name, and how it acts on the inputs.

        C_n and D_n: see `input_action`. Of pictures, too, "colours": the six orders of three
        channels, g moves each on, h swaps the first two; and "shifts", by half of the side round
        the edge, g down and h to the right.

        Raises:
            ValueError: an unknown name, or an action that does not fit the inputs.
        """
        if name not in PICTURES:
            group = Group.named(name)
            return group, self.input_action(group)
        group, functions = PICTURES[name]
        act, shape = action_by_generators(group, functions), tuple(self.train.shape[1:])
        if len(shape) != 3:
            raise ValueError(f"{name} act on pictures, got inputs {shape}: of texts C_n are shifts")
        if name == "colours" and shape[0] != COLOUR_CHANNELS:
            raise ValueError(f"colours are orders of three channels, got inputs {shape}")
        check_input_action(group, act, self.train)
        return group, act

    @checked
    def latents_of(
        self,
        inputs: Shaped[Tensor, "n *shape"],
        layer: Name,
        sae: SAE | EquivariantSAE,
        latents: Annotated[Sequence[Count], NOT_EMPTY],
    ) -> Float[Tensor, "n ..."]:
        """Some latents wherever a layer is read: (n, latents, rows, columns).

        Of texts (n, context, latents): what a dashboard takes.
        """
        read, chosen = read_activations(self.network, inputs, layer), list(latents)
        if self.vocabulary is None:
            return latent_maps(sae, to_feature_maps(read, self.network))[:, chosen]
        return sae.encode(read.flatten(0, 1)).unflatten(0, read.shape[:2])[..., chosen]


@checked
def load_given(
    model: Name, inputs: Name, n_train: Positive, n_test: Positive, folder: Path | str
) -> Given:
    """A network and its inputs, by their names.

    Args:
        model: a run's folder, or a pattern that one folder fits ("../models/base_galaxies-*");
            "katago", or "tiny", a network of the same kind with random weights; or a vision model,
            as `load_encoder` takes it.
        inputs: "simulated", "hubble" or "galaxy_mnist" galaxies; a folder of images; "shapes";
            "go", positions of games that the network plays; "documentation", or a text file.
        n_train, n_test: inputs; of text, contexts of 64 tokens.
        folder: where data is kept.

    Raises:
        FileNotFoundError: there is no such folder, file or network.
        ValueError: several folders fit the pattern, the network does not read such inputs, or
            there are fewer inputs.
    """
    network = _network(model)
    if isinstance(network, tuple):
        return _text(*network, inputs, n_train, n_test, folder)
    if inputs == "documentation" or Path(inputs).is_file():
        raise ValueError(
            f"inputs: {model!r} comes without a tokeniser, it does not read {inputs!r}"
        )
    if inputs == "go":
        return _boards(network, n_train, n_test, folder)
    if inputs == "shapes":
        return _shapes(network, n_train, n_test)
    if inputs not in SOURCES and not Path(inputs).is_dir():
        raise FileNotFoundError(
            f"inputs: {inputs!r} is neither a folder, nor a file, nor one of {', '.join(INPUTS)}"
        )
    images = load_galaxies(inputs, folder, n_train + n_test)
    if len(images.images) < n_train + n_test:
        raise ValueError(
            f"inputs: there are {len(images.images)} images in {inputs!r}, fewer than n_train + "
            f"n_test = {n_train + n_test}"
        )
    train, test = split(images, len(images.images) - n_train)
    shown, labels = part(test.images, 0, n_test), None
    if test.labels is not None:
        columns = {name: (test.labels[:n_test] == i).numpy() for i, name in enumerate(test.classes)}
        labels = pd.DataFrame(columns)
    return Given(network, train.images, shown, Path(images.source).name, shown, labels)


@checked
def prepare_given(
    given: Given,
    network: nn.Module,
    layer: Name,
    group: Group,
    models: Path | str,
    folder: Path | str,
    points: Positive,
    device: Device = "cpu",
    act: InputAction | None = None,
    **action_settings: Any,
) -> Subject:
    """What there is to explain of a layer: places of the inputs over their orbits, and an action.

    Of images and boards as `prepare_pixel_subject` has it. Of texts a place is a token, and groups
    act on where the tokens stand: see `sequence_action`.

    Args:
        network: the given one, or another that reads the same.
        points: places of each input.
        act: how the group acts on inputs and their maps; by default `given.input_action`.
    """
    act = given.input_action(group) if act is None else act
    if given.vocabulary is None:
        return prepare_pixel_subject(
            network, layer, group, given.train, given.test, models, Path(folder), points, device,
            act, **action_settings,
        )  # fmt: skip
    train, test = (
        _orbit_tokens(network.to(device), tokens, group, act, layer, points)
        for tokens in (given.train, given.test)
    )
    run = ActionRun("action", identity(train), group.identifier, **action_settings)
    action = load_or_fit_action(run, train, models, device, group=group)
    return Subject(network.cpu(), pd.DataFrame(), train, test, action, run)


@checked
def sequence_action(group: Group) -> InputAction:
    """How C_n and D_n act on sequences (n, length, ...): `act(sequences, element)`.

    Element g^p h^q reverses them q times, then moves every place on by p / n of the length, round
    the end: exactly, where n divides the length.

    Raises:
        ValueError: another group; and of `act`, a length that n does not divide.
    """
    return partial(_act_on_sequences, group, rotations_and_flips(group)[0])


def _act_on_sequences(group: Group, n: int, sequences: Tensor, element) -> Tensor:
    q, p = divmod(group.checked(element), n)
    length = sequences.shape[1]
    if length % n:
        raise ValueError(f"{group.name} moves sequences by 1 / {n} of their length, got {length}")
    return (sequences.flip(1) if q else sequences).roll(p * (length // n), 1)


def _orbit_tokens(
    network: nn.Module, tokens: Tensor, group: Group, act: InputAction, layer: str, points: int
) -> Tensor:
    """Activations of some tokens over the orbits of their texts: (n * points, |G|, d)."""
    chosen = drawn_pixels(len(tokens), tokens.shape[1], points)
    members = []
    for g in range(group.order):
        read = act(read_activations(network, act(tokens, g), layer), group.inverse(g))
        members.append(read[torch.arange(len(tokens))[:, None], chosen].flatten(0, 1))
    cause = {"network": network, "texts": tokens, "layer": layer, "group": group,
             "act": acted_on(tokens, group, act), "at": chosen}  # fmt: skip
    return identified(torch.stack(members, 1), cause)


def _network(model: str) -> Any:
    """A torch module; of a language model, it and its tokeniser."""
    if model == "tiny":
        return make_go_network()
    if model == "katago":
        return load_go_network(None)
    found = [path for path in sorted(Path(model).parent.glob(Path(model).name)) if path.is_dir()]
    if len(found) > 1:
        raise ValueError(f"model: several folders fit {model!r}: {', '.join(map(str, found))}")
    if found:
        return load(found[0])
    if "*" in model or model.startswith((".", "/")):
        raise FileNotFoundError(f"model: there is no folder {model!r}")
    return load_encoder(model)


def _shapes(network: nn.Module, n_train: int, n_test: int) -> Given:
    """Images of which none that is held out has been trained on."""
    train, test = make_shapes(n_train, 0, "train"), make_shapes(n_test, 0, "test")
    as_they_are = torch.zeros(n_test, dtype=torch.long)
    known = task_labels(test.shapes, as_they_are, Group.named("C4"))
    labels = pd.DataFrame(known.numpy(), columns=list_tasks()["task"].tolist())
    pictures = (255 * test.images).to(torch.uint8)
    return Given(network, train.images, test.images, "shapes", pictures, labels)


def _boards(network: nn.Module, n_train: int, n_test: int, folder: Path | str) -> Given:
    """Positions of games that the network plays, of different games to train on and to test on."""
    n_games = max(3, (n_train + n_test) // 10)
    games = go.load_or_play_games(network.policy, n_games, Path(folder) / "go", GO_SIZE, KOMI)
    first_test = max(1, 2 * n_games // 3)
    train = go.draw_positions(games, n_train, 0, 0, first_test)
    test = go.draw_positions(games, n_test, 0, first_test)
    stones = test.stones[:, 0]
    black, white = ((stones == colour).to(torch.uint8) for colour in (1, -1))
    pictures = 150 + 105 * white - 150 * black
    return Given(
        network, go.input_planes(train), go.input_planes(test), "played", pictures[:, None]
    )


def _text(
    network: nn.Module, tokeniser: Any, inputs: str, n_train: int, n_test: int, folder: Path | str
) -> Given:
    if inputs != "documentation" and not Path(inputs).is_file():
        raise ValueError(
            f"inputs: a language model reads 'documentation' or a text file, got {inputs!r}"
        )
    documents = documentation(folder) if inputs == "documentation" else read_documents(inputs)
    parts = [
        token_blocks(some, tokeniser, CONTEXT, n)
        for some, n in zip(held_out(documents), (n_train, n_test), strict=True)
    ]
    for name, n, tokens in zip(("n_train", "n_test"), (n_train, n_test), parts, strict=True):
        if len(tokens) < n:
            raise ValueError(f"{name} is {n}, in {inputs!r} are {len(tokens)} contexts")
    n_words = tokeniser.get_vocab_size()
    words = tuple(tokeniser.decode([token]) for token in range(n_words))
    return Given(network, *parts, Path(inputs).name, vocabulary=words)
