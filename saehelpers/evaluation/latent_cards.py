"""A card for every latent of any SAE: its numbers, a verdict, and the probability behind it."""

from collections.abc import Sequence

import pandas as pd
from jaxtyping import Real
from torch import Tensor, nn

from saehelpers.evaluation.effects import ablation_effects
from saehelpers.evaluation.latent_numbers import COPY_COSINE, Labels, card_numbers
from saehelpers.evaluation.trust import trust_model
from saehelpers.runs.checking import checked
from saehelpers.saes import SAE, EquivariantSAE
from saehelpers.symmetry import Group, LinearAction, check_orbits, fit_action, report_action

LEAST_INPUTS = 100  # below it, rates and what follows from them are too uncertain
LEAST_R2 = 0.5  # of an action, below which nothing can be said modulo its group
ABSORBED, SPLIT = 0.3, 0.6  # silent_share, split_cosine, from which a latent looks so
FIRST = ("latent", "verdict", "probability", "symmetry", "looks")


@checked
def cards(
    sae: SAE | EquivariantSAE,
    activations: Real[Tensor, "n *order d"],
    group: Group | LinearAction | None = None,
    others: Sequence[SAE | EquivariantSAE] = (),
    network: tuple[nn.Module, str, Tensor] | None = None,
    labels: Labels | None = None,
) -> pd.DataFrame:
    """A card for every latent: what can be measured of it, and whether to trust it.

    Columns are those of `card_numbers`, and

    - probability: that the latent is a true feature, by a logistic regression that was fitted to
      worlds whose features are known (`trust.TrustModel`; its coefficients are those of
      `trust_model("several_seeds")`, or "one_seed" without `others`);
    - verdict: "trust" and "do not" where 95 % of such latents were true, or false, in worlds of
      kinds that the regression had not seen; else "not decided", as of latents that fire in fewer
      than 10 samples, and in place of "trust" of those with a neighbour at a cosine of 0.4: they
      may be mixtures with it, as a child's latent often is with its parent's direction;
    - looks: "absorbed" (silent in many samples that point to it), "split" (alike another that
      fires elsewhere), "copied" (another latent is this one turned), or "";
    - effect: what the network's output loses without it, see `ablation_effects`.

    What is left out is printed: consistency where there are no other seeds, say. A verdict is
    about features as in those worlds, linear and sparse, and no statement about other truths.

    Args:
        sae: one of this package, or loaded from SAELens (`load_sae_lens`).
        activations: (n, d); with a group orbits (n, |G|, d), see `networks.orbit_activations`.
        group: to which an action is fitted; or the action; by default that of an EquivariantSAE.
        others: SAEs of other seeds, trained on the same.
        network: (model, module, inputs): what the activations were read from; the effects are
            measured on the inputs given here, all at once.
        labels: True and False, one column for each label, a row for each of the n inputs.

    Raises:
        ValueError: fewer than 100 inputs; activations that are no orbits of the group, or of which
            an action explains less than half (R^2, on the half that it was not fitted to); a
            network without an output to be faithful to. See `card_numbers`.
    """
    if len(activations) < LEAST_INPUTS:
        raise ValueError(
            f"activations must be of {LEAST_INPUTS} inputs or more, got {len(activations)}: rates "
            "of fewer are too uncertain for a verdict"
        )
    if group is None and isinstance(sae, EquivariantSAE):
        group = sae.action
    action = _action(group, activations) if isinstance(group, Group) else group
    table = card_numbers(sae, activations, action, others, labels)
    if not others:
        print("cards: one seed only. Consistency and agreement are left out: they need `others`")
    model = trust_model("several_seeds" if others else "one_seed")
    judged = {"probability": model.probabilities(table), "verdict": model.verdicts(table)}
    table = table.assign(**judged, looks=_looks(table))
    if network is None:
        print("cards: no network. What its output loses without a latent is left out")
    else:
        table["effect"] = _effects(sae, network, table["firings"])
    return table[[*FIRST, *(name for name in table if name not in FIRST)]]


def _action(group: Group, activations: Tensor) -> LinearAction:
    """Fitted to the first half of the inputs, if it explains the others."""
    check_orbits(activations, group)
    half = len(activations) // 2
    action = fit_action(activations[:half], group, "whole_orbits")
    report = report_action(action, activations[half:]).set_index(["metric", "element"])["value"]
    r2 = report.get(("r2", "all"), 1.0)  # a group of one element has none
    if r2 < LEAST_R2:
        raise ValueError(
            f"group: a linear action of {group.name} explains R^2 {r2:.2f} of these activations, "
            f"below {LEAST_R2}: they are not its orbits, or it does not act on them linearly"
        )
    return action


def _effects(sae, network: tuple[nn.Module, str, Tensor], firings: pd.Series) -> pd.Series:
    model, module, inputs = network
    alive = firings[firings > 0].index.tolist()
    effects = pd.Series(0.0, firings.index)
    if alive:
        found = ablation_effects(model, module, sae, inputs, alive)
        effects[alive] = found.numpy().astype(float)
    return effects


def _looks(table: pd.DataFrame) -> list[str]:
    def of(row) -> str:
        if row.silent_share >= ABSORBED:
            return "absorbed"
        if row.split_cosine >= SPLIT:
            return "split"
        return "copied" if row.copy_cosine >= COPY_COSINE else ""

    return [of(row) for row in table.itertuples()]
