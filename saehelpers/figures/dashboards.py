"""Dashboards of latents: one HTML page that needs no network and no other file.

The page is the template beside this module with its data written into it as JSON, in which
every "<" is escaped; the page itself puts text in as text only. Activations are rounded to
255 steps, tokens and images are kept once: 100 latents over 200,000 tokens stay below 5 MB.
"""

import base64
import html
import json
from collections.abc import Callable, Sequence
from importlib.resources import files
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import pandas as pd
import torch
from jaxtyping import Float, Int, Integer, UInt8
from torch import Tensor, nn

from saehelpers.evaluation import attribution
from saehelpers.evaluation.matching import cosine_matrix
from saehelpers.networks.activations import read_activations
from saehelpers.runs.checking import check_finite, checked
from saehelpers.runs.extras import extra
from saehelpers.runs.files import write_atomically
from saehelpers.runs.wanted import FROM_ZERO, NOT_EMPTY, Count, Positive, Seed, with_columns
from saehelpers.saes import SAE

if TYPE_CHECKING:
    import IPython.display

Latents = Annotated[Sequence[Count], NOT_EMPTY]
Cards = Annotated[pd.DataFrame, with_columns("latent", "verdict", "probability")]
N_TOP, N_SAMPLED = 12, 8  # examples of each latent: the strongest, and others that are active
N_WORDS, N_NEIGHBOURS, N_BINS = 10, 8, 40
BEFORE, AFTER = 48, 15  # tokens shown around the strongest one of a context
N_SOURCES, LEAST_SOURCE = 6, 0.01  # of each active token; smaller shares of the largest left out


@checked
def text_dashboard(
    path: Path | str,
    tokens: Annotated[Integer[Tensor, "n context"], FROM_ZERO],
    vocabulary: Annotated[Sequence[str], NOT_EMPTY],
    latents: Latents,
    activations: Float[Tensor, "n context latents"],
    title: str = "Latents",
    sources: Callable[[int, Int[Tensor, " examples"]], Float[Tensor, "examples t s"]] | None = None,
    effects: Float[Tensor, "latents vocabulary"] | None = None,
    heads: Float[Tensor, "latents heads"] | None = None,
    dictionary: Float[Tensor, "n_latents d"] | None = None,
    seed: Seed = 0,
    cards: Cards | None = None,
) -> Path:
    """Write a page of these latents on text, and return its path.

    Args:
        vocabulary: how each token reads.
        latents: the numbers of the latents; `activations` are theirs, in this order.
        sources: direct feature attributions of the i-th of them in some of the contexts, for
            what a token shows when it is pointed at.
        effects: on the logits, for the tokens promoted and suppressed most.
        heads: head attribution.
        dictionary: of the whole SAE, for the neighbours.
        seed: of the sampled contexts.
        cards: as `saehelpers.cards` gives them; the page is then sorted and filtered by verdict,
            by the keys s and f.

    Raises:
        IndexError: there is no latent of that number in the dictionary.
        ValueError: activations that are not those of these tokens and latents, a token without a
            word, or a latent without a card.
    """
    if activations.shape != (*tokens.shape, len(latents)):
        raise ValueError(
            f"activations {tuple(activations.shape)} are not of tokens {tuple(tokens.shape)} and "
            f"{len(latents)} latents"
        )
    tokens = tokens.long()
    if tokens.max() >= len(vocabulary):
        raise ValueError(f"tokens has {int(tokens.max())}, vocabulary only {len(vocabulary)} words")
    if effects is not None and effects.shape[1] > len(vocabulary):
        raise ValueError(
            f"effects {tuple(effects.shape)} are on more words than the {len(vocabulary)} of the "
            "vocabulary"
        )
    words = _Table()
    generator = torch.Generator().manual_seed(seed)
    pages = []
    for i, page in enumerate(_pages(latents, activations, heads, dictionary, cards)):
        values = activations[..., i]
        peaks, places = values.max(dim=1)
        groups = _examples(peaks, generator)
        chosen = torch.tensor([example for group in groups.values() for example in group]).long()
        found = None if sources is None or not len(chosen) else sources(i, chosen)
        if found is not None:
            check_finite(f"what sources({i}, ...) returns", found)
        row = 0
        for group, examples in groups.items():
            page[group] = []
            for example in examples:
                start = max(0, int(places[example]) - BEFORE)
                span = slice(start, int(places[example]) + AFTER + 1)
                context = {
                    "tokens": [words(int(token)) for token in tokens[example, span]],
                    "activations": _quantised(values[example, span], page["max"]),
                }
                if found is not None:
                    active = values[example, span] > 0
                    context["sources"] = _strongest(found[row][span, span], active)
                page[group].append(context)
                row += 1
        if effects is not None:
            order = effects[i].argsort(descending=True).tolist()
            for name, ids in (("promoted", order), ("suppressed", order[::-1])):
                page[name] = [[words(t), round(float(effects[i, t]), 3)] for t in ids[:N_WORDS]]
        pages.append(page)
    data = {"kind": "text", "words": [vocabulary[token] for token in words.kept]}
    return _write(path, data | {"title": title, "unit": "tokens", "latents": pages})


