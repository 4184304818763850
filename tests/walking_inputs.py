"""Small inputs of one's own, which parameters are changed to: texts, images, models, tables."""

import shutil
from pathlib import Path

import pandas as pd
from PIL import Image

from saehelpers.datasets import SPLITS, go, read_documents, train_tokeniser
from saehelpers.datasets.galaxies import CLASSES, draw_galaxy
from saehelpers.networks import make_go_network, make_gpt2
from tests.networks.test_go import written

SIZE = 32  # pixels a side, as in the small runs of the galaxies
N_IMAGES = 80
WIDTHS = {"32": "24", "128": "96"}  # number of latents of a table of results, and of its copy


ROOT = Path(__file__).parent.parent


def make_inputs(folder: Path) -> None:
    """text.txt, images/<class>/<i>.png, gpt2/, network.bin, games/, and tables of results."""
    text = (ROOT / "README.md").read_text(encoding="utf-8").swapcase()
    (folder / "text.txt").write_text(text, encoding="utf-8")
    for i in range(N_IMAGES):
        kind = CLASSES[i % len(CLASSES)]
        image, _ = draw_galaxy(kind, SIZE, (1, i))
        path = folder / "images" / kind / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    _write_gpt2(folder / "gpt2", read_documents(folder / "text.txt"))
    network = make_go_network(n_blocks=3, channels=8, seed=1)
    (folder / "network.bin").write_bytes(written(network))
    _write_games(folder / "games", go.play_games(network.policy, 9, size=5, seed=2))
    _write_tables(folder, ROOT / "probe_results")
    shutil.copytree(ROOT / "data" / "reference", folder / "reference")
    published = folder / "reference" / "shapes_probe_f1.csv"
    table = pd.read_csv(published)
    table.assign(f1_mean=table.f1_mean * 0.9).to_csv(published, index=False)


def _write_tables(folder: Path, shipped: Path) -> None:
    """The shipped tables as they are, and fewer rows of some, a few of them own ones."""
    for name in ("shipped", "results", "results/own"):
        (folder / name).mkdir()
    for path in shipped.glob("*.csv*"):
        shutil.copy(path, folder / "shipped")
    named = [path for kind in ("shapes", "galaxy", "toy") for path in shipped.glob(f"{kind}*.csv*")]
    for path in named:
        _read(path).pipe(_of_two_widths).to_csv(folder / "results" / path.name, index=False)
    galaxies = _read(shipped / "galaxy_probes.csv")
    first = galaxies[galaxies.seed == "0"]
    first.to_csv(folder / "results" / "own" / "galaxy_probes.csv", index=False)


def _write_games(folder: Path, games: go.Games) -> None:
    folder.mkdir()
    for number, moves in enumerate(games.moves.tolist()):
        points = [chr(97 + m % 5) + chr(97 + m // 5) if m < 25 else "" for m in moves if m >= 0]
        nodes = [f";{'BW'[i % 2]}[{point}]" for i, point in enumerate(points)]
        (folder / f"{number}.sgf").write_text(f"(;SZ[5]KM[7.5]{''.join(nodes)})")


def _write_gpt2(folder: Path, documents: list[str]) -> None:
    from transformers import PreTrainedTokenizerFast

    tokeniser = train_tokeniser(documents, 300)
    make_gpt2(300, 128, width=16, seed=1).save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=tokeniser).save_pretrained(folder)


def _read(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, dtype=str, keep_default_na=False)


def _of_two_widths(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of MLPs of the paper's split, other ones as if of narrower SAEs, and all as if of
    the other split.

    Of galaxies and toys all rows as they are.
    """
    of_shapes = table.dataset == "shapes"
    drawn_alike, held_back = SPLITS.values()
    mlp = table[of_shapes & (table.base_model == "mlp") & (table.data_source == drawn_alike)]
    narrower = mlp[mlp.n_latents.isin(WIDTHS)]
    value = pd.to_numeric(narrower.value) * 0.9
    narrower = narrower.assign(n_latents=narrower.n_latents.map(WIDTHS), value=value)
    here = pd.concat([mlp, narrower])
    there = here.assign(data_source=held_back, value=pd.to_numeric(here.value) * 0.95)
    return pd.concat([table[~of_shapes], here, there])
