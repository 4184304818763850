"""The methods that are compared, and the runs that train them."""

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Any

from saehelpers import runs
from saehelpers.runs import Registry
from saehelpers.runs.checking import checked, checked_config
from saehelpers.runs.wanted import Count, Name, Positive, Rate, Seed, Weight, one_of
from saehelpers.saes import DICTIONARIES, WITHOUT_GROUP, SAEConfig
from saehelpers.symmetry import Group
from saehelpers.training.fitting import Schedule
from saehelpers.training.objectives import OBJECTIVES
from saehelpers.training.sparsity import SPARSITY_TERMS

NOT_SPARSE = ("relu", "jumprelu", "gated")  # activations that need a sparsity term
SIGNED = ("block_topk", "abs_topk")  # activations of latents that may be negative
# sparsity terms that read what an activation makes latents of, and what in it they are about
OF_PRE_ACTIVATIONS = {"l0": ("jumprelu", "thresholds"), "gate_l1": ("gated", "gates")}
# in which end-to-end runs that are trained side by side may differ
OWN_FIELDS = ("name", "sae", "lambda_local", "lambda_kl", "lambda_downstream", "lambda_sparsity",
              "p", "downstream", "start")  # fmt: skip


@checked_config
@dataclass(frozen=True)
class SAERun:
    """Everything that decides what an SAE learns.

    Args:
        name: of the method; stands in the run's folder name.
        activations: what is explained: the run id of the base model, its data and the group.
        sae: the architecture.
        objective: see `saehelpers.training.objectives`, as are the weights that follow it.
        epochs, batch_size, learning_rate: of Adam. An epoch sees every sample once, each
            under one group element.
        schedule: of the learning rate after `warmup_steps`: "constant", or "linear" or
            "cosine" down to zero.
        seed: of the initial weights, and of the order of the samples and their group elements.
        sparsity, lambda_sparsity: what makes latents sparse, with its weight; only TopK and
            BatchTopK do without. "l0" is for "jumprelu", "gate_l1" for "gated". p: of the term
            "lp".
        sparsity_warmup_steps: over which lambda_sparsity rises from zero.
        target_l0: active latents that the sparsity term is to leave; lambda_sparsity, then, is
            where the search for its weight begins (see `sparsity.SparsityController`).
        order_seed: of the order and the elements alone, where it is another.
        lambda_multi_topk: see `loss.Loss`; of SAEs with TopK alone.
        auxk: dead latents that learn from the residual of a sample (AuxK), none by default; a
            latent is dead after `dead_after` samples without it; `lambda_auxk` weighs the term.
        autocast: compute products in bfloat16, and choose latents among what they give; the
            weights, the values of the latents of a large TopK SAE or of matching pursuit, the loss
            and Adam stay in float32.
        compiled: compute the loss by `torch.compile`, which needs a C++ compiler on a CPU. It
            gains a tenth for attention heads with ReLU there, and nothing for the others.
    """

    name: Name
    activations: str
    sae: SAEConfig
    objective: Name = "reconstruction"
    lambda_sym: Weight = 1.0
    lambda_mse: Weight = 0.0
    sparsity: Annotated[str, one_of(SPARSITY_TERMS)] | None = None
    lambda_sparsity: Weight = 0.0
    p: Rate = 1.0
    epochs: Positive = 500
    batch_size: Positive = 128
    learning_rate: Rate = 5e-4
    schedule: Schedule = "constant"
    warmup_steps: Count = 0
    seed: Seed = 0
    order_seed: Seed | None = runs.added_later(None)
    sparsity_warmup_steps: Count = runs.added_later(0)
    target_l0: Rate | None = runs.added_later(None)
    lambda_multi_topk: Weight = runs.added_later(0.0)
    auxk: Count = runs.added_later(0)
    lambda_auxk: Weight = runs.added_later(1 / 32)
    dead_after: Positive = runs.added_later(100_000)
    autocast: bool = runs.added_later(False)
    compiled: bool = runs.added_later(False)

    __str__ = runs.described

    def __post_init__(self):
        OBJECTIVES[self.objective].check_fits(self.sae, self.lambda_mse, self.auxk)
        if (self.sparsity is None) != (self.lambda_sparsity == 0):
            raise ValueError(
                "a sparsity term and its lambda_sparsity go together, got "
                f"sparsity={self.sparsity!r} and lambda_sparsity={self.lambda_sparsity:g}"
            )
        if self.objective in OBJECTIVES.built_in:  # an added one may do so by itself
            _check_sparse(self.sae, self.lambda_sparsity)
        if self.sparsity in OF_PRE_ACTIVATIONS:
            _check_reads(self.sparsity, self.sae.activation, OBJECTIVES[self.objective].reads[0])
        if self.objective == "gated" and self.sae.activation != "gated":
            raise ValueError(
                "the objective 'gated' is of gates: of the activation 'gated', got "
                f"{self.sae.activation!r}"
            )
        if self.sparsity == "l1" and self.sae.activation in SIGNED:
            raise ValueError(
                f"sparsity='l1' is of latents without signs, {self.sae.activation!r} has them"
            )
        if self.sae.dictionary == "pca" and self.objective != "reconstruction":
            raise ValueError(f"PCA has the objective 'reconstruction', got {self.objective!r}")
        if self.p != 1 and self.sparsity != "lp":
            raise ValueError(f"p is that of the sparsity term 'lp', got p={self.p:g} without it")
        if self.sparsity_warmup_steps and self.sparsity is None:
            raise ValueError("sparsity_warmup_steps are those of a sparsity term: there is none")
        if self.target_l0 is not None:
            _check_controlled(self)
        if self.lambda_multi_topk and self.sae.activation != "topk":
            raise ValueError(
                f"lambda_multi_topk needs the activation 'topk', got {self.sae.activation!r}"
            )
        if self.auxk > self.sae.n_latents:
            raise ValueError(
                f"auxk must be between 0 and n_latents = {self.sae.n_latents}, got {self.auxk}"
            )
        if self.auxk and self.sae.dictionary != "free":
            raise ValueError(
                f"auxk revives latents of a free dictionary, not of {self.sae.dictionary!r}: "
                "set it to 0"
            )

    @property
    def shared_settings(self) -> "SAERun":
        """What this run shares with those that can be trained side by side with it."""
        return dataclasses.replace(self, seed=0, order_seed=None, activations="")

    @property
    def draws(self) -> int:
        """The seed that the order of the samples and the group elements come from."""
        return self.seed if self.order_seed is None else self.order_seed


