"""Base models, trained once, then loaded."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor, nn

from saehelpers import runs
from saehelpers.datasets.text import (
    held_out,
    repeated_tokens,
    token_blocks,
    train_tokeniser,
)
from saehelpers.evaluation.metrics import next_token_loss
from saehelpers.experiments.once import fit_run, load_or_train, load_weights
from saehelpers.networks import (
    UNTRAINED,
    VIT_B_16,
    load_pretrained_vit,
    make_autoencoder,
    make_gpt2,
)
from saehelpers.runs.checking import checked, checked_config
from saehelpers.runs.extras import extra
from saehelpers.runs.identities import check_identity, identity
from saehelpers.runs.wanted import NOT_EMPTY, Count, Device, Name, Positive, Rate, Seed, Share
from saehelpers.symmetry import Group, InputAction, act_each, given_or_named, input_action
from saehelpers.training.fitting import Schedule

if TYPE_CHECKING:
    import tokenizers


@checked_config
@dataclass(frozen=True)
class BaseModelRun:
    """Everything that decides what an image autoencoder learns.

    `augment`: train on images under a random element of `group`, else on canonical ones. `group`
    is a `Group.identifier`; `data` the identity of the images, followed by `acted_on` where the
    action on images is one's own.
    `architecture` "vit_b_16", or a folder with its weights, is the pretrained transformer, of
    which nothing is trained.
    """

    name: Name
    data: str
    architecture: Name
    latent_dim: Positive = 256
    hidden_dim: Positive = 256
    augment: bool = True
    group: Name = "C4"
    epochs: Count = 100
    batch_size: Positive = 64
    learning_rate: Rate = 1e-3
    schedule: Schedule = "constant"
    seed: Seed = 0

    __str__ = runs.described


@checked
def acted_on(inputs: Tensor, group: Group, act: InputAction) -> str:
    """The identity of what a group's generators make of the first input: it tells actions apart."""
    return identity([act(inputs[:1], generator) for generator in group.generators])


@checked
def shapes_base_run(
    architecture: Name, images: Tensor, group: Name, epochs: Count, **settings
) -> BaseModelRun:
    """The run of a base model of notebook 02, which others load, trained on these images.

    Args:
        architecture: as in `BaseModelRun`, or one of `UNTRAINED`: the initial weights of a
            network, which `epochs` = 0 leave as they are.
        settings: further fields of `BaseModelRun`.

    Raises:
        ValueError: an untrained network is to be trained.
    """
    name = f"base_{Path(architecture).name}"
    if architecture in UNTRAINED:
        if epochs:
            raise ValueError(f"epochs must be 0 for {architecture!r}, got {epochs}")
        architecture = architecture.removesuffix("_untrained")
    return BaseModelRun(
        name, identity(images), architecture, group=group, epochs=epochs, **settings
    )


@checked_config
@dataclass(frozen=True)
class LanguageModelRun:
    """Everything that decides what a small GPT-2 learns.

    text: names what it reads; an epoch reads the next `blocks_per_epoch` contexts of it.
    attention_only: without MLPs. repeats: share of the contexts that are random tokens,
    repeated (see `saehelpers.datasets.text.repeated_tokens`), instead of text.
    """

    name: Name
    text: str
    vocab_size: Positive = 4096
    context: Positive = 128
    width: Positive = 128
    n_layers: Positive = 4
    n_heads: Positive = 4
    epochs: Positive = 12
    blocks_per_epoch: Positive = 2000
    batch_size: Positive = 32
    learning_rate: Rate = 2e-3
    schedule: Schedule = "cosine"
    seed: Seed = 0
    attention_only: bool = runs.added_later(False)
    repeats: Share = runs.added_later(0.0)

    __str__ = runs.described


@checked
def load_or_train_base_model(
    config: BaseModelRun,
    images: Float[Tensor, "n 1 size size"],
    models: Path | str,
    validation: Float[Tensor, "m 1 size size"] | None = None,
    device: Device = "cpu",
    force: bool = False,
    group: Group | None = None,
    act: InputAction | None = None,
) -> tuple[nn.Module, pd.DataFrame]:
    """The base model of this config and its history (loss is the mean squared error).

    Weights are kept in half precision. What is returned always comes from disk, so that
    results do not depend on whether the model was trained just now. Of 0 epochs nothing is kept.

    Args:
        group: that of the config, needed to train where it is neither C_n nor D_n.
        act: how it acts on images, `act(images, element)`; by default the `image_action`.
    """
    if config.architecture == "vit_b_16" or Path(config.architecture).is_dir():
        source = VIT_B_16 if config.architecture == "vit_b_16" else config.architecture
        return load_pretrained_vit(source), pd.DataFrame()
    told = identity(images)
    if act is not None:
        told += acted_on(images, given_or_named(config.group, group), act)
    check_identity(f"data of {config.name!r}", config.data, told)
    model = make_autoencoder(
        config.architecture, config.latent_dim, config.hidden_dim, images.shape[-1], config.seed
    )
    if not config.epochs:
        return model.eval().requires_grad_(False), pd.DataFrame()

    def train() -> tuple[nn.Module, pd.DataFrame]:
        # channels last: convolutions on a CPU are a fifth faster
        model.to(device, memory_format=torch.channels_last)
        own_group = given_or_named(config.group, group)
        return model, _train_base_model(model, config, images, validation, models, own_group, act)

    tensors, history = load_or_train(config, train, models, force, half=True)
    return load_weights(model.cpu(), tensors, config, models).eval().requires_grad_(False), history


