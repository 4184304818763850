"""Dashboards, as a browser shows them."""

import base64
import json
import re
import shutil

import pandas as pd
import pytest
import torch
from torch.testing import assert_close

from saehelpers.evaluation import attribution
from saehelpers.figures import dashboards
from saehelpers.networks import make_gpt2
from saehelpers.saes import SAEConfig
from saehelpers.training.methods import SAERun
from saehelpers.training.side_by_side import train_saes

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
NASTY = [
    "<script>document.title='taken'</script>",
    "</script>",
    "<!--",
    "<img src=x onerror=alert(1)>",
]
WORDS = [f" word{i}" for i in range(26)] + NASTY
N, CONTEXT, LATENTS = 60, 16, [3, 7, 11, 2]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def tokens():
    return torch.randint(len(WORDS), (N, CONTEXT), generator=generator())


@pytest.fixture(scope="module")
def activations(tokens):
    """Latent 3 fires on nasty words, 7 on word1, 11 on one token in three, 2 never."""
    size = 1 + torch.rand(tokens.shape, generator=generator(1))
    third = torch.rand(tokens.shape, generator=generator(2)) < 1 / 3
    return torch.stack([size * (tokens >= 26), size * (tokens == 1), size * third, 0 * size], -1)


def sources(i, examples):
    """Everything comes from two tokens back."""
    return torch.eye(CONTEXT).roll(2, dims=0).tril().expand(len(examples), -1, -1)


@pytest.fixture(scope="module")
def page(tmp_path_factory, tokens, activations):
    effects = torch.randn(len(LATENTS), len(WORDS), generator=generator(3))
    effects[0, 26:] += 10
    heads = torch.tensor([[0.7, 0.3], [0.5, 0.5], [1.0, 0.0], [0.25, 0.75]])
    dictionary = torch.randn(12, 5, generator=generator(4))
    path = tmp_path_factory.mktemp("pages") / "text.html"
    title = "Latents of <b>layer 1</b>"
    return dashboards.text_dashboard(
        path, tokens, WORDS, LATENTS, activations, title, sources, effects, heads, dictionary
    )


def written(path):
    text = path.read_text(encoding="utf-8")
    return json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL).group(1))


def levels(text):
    return torch.tensor(list(base64.b64decode(text)))


def test_the_page_holds_what_was_given(page, tokens, activations):
    data = written(page)
    assert [latent["latent"] for latent in data["latents"]] == LATENTS
    for i, latent in enumerate(data["latents"][:3]):
        values = activations[..., i]
        assert latent["active"] == (values > 0).sum()
        assert latent["total"] == tokens.numel()
        assert sum(latent["histogram"]) == latent["active"]
        peaks = values.amax(1)
        order = peaks.argsort(descending=True, stable=True)
        assert len(latent["top"]) == min(dashboards.N_TOP, int((peaks > 0).sum()))
        for context, example in zip(latent["top"], order.tolist(), strict=False):
            shown = [data["words"][token] for token in context["tokens"]]
            assert shown == [WORDS[token] for token in tokens[example]]
            assert_close(
                levels(context["activations"]) * latent["max"] / 255, values[example],
                atol=latent["max"] / 255, rtol=0,
            )  # fmt: skip
            for t, found in context["sources"].items():
                assert values[example, int(t)] > 0
                assert found[0] == [int(t) - 2, 1.0] or int(t) < 2
    assert data["latents"][3]["active"] == 0 and not data["latents"][3]["top"]


def test_no_word_ends_the_data(page):
    text = page.read_text(encoding="utf-8")
    start = text.index('id="data">')
    assert "<" not in text[start : text.index("</script>", start)]
    assert "http" not in re.sub(r"http://www\.w3\.org/2000/svg", "", text)  # nothing is fetched


def test_long_contexts_are_cut_around_their_peak(tmp_path):
    tokens = torch.arange(400)[None] % 26
    activations = torch.zeros(1, 400, 1)
    activations[0, 300] = 2.0
    path = dashboards.text_dashboard(tmp_path / "a.html", tokens, WORDS, [0], activations)
    context = written(path)["latents"][0]["top"][0]
    shown = levels(context["activations"])
    assert len(shown) == dashboards.BEFORE + 1 + dashboards.AFTER == len(context["tokens"])
    assert shown.nonzero().flatten().tolist() == [dashboards.BEFORE]