@checked_config
@dataclass(frozen=True)
class EndToEndRun:
    """Everything that decides what an SAE spliced into a language model learns.

    Args:
        name: of the method; stands in the run's folder name.
        base_model: the model and a fingerprint of its weights, `end_to_end.model_id`.
        text: names what is read; an epoch reads the next `blocks_per_epoch` contexts of it.
        module: whose output (or "name.input") the SAE replaces.
        sae: the architecture.
        lambda_local, lambda_kl, lambda_downstream, lambda_sparsity, p: weights of the terms
            of `end_to_end.total_loss`; p >= 1 is that of the sparsity term's norm.
        downstream: later modules whose activations are to stay what they were.
        positions: in the context, where the SAE is spliced in; everywhere if there are none.
        batch_size: in contexts, computed in `accumulate` parts.
        clip_norm: largest norm of the gradient.
        autocast: run the model, but not the SAE, in bfloat16.
        start: run id of the SAE that training goes on from; none for a fresh one.
        seed: of the initial weights and of the order of the contexts.
    """

    name: Name
    base_model: str
    text: str
    module: str
    sae: SAEConfig
    lambda_local: Weight = 0.0
    lambda_kl: Weight = 1.0
    lambda_downstream: Weight = 0.0
    downstream: tuple[str, ...] = ()
    lambda_sparsity: Weight = 0.0
    p: Rate = 1.0
    positions: tuple[int, ...] = ()
    epochs: Positive = 10
    blocks_per_epoch: Positive = 500
    batch_size: Positive = 16
    accumulate: Positive = 1
    learning_rate: Rate = 2e-3
    schedule: Schedule = "cosine"
    warmup_steps: Count = 20
    clip_norm: Rate | None = 10.0
    autocast: bool = True
    start: str = ""
    seed: Seed = 0

    __str__ = runs.described

    def __post_init__(self):
        if bool(self.downstream) != bool(self.lambda_downstream):
            raise ValueError("downstream modules and a lambda_downstream go together")
        if self.p < 1:
            raise ValueError(f"p must be 1 or more, got {self.p}")
        if self.p != 1 and not self.lambda_sparsity:
            raise ValueError(f"p is that of a sparsity term, got p={self.p:g} without it")
        _check_sparse(self.sae, self.lambda_sparsity)
        if self.sae.dictionary == "pca":
            raise ValueError("sae is PCA, which is not trained: choose another dictionary")
        if not (self.lambda_local or self.lambda_kl or self.lambda_downstream):
            raise ValueError(
                "there is nothing to train for: lambda_local, lambda_kl and lambda_downstream are 0"
            )

    @property
    def shared_settings(self) -> tuple:
        """What this run shares with those that can be trained side by side with it."""
        shared = [f.name for f in dataclasses.fields(self) if f.name not in OWN_FIELDS]
        return (self.local, *(getattr(self, name) for name in shared))

    @property
    def local(self) -> bool:
        """Whether the loss needs the SAE's own activations alone."""
        return not (self.lambda_kl or self.lambda_downstream)

    @property
    def objective(self) -> str:
        """The terms of the loss, with their weights."""
        weights = {
            "local": self.lambda_local,
            "kl": self.lambda_kl,
            "downstream": self.lambda_downstream,
            "sparsity": self.lambda_sparsity,
        }
        return " + ".join(f"{weight:g} {name}" for name, weight in weights.items() if weight)


