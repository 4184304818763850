"""What was trained comes back from its folder alone, from anywhere, or says why it does not."""

import dataclasses
import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.testing import assert_close

import saehelpers
from saehelpers import runs
from saehelpers.datasets.text import token_blocks, train_tokeniser
from saehelpers.experiments import (
    ActionRun,
    BaseModelRun,
    EncoderRun,
    LanguageModelRun,
    PixelsRun,
    load,
    load_or_fit_action,
    make_language_model,
    push_to_hub,
    save_equivariant,
)
from saehelpers.networks import make_autoencoder, make_convnext
from saehelpers.runs import folders
from saehelpers.runs.identities import identity
from saehelpers.runs.saving import fingerprint_of
from saehelpers.saes import EquivariantSAE, SAEConfig, make_sae, save_sae_lens, stack
from saehelpers.symmetry import Group, LinearAction
from saehelpers.training import EndToEndRun, SAERun

HISTORY = pd.DataFrame({"epoch": [0], "loss": [0.5]})
MODELS = Path(__file__).parents[2] / "models"
SAES = {
    "topk": SAEConfig(8, 12, topk=3),
    "batch_topk": SAEConfig(8, 12, "batch_topk", topk=3, encoder="linear"),
    "jumprelu": SAEConfig(8, 12, "jumprelu", unit_decoder=True),
    "archetypal": SAEConfig(8, 12, topk=3, dictionary="archetypal", n_archetypes=5),
    "matryoshka": SAEConfig(8, 12, topk=3, prefixes=(4, 12)),
    "crosscoder": SAEConfig(8, 12, topk=3, dictionary="blocks", group_order=4),
    "heads": SAEConfig(8, 12, topk=3, dictionary="block_diagonal", n_heads=2),
}
OBJECTIVES = {"matryoshka": "matryoshka", "crosscoder": "crosscoder"}


@torch.no_grad()
def made(config: SAEConfig) -> nn.Module:
    """An SAE none of whose tensors is as it was made."""
    sae = make_sae(config, seed=1)
    for tensor in sae.state_dict().values():
        tensor += torch.rand(tensor.shape, generator=torch.Generator().manual_seed(2))
    return sae


def saved(tmp_path, config, model: nn.Module, **further) -> Path:
    return runs.save_run(tmp_path, config, model.state_dict(), HISTORY, **further)


@pytest.fixture
def sae_folder(tmp_path) -> Path:
    return saved(tmp_path, SAERun("vanilla", "toy", SAES["topk"]), made(SAES["topk"]))


def rewrite(folder: Path, **changes) -> None:
    """Change entries of a folder's config.json; those that become None are left out."""
    path = folder / "config.json"
    record = json.loads(path.read_text()) | changes
    record = {name: value for name, value in record.items() if value is not None}
    path.write_text(json.dumps(record | {"fingerprint": fingerprint_of(record)}))


def assert_same_and_frozen(loaded: nn.Module, expected: nn.Module) -> None:
    assert type(loaded) is type(expected)
    state, wanted = loaded.state_dict(), expected.state_dict()
    assert state.keys() == wanted.keys()
    assert all(torch.equal(state[name], wanted[name]) for name in state)
    assert not any(part.training for part in loaded.modules())
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


# --- what comes back ---


def test_archetypal_saes_of_earlier_releases_have_the_dictionary_that_they_had(tmp_path):
    """They were saved as they were before the projection, and are other runs than those of now."""
    sae = made(SAES["archetypal"])
    state = sae.state_dict()
    state["mixing"] = state.pop("convex_weights") - 0.6
    state["relaxation"] *= 3
    config = SAERun("archetypal", "toy", sae.config)
    folder = runs.save_run(tmp_path, config, state, HISTORY)
    weights = state["mixing"].relu()
    rows = weights / weights.sum(-1, keepdim=True) @ state["centres"]
    for row, relaxation in zip(rows, state["relaxation"], strict=True):
        row += relaxation / max(1.0, relaxation.norm().item())
    assert_close(load(folder).dictionary, rows * state["log_scale"].exp())
    equivariant = load(folder, action=LinearAction.identity(Group.named("C4"), 8))
    assert_close(equivariant.dictionary, load(folder).dictionary)