def _train_base_model(model, config, images, validation, models, group, act) -> pd.DataFrame:
    device = next(model.parameters()).device
    images = images.to(device)
    if config.augment:
        act = input_action(group, act, images)

    def step(index: Tensor, uniform: Tensor) -> dict[str, Tensor]:
        batch = images[index[0]]
        if config.augment:
            batch = act_each(batch, (uniform[0] * group.order).long(), group, act)
        return {"loss": nn.functional.mse_loss(model(batch), batch)}

    @torch.no_grad()
    def evaluate(epoch: int) -> dict[str, Tensor]:
        held_out = (images if validation is None else validation.to(device))[:1024]
        elements = torch.arange(len(held_out), device=device) % group.order
        held_out = act_each(held_out, elements, group, act) if config.augment else held_out
        return {"validation_loss": nn.functional.mse_loss(model(held_out), held_out)}

    return fit_run(model, step, len(images), config, models, evaluate)


@checked
def load_or_train_language_model(
    config: LanguageModelRun,
    documents: Annotated[Sequence[str], NOT_EMPTY],
    models: Path | str,
    device: Device = "cpu",
    force: bool = False,
) -> tuple[nn.Module, "tokenizers.Tokenizer", pd.DataFrame]:
    """A small GPT-2 trained on these documents, its tokeniser, and its history.

    The history's losses are mean cross-entropies per token in nats, `validation_loss` over
    the held-out documents (see `saehelpers.datasets.text.held_out`). Weights are kept in half
    precision and always come from disk, as does the tokeniser.
    """
    check_identity(f"text of {config.name!r}", config.text, identity(documents))
    files: dict[str, str] = {}
    model = make_language_model(config)

    def train() -> tuple[nn.Module, pd.DataFrame]:
        parts = held_out(documents)  # to train on, and held out
        tokeniser = train_tokeniser(parts[0], config.vocab_size)
        files["tokenizer.json"] = tokeniser.to_str()
        blocks, validation = (
            token_blocks(part, tokeniser, config.context).to(device) for part in parts
        )
        model.to(device)
        return model, _train_language_model(model, config, blocks, validation, models)

    tensors, history = load_or_train(config, train, models, force, half=True, files=files)
    tokeniser = read_tokeniser(Path(models) / runs.run_id(config), runs.damaged)
    model = load_weights(model.cpu(), tensors, config, models)
    return model.eval().requires_grad_(False), tokeniser, history


@checked
def make_language_model(config: LanguageModelRun) -> nn.Module:
    """The small GPT-2 of this config, as it is before training."""
    shape = (config.vocab_size, config.context, config.width, config.n_layers, config.n_heads)
    return make_gpt2(*shape, config.seed, config.attention_only)


@checked
def read_tokeniser(
    folder: Path, error_of: Callable[[Path, str], ValueError]
) -> "tokenizers.Tokenizer":
    with extra("text"):
        from tokenizers import Tokenizer

    try:
        return Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:  # tokenizers raises this class itself
        raise error_of(folder, f"tokenizer.json: {error}") from error


def _train_language_model(model, config, blocks, validation, models) -> pd.DataFrame:
    n_blocks = min(config.blocks_per_epoch, len(blocks))
    first, repeated = 0, blocks[:0]

    def begin_epoch(epoch: int) -> None:
        nonlocal first, repeated
        first = epoch * n_blocks
        if config.repeats:
            draws = torch.Generator().manual_seed((config.seed * 1_000_003 + epoch) % 2**32)
            repeated, _ = repeated_tokens(n_blocks, config.context, config.vocab_size, draws)
            repeated = repeated.to(blocks.device)

    def loss(tokens: Tensor) -> Tensor:
        return next_token_loss(model(tokens).logits, tokens)

    def step(index: Tensor, uniform: Tensor) -> dict[str, Tensor]:
        tokens = blocks[(first + index[0]) % len(blocks)]
        if config.repeats:
            chosen = uniform[0] < config.repeats
            tokens = torch.where(chosen[:, None], repeated[index[0]], tokens)
        with torch.autocast(blocks.device.type, torch.bfloat16):  # a fifth faster on a CPU
            return {"loss": loss(tokens)}

    @torch.no_grad()
    def evaluate(epoch: int) -> dict[str, Tensor]:
        parts = validation[:512].split(config.batch_size)
        return {"validation_loss": torch.stack([loss(part) for part in parts]).mean()}

    return fit_run(model, step, n_blocks, config, models, evaluate, begin_epoch, warmup_steps=100)