@checked_config
@dataclass(frozen=True)
class Method:
    """How an SAE is set up: its objective, its width (times n_latents) and its dictionary.

    `symmetric`: its latents are meant to be invariant, so that recons need an action.
    `search`: it reads activations that the action has turned back, see `EquivariantSAE`.
    `blocks`: instead of each latent it has a block of |G| that are chosen together, by the
    activation "block_topk": n_latents blocks, of which topk are active.
    """

    objective: Name
    width: Positive = 1
    dictionary: str = "free"
    symmetric: bool = False
    search: bool = False
    blocks: bool = False

    def __post_init__(self):
        OBJECTIVES.check(self.objective)
        DICTIONARIES.check(self.dictionary)


BUILT_IN = {
    "vanilla": Method("reconstruction"),
    "vanilla_wide": Method("reconstruction", width=4),
    "archetypal": Method("reconstruction", dictionary="archetypal"),
    "archetypal_wide": Method("reconstruction", width=4, dictionary="archetypal"),
    "crosscoder": Method("crosscoder", dictionary="blocks", symmetric=True),
    "canonical": Method("canonical", symmetric=True),
    "latent_inv": Method("latent_inv", symmetric=True),
    "output_inv": Method("output_inv", symmetric=True),
    "oriented": Method("oriented", symmetric=True, search=True),
    "self_oriented": Method("self_oriented", symmetric=True, search=True),
    "frozen_decoder": Method("reconstruction", dictionary="frozen"),
    "soft_frozen_decoder": Method("reconstruction", dictionary="soft_frozen"),
    "frozen_encoder": Method("reconstruction", dictionary="frozen_encoder"),
    "block_topk": Method("reconstruction", blocks=True),
    "pca": Method("reconstruction", dictionary="pca"),
}
METHODS = Registry("method", f"{__name__}:METHODS", BUILT_IN)


@checked
def method(name: Any, objective: Name, **fields: Any) -> Method:
    """Add a method: `method("mine", "canonical", width=2)`; further fields are those of `Method`.

    Raises:
        ValueError: another method has the name, or it asks for what is not known.
    """
    made = Method(objective, **fields)
    METHODS.register(name, made)
    return made


