"""SAEs in the folder format of SAELens: equal latents and recons, both ways, or a clear error."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.testing import assert_close

from saehelpers.saes import SAE, SAEConfig, make_sae, stack
from saehelpers.saes.interchange import load_sae_lens, save_sae_lens

D, N = 8, 20
CONFIG = SAEConfig(D, N, topk=3, encoder="linear")
KINDS = {
    "topk": {},
    "relu": {"activation": "relu"},
    "jumprelu": {"activation": "jumprelu"},
    "batch_topk": {"activation": "batch_topk"},
    "abs_topk": {"activation": "abs_topk"},
    "gated": {"activation": "gated"},
    "pre_encoder_bias": {"pre_encoder_bias": True},
    "archetypal": {"dictionary": "archetypal", "n_archetypes": 5},
}


def activations(n: int = 200) -> Tensor:
    return 4 * torch.randn(n, D, generator=torch.Generator().manual_seed(1)) + 30


@torch.no_grad()
def made(**changes) -> SAE:
    """An SAE none of whose tensors is zero."""
    sae = make_sae(dataclasses.replace(CONFIG, **changes))
    generator = torch.Generator().manual_seed(2)
    for parameter in sae.parameters():
        parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    if sae.config.dictionary == "archetypal":
        sae.set_centres(torch.randn(100, D, generator=generator), seed=0)
    sae.set_standardisation(torch.linspace(29, 31, D), torch.tensor(3.5))
    if sae.config.activation == "batch_topk":
        sae(activations())  # learns a threshold
    return sae.eval().requires_grad_(False)


def assert_same(x: Tensor, expected: Tensor) -> None:
    assert (x - expected).abs().max() <= 1e-5 * expected.abs().max()


def as_sae_lens_computes(folder: Path, x: Tensor) -> tuple[Tensor, Tensor]:
    """(latents, recons) of a folder in its format, by its formulas, row by row."""
    cfg = json.loads((folder / "cfg.json").read_text())
    weights = load_file(folder / "sae_weights.safetensors")
    sae_in = x - weights["b_dec"] if cfg["apply_b_dec_to_input"] else x
    if cfg["architecture"] == "gated":
        gates = sae_in @ weights["W_enc"] + weights["b_gate"] > 0
        magnitudes = sae_in @ (weights["W_enc"] * weights["r_mag"].exp()) + weights["b_mag"]
        latents = gates * magnitudes.clamp(min=0)
        return latents, latents @ weights["W_dec"] + weights["b_dec"]
    pre = sae_in @ weights["W_enc"] + weights["b_enc"]
    norms = weights["W_dec"].norm(dim=1)
    rescaled = cfg.get("rescale_acts_by_decoder_norm", False)
    if rescaled:
        pre = pre * norms
    latents = torch.zeros_like(pre)
    for i, row in enumerate(pre):
        if cfg["architecture"] == "topk":
            kept = row.argsort(descending=True)[: cfg["k"]]
        elif cfg["architecture"] == "abstopk":
            kept = row.abs().argsort(descending=True)[: cfg["k"]]
            latents[i, kept] = row[kept]
            continue
        elif cfg["architecture"] == "jumprelu":
            kept = (row > weights["threshold"]).nonzero()[:, 0]
        else:
            kept = torch.arange(N)
        latents[i, kept] = row[kept].clamp(min=0)
    return latents, (latents / norms if rescaled else latents) @ weights["W_dec"] + weights["b_dec"]


def write_sae_lens(folder: Path, cfg: dict, **changes: Tensor | None) -> Path:
    """A folder as SAELens writes it, with random weights."""
    generator = torch.Generator().manual_seed(3)
    shapes = {"W_enc": (D, N), "b_enc": (N,), "W_dec": (N, D), "b_dec": (D,)}
    weights = {name: torch.randn(s, generator=generator) for name, s in shapes.items()}
    weights = {k: v for k, v in (weights | changes).items() if v is not None}
    folder.mkdir()
    save_file(weights, folder / "sae_weights.safetensors")
    text = json.dumps({"d_in": D, "d_sae": N, "dtype": "float32"} | cfg)
    (folder / "cfg.json").write_text(text)
    return folder


# --- ours, for SAELens ---


@pytest.mark.parametrize("kind", KINDS)
def test_sae_lens_computes_what_ours_does(kind, tmp_path):
    sae, x = made(**KINDS[kind]), activations()
    latents, recons = as_sae_lens_computes(save_sae_lens(sae, tmp_path / "sae"), x)
    assert (latents > 0).any() and (latents == 0).any()
    assert_same(latents, sae.encode(x))
    assert_same(recons, sae(x))


@pytest.mark.parametrize("kind", KINDS)
def test_there_and_back(kind, tmp_path):
    sae, x = made(**KINDS[kind]), activations()
    back, cfg = load_sae_lens(save_sae_lens(sae, tmp_path / "sae", {"hook_name": "here"}))
    assert_same(back.encode(x), sae.encode(x))
    assert_same(back(x), sae(x))
    assert cfg["metadata"]["hook_name"] == "here"
    assert not back.training
    again, _ = load_sae_lens(save_sae_lens(back, tmp_path / "again"))
    assert_close(again.state_dict(), back.state_dict())


def test_the_threshold_of_batch_topk_is_kept_by_both(tmp_path):
    """Ours keeps a pre-activation that equals the threshold."""
    sae = made(activation="batch_topk")
    sae.activation.threshold.fill_(0.75)
    tensors = load_file(save_sae_lens(sae, tmp_path / "sae") / "sae_weights.safetensors")
    at = torch.full((N,), 0.75)
    assert (at > tensors["threshold"]).all()
    assert not (at.nextafter(torch.tensor(0.0)) > tensors["threshold"]).any()


def test_a_folder_that_is_there_is_not_written_to(tmp_path):
    with pytest.raises(FileExistsError, match="is there already"):
        save_sae_lens(made(), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_sae_takes_the_place_of_another(tmp_path):
    folder, other = tmp_path / "sae", made(activation="relu")
    save_sae_lens(made(), folder)
    assert_close(load_sae_lens(folder)[0](activations()), made()(activations()))
    save_sae_lens(other, folder, overwrite=True)
    assert load_sae_lens(folder)[0].config.activation == "relu"
    with pytest.raises(FileExistsError, match="is not replaced: sae in it is no file that would"):
        save_sae_lens(other, tmp_path, overwrite=True)
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"encoder": "two_layer"}, "its encoder is of kind 'two_layer'"),
        ({"dictionary": "blocks", "group_order": 4}, "its dictionary is of kind 'blocks'"),
        (
            {"dictionary": "block_diagonal", "n_heads": 2},
            "its dictionary is of kind 'block_diagonal'",
        ),
        ({"activation": "batch_topk"}, "its BatchTopK has not learnt a threshold"),
    ],
)
def test_saes_that_the_format_has_no_place_for(changes, message, tmp_path):
    sae = make_sae(dataclasses.replace(CONFIG, **changes))
    with pytest.raises(ValueError, match=f"SAELens has no format for this SAE: {message}"):
        save_sae_lens(sae, tmp_path / "sae")
    assert list(tmp_path.iterdir()) == []


def test_stacked_saes(tmp_path):
    with pytest.raises(ValueError, match="it is 2 SAEs side by side: unstack them"):
        save_sae_lens(stack([made(), made()]), tmp_path / "sae")


# --- theirs, for us ---


@pytest.mark.parametrize("applied", [True, False])
@pytest.mark.parametrize(
    "cfg",
    [
        {"architecture": "standard"},
        {"architecture": "topk", "k": 4, "rescale_acts_by_decoder_norm": False},
        {"architecture": "topk", "k": 4, "rescale_acts_by_decoder_norm": True},
        {"architecture": "jumprelu"},
    ],
    ids=["standard", "topk", "topk, rescaled", "jumprelu"],
)
def test_ours_computes_what_sae_lens_does(cfg, applied, tmp_path):
    thresholds = {"threshold": torch.linspace(-1, 4, N)} if "jump" in cfg["architecture"] else {}
    cfg = cfg | {"apply_b_dec_to_input": applied, "normalize_activations": "none"}
    folder = write_sae_lens(tmp_path / "sae", cfg, **thresholds)
    sae, read = load_sae_lens(tmp_path, "sae")
    latents, recons = as_sae_lens_computes(folder, activations() - 30)
    assert_same(sae.encode(activations() - 30), latents)
    assert_same(sae(activations() - 30), recons)
    assert read["architecture"] == cfg["architecture"]
    assert sae.mean.eq(0).all() and sae.scale == 1


@pytest.mark.parametrize(
    "before, now",
    [
        ({"activation_fn_str": "relu", "normalize_activations": False}, "standard"),
        ({"activation_fn": "topk", "activation_fn_kwargs": {"k": 5}}, "topk"),
        ({"architecture": "jumprelu", "finetuning_scaling_factor": False}, "jumprelu"),
    ],
)
def test_configs_of_early_releases(before, now, tmp_path):
    further = {"threshold": torch.ones(N)} if now == "jumprelu" else {}
    folder = write_sae_lens(tmp_path / "sae", before, scaling_factor=torch.ones(N), **further)
    sae, _ = load_sae_lens(folder)
    today = before | {"architecture": now, "k": 5, "apply_b_dec_to_input": True}
    (folder / "cfg.json").write_text(json.dumps(today))
    x = activations() - 30
    assert_same(sae(x), as_sae_lens_computes(folder, x)[1])


def test_weights_in_half_precision(tmp_path):
    halves = {"W_enc": torch.randn(D, N).half(), "b_dec": torch.randn(D).bfloat16()}
    folder = write_sae_lens(tmp_path / "sae", {"architecture": "standard"}, **halves)
    sae, _ = load_sae_lens(folder)
    assert torch.equal(sae.encoder_weights[0], halves["W_enc"].float())
    assert torch.equal(sae.decoder_bias, halves["b_dec"].float())


def test_from_the_hub(tmp_path, monkeypatch):
    write_sae_lens(tmp_path / "layer_3", {"architecture": "standard"})
    asked = []

    def download(name, allow_patterns):
        asked.append((name, allow_patterns))
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    load_sae_lens("someone/saes", "layer_3")
    names = [
        "cfg.json",
        "sae_weights*",
        "activation_scaler.json",
        "activation_whitening.safetensors",
    ]
    assert asked == [("someone/saes", [f"layer_3/{name}" for name in names])]


CASES = {
    "standard": {"architecture": "standard", "apply_b_dec_to_input": False},
    "jumprelu": {"architecture": "jumprelu", "apply_b_dec_to_input": True},
    "topk": {"architecture": "topk", "k": 4, "apply_b_dec_to_input": True},
    "rescaled": {
        "architecture": "topk", "k": 4, "apply_b_dec_to_input": False,
        "rescale_acts_by_decoder_norm": True,
    },
}  # fmt: skip


def written_case(folder: Path, case: str, normalised) -> Path:
    cfg = CASES[case] | {"normalize_activations": normalised}
    thresholds = {"threshold": torch.linspace(0, 1, N)} if case == "jumprelu" else {}
    return write_sae_lens(folder, cfg, **thresholds)


@pytest.mark.parametrize("told", ["in the folder", "by the caller"])
@pytest.mark.parametrize("case", CASES)
def test_a_factor_of_activations_becomes_part_of_the_weights(case, told, tmp_path):
    """The folder's SAE, given s x, has recons of s x."""
    folder = written_case(tmp_path / "sae", case, "expected_average_only_in")
    x, s = activations() - 30, 0.3
    latents, recons = as_sae_lens_computes(folder, s * x)
    if told == "in the folder":
        text = json.dumps({"scaling_factor": s, "has_whitening": False})
        (folder / "activation_scaler.json").write_text(text)
    sae, _ = load_sae_lens(folder, norm_scaling_factor=None if told == "in the folder" else s)
    assert_same(sae(x), recons / s)
    # as SAELens folds it: decoder norms are those of the decoder that gives x
    assert_same(sae.encode(x), latents / s if case == "rescaled" else latents)