@pytest.mark.parametrize("written", ["now", "before kinds were recorded"])
@pytest.mark.parametrize("kind", SAES)
def test_saes(kind, written, tmp_path):
    sae = made(SAES[kind])
    sparsity = {} if "topk" in sae.config.activation else {"sparsity": "l1", "lambda_sparsity": 0.1}
    objective = OBJECTIVES.get(kind, "reconstruction")
    config = SAERun(kind, "toy", sae.config, objective, auxk=0, **sparsity)
    folder = saved(tmp_path, config, sae)
    if written != "now":
        rewrite(folder, kind=None)
    loaded = load(folder)
    assert_same_and_frozen(loaded, sae)
    assert loaded.config == sae.config
    x = torch.randn(20, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(loaded.encode(x), sae.eval().encode(x))


@pytest.mark.parametrize("written", ["now", "before kinds were recorded"])
def test_an_sae_of_a_language_model(written, tmp_path):
    sae = made(SAES["topk"])
    config = EndToEndRun(
        "e2e", "gpt2/1a2b3c4d", "text", "h.0", sae.config, downstream=("h.1", "h.2"),
        lambda_downstream=1.0, positions=(3, 4),
    )  # fmt: skip
    folder = saved(tmp_path, config, sae)
    if written != "now":
        rewrite(folder, kind=None)
    assert_same_and_frozen(load(folder), sae)


def test_settings_that_were_added_later(tmp_path):
    config = SAERun("revived", "toy", SAES["topk"], auxk=4, dead_after=10, autocast=True)
    folder = saved(tmp_path, config, made(SAES["topk"]))
    rewrite(folder, kind=None)
    assert runs.read_config(folder, runs.read_record(folder), [EndToEndRun, SAERun]) == config


def test_settings_of_training_that_are_not_known_or_refused_by_now(sae_folder):
    """A notebook's own objective, and a weight of no term: neither is part of the SAE."""
    expected = load(sae_folder)
    changed(sae_folder, objective="mine", lambda_sparsity=0.5, schedule="steps")
    assert_same_and_frozen(load(sae_folder), expected)


def test_an_action(toy, tmp_path):
    config = ActionRun("action", identity(toy.activations), "C4", method="least_squares")
    action = load_or_fit_action(config, toy.activations, tmp_path)
    for kind in ("ActionRun", None):
        rewrite(tmp_path / runs.run_id(config), kind=kind)
        loaded = load(tmp_path / runs.run_id(config))
        assert_same_and_frozen(loaded, action.eval())
        assert loaded.group == action.group


@pytest.mark.parametrize("architecture", ["mlp", "cnn", "vit"])
@pytest.mark.parametrize("size", [32, 48])
def test_image_autoencoders(architecture, size, tmp_path):
    config = BaseModelRun("base", "images", architecture, latent_dim=4, hidden_dim=8)
    model = make_autoencoder(architecture, 4, 8, size, seed=3).half()
    loaded = load(saved(tmp_path, config, model))
    assert_same_and_frozen(loaded, model.float().eval().requires_grad_(False))
    images = torch.rand(2, 1, size, size)
    assert torch.equal(loaded(images), model(images))


def test_an_encoder(tmp_path):
    config = EncoderRun("encoder", "images", (4, 8), (1, 1), 2, 2)
    model = make_convnext((4, 8), (1, 1), 2, 2, seed=3)
    loaded = load(saved(tmp_path, config, model))
    assert_same_and_frozen(loaded, model)
    assert loaded(torch.zeros(1, 3, 16, 16)).logits.shape == (1, 2)


@pytest.mark.parametrize("attention_only", [False, True])
def test_a_language_model_and_its_tokeniser(attention_only, tmp_path):
    documents = ["the cat sat on the mat"] * 30
    tokeniser = train_tokeniser(documents, 300)
    config = LanguageModelRun(
        "gpt2", "cats", 300, 8, 16, 2, 2, seed=5, attention_only=attention_only
    )
    model = make_language_model(config)
    files = {"tokenizer.json": tokeniser.to_str()}
    loaded, read = load(saved(tmp_path, config, model, files=files))
    assert_same_and_frozen(loaded, model)
    blocks = token_blocks(documents, tokeniser, 8)
    assert torch.equal(token_blocks(documents, read, 8), blocks)
    assert loaded(blocks).logits.shape == (len(blocks), 8, 300)


SHIPPED = sorted([*MODELS.glob("base_*-*"), *MODELS.glob("gpt2_*-*")])  # beside a user's own


@pytest.mark.parametrize("folder", SHIPPED, ids=lambda folder: folder.name)
def test_models_that_come_with_the_repository(folder):
    loaded = load(folder)
    model = loaded[0] if isinstance(loaded, tuple) else loaded
    for name, tensor in load_file(folder / "weights.safetensors").items():
        assert tensor.dtype == torch.float16
        assert torch.equal(model.state_dict()[name], tensor.float())


def test_the_package_hands_load_on():
    assert saehelpers.load is load
    assert saehelpers.save_equivariant is save_equivariant
    assert saehelpers.push_to_hub is push_to_hub


# --- where from ---


def test_a_folder_of_any_name_and_a_subfolder(sae_folder, tmp_path):
    sae = load(str(sae_folder))
    shutil.copytree(sae_folder, tmp_path / "shared" / "layer_3")
    assert_same_and_frozen(load(tmp_path / "shared" / "layer_3"), sae)
    assert_same_and_frozen(load(tmp_path / "shared", "layer_3"), sae)


def test_from_the_hub(sae_folder, monkeypatch):
    asked = []

    def download(name, allow_patterns):
        asked.append((name, allow_patterns))
        return str(sae_folder.parent)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert_same_and_frozen(load("someone/saes", sae_folder.name), load(sae_folder))
    ((name, patterns),) = asked
    assert name == "someone/saes"
    assert {f"{sae_folder.name}/config.json", f"{sae_folder.name}/weights.safetensors"} < set(
        patterns
    )
    assert all(pattern.startswith(f"{sae_folder.name}/") for pattern in patterns)


def test_on_a_device(sae_folder):
    assert load(sae_folder, device="meta").dictionary.device.type == "meta"


# --- an SAE and an action ---


@pytest.fixture
def equivariant(toy) -> EquivariantSAE:
    return EquivariantSAE(made(SAES["topk"]), toy.action, search=True).eval()


@pytest.mark.parametrize(
    "objective, search",
    [("latent_inv", False), ("canonical", False), ("oriented", True), ("self_oriented", True)],
)
def test_an_sae_is_given_an_action(objective, search, toy, tmp_path):
    sae = made(SAES["topk"])
    folder = saved(tmp_path, SAERun(objective, "toy", sae.config, objective), sae)
    told = identity(toy.activations)
    action_run = ActionRun("action", told, "C4", method="least_squares")
    action = load_or_fit_action(action_run, toy.activations, tmp_path)
    expected = EquivariantSAE(sae, action, search).eval().requires_grad_(False)
    for given in (action, tmp_path / runs.run_id(action_run)):
        loaded = load(folder, action=given)
        assert_same_and_frozen(loaded, expected)
        assert loaded.search == search
        assert torch.equal(loaded(toy.activations[:9, 1]), expected(toy.activations[:9, 1]))
    assert loaded.action is not action


def test_actions_that_do_not_go_with_what_is_there(sae_folder, toy, tmp_path, equivariant):
    with pytest.raises(ValueError, match=r"of vectors of width 5, the SAE in .* of width 8"):
        load(sae_folder, action=LinearAction.identity(toy.action.group, 5))
    with pytest.raises(ValueError, match=r"action must be that of a group; in .* is a SAE"):
        load(sae_folder, action=sae_folder)
    blocks = made(SAES["crosscoder"])
    folder = saved(tmp_path, SAERun("crosscoder", "toy", blocks.config, "crosscoder"), blocks)
    both = save_equivariant(tmp_path / "both", equivariant)
    for other in (folder, both):
        with pytest.raises(ValueError, match="an action goes with an SAE that has one decoder"):
            load(other, action=toy.action)


@pytest.mark.parametrize("search", [True, False])
def test_an_sae_and_its_action_in_one_folder(search, equivariant, toy, tmp_path):
    equivariant.search = search
    folder = save_equivariant(tmp_path / "both", equivariant, {"module": "encoder"})
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "weights.safetensors"]
    loaded = load(folder)
    assert_same_and_frozen(loaded, equivariant)
    assert (loaded.search, loaded.action.group) == (search, toy.action.group)
    assert torch.equal(loaded(toy.activations[:9, 1]), equivariant(toy.activations[:9, 1]))
    assert runs.read_record(folder)["metadata"] == {"module": "encoder"}