@checked
def image_dashboard(
    path: Path | str,
    images: UInt8[Tensor, "n channels height width"],
    latents: Latents,
    activations: Float[Tensor, "n latents rows columns"],
    title: str = "Latents",
    dictionary: Float[Tensor, "n_latents d"] | None = None,
    seed: Seed = 0,
    cards: Cards | None = None,
) -> Path:
    """As `text_dashboard`, on images of one or three channels, and return its path.

    `activations` are maps over each image; a latent of whole images has maps of one pixel.
    """
    if activations.shape[:2] != (len(images), len(latents)):
        raise ValueError(
            f"activations {tuple(activations.shape)} are not of {len(images)} images and "
            f"{len(latents)} latents"
        )
    if images.shape[1] not in (1, 3):
        raise ValueError(f"images must have one or three channels, got {tuple(images.shape)}")
    pictures = _Table()
    generator = torch.Generator().manual_seed(seed)
    pages = []
    for i, page in enumerate(_pages(latents, activations.movedim(1, -1), None, dictionary, cards)):
        maps = activations[:, i]
        for group, examples in _examples(maps.amax((1, 2)), generator).items():
            page[group] = [
                {"image": pictures(example), "map": _quantised(maps[example], page["max"])}
                for example in examples
            ]
        pages.append(page)
    data = {"kind": "image", "images": [_picture(images[image]) for image in pictures.kept]}
    data |= {"rows": activations.shape[2], "columns": activations.shape[3]}
    unit = "images" if activations[0, 0].numel() == 1 else "places"
    return _write(path, data | {"title": title, "unit": unit, "latents": pages})


@checked
@torch.no_grad()
def attention_dashboard(
    path: Path | str,
    model: nn.Module,
    layer: Count,
    sae: SAE,
    latents: Latents,
    tokens: Annotated[Integer[Tensor, "n context"], FROM_ZERO],
    vocabulary: Annotated[Sequence[str], NOT_EMPTY],
    title: str = "Attention latents",
) -> Path:
    """`text_dashboard` of an attention-output SAE, with all that attribution tells.

    Raises: as `saehelpers.evaluation.attribution` for models, heads and latents that do not fit.
    """
    latents = list(latents)
    n_heads = model.transformer.h[layer].attn.num_heads
    directions = attribution.encoder_directions(sae, latents, n_heads)
    outputs = read_activations(model, tokens, f"transformer.h.{layer}.attn.c_proj.input")
    attribution.check_trained_here(sae, outputs[:64])
    activations = torch.cat(
        [sae.encode(part.flatten(0, 1))[:, latents] for part in outputs.split(64)]
    )

    def sources(i: int, examples: Tensor) -> Tensor:
        read = attribution.read_attention(model, tokens[examples], layer)
        return attribution.attribution_by_source(read.patterns, read.values, directions[i : i + 1])[
            :, 0
        ]

    everything = range(sae.config.n_latents)
    return text_dashboard(
        path,
        tokens,
        vocabulary,
        latents,
        activations.unflatten(0, tokens.shape),
        title,
        sources,
        attribution.logit_effects(
            model, attribution.written_directions(model, layer, sae, latents)
        ),
        attribution.head_attribution(sae, n_heads)[latents],
        attribution.decoder_directions(sae, everything, n_heads).flatten(1),
    )


@checked
def show(page: Path | str, height: Positive = 640) -> "IPython.display.HTML":
    """A dashboard within a notebook, all of it: JupyterLab serves no files above its root."""
    with extra("notebooks"):
        from IPython.display import HTML

    text = html.escape(Path(page).read_text(encoding="utf-8"))
    frame = f'<iframe srcdoc="{text}" width="100%" height="{height}" style="border:0"></iframe>'
    return HTML(f"<div>{frame}</div>")


