"""SAEs in the folder format of SAELens, with equal latents and recons.

    cfg.json                   architecture, widths, and what goes with them
    sae_weights.safetensors    W_enc (d, n_latents), b_enc, W_dec (n_latents, d), b_dec, threshold

    latents = activation((x - b_dec) W_enc + b_enc)
    recons  = latents W_dec + b_dec

`x - b_dec` is x alone where `apply_b_dec_to_input` is false. The architecture is "standard"
(ReLU), "topk", "abstopk", "jumprelu", "gated" (b_gate, r_mag and b_mag instead of b_enc) or
"matching_pursuit" (W_dec and b_dec alone; its latents are in the activations' units). What is
written here has a fingerprint of both files in the header of the second, which SAELens does not
keep when it writes them itself.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from saehelpers import runs
from saehelpers.runs.checking import checked
from saehelpers.runs.identities import identity
from saehelpers.runs.wanted import Metadata
from saehelpers.saes import ACTIVATIONS as KNOWN_ACTIVATIONS, SAE, SAEConfig, make_sae

FORMAT = "6.0.0"  # the release of SAELens since which cfg.json is as it is written here
WEIGHTS = "sae_weights.safetensors"
SCALER, WHITENING = "activation_scaler.json", "activation_whitening.safetensors"
SCALED, WHITENED = "expected_average_only_in", "covariance_whitening"
DAMAGE = (
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    RuntimeError,
    OSError,
    SafetensorError,
)
ACTIVATIONS = {  # by architecture
    "standard": "relu", "topk": "topk", "abstopk": "abs_topk", "jumprelu": "jumprelu",
    "gated": "gated", "matching_pursuit": "topk",
}  # fmt: skip
PURSUIT = "matching_pursuit"  # the architecture, and the dictionary


@checked
@torch.no_grad()
def save_sae_lens(
    sae: SAE,
    folder: Path | str,
    metadata: Metadata = MappingProxyType({}),
    overwrite: bool = False,
) -> Path:
    """Write an SAE with a linear encoder for SAELens to read, and return the folder.

    Mean and scale become part of the weights. With the encoder W, b and the decoder D, c of
    an SAE in standardised units:

        W_enc = W / scale    b_enc = b, without a pre-encoder bias b + c W
        W_dec = scale D      b_dec = scale c + mean

    BatchTopK becomes JumpReLU, with the threshold that was learnt for inference.

    Args:
        metadata: what SAELens knows of an SAE: model_name, hook_name, ...
        overwrite: replace an SAE that is there already.

    Raises:
        ValueError: the format has no place for such an SAE.
        FileExistsError: the folder is there already, or holds other files than an SAE's.
    """
    folder = Path(folder)
    runs.check_free(folder, overwrite, (".json", ".safetensors"))
    _check_representable(sae)
    architecture, threshold = _to_architecture(sae)
    config = architecture | {
        "d_in": sae.config.d,
        "d_sae": sae.config.n_latents,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {"sae_lens_version": FORMAT, **metadata},
    }
    tensors = _to_weights(sae) | threshold
    text = json.dumps(config, indent=2) + "\n"
    weights = {name: tensor.float().cpu().contiguous() for name, tensor in tensors.items()}
    told = {"fingerprint": identity((json.loads(text), weights))}
    with runs.temporary_folder(folder, overwrite) as temporary:
        (temporary / "cfg.json").write_text(text, encoding="utf-8")
        runs.files.save_tensors(temporary / WEIGHTS, weights, told)
    return folder


def _check_representable(sae: SAE) -> None:
    config = sae.config
    refused = None
    if config.encoder != "linear":
        refused = f"its encoder is of kind {config.encoder!r}"
    elif config.dictionary not in ("free", "archetypal", PURSUIT):
        refused = f"its dictionary is of kind {config.dictionary!r}"
    elif config.activation in {"block_topk", *KNOWN_ACTIVATIONS.added}:
        refused = f"its activation function is {config.activation!r}"
    elif sae.scale.ndim:
        refused = f"it is {len(sae.scale)} SAEs side by side: unstack them"
    elif config.activation == "batch_topk" and sae.activation.threshold < 0:
        refused = "its BatchTopK has not learnt a threshold: train it first"
    if refused:
        raise ValueError(f"SAELens has no format for this SAE: {refused}")


def _to_weights(sae: SAE) -> dict[str, Tensor]:
    if sae.config.dictionary == PURSUIT:
        bias = sae.scale * sae.decoder_bias + sae.mean
        return {"W_dec": sae.dictionary.detach().clone(), "b_dec": bias}
    tensors = (
        sae.encoder_weights[0], sae.encoder_biases[0], sae.dictionary, sae.canonical_bias,
        sae.mean, sae.scale,
    )  # fmt: skip
    weight, bias, dictionary, decoder_bias, mean, scale = (tensor.double() for tensor in tensors)
    found = {
        "W_enc": weight / scale,
        "b_enc": bias if sae.config.pre_encoder_bias else bias + decoder_bias @ weight,
        "W_dec": scale * dictionary,
        "b_dec": scale * decoder_bias + mean,
    }
    if sae.config.activation == "gated":
        found["b_gate"] = found.pop("b_enc")
        found["r_mag"] = sae.activation.log_scale.double()
        found["b_mag"] = sae.activation.offset + found["r_mag"].exp() * found["b_gate"]
    return found


def _to_architecture(sae: SAE) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What cfg.json says of the activation, and its threshold if it has one."""
    k = sae.config.topk
    if sae.config.dictionary == PURSUIT:
        return {
            "architecture": PURSUIT, "max_iterations": k, "residual_threshold": 0.0,
            "stop_on_duplicate_support": True,
        }, {}  # fmt: skip
    match sae.config.activation:
        case "topk" | "abs_topk" as name:
            architecture = name.replace("_", "")
            return {"architecture": architecture, "k": k, "rescale_acts_by_decoder_norm": False}, {}
        case "relu":
            return {"architecture": "standard"}, {}
        case "gated":
            return {"architecture": "gated"}, {}
        case "jumprelu":
            threshold = sae.activation.log_threshold.exp()
        case _:
            # ours keeps what reaches the threshold, theirs what exceeds it
            below = torch.nextafter(sae.activation.threshold, sae.scale.new_tensor(-torch.inf))
            threshold = below.expand(sae.config.n_latents)
    return {"architecture": "jumprelu"}, {"threshold": threshold}


