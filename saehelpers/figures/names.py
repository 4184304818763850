"""One name and one colour per method, the same in every figure."""

import zlib

from saehelpers.runs.checking import checked
from saehelpers.runs.extras import extra
from saehelpers.runs.wanted import Name

with extra("notebooks"):
    from matplotlib import colormaps

# Paul Tol's "bright" and "muted" schemes: distinct for colour-blind readers. A narrow method
# and its wide form share a hue.
COLOURS = {
    "base_model": "#333333",
    "random": "#bbbbbb",
    "vanilla": "#4477aa",
    "vanilla_wide": "#88ccee",
    "vanilla_matched": "#225588",
    "vanilla_hidden": "#aaaadd",
    "vanilla_compute": "#0077bb",
    "vanilla_searched": "#66aadd",
    "vanilla_compute_searched": "#003355",
    "inputs": "#999999",
    "random_network": "#bbbbbb",
    "archetypal": "#999933",
    "archetypal_wide": "#ddcc77",
    "crosscoder": "#aa3377",
    "canonical": "#cc3311",
    "latent_inv": "#ee8866",
    "output_inv": "#228833",
    "oriented": "#882255",
    "self_oriented": "#44aa99",
    "frozen_decoder": "#777777",
    "soft_frozen_decoder": "#dddddd",
    "frozen_encoder": "#bbcc33",
    "block_topk": "#332288",
    "pca": "#661100",
    "topk": "#4477aa",
    "batch_topk": "#66ccee",
    "relu": "#999933",
    "jumprelu": "#ccbb44",
    "matryoshka": "#aa3377",
    "abs_topk": "#225588",
    "matching_pursuit": "#882255",
    "jumprelu_l0": "#ee8866",
    "gated": "#228833",
    "dense": "#4477aa",
    "dense_relu": "#88ccee",
    "block_diagonal": "#cc3311",
    "block_diagonal_wide": "#aa3377",
    "block_diagonal_head": "#ee8866",
    "block_diagonal_relu": "#ddcc77",
    "local": "#4477aa",
    "e2e": "#aa3377",
    "e2e_downstream": "#ccbb44",
}
LABELS = {
    "base_model": "activations",
    "random": "random latents",
    "vanilla": "vanilla",
    "vanilla_wide": "vanilla (wide)",
    "vanilla_matched": "vanilla, parameters of SAE and action",
    "vanilla_hidden": "vanilla, parameters of wide",
    "vanilla_compute": "vanilla, compute of self-oriented",
    "vanilla_searched": "vanilla, searched",
    "vanilla_compute_searched": "vanilla, compute of self-oriented, searched",
    "inputs": "inputs around the point",
    "random_network": "activations, random weights",
    "archetypal": "archetypal",
    "archetypal_wide": "archetypal (wide)",
    "crosscoder": "group crosscoder",
    "canonical": "canonical",
    "latent_inv": "latent_inv",
    "output_inv": "output_inv",
    "oriented": "oriented",
    "self_oriented": "self-oriented",
    "frozen_decoder": "frozen decoder",
    "soft_frozen_decoder": "soft-frozen decoder",
    "frozen_encoder": "frozen encoder",
    "block_topk": "block TopK",
    "pca": "PCA",
    "topk": "TopK",
    "batch_topk": "BatchTopK",
    "relu": "ReLU + L1",
    "jumprelu": "JumpReLU + L1",
    "matryoshka": "Matryoshka",
    "abs_topk": "AbsTopK",
    "matching_pursuit": "matching pursuit",
    "jumprelu_l0": "JumpReLU + L0",
    "dense": "dense",
    "dense_relu": "dense, ReLU + L1",
    "block_diagonal": "block-diagonal",
    "block_diagonal_wide": "block-diagonal, equal parameters",
    "block_diagonal_head": "block-diagonal, TopK per head",
    "block_diagonal_relu": "block-diagonal, ReLU + L1",
    "local": "local",
    "e2e": "e2e",
    "e2e_downstream": "e2e + downstream",
    "logistic": "logistic",
    "xgboost": "XGBoost",
}
OTHER_COLOURS = (*colormaps["tab20b"].colors, *colormaps["Dark2"].colors)


@checked
def colour(name: Name) -> str | tuple[float, float, float]:
    """The colour of a method, the same in every figure.

    A method that users have added gets one that no other has here, picked by its name alone.
    """
    return COLOURS.get(name) or OTHER_COLOURS[zlib.crc32(name.encode()) % len(OTHER_COLOURS)]


@checked
def label(name: Name) -> str:
    """What a method, a probe or a baseline is called in figures: by default as it is in code."""
    return LABELS.get(name, name)