class _Table:
    """Numbers things in the order in which they are first asked for."""

    def __init__(self):
        self.kept: dict[int, int] = {}

    def __call__(self, thing: int) -> int:
        return self.kept.setdefault(thing, len(self.kept))


def _pages(
    latents, activations: Float[Tensor, "*n latents"], heads, dictionary, cards
) -> list[dict]:
    """What does not depend on the kind of data: numbers, histogram, heads, neighbours, cards."""
    check_finite("activations", activations)
    if dictionary is not None:
        outside = [latent for latent in latents if not 0 <= latent < len(dictionary)]
        if outside:
            raise IndexError(f"latent {outside[0]} of an SAE with {len(dictionary)} latents")
        cosines = cosine_matrix(dictionary[list(latents)], dictionary)
        cosines[torch.arange(len(latents)), list(latents)] = -2  # not its own neighbour
        nearest = cosines.topk(min(N_NEIGHBOURS, len(dictionary) - 1))
    pages = []
    for i, latent in enumerate(latents):
        values = activations[..., i].flatten()
        active = values[values > 0]
        largest = float(active.max()) if len(active) else 0.0
        page: dict[str, Any] = {
            "latent": int(latent),
            "active": len(active),
            "total": len(values),
            "max": largest,
            "histogram": active.float().histc(N_BINS, 0, largest).int().tolist() if largest else [],
        }
        if heads is not None:
            page["heads"] = [round(share, 4) for share in heads[i].tolist()]
        if dictionary is not None:
            pairs = zip(nearest.indices[i].tolist(), nearest.values[i].tolist(), strict=True)
            page["neighbours"] = [[other, round(cosine, 3)] for other, cosine in pairs]
        if cards is not None:
            page["card"] = _card(cards, latent)
        pages.append(page)
    return pages


def _card(cards: pd.DataFrame, latent: int) -> dict[str, Any]:
    """Verdict, probability (None if there is none) and what else is known, as texts."""
    own = cards[cards["latent"] == latent]
    if len(own) != 1:
        raise ValueError(f"cards must have one row for latent {latent}, they have {len(own)}")
    values = own.iloc[0].to_dict()
    p = float(values.pop("probability"))
    card = {"verdict": str(values.pop("verdict")), "probability": None if p != p else round(p, 4)}
    known = {name: value for name, value in values.items() if name != "latent" and value == value}
    card["facts"] = [
        [name.replace("_", " "), f"{value:.3g}" if isinstance(value, float) else str(value)]
        for name, value in known.items()
        if value != ""
    ]
    return card


def _examples(peaks: Float[Tensor, " n"], generator: torch.Generator) -> dict[str, list[int]]:
    """The examples with the highest peaks, and some drawn from the other active ones."""
    order = peaks.argsort(descending=True, stable=True)
    order = order[: int((peaks > 0).sum())]
    rest = order[N_TOP:]
    drawn = rest[torch.randperm(len(rest), generator=generator)[:N_SAMPLED].sort().values]
    return {"top": order[:N_TOP].tolist(), "sampled": drawn.tolist()}


def _quantised(values: Tensor, largest: float) -> str:
    """Bytes, 255 for the largest value of the latent and at least 1 for any active one."""
    scaled = (values.flatten().clamp(min=0) * (255 / largest)).ceil().clamp(max=255)
    return base64.b64encode(scaled.to(torch.uint8).cpu().numpy().tobytes()).decode()


def _strongest(attributions: Float[Tensor, "t s"], active) -> dict[int, list[tuple[int, float]]]:
    """For each active token its strongest sources: (position, attribution)."""
    found = {}
    for t in active.nonzero().flatten().tolist():
        row = attributions[t, : t + 1]
        sizes, order = row.abs().topk(min(N_SOURCES, len(row)))
        kept = order[sizes >= LEAST_SOURCE * sizes[0]].tolist()
        found[t] = [(s, float(f"{float(row[s]):.3g}")) for s in kept]
    return found


def _picture(image: UInt8[Tensor, "channels height width"]) -> str:
    with extra("notebooks"):
        from PIL import Image

    array = image[0] if len(image) == 1 else image.movedim(0, -1)
    file = BytesIO()
    Image.fromarray(array.cpu().numpy()).save(file, "JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


def _write(path: Path | str, data: dict[str, Any]) -> Path:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    template = files("saehelpers.figures").joinpath("dashboard.html").read_text(encoding="utf-8")
    # no tag can end or begin within the data, whatever the tokens are
    text = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    write_atomically(path, template.replace("DASHBOARD_DATA", text, 1).encode())
    return path