@pytest.mark.parametrize("case", CASES)
def test_whitening_becomes_part_of_the_weights(case, tmp_path):
    """The folder's SAE, given z = (x - mean) M, has recons of z."""
    folder = written_case(tmp_path / "sae", case, "covariance_whitening")
    with pytest.raises(ValueError, match=r"'covariance_whitening', without activation_whitening"):
        load_sae_lens(folder)
    generator = torch.Generator().manual_seed(5)
    matrix = torch.eye(D) + 0.2 * torch.randn(D, D, generator=generator)
    mean, inverse = torch.linspace(-1, 2, D), matrix.inverse().contiguous()
    tensors = {"mean": mean, "matrix": matrix, "inverse_matrix": inverse}
    save_file(tensors, folder / "activation_whitening.safetensors")
    x = activations() - 30
    latents, recons = as_sae_lens_computes(folder, (x - mean) @ matrix)
    sae, _ = load_sae_lens(folder)
    assert_same(sae.encode(x), latents)
    assert_same(sae(x), recons @ inverse + mean)


def test_weights_in_several_files(tmp_path):
    folder = write_sae_lens(tmp_path / "sae", {"architecture": "standard"})
    whole, _ = load_sae_lens(folder)
    tensors = load_file(folder / "sae_weights.safetensors")
    (folder / "sae_weights.safetensors").unlink()
    files = {name: f"sae_weights-{i % 2}.safetensors" for i, name in enumerate(tensors)}
    for file in set(files.values()):
        save_file({k: v for k, v in tensors.items() if files[k] == file}, folder / file)
    index = folder / "sae_weights.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": files}))
    assert_close(load_sae_lens(folder)[0].state_dict(), whole.state_dict(), rtol=0, atol=0)
    (folder / "sae_weights-1.safetensors").unlink()
    with pytest.raises(ValueError, match=r"sae is damaged: .*sae_weights-1\.safetensors"):
        load_sae_lens(folder)


