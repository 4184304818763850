"""Worlds in the folder format of SAELens: what is made there is sampled here, and the reverse.

    synthetic_model_config.json    the config
    synthetic_model.safetensors    feature_vectors (n_features, d), bias (d), firing_probabilities,
                                   correlation_factor (n_features, rank), correlation_diag
    hierarchy.json                 the trees, where there are any

Magnitudes are not saved: both draw them from the config, with the same seeds.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from saehelpers import runs
from saehelpers.datasets.synthetic.correlation import Correlation
from saehelpers.datasets.synthetic.features import SyntheticFeatures
from saehelpers.datasets.synthetic.hierarchy import Hierarchy, Node
from saehelpers.datasets.synthetic.magnitudes import Exponential, FoldedNormal, Linear, PerFeature
from saehelpers.datasets.synthetic.worlds import HierarchyConfig, World
from saehelpers.runs.checking import checked
from saehelpers.runs.identities import identified

CONFIG, WEIGHTS, TREES = (
    "synthetic_model_config.json", "synthetic_model.safetensors", "hierarchy.json",
)  # fmt: skip
DISTRIBUTIONS = {"linear": Linear, "exponential": Exponential, "folded_normal": FoldedNormal}
TO_THEIRS = {"smallest": "min_value", "largest": "max_value"}
LEARNING_RATE, CHUNK = 0.01, 1024  # of `near_orthogonal`; and of theirs, which decides no value
DIAGONAL = 1e-4  # by which a copula's variances may miss 1
DAMAGE = (ValueError, LookupError, TypeError, AttributeError, RuntimeError, OSError,
          SafetensorError)  # fmt: skip


@checked
def save_world(
    world: World, folder: Path | str, features: SyntheticFeatures | None = None,
    overwrite: bool = False,
) -> Path:  # fmt: skip
    """Write a world for SAELens to sample, and return the folder.

    Args:
        features: those of a world that was loaded; made from the config where they are not given.
        overwrite: replace a world that is there already.

    Raises:
        ValueError: SAELens has no place for it: modifiers; organisational nodes among exclusive
            children, which it leaves out of the choice; or correlated features with other
            probabilities than the config's, which it does not read again.
        FileExistsError: the folder is there already, or holds other files than a world's.
    """
    folder = Path(folder)
    runs.check_free(folder, overwrite, (".json", ".safetensors"))
    features = world.features() if features is None else features
    _check_representable(world, features)
    d = features.dictionary.shape[1]
    tensors = {
        "feature_vectors": features.dictionary,
        "bias": torch.zeros(d) if features.bias is None else features.bias,
        "firing_probabilities": features.probabilities,
    }
    if features.correlation is not None:
        tensors["correlation_factor"] = features.correlation.factor
        tensors["correlation_diag"] = features.correlation.own_noise.square()
    with runs.temporary_folder(folder, overwrite) as temporary:
        _write(temporary / CONFIG, _to_theirs(world))
        if features.hierarchy is not None:
            _write(temporary / TREES, {"roots": [*map(_tree, features.hierarchy.roots)]})
        tensors = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
        runs.files.save_tensors(temporary / WEIGHTS, tensors)
    return folder


@checked
def load_world(source: Path | str, subfolder: str = "") -> tuple[World, SyntheticFeatures]:
    """A world that SAELens or `save_world` has saved: its config, and the features themselves.

    Args:
        source: a folder, or the name of a Hugging Face hub repository:
            "decoderesearch/synth-sae-bench-16k-v2".
        subfolder: of the world in it.

    Raises:
        FileNotFoundError: there is no such folder, or a part of the world is missing; says which.
        ValueError: it is of another version: from before children were scaled by their parents
            (SynthSAEBench-16k v1), or with settings that are not known here; or it is damaged.
    """
    folder = runs.local_folder(source, [CONFIG, WEIGHTS, TREES], subfolder)
    _check_there(folder, CONFIG, WEIGHTS)
    with _naming(folder):
        told = runs.files.read_json(folder / CONFIG)
        tensors = {name: part.float() for name, part in load_file(folder / WEIGHTS).items()}
        world = _from_theirs(told)
    needed = [TREES] if world.hierarchy is not None else []
    _check_there(folder, *needed)
    with _naming(folder):
        _check_tensors(tensors, world)
        trees = _trees(folder, world.n_features) if (folder / TREES).exists() else None
        correlation = None
        if "correlation_factor" in tensors:
            correlation = Correlation(tensors["correlation_factor"])
        cause = {"world": tensors, "config": told}
        return world, SyntheticFeatures(
            identified(tensors["feature_vectors"], cause),
            tensors["firing_probabilities"],
            **world.magnitudes(),
            bias=tensors["bias"] if tensors["bias"].any() else None,
            correlation=correlation,
            hierarchy=trees,
        )


def _write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _check_there(folder: Path, *names: str) -> None:
    missing = [name for name in names if not (folder / name).exists()]
    if missing:
        raise FileNotFoundError(
            f"the world in {folder} lacks {' and '.join(missing)}: copy or download all of it"
        )


@contextmanager
def _naming(folder: Path) -> Iterator[None]:
    """Within the context, errors that damage makes are told with the folder."""
    try:
        yield
    except DAMAGE as error:
        why = str(error) if isinstance(error, ValueError) else repr(error)
        raise ValueError(f"the world in {folder} cannot be used: {why}") from error


def _check_representable(world: World, features: SyntheticFeatures) -> None:
    refused = None
    if features.modifiers:
        refused = "it has modifiers, which are functions"
    elif features.hierarchy is not None and any(map(_chooses_groups, features.hierarchy.roots)):
        refused = "there are organisational nodes among exclusive children"
    elif features.correlation is not None:
        how = "first_order" if _is_compensated(world) else "none"
        if world.hierarchy is not None:
            world = replace(world, hierarchy=replace(world.hierarchy, compensation=how))
        if not torch.allclose(world.probabilities(features.hierarchy), features.probabilities):
            refused = (
                "its features are correlated, and their probabilities are not those that SAELens "
                "makes of the config (compensation 'first_order' or 'none'), which it would use"
            )
    if refused:
        raise ValueError(f"SAELens cannot sample this world: {refused}")


def _chooses_groups(node: Node) -> bool:
    own = node.exclusive and any(child.feature is None for child in node.children)
    return own or any(map(_chooses_groups, node.children))


def _is_compensated(world: World) -> bool:
    return world.hierarchy is not None and world.hierarchy.compensation != "none"


def _tree(node: Node) -> dict[str, Any]:
    return {
        "feature_index": node.feature,
        "mutually_exclusive_children": node.exclusive,
        "scale_children_by_parent": node.scales,
        "feature_id": node.name or None,
        "children": [*map(_tree, node.children)],
    }


def _trees(folder: Path, n_features: int) -> Hierarchy:
    return Hierarchy(map(_node, runs.files.read_json(folder / TREES)["roots"]), n_features)


def _node(told: dict[str, Any]) -> Node:
    if "scale_children_by_parent" not in told:
        raise ValueError(
            f"{TREES} does not say whether children are scaled by their parents: it is of a "
            "release before that (SynthSAEBench-16k v1 is), another world than of the same config "
            "now. Take the current one (v2)"
        )
    children = tuple(map(_node, told.get("children", ())))
    return Node(
        told["feature_index"], children, told["mutually_exclusive_children"],
        told.get("feature_id") or "", told["scale_children_by_parent"],
    )  # fmt: skip


def _to_theirs(world: World) -> dict[str, Any]:
    limits = {"max_prob": world.largest_probability, "min_prob": world.smallest_probability}
    firing = {
        "constant": {"probability": world.largest_probability},
        "zipfian": {"exponent": world.exponent, **limits},
    }.get(world.firing, limits)
    trees, correlation, steps = world.hierarchy, None, world.orthogonalisation_steps
    if world.correlation_rank:
        correlation = {
            "rank": world.correlation_rank, "correlation_scale": world.correlation_scale,
            "seed": None,
        }  # fmt: skip
    return {
        "num_features": world.n_features,
        "hidden_dim": world.d,
        "firing_probability": {**firing, "generator_name": world.firing},
        "hierarchy": None if trees is None else {
            "total_root_nodes": trees.n_roots,
            "branching_factor": trees.branching,
            "max_depth": trees.depth,
            "mutually_exclusive_portion": trees.exclusive_share,
            "mutually_exclusive_min_depth": trees.exclusive_depths[0],
            "mutually_exclusive_max_depth": trees.exclusive_depths[1],
            "compensate_probabilities": _is_compensated(world),
            "scale_children_by_parent": trees.scales,
        },
        "orthogonalization": {"num_steps": steps, "lr": LEARNING_RATE, "chunk_size": CHUNK}
        if steps else None,
        "correlation": correlation,
        "std_firing_magnitudes": _distribution(world.magnitude_std),
        "mean_firing_magnitudes": _distribution(world.magnitude_mean),
        "bias": world.bias_norm or False,
        "dtype": "float32",
        "seed": world.seed,
    }  # fmt: skip


def _distribution(given: float | PerFeature) -> float | dict[str, Any]:
    if isinstance(given, int | float):
        return float(given)
    name = next(name for name, kind in DISTRIBUTIONS.items() if isinstance(given, kind))
    return {TO_THEIRS.get(k, k): v for k, v in asdict(given).items()} | {"generator_name": name}


def _from_theirs(told: dict[str, Any]) -> World:
    """The config that a folder tells; every setting of theirs is read, or refused."""
    told = dict(told)
    firing, trees = dict(told.pop("firing_probability")), told.pop("hierarchy")
    kind = firing.pop("generator_name")
    spread, correlation = told.pop("orthogonalization"), told.pop("correlation")
    bias, _ = told.pop("bias"), told.pop("dtype")
    seed = told.pop("seed")
    settings = {
        "n_features": told.pop("num_features"),
        "d": told.pop("hidden_dim"),
        "firing": kind,
        "largest_probability": firing.pop("probability" if kind == "constant" else "max_prob"),
        "bias_norm": float(bias),
        # of a world without a seed, SAELens draws other folded normal values at each load
        "seed": seed or 0,
    }
    for name, theirs in (("smallest_probability", "min_prob"), ("exponent", "exponent")):
        if theirs in firing:
            settings[name] = firing.pop(theirs)
    if kind == "constant":
        settings["smallest_probability"] = 0.0
    if spread is not None:
        settings["orthogonalisation_steps"] = spread["num_steps"]
    if correlation is not None:
        settings["correlation_rank"] = correlation["rank"]
        settings["correlation_scale"] = correlation["correlation_scale"]
    for ours in ("std", "mean"):
        settings[f"magnitude_{ours}"] = _read_distribution(told.pop(f"{ours}_firing_magnitudes"))
    if trees is not None:
        if "scale_children_by_parent" not in trees:
            raise ValueError(
                f"{CONFIG} does not say whether children are scaled by their parents: it is of a "
                "release before that (SynthSAEBench-16k v1 is), another world than of the same "
                "config now. Take the current one (v2)"
            )
        settings["hierarchy"] = _read_trees(dict(trees))
    if told or firing:
        unknown = ", ".join(sorted({*told, *firing}))
        raise ValueError(f"{CONFIG} has settings of another version: {unknown}")
    return World(**settings)


def _read_trees(told: dict[str, Any]) -> HierarchyConfig:
    branching = told.pop("branching_factor")
    compensated = told.pop("compensate_probabilities")
    depths = told.pop("mutually_exclusive_min_depth"), told.pop("mutually_exclusive_max_depth")
    found = HierarchyConfig(
        told.pop("total_root_nodes"),
        branching if isinstance(branching, int) else tuple(branching),
        told.pop("max_depth"),
        told.pop("mutually_exclusive_portion"),
        depths,
        "first_order" if compensated else "none",
        told.pop("scale_children_by_parent"),
    )
    if told:
        raise ValueError(f"{CONFIG} has settings of another version: {', '.join(sorted(told))}")
    return found


def _read_distribution(told: Any) -> float | PerFeature:
    if not isinstance(told, dict):
        return float(told)
    told = dict(told)
    name = told.pop("generator_name")
    if name == "constant":
        return float(told["value"])
    if name not in DISTRIBUTIONS:
        known = ", ".join(["constant", *DISTRIBUTIONS])
        raise ValueError(f"unknown distribution of magnitudes {name!r}; known are {known}")
    to_ours = {theirs: ours for ours, theirs in TO_THEIRS.items()}
    return DISTRIBUTIONS[name](**{to_ours.get(k, k): v for k, v in told.items()})


def _check_tensors(tensors: dict[str, Tensor], world: World) -> None:
    n, d = world.n_features, world.d
    wanted = {"feature_vectors": (n, d), "bias": (d,), "firing_probabilities": (n,)}
    if world.correlation_rank:
        rank = world.correlation_rank
        wanted |= {"correlation_factor": (n, rank), "correlation_diag": (n,)}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if found != wanted:
        raise ValueError(f"{WEIGHTS} has {found}, expected {wanted}")
    if world.correlation_rank:
        variances = tensors["correlation_factor"].square().sum(1) + tensors["correlation_diag"]
        worst = int((variances - 1).abs().argmax())
        if abs(float(variances[worst]) - 1) > DIAGONAL:
            raise ValueError(
                f"the correlation is none: feature {worst} has a variance of "
                f"{float(variances[worst]):.4g}, expected 1"
            )
