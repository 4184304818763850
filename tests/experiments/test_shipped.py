"""The base models that come with the repository are those that the notebooks ask for."""

import ast
import json
from pathlib import Path

import pandas as pd
import pytest
import torch

from saehelpers import runs
from saehelpers.datasets import split, split_shapes
from saehelpers.datasets.galaxies import Survey
from saehelpers.datasets.images import ImageSet
from saehelpers.datasets.text import EmbeddedText
from saehelpers.experiments import EncoderRun, LanguageModelRun, shapes_base_run
from saehelpers.runs.identities import identified, identity

ROOT = Path(__file__).parents[2]
MODELS = ROOT / "models"


def parameters(number: str) -> dict:
    """The defaults of a notebook's parameter cell."""
    (path,) = (ROOT / "notebooks").glob(f"{number}_*.ipynb")
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    (cell,) = [cell for cell in cells if "parameters" in cell["metadata"].get("tags", [])]
    statements = ast.parse("".join(cell["source"])).body
    return {s.targets[0].id: ast.literal_eval(s.value) for s in statements}


def is_there(config) -> bool:
    return runs.load_run(MODELS, config) is not None


@pytest.mark.parametrize("number", ["02", "04"])
@pytest.mark.parametrize("group", ["C4", "D4"])
def test_base_models_of_shapes(number, group):
    given = parameters(number)
    images = split_shapes(given["N_SAMPLES"], 1, given["SPLIT"])[0].images
    for architecture in given["BASE_MODELS"]:
        config = shapes_base_run(
            architecture, images, group, given["AE_EPOCHS"][architecture],
            latent_dim=given["AE_LATENT_DIM"], hidden_dim=given["AE_HIDDEN_DIM"],
            augment=given["AE_AUGMENT"], batch_size=given["AE_BATCH_SIZE"],
            learning_rate=given["AE_LEARNING_RATE"],
        )  # fmt: skip
        assert is_there(config) == (group == "C4" or architecture == "mlp")


def test_classifier_of_galaxies():
    given = parameters("03")
    n = given["N_IMAGES"]
    cause = {"galaxies": "simulated", "n": n, "size": given["SIZE"], "seed": 0}
    cause |= {"survey": identity(Survey())}
    blank = identified(torch.zeros(n, 3, 1, 1, dtype=torch.uint8), cause)  # not drawn: their cause
    classes, index = tuple("abcd"), pd.DataFrame(index=range(n))
    images = ImageSet(blank, torch.arange(n) % 4, classes, "simulated", index)
    train, _ = split(images, given["N_TEST"])
    config = EncoderRun(
        "base_galaxies", identity((train.images, train.labels)), tuple(given["ENCODER_WIDTHS"]),
        tuple(given["ENCODER_DEPTHS"]), group=given["ENCODER_GROUP"],
        epochs=given["ENCODER_EPOCHS"], batch_size=32, augmented=given["ENCODER_AUGMENTED"],
        pixel_mean=0.1, pixel_std=0.12,
    )  # fmt: skip
    assert is_there(config)


@pytest.mark.parametrize("documents", [["one"], ["another", "text"]])
def test_language_models_whatever_the_version_of_python_documents(documents):
    told = identity(EmbeddedText(documents))
    given = parameters("08")
    docs = LanguageModelRun(
        "gpt2_docs", told, given["GPT2_VOCABULARY"], width=given["GPT2_WIDTH"],
        epochs=given["GPT2_EPOCHS"], blocks_per_epoch=given["GPT2_BLOCKS"],
    )  # fmt: skip
    given = parameters("10")
    induction = LanguageModelRun(
        "gpt2_induction", told, given["VOCABULARY"], given["CONTEXT"], given["WIDTH"], 2,
        given["HEADS"], given["EPOCHS"], given["CONTEXTS_PER_EPOCH"], batch_size=64,
        learning_rate=4e-3, attention_only=True, repeats=given["REPEATS"],
    )  # fmt: skip
    assert is_there(docs) and is_there(induction)