# --- bad input ---


def test_no_sae(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no SAE of SAELens \(cfg\.json and sae_weights"):
        load_sae_lens(tmp_path)
    with pytest.raises(FileNotFoundError, match="neither a local folder nor to be reached"):
        load_sae_lens("no folder/and no name")


@pytest.mark.parametrize(
    "cfg, message",
    [
        ({"architecture": "temporal"}, "unknown architecture 'temporal'; known are standard, topk"),
        (
            {
                "architecture": "matching_pursuit",
                "residual_threshold": 0.01,
                "max_iterations": 3,
                "stop_on_duplicate_support": True,
            },
            "ends where a latent is chosen again and not by what is left",
        ),
        ({"architecture": "batchtopk", "k": 3}, "unknown architecture 'batchtopk'"),
        ({"activation_fn_str": "tanh-relu"}, "unknown architecture 'standard with tanh-relu'"),
        ({"normalize_activations": "layer_norm"}, "'layer_norm', which depends on each activation"),
        ({"normalize_activations": "constant_norm_rescale"}, "is 'constant_norm_rescale', which"),
        ({"normalize_activations": True}, "is True, by a factor .*: pass norm_scaling_factor"),
        ({"normalize_activations": "expected_average_only_in"}, "_only_in', by a factor that is"),
        ({"architecture": "topk"}, "lacks d_in, d_sae or k"),
        ({"architecture": "topk", "k": 21}, "topk must be between 1 and n_latents = 20, got 21"),
        ({"architecture": "topk", "k": 0}, "topk must be 1 or more, got 0"),
        ({"d_in": None}, "lacks d_in, d_sae or k"),
    ],
)
def test_configs_that_cannot_be_read(cfg, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        load_sae_lens(write_sae_lens(tmp_path / "sae", cfg))


@pytest.mark.parametrize(
    "cfg, message",
    [
        ({"d_out": 2 * D}, f"d_out is {2 * D}, and what goes in is {D}"),
        ({"hook_name": "mlp_in", "hook_name_out": "mlp_out"}, "hook_name_out is 'mlp_out', and"),
        ({"metadata": {"hook_name": "a", "hook_name_out": "b"}}, "hook_name_out is 'b', .* 'a'"),
        ({"hook_point": "a", "out_hook_point": "b"}, "out_hook_point is 'b', .* 'a'"),
        ({"hook_layer": 3, "hook_layer_out": 4}, "hook_layer_out is 4, and what goes in is 3"),
        ({"hf_hook_point_in": "a", "hf_hook_point_out": "b"}, "hf_hook_point_out is 'b', .* 'a'"),
        ({"metadata": {"hook_name_out": "b"}}, "hook_name_out is 'b', .* None"),
        ({"is_transcoder": True}, "is_transcoder is true"),
    ],
)
def test_what_gives_other_activations_than_it_reads_is_no_sae(cfg, message, tmp_path):
    with pytest.raises(ValueError, match=f"is of no SAE.*{message}"):
        load_sae_lens(write_sae_lens(tmp_path / "sae", {"architecture": "standard"} | cfg))


def test_a_config_that_says_twice_that_it_is_of_an_sae(tmp_path):
    hooks = {"hook_name": "a", "hook_name_out": "a", "hook_head_index_out": None}
    cfg = {"architecture": "standard", "d_out": D, "is_transcoder": False, "metadata": hooks}
    assert load_sae_lens(write_sae_lens(tmp_path / "sae", cfg))[1]["metadata"] == hooks


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"W_skip": torch.zeros(D, D)}, "'W_skip'.*expected"),
        ({"W_enc": None}, r"expected \{'W_enc': \(8, 20\)"),
        ({"W_enc": torch.zeros(N, D)}, r"'W_enc': \(20, 8\).*expected \{'W_enc': \(8, 20\)"),
        ({"b_dec": torch.zeros(7)}, r"'b_dec': \(7,\).*expected"),
        ({"threshold": torch.zeros(N)}, "'threshold'.*expected"),
        ({"scaling_factor": torch.full((N,), 2.0)}, "'scaling_factor'.*expected"),
    ],
)
def test_weights_that_are_missing_or_odd(changes, message, tmp_path):
    folder = write_sae_lens(tmp_path / "sae", {"architecture": "standard"}, **changes)
    with pytest.raises(ValueError, match=rf"sae_weights\.safetensors has weights .*{message}"):
        load_sae_lens(folder)


@pytest.mark.parametrize("name", ["cfg.json", "sae_weights.safetensors"])
def test_files_that_are_cut_short(name, tmp_path):
    folder = write_sae_lens(tmp_path / "sae", {"architecture": "standard"})
    (folder / name).write_bytes((folder / name).read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"the SAE of SAELens in .*sae is damaged"):
        load_sae_lens(folder)
