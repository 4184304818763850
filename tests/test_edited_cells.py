"""An edited cell gets its own numbers: data of the same name, shape and number are other data.

Elsewhere: what a changed parameter remakes (test_parameters.py), what tells things apart
(runs/test_identities.py), rows and their causes (experiments/test_measuring.py,
experiments/test_experiments.py), `force` and left-over checkpoints (there, too), searching
methods in scores and probes (evaluation/test_metrics.py, evaluation/test_probing.py).
"""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from saehelpers import runs
from saehelpers.datasets import load_image_folder, read_documents, split
from saehelpers.evaluation import ProbeInput, probe_inputs
from saehelpers.experiments import EncoderRun, load_or_train_encoder, measure_probes
from saehelpers.runs import identity, results
from saehelpers.saes import SAEConfig, make_sae
from saehelpers.training.methods import SAERun

N_IMAGES = 24


def write_images(folder: Path, classes: tuple[str, str]) -> Path:
    """Dark pictures of the one class, bright ones of the other, of equal names."""
    for i in range(N_IMAGES):
        path = folder / classes[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(i).integers(0, 100, (16, 16, 3)) + 150 * (i % 2)
        Image.fromarray(pixels.astype(np.uint8)).save(path)
    return folder


def classify(folder: Path, models: Path) -> tuple[str, float]:
    """The run of a classifier and its accuracy on the held-out part, as notebook 03 has them."""
    train, test = split(load_image_folder(folder, size=16), 8)
    told = identity((train.images, train.labels))
    config = EncoderRun("base", told, (4, 8), (1, 1), 2, 2, epochs=40, batch_size=8)
    encoder, history = load_or_train_encoder(
        config, train.images, train.labels, (test.images, test.labels), models
    )
    right = (encoder(test.images).logits.argmax(-1) == test.labels).double().mean().item()
    assert history.validation_accuracy.iloc[-1] == right
    return runs.run_id(config), right


def test_a_folder_of_the_same_name_and_number_with_swapped_labels_is_learnt_anew(tmp_path):
    one = write_images(tmp_path / "A" / "galaxies", ("dark", "light"))
    other = write_images(tmp_path / "B" / "galaxies", ("light", "dark"))
    ids, accuracies = zip(*(classify(folder, tmp_path) for folder in (one, other)), strict=True)
    assert accuracies == (1, 1) and ids[0] != ids[1]
    assert classify(one, tmp_path)[0] == ids[0]


def test_a_text_that_was_replaced_is_another_one(tmp_path):
    told = []
    for text in ("one\n\ntwo", "one\n\ntoo"):
        (tmp_path / "text.txt").write_text(text)
        told.append(identity(read_documents(tmp_path / "text.txt")))
    assert told[0] != told[1]


@pytest.mark.parametrize("changes", [{"n_latents": 24}, {"topk": 5}, {"activation": "batch_topk"}])
def test_probes_of_a_random_sae_are_those_of_its_settings(toy, tmp_path, changes):
    labels = torch.arange(len(toy.activations))[:, None] % 3 == 0
    tasks = pd.DataFrame({"task_type": ["S"], "task": ["third"]})
    elements = torch.zeros(len(labels), dtype=torch.long)
    config = SAERun("canonical", identity(toy.activations), SAEConfig(8, 12, topk=3))
    settings = {"d": 8, "n_latents": 12, "topk": 3}

    def measure(settings) -> pd.DataFrame:
        torch.manual_seed(0)
        sae = make_sae(SAEConfig(**settings)).eval()
        given: ProbeInput = probe_inputs(sae, toy.activations, elements)["none"]
        plan = [(config, {"method": "random"}, "logistic", 2, given)]
        return measure_probes(plan, labels, tasks, 200, lambda _: tmp_path / "rows.csv")

    first, second = measure(settings), measure(settings | changes)
    assert len(results.read(tmp_path / "rows.csv")) == 2
    assert measure(settings).equals(first) and measure(settings | changes).equals(second)