@checked
def method_run(method: Name, activations: str, sae: SAEConfig, group: Group, **settings) -> SAERun:
    """The run of a named method: `sae` widened and its dictionary replaced as it asks.

    `settings` are further fields of `SAERun`; `lambda_mse` is left out where it has no meaning:
    for objectives that explain whole orbits, and for PCA.
    """
    how = METHODS[method]
    of_group = how.blocks or how.dictionary not in WITHOUT_GROUP
    sae = dataclasses.replace(
        sae,
        n_latents=how.width * sae.n_latents * (group.order if how.blocks else 1),
        activation="block_topk" if how.blocks else sae.activation,
        dictionary=how.dictionary,
        unit_decoder=sae.unit_decoder and how.dictionary in ("free", "frozen_encoder"),
        group_order=group.order if of_group else 1,
    )
    if OBJECTIVES[how.objective].is_of_orbits or how.dictionary == "pca":
        settings.pop("lambda_mse", None)
    return SAERun(method, activations, sae, how.objective, **settings)


@checked
def method_runs(
    methods: list[str],
    topks: list[int],
    seeds: list[int],
    activations: Name,
    sae: SAEConfig,
    group: Group,
    **settings,
) -> list[SAERun]:
    """The runs of every method, TopK and seed, in this order of nesting; see `method_run`."""
    return [
        method_run(
            method, activations, dataclasses.replace(sae, topk=topk), group, seed=seed, **settings
        )
        for method in methods
        for topk in topks
        for seed in seeds
    ]


@checked
def run_columns(config: SAERun | EndToEndRun) -> dict[str, Any]:
    """The columns of a results row that the SAE's run decides."""
    return {
        "run_id": runs.run_id(config),
        "method": config.name,
        "n_latents": config.sae.n_latents,
        "topk": _active(config),
        "objective": config.objective,
        "epochs": config.epochs,
        "seed": config.seed,
    }


def _active(config: SAERun | EndToEndRun) -> int | float | None:
    """How many latents are to be active: k, or the target of a sparsity term."""
    return (
        config.sae.topk if "topk" in config.sae.activation else getattr(config, "target_l0", None)
    )


def _check_sparse(sae: SAEConfig, lambda_sparsity: float) -> None:
    """Raise a ValueError if nothing makes the SAE sparse."""
    if sae.activation in NOT_SPARSE and not lambda_sparsity:
        raise ValueError(
            f"nothing makes an SAE with the activation {sae.activation!r} sparse but a sparsity "
            "term: set it and lambda_sparsity, or choose the activation 'topk'"
        )


def _check_controlled(run: SAERun) -> None:
    """Raise a ValueError unless the weight of a sparsity term can bring L0 to `target_l0`."""
    if run.sparsity is None:
        raise ValueError("target_l0 is of a sparsity term: there is none")
    if run.sparsity_warmup_steps:
        raise ValueError("target_l0 moves the weight of the sparsity term: sparsity_warmup_steps "
                         "must be 0")  # fmt: skip
    if "topk" in run.sae.activation or run.sae.dictionary == "pca":
        raise ValueError(
            "target_l0 is of SAEs that nothing else makes sparse, got the activation "
            f"{run.sae.activation!r}: set topk instead"
        )
    if run.target_l0 >= run.sae.n_latents:
        raise ValueError(
            f"target_l0 must be below n_latents = {run.sae.n_latents}, got {run.target_l0:g}"
        )
    if run.sae.dictionary == "block_diagonal":
        raise ValueError("target_l0 is of one SAE, not of the heads of a block-diagonal one")


def _check_reads(sparsity: str, activation: str, read: str) -> None:
    """Raise a ValueError unless the activation has what the term is of, and is given one input."""
    needed, what = OF_PRE_ACTIVATIONS[sparsity]
    if activation != needed:
        raise ValueError(
            f"the sparsity term {sparsity!r} is of the {what} of the activation {needed!r}, got "
            f"{activation!r}: set sparsity to another term"
        )
    if read == "orbit":
        raise ValueError(
            f"the sparsity term {sparsity!r} needs to know what is read: not with an objective of "
            "orbits"
        )