@checked
@torch.no_grad()
def load_sae_lens(
    source: Path | str, subfolder: str = "", norm_scaling_factor: float | None = None
) -> tuple[SAE, dict[str, Any]]:
    """An SAE that SAELens has saved, and its cfg.json, whose "metadata" say what it reads.

    Its mean is 0 and its scale 1: it reads activations as the model gives them. What SAELens
    does to them before becomes part of the weights, as does rescale_acts_by_decoder_norm:

        expected_average_only_in    z = s x            s, see `norm_scaling_factor`
        covariance_whitening        z = (x - mean) M   in activation_whitening.safetensors

    Weights may lie in several files, with an index sae_weights.safetensors.index.json.

    Args:
        source: a folder, or the name of a Hugging Face hub repository.
        subfolder: of the SAE in it.
        norm_scaling_factor: of "expected_average_only_in", where the folder does not have it
            in its activation_scaler.json; SAELens lists those of its releases under this name.

    Raises:
        FileNotFoundError: there is no such folder, or no SAE of SAELens in it.
        ValueError: it is no SAE, but a transcoder; an architecture or a setting that SAEs here
            do not have; or files that are damaged, or weights that are missing or of another shape.
    """
    names = ["cfg.json", WEIGHTS]
    patterns = ["cfg.json", "sae_weights*", SCALER, WHITENING]
    folder = runs.local_folder(source, patterns, subfolder)
    index = folder / f"{WEIGHTS}.index.json"
    if not (folder / "cfg.json").exists() or not any(p.exists() for p in (folder / WEIGHTS, index)):
        raise FileNotFoundError(f"no SAE of SAELens ({' and '.join(names)}) in {folder}")
    path = str(folder / "cfg.json")
    with _naming(folder):
        cfg = runs.files.read_json(folder / "cfg.json")
        files = [WEIGHTS]
        if not (folder / WEIGHTS).exists():
            files = sorted(set(runs.files.read_json(index)["weight_map"].values()))
        tensors = _load_tensors(*(folder / name for name in files))
        if files == [WEIGHTS]:
            _check_as_saved(folder, cfg, tensors)
        scaler = folder / SCALER
        if norm_scaling_factor is None and scaler.exists():
            norm_scaling_factor = float(runs.files.read_json(scaler)["scaling_factor"])
    with _naming(folder, (AttributeError, TypeError)):  # fields of other types than SAELens writes
        _check_reconstructs(cfg, path)
        config = _from_architecture(cfg, path)
    _check_weights(tensors, config, str(folder / WEIGHTS))
    if "b_gate" in tensors:
        tensors["b_enc"] = tensors.pop("b_gate")
        tensors["offset"] = tensors.pop("b_mag") - tensors["r_mag"].exp() * tensors["b_enc"]
    normalised = _normalisation(cfg)
    if normalised == SCALED:
        if norm_scaling_factor is None:
            raise ValueError(
                f"{path}: normalize_activations is {cfg['normalize_activations']!r}, by a factor "
                f"that is not in the folder (no {SCALER}): pass norm_scaling_factor, 1 to read "
                "activations as they are"
            )
        tensors["W_enc"] *= norm_scaling_factor
        for name in ("W_dec", "b_dec"):
            tensors[name] /= norm_scaling_factor
    if cfg.get("rescale_acts_by_decoder_norm"):
        norms = tensors["W_dec"].norm(dim=-1).clamp(min=1e-8)
        tensors |= {name: tensors[name] * norms for name in ("W_enc", "b_enc")}
        tensors["W_dec"] = tensors["W_dec"] / norms[:, None]
    if normalised == WHITENED:
        if not (folder / WHITENING).exists():
            raise ValueError(f"{path}: normalize_activations is {WHITENED!r}, without {WHITENING}")
        with _naming(folder):
            _whiten(tensors, _load_tensors(folder / WHITENING), config)
    return _from_weights(tensors, config), cfg