@pytest.fixture(scope="module")
def explained(tmp_path_factory):
    """A small model, an SAE of its first layer's heads, tokens."""
    model = make_gpt2(len(WORDS), CONTEXT, 16, 2, 2, attention_only=True).eval()
    model.requires_grad_(False).set_attn_implementation("eager")
    tokens = torch.randint(len(WORDS), (N, CONTEXT), generator=generator())
    z = attribution.read_attention(model, tokens, 0).outputs.flatten(0, 1)
    config = SAEConfig(16, 32, "topk", 4, encoder="linear", dictionary="block_diagonal", n_heads=2)
    run = SAERun("heads", "tokens", config, epochs=20, learning_rate=1e-2)
    (sae,), _ = train_saes([run], [z[:, None]], progress=False)
    return model, sae, tokens


def test_attention_dashboard_shows_what_attribution_finds(explained, tmp_path):
    model, sae, tokens = explained
    latents = sae.encode(attribution.read_attention(model, tokens, 0).outputs.flatten(0, 1))
    chosen = latents.mean(0).topk(2).indices.tolist()
    path = tmp_path / "a.html"
    dashboards.attention_dashboard(path, model, 0, sae, chosen, tokens, WORDS)
    for latent in written(path)["latents"]:
        values = latents[:, latent["latent"]].view(N, CONTEXT)
        assert latent["max"] == pytest.approx(values.max().item(), rel=1e-4)
        assert latent["heads"][latent["latent"] // 16] == 1
        example, t = divmod(int(values.argmax()), CONTEXT)
        read = attribution.read_attention(model, tokens[example : example + 1], 0)
        w = attribution.encoder_directions(sae, [latent["latent"]], 2)
        row = attribution.attribution_by_source(read.patterns, read.values, w)[0, 0, t]
        source, value = latent["top"][0]["sources"][str(t)][0]
        assert source == row.abs().argmax()
        assert value == pytest.approx(row[source].item(), rel=5e-3)


def test_an_sae_of_something_else(explained, tmp_path):
    model, sae, tokens = explained
    with pytest.raises(IndexError, match="latent 32 of an SAE with 32 latents"):
        dashboards.attention_dashboard(tmp_path / "a.html", model, 0, sae, [32], tokens, WORDS)
    shifted = sae.heads.mean.clone()
    sae.heads.mean += 5
    try:
        with pytest.raises(ValueError, match="was trained on those of another layer or model"):
            dashboards.attention_dashboard(tmp_path / "a.html", model, 0, sae, [3], tokens, WORDS)
    finally:
        sae.heads.mean.copy_(shifted)


BAD = {
    "shape": ({"latents": [1, 2]}, ValueError, r"are not of tokens \(60, 16\) and 2 latents"),
    "NaN": ({"effects": torch.full((4, 30), float("nan"))}, ValueError, "effects has NaN"),
    "infinite": ({"heads": torch.full((4, 2), float("inf"))}, ValueError, "heads has NaN or inf"),
    "rows": ({"dictionary": torch.full((12, 5), float("nan"))}, ValueError, "dictionary has NaN"),
    "sources": (
        {"sources": lambda i, some: torch.full((len(some), 16, 16), float("nan"))},
        ValueError,
        r"sources\(0, ...\) returns has NaN",
    ),
    "no text": ({"vocabulary": list(range(30))}, TypeError, r"vocabulary\[0\] must be a text"),
    "effects": (
        {"effects": torch.zeros(4, 31)},
        ValueError,
        "effects .* on more words than the 30",
    ),
    "negative": ({"latents": [3, 7, 11, -1]}, ValueError, r"latents\[3\] must be 0 or more"),
    "word": ({"vocabulary": WORDS[:5]}, ValueError, "vocabulary only 5 words"),
    "latent": ({"dictionary": torch.eye(11)}, IndexError, "latent 11 of an SAE with 11 latents"),
}


@pytest.mark.parametrize("case", BAD.values(), ids=BAD)
def test_bad_input(case, tmp_path, tokens, activations):
    options, error, message = case
    given = {"vocabulary": WORDS, "latents": LATENTS} | options
    with pytest.raises(error, match=message):
        dashboards.text_dashboard(tmp_path / "a.html", tokens, activations=activations, **given)
    assert not (tmp_path / "a.html").exists()


def test_no_latents(tmp_path, tokens, activations):
    with pytest.raises(ValueError, match="latents must be one or more"):
        dashboards.text_dashboard(tmp_path / "a", tokens, WORDS, [], activations)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_activations_that_are_no_numbers(number, tmp_path, tokens, activations):
    bad = activations.clone()
    bad[3, 5, 1] = number
    with pytest.raises(ValueError, match="activations has NaN or infinite values"):
        dashboards.text_dashboard(tmp_path / "a", tokens, WORDS, LATENTS, bad)
    with pytest.raises(ValueError, match="tokens must be of numbers from 0 up"):
        dashboards.text_dashboard(tmp_path / "a", tokens - 1, WORDS, LATENTS, activations)
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module", params=[1, 3], ids=["grey", "colour"])
def image_page(request, tmp_path_factory):
    images = torch.randint(256, (30, request.param, 8, 8), generator=generator()).byte()
    activations = torch.rand(30, 2, 4, 4, generator=generator(1))
    activations[:, 1] = 0
    path = tmp_path_factory.mktemp("pages") / "images.html"
    return dashboards.image_dashboard(path, images, [0, 5], activations, "Images")


CARDS = pd.DataFrame(
    {"latent": LATENTS, "verdict": ["not decided", "trust", "trust", "do not"],
     "probability": [0.5, 0.91, 0.99, float("nan")], "label": ["<b>nasty</b>", "word", "", "x"],
     "silent_share": [0.12345, 0.0, 0.1, float("nan")]}
)  # fmt: skip


@pytest.fixture(scope="module")
def card_page(tmp_path_factory, tokens, activations):
    path = tmp_path_factory.mktemp("pages") / "cards.html"
    dictionary = torch.randn(12, 5, generator=generator(4))
    return dashboards.text_dashboard(
        path, tokens, WORDS, LATENTS, activations, "Cards", dictionary=dictionary, cards=CARDS
    )


def test_cards_stand_beside_their_latents(card_page, tokens, activations):
    cards = [latent["card"] for latent in written(card_page)["latents"]]
    assert [card["verdict"] for card in cards] == CARDS["verdict"].tolist()
    assert [card["probability"] for card in cards] == [0.5, 0.91, 0.99, None]
    assert cards[0]["facts"] == [["label", "<b>nasty</b>"], ["silent share", "0.123"]]
    assert cards[2]["facts"] == [["silent share", "0.1"]]  # nothing, and NaN, are left out
    with pytest.raises(ValueError, match="cards must have one row for latent 2, they have 0"):
        dashboards.text_dashboard(
            card_page, tokens, WORDS, LATENTS, activations, cards=CARDS.iloc[:3]
        )


# --- in the browser ---


@pytest.fixture(scope="module")
def chromium():
    api = pytest.importorskip("playwright.sync_api")
    if BROWSER is None:
        pytest.skip("no chromium on this machine")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def browse(chromium):
    """Opens a page without a network; at the end nothing may have gone wrong in it."""
    problems, contexts = [], []

    def visit(path, **options):
        context = chromium.new_context(offline=True, **options)
        contexts.append(context)
        tab = context.new_page()
        tab.on("console", lambda message: problems.append(message.text))
        tab.on("pageerror", lambda error: problems.append(str(error)))
        tab.goto(path.as_uri())
        return tab

    yield visit
    for context in contexts:
        context.close()
    assert problems == []


def test_choosing_another_latent_changes_the_contexts(browse, page):
    tab = browse(page)
    seen = [tab.inner_text("#examples")]
    tab.keyboard.press("ArrowRight")
    seen.append(tab.inner_text("#examples"))
    tab.select_option("#choice", label="latent 11")
    seen.append(tab.inner_text("#examples"))
    tab.fill("#search", "3")
    assert tab.inner_text("#examples") == seen[0]
    assert len(set(seen)) == 3
    tab.keyboard.press("Escape")
    tab.keyboard.press("ArrowLeft")  # around, to the last one
    assert "Latent 2 has no active examples" in tab.inner_text("#examples")
    assert tab.locator("#examples .context").count() == 0
    assert tab.locator(".heads div").count() == 2


def test_cards_are_filtered_and_sorted_by_keyboard(browse, card_page, page):
    tab = browse(card_page)

    def shown():
        tab.keyboard.press("ArrowRight")
        numbers = []
        for _ in range(tab.locator("#choice option").count()):
            numbers.append(int(tab.locator("#choice option:checked").inner_text().split()[1]))
            tab.keyboard.press("ArrowRight")
        return numbers

    assert "can it be trusted?" in tab.inner_text("#facts").lower()
    assert "<b>nasty</b>" in tab.inner_text("#facts")
    tab.keyboard.press("f")  # those to trust
    assert sorted(shown()) == [7, 11] and "of 2" in tab.inner_text("#place")
    tab.keyboard.press("s")  # the most likely first
    assert tab.locator("#choice option:checked").inner_text() == "latent 11"
    assert "probability 0.99" in tab.inner_text("#facts")
    for _ in range(3):  # not decided, do not, every verdict
        tab.keyboard.press("f")
    options = tab.locator("#choice option")
    assert [options.nth(i).inner_text().split()[1] for i in range(4)] == ["11", "7", "3", "2"]
    tab.keyboard.press("f")
    tab.fill("#search", "2")  # which the filter leaves out
    assert "fires too seldom" in tab.inner_text("#facts")
    assert browse(page).locator("#filter").is_hidden()  # without cards there is nothing to filter


def test_pointing_at_a_token_shows_its_sources(browse, page):
    tab = browse(page)
    tab.select_option("#choice", label="latent 11")
    assert tab.locator("#tip").is_hidden()
    context = tab.locator(".context").first
    spans = context.locator(".token")
    active = [i for i in range(2, CONTEXT) if "active" in spans.nth(i).get_attribute("class")]
    spans.nth(active[0]).hover()
    assert "read from" in tab.inner_text("#tip") and "2 back" in tab.inner_text("#tip")
    assert spans.nth(active[0] - 2).inner_text().strip() in tab.inner_text("#tip")
    marked = [i for i in range(CONTEXT) if "source" in spans.nth(i).get_attribute("class")]
    assert marked == [active[0] - 2]
    tab.mouse.move(1, 1)
    assert tab.locator("#tip").is_hidden() and tab.locator(".source").count() == 0


def test_what_comes_from_the_data_is_text(browse, page):
    tab = browse(page)
    assert tab.title() == "Latents of <b>layer 1</b>"
    assert tab.locator("#title b").count() == 0
    for word in NASTY:
        assert word in tab.inner_text("#examples")
        assert word.replace(" ", "␣") in tab.inner_text("#facts")
    assert tab.locator("main script, main img").count() == 0


def test_what_turns_text_round_does_not_reach_further(browse, tmp_path):
    """U+202E, unclosed, in a token: the words behind it stand to its right, as written."""
    words = ["left", "\u202e", "one ", "two ", "three"]
    tokens = torch.tensor([[0, 1, 2, 3, 4]])
    path = tmp_path / "turned.html"
    dashboards.text_dashboard(
        path, tokens, words, [0], torch.ones(1, 5, 1), effects=torch.rand(1, 5)
    )
    tab = browse(path)
    boxes = [tab.locator(".context .token").nth(i).bounding_box()["x"] for i in range(5)]
    assert boxes == sorted(boxes) and "\u202e" not in tab.inner_text("body")


def test_a_long_title_is_broken(browse, tmp_path, tokens, activations):
    path = tmp_path / "long.html"
    dashboards.text_dashboard(path, tokens, WORDS, LATENTS, activations, title=5000 * "w")
    tab = browse(path, viewport={"width": 800, "height": 600})
    assert tab.evaluate("document.documentElement.scrollWidth") <= 800


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["page", "card_page"])
def test_nothing_is_cut_off_on_a_phone(browse, request, name, scheme):
    page = request.getfixturevalue(name)
    tab = browse(page, viewport={"width": 360, "height": 740}, color_scheme=scheme)
    assert tab.evaluate("document.documentElement.scrollWidth") <= 360
    background, ink = tab.evaluate(
        "(({backgroundColor, color}) => [backgroundColor, color])(getComputedStyle(document.body))"
    )
    light = [sum(map(int, re.findall(r"\d+", value)[:3])) for value in (background, ink)]
    assert (
        (light[0] > 600 > 200 > light[1]) if scheme == "light" else light[0] < 200 < 600 < light[1]
    )


def test_it_opens_inside_a_notebook(browse, page, tmp_path):
    """Without its file: a notebook's output holds the whole page."""
    outer = tmp_path / "outer.html"
    outer.write_text(f'<link rel="icon" href="data:,">{dashboards.show(page).data}')
    tab = browse(outer)
    frame = tab.frame_locator("iframe")
    assert frame.locator(".context").count() > 3


def test_images_and_their_maps(browse, image_page):
    tab = browse(image_page)
    n_pictures = dashboards.N_TOP + dashboards.N_SAMPLED
    assert tab.locator(".picture img").count() == n_pictures
    assert tab.locator(".picture canvas").count() == n_pictures
    loaded = "[...document.images].every((image) => image.complete && image.naturalWidth === 8)"
    assert tab.evaluate(loaded)
    alpha = "document.querySelector('canvas').getContext('2d').getImageData(0, 0, 4, 4).data[3]"
    data = written(image_page)["latents"][0]["top"][0]["map"]
    assert tab.evaluate(alpha) == pytest.approx(0.75 * levels(data)[0].item(), abs=1)
    tab.keyboard.press("ArrowRight")
    assert "Latent 5 has no active examples" in tab.inner_text("#examples")