def test_an_equivariant_sae_takes_the_place_of_another(equivariant, tmp_path):
    folder = save_equivariant(tmp_path / "both", equivariant)
    equivariant.search = False
    with pytest.raises(FileExistsError, match="both is there already: pass overwrite=True"):
        save_equivariant(folder, equivariant)
    save_equivariant(folder, equivariant, overwrite=True)
    assert not load(folder).search
    with pytest.raises(FileExistsError, match="is not replaced: both in it"):
        save_equivariant(tmp_path, equivariant, overwrite=True)


def test_what_cannot_be_saved(equivariant, tmp_path):
    equivariant.sae = stack([equivariant.sae] * 2)
    with pytest.raises(ValueError, match="2 SAEs side by side cannot be saved as one: unstack"):
        save_equivariant(tmp_path / "both", equivariant)
    assert list(tmp_path.iterdir()) == []


# --- to the hub ---


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A folder that stands in for the hub."""
    root = tmp_path / "hub"

    class Api:
        def create_repo(self, repo_id, private, exist_ok):
            (root / repo_id).mkdir(parents=True, exist_ok=exist_ok)
            (root / "private").write_text(str(private))
            return f"https://hub/{repo_id}"

        def upload_folder(self, repo_id, folder_path, path_in_repo, allow_patterns):
            goal = root / repo_id / (path_in_repo or "")
            goal.mkdir(exist_ok=True)
            for path in Path(folder_path).iterdir():
                if path.name in allow_patterns:
                    shutil.copy(path, goal)

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    monkeypatch.setattr(
        "huggingface_hub.snapshot_download", lambda name, allow_patterns: str(root / name)
    )
    return root


def test_objects_go_to_the_hub_and_back(hub, equivariant):
    for i, thing in enumerate([equivariant, equivariant.sae, equivariant.action]):
        assert push_to_hub(thing, "me/saes", f"part_{i}") == "https://hub/me/saes"
        assert_same_and_frozen(load("me/saes", f"part_{i}"), thing)
    assert (hub / "private").read_text() == "False"


def test_folders_go_to_the_hub_and_back(hub, sae_folder):
    (sae_folder / "notes.txt").write_text("nobody else's business")
    push_to_hub(sae_folder, "me/sae", private=True)
    assert_same_and_frozen(load("me/sae"), load(sae_folder))
    names = sorted(path.name for path in (hub / "me" / "sae").iterdir())
    assert names == ["config.json", "history.csv", "weights.safetensors"]
    assert (hub / "private").read_text() == "True"


def test_what_does_not_go_to_the_hub(hub, sae_folder, tmp_path, monkeypatch):
    (sae_folder / "weights.safetensors").write_bytes(b"half")
    with pytest.raises(ValueError, match=r"cannot be loaded: its weights\.safetensors is damaged"):
        push_to_hub(sae_folder, "me/sae")
    with pytest.raises(TypeError, match=r"thing must be a SAE or .*, got \(1, 2\)"):
        push_to_hub((1, 2), "me/sae")
    assert not hub.exists()

    def refuse(self, *arguments, **options):
        raise RuntimeError("401 Unauthorized")

    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", refuse)
    with pytest.raises(ConnectionError, match=r"'me/sae' cannot be written .*401.*hf auth login"):
        push_to_hub(make_sae(SAES["topk"]), "me/sae")


# --- what is no run, or no longer one ---


def test_folders_of_something_else(sae_folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="neither a local folder nor to be reached"):
        load(tmp_path / "nothing here")
    with pytest.raises(FileNotFoundError, match=r"no run in .*nothing: there is no such folder"):
        load(tmp_path, "nothing")
    with pytest.raises(FileNotFoundError, match=f"pass one of them: .*{sae_folder.name}"):
        load(tmp_path)
    with pytest.raises(FileNotFoundError, match="that is a file; pass the folder"):
        load(sae_folder / "config.json")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"no run in .*empty: it has no config\.json$"):
        load(tmp_path / "empty")


def test_a_folder_of_sae_lens(tmp_path):
    sae = make_sae(SAEConfig(8, 12, topk=3, encoder="linear"))
    with pytest.raises(FileNotFoundError, match=r"lens: .* saehelpers\.saes\.load_sae_lens reads"):
        load(save_sae_lens(sae, tmp_path / "lens"))


@pytest.mark.parametrize(
    "text", ['{"model_type": "gpt2"}', "[]", '{"config": 3}', '{"config": {}, "version": "4.1"}']
)
def test_a_config_of_something_else(text, sae_folder):
    (sae_folder / "config.json").write_text(text)
    with pytest.raises(ValueError, match=f"{sae_folder.name} holds no run.*load_pretrained_lang"):
        load(sae_folder)


def test_runs_that_load_does_not_know(sae_folder, tmp_path):
    pixels = PixelsRun("pixels", "abc", "def", "layer", "C4", None)
    with pytest.raises(ValueError, match=r"pixels-.* it is a PixelsRun\. What can be is: SAERun,"):
        load(saved(tmp_path, pixels, nn.Linear(2, 2)))
    rewrite(sae_folder, kind=None, config={"name": "x", "depth": 3})
    with pytest.raises(ValueError, match=r"known by the fields name, depth\. What can be is: SAE"):
        load(sae_folder)


def test_a_later_version(sae_folder):
    rewrite(sae_folder, version=folders.VERSION + 1, kind="Unheard", config={})
    with pytest.raises(ValueError, match=rf"{sae_folder.name} was written by a later release .*"):
        load(sae_folder)


def changed(folder: Path, **values) -> None:
    rewrite(folder, config=json.loads((folder / "config.json").read_text())["config"] | values)


def drop_a_tensor(folder: Path) -> None:
    tensors = load_file(folder / "weights.safetensors")
    del tensors["decoder_weight"]
    save_file(tensors, folder / "weights.safetensors")
    rewrite(folder, contents={})


DAMAGES = {
    "truncated weights": (
        lambda folder: (folder / "weights.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{"),
        r"its weights\.safetensors is damaged",
    ),
    "no weights": (
        lambda folder: (folder / "weights.safetensors").unlink(),
        r"it has no weights\.safetensors",
    ),
    "a tensor is missing": (drop_a_tensor, r"Missing key\(s\).*decoder_weight"),
    "truncated config": (
        lambda folder: (folder / "config.json").write_text('{"version": 1'),
        r"its config\.json is damaged",
    ),
    "shapes of another config": (
        lambda folder: changed(folder, sae=dataclasses.asdict(SAEConfig(8, 13))),
        r"size mismatch",
    ),
    "a setting is missing": (lambda folder: rewrite(folder, config={"name": "x"}), "activations"),
    "a setting of another type": (lambda folder: changed(folder, sae="wide"), "is of no SAERun"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_folders(damage, sae_folder):
    do, message = DAMAGES[damage]
    do(sae_folder)
    with pytest.raises(
        ValueError, match=rf"(?s){sae_folder.name} cannot be loaded: .*{message}"
    ) as e:
        load(sae_folder)
    assert "Copy or download it once more" in str(e.value)
    assert "force=True" not in str(e.value) and "elete" not in str(e.value)


@pytest.mark.parametrize(
    "values, message",
    [
        ({"momentum": 0.5}, "SAERun has no setting 'momentum'"),
        (
            {"sae": dataclasses.asdict(SAES["topk"]) | {"activation": "mine"}},
            "unknown activation 'mine'; known are .*What a notebook has added",
        ),
    ],
)
def test_settings_that_are_not_known_here(values, message, sae_folder):
    changed(sae_folder, **values)
    with pytest.raises(ValueError, match=f"{sae_folder.name} cannot be loaded: .*{message}"):
        load(sae_folder)


def test_an_action_without_matrices(toy, tmp_path):
    config = ActionRun("action", "toy", "C4")
    folder = runs.save_run(tmp_path, config, {"origin": torch.zeros(8)}, HISTORY)
    with pytest.raises(ValueError, match=r"action-.* cannot be loaded: .*'matrices'"):
        load(folder)


def test_a_language_model_without_a_tokeniser(tmp_path):
    config = LanguageModelRun("gpt2", "cats", 300, 8, 16, 1, 2)
    folder = saved(tmp_path, config, make_language_model(config))
    with pytest.raises(ValueError, match=r"gpt2-.* cannot be loaded: tokenizer\.json"):
        load(folder)
