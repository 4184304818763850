"""SAEs of equal numbers of parameters, and of equal cost."""

import dataclasses
from typing import Annotated

from saehelpers.runs.checking import checked
from saehelpers.runs.wanted import Name, Positive, one_of
from saehelpers.saes import SAEConfig, make_sae
from saehelpers.symmetry import Group
from saehelpers.training.methods import SAERun, method_run, method_runs

SIZES = ("n_latents", "encoder_hidden")  # that the number of parameters rises with


@checked
def n_parameters(sae: SAEConfig) -> int:
    """Number of trained parameters."""
    return sum(parameter.numel() for parameter in make_sae(sae).parameters())


@checked
def with_parameters(
    sae: SAEConfig, size: Annotated[str, one_of(SIZES)], number: Positive
) -> SAEConfig:
    """The SAE with a `size` that brings its number of trained parameters closest to `number`.

    size: "n_latents" or "encoder_hidden"; the number of parameters is affine in either.
    """
    first, second = (
        dataclasses.replace(sae, **{size: getattr(sae, size) + more}) for more in (0, 1)
    )
    each = n_parameters(second) - n_parameters(first)
    more = round((number - n_parameters(first)) / each)
    return dataclasses.replace(sae, **{size: getattr(sae, size) + more})


@checked
def matched_runs(config: SAERun, group: Group) -> list[SAERun]:
    """Two vanilla SAEs that a narrow one's run is to be compared with at equal parameters.

    "vanilla_matched": as many latents as use up the parameters of a narrow SAE and its action,
    one matrix for each generator. "vanilla_hidden": narrow, with as many units between the
    encoder's layers as use up those of a wide SAE (none for a linear encoder).
    """
    wide = method_run("vanilla_wide", "", config.sae, group).sae
    matrices = len(group.generators) * config.sae.d**2
    sizes = {"vanilla_matched": ("n_latents", n_parameters(config.sae) + matrices)}
    if config.sae.encoder == "two_layer":
        sizes["vanilla_hidden"] = ("encoder_hidden", n_parameters(wide))
    return [
        dataclasses.replace(config, name=name, sae=with_parameters(config.sae, *size))
        for name, size in sizes.items()
    ]


@checked
def runs_at_equal_cost(
    methods: list[str],
    seeds: list[int],
    activations: Name,
    sae: SAEConfig,
    group: Group,
    **settings,
) -> list[SAERun]:
    """The runs of every method and seed, and of vanilla SAEs that cost as much; see `method_run`.

    "vanilla_matched": as many parameters as an SAE and its action, see `matched_runs`.
    "vanilla_compute": an epoch for every element that a search tries, where others have one.
    """
    own, vanilla = (
        method_runs(names, [sae.topk], seeds, activations, sae, group, **settings)
        for names in (methods, ["vanilla"])
    )
    matched = [matched_runs(config, group)[0] for config in vanilla]
    longer = [
        dataclasses.replace(config, name="vanilla_compute", epochs=group.order * config.epochs)
        for config in vanilla
    ]
    return own + matched + longer