@contextmanager
def _naming(folder: Path, errors: tuple[type[Exception], ...] = DAMAGE) -> Iterator[None]:
    """Within the context, errors that damage makes are told with the folder."""
    try:
        yield
    except errors as error:
        raise ValueError(f"the SAE of SAELens in {folder} is damaged: {error}") from error


def _check_as_saved(folder: Path, cfg: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Raise a ValueError if they are not what `save_sae_lens` wrote; others do not tell."""
    with safe_open(folder / WEIGHTS, framework="pt") as file:
        told = (file.metadata() or {}).get("fingerprint")
    if told not in (None, identity((cfg, tensors))):
        raise ValueError("its config or its weights are not as they were saved")


def _load_tensors(*paths: Path) -> dict[str, Tensor]:
    return {name: tensor.float() for path in paths for name, tensor in load_file(path).items()}


def _whiten(tensors: dict[str, Tensor], whitening: dict[str, Tensor], config: SAEConfig) -> None:
    """Let the weights of an SAE of z = (x - mean) M read x, and give recons of it."""
    mean, matrix, inverse = (whitening[name] for name in ("mean", "matrix", "inverse_matrix"))
    tensors["W_enc"] = matrix @ tensors["W_enc"]
    if not config.pre_encoder_bias:
        tensors["b_enc"] = tensors["b_enc"] - mean @ tensors["W_enc"]
    tensors["W_dec"] = tensors["W_dec"] @ inverse
    tensors["b_dec"] = tensors["b_dec"] @ inverse + mean


def _check_reconstructs(cfg: dict[str, Any], path: str) -> None:
    """Raise a ValueError if what goes out is not what goes in, by any field of a cfg.json.

    The field of what goes out is named like that of what goes in, with out_ or _out.
    """
    told = {**(cfg.get("metadata") or {}), **cfg}
    if told.get("is_transcoder"):
        raise ValueError(f"{path} is of no SAE: is_transcoder is true")
    for name, out in told.items():
        stem = name.removeprefix("out_").removesuffix("_out")
        into = told.get(stem, told.get(f"{stem}_in"))
        if stem != name and out not in (None, "", into):
            raise ValueError(
                f"{path} is of no SAE, but of a transcoder: {name} is {out!r}, and what goes in "
                f"is {into!r}"
            )


def _normalisation(cfg: dict[str, Any]) -> str:
    """What SAELens does to activations before; early releases wrote a truth value."""
    said = cfg.get("normalize_activations") or "none"
    return SCALED if said is True else said


def _from_architecture(cfg: dict[str, Any], path: str) -> SAEConfig:
    """The config of the SAE that a cfg.json describes; those from before release 6, too."""
    before = {"topk": "topk", "relu": "standard"}
    function = cfg.get("activation_fn", cfg.get("activation_fn_str", "relu"))
    architecture = cfg.get("architecture", "standard")
    if architecture == "standard":
        architecture = before.get(function, f"standard with {function}")
    if architecture not in ACTIVATIONS:
        known = ", ".join(ACTIVATIONS)
        raise ValueError(f"{path}: unknown architecture {architecture!r}; known are {known}")
    if _normalisation(cfg) not in ("none", SCALED, WHITENED):
        raise ValueError(
            f"{path}: normalize_activations is {cfg['normalize_activations']!r}, which depends on "
            f"each activation; only 'none', {SCALED!r} and {WHITENED!r} can become weights"
        )
    try:
        k = cfg["k"] if "k" in cfg else (cfg.get("activation_fn_kwargs") or {}).get("k")
        chosen = {"topk": int(k)} if architecture.endswith("topk") else {}
        if architecture == PURSUIT:
            _check_pursuit(cfg, path)
            chosen = {"topk": cfg["max_iterations"] or cfg["d_in"], "dictionary": PURSUIT}
        return SAEConfig(
            cfg["d_in"], cfg["d_sae"], ACTIVATIONS[architecture], encoder="linear",
            pre_encoder_bias=cfg.get("apply_b_dec_to_input", True), **chosen,
        )  # fmt: skip
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} lacks d_in, d_sae or k ({error!r})") from error


def _check_pursuit(cfg: dict[str, Any], path: str) -> None:
    if _normalisation(cfg) != "none":
        raise ValueError(f"{path}: matching pursuit reads activations as they are")
    if cfg["residual_threshold"] > 0 or not cfg["stop_on_duplicate_support"]:
        raise ValueError(
            f"{path}: matching pursuit here ends where a latent is chosen again and not by what is "
            f"left, got residual_threshold {cfg['residual_threshold']} and "
            f"stop_on_duplicate_support {cfg['stop_on_duplicate_support']}"
        )


def _check_weights(tensors: dict[str, Tensor], config: SAEConfig, path: str) -> None:
    d, n_latents = config.d, config.n_latents
    wanted = {
        "W_enc": (d, n_latents), "b_enc": (n_latents,), "W_dec": (n_latents, d), "b_dec": (d,),
    }  # fmt: skip
    if config.dictionary == PURSUIT:
        wanted = {name: wanted[name] for name in ("W_dec", "b_dec")}
    elif config.activation == "jumprelu":
        wanted["threshold"] = (n_latents,)
    elif config.activation == "gated":
        del wanted["b_enc"]
        wanted |= dict.fromkeys(("b_gate", "b_mag", "r_mag"), (n_latents,))
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if (tensors.get("scaling_factor", torch.ones(1)) == 1).all():
        found.pop("scaling_factor", None)  # written by early releases
    if found != wanted:
        raise ValueError(f"{path} has weights {found}, expected {wanted}")


@torch.no_grad()
def _from_weights(tensors: dict[str, Tensor], config: SAEConfig) -> SAE:
    sae = make_sae(config)
    if "W_enc" in tensors:
        sae.encoder_weights[0].copy_(tensors["W_enc"])
        sae.encoder_biases[0].copy_(tensors["b_enc"])
    if "r_mag" in tensors:
        sae.activation.log_scale.copy_(tensors["r_mag"])
        sae.activation.offset.copy_(tensors["offset"])
    sae.decoder_weight.copy_(tensors["W_dec"])
    sae.decoder_bias.copy_(tensors["b_dec"])
    if "threshold" in tensors:  # below 0, their ReLU decides
        sae.activation.log_threshold.copy_(tensors["threshold"].clamp(min=0).log())
    return sae.eval().requires_grad_(False)
