"""Small GPT-2s, and any pretrained language model."""

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor, nn

from saehelpers.runs.checking import checked
from saehelpers.runs.extras import extra
from saehelpers.runs.wanted import Positive, Seed

if TYPE_CHECKING:
    import tokenizers
    import transformers


@checked
def make_gpt2(
    vocab_size: Positive,
    context: Positive,
    width: Positive = 128,
    n_layers: Positive = 4,
    n_heads: Positive = 4,
    seed: Seed = 0,
    attention_only: bool = False,
) -> nn.Module:
    """A fresh GPT-2 (Hugging Face `GPT2LMHeadModel`) without dropout, embeddings untied.

    `attention_only`: no MLPs, and positions that start as sinusoids, of which an earlier
    position is a rotation: induction is learnt in minutes.

    Raises:
        ValueError: the heads do not divide the width.
    """
    with extra("text"):
        from transformers import GPT2Config, GPT2LMHeadModel

    if width % n_heads:
        raise ValueError(
            f"{n_heads} heads do not divide the width {width}: n_heads must be a divisor"
        )
    config = GPT2Config(
        vocab_size=vocab_size, n_positions=context, n_embd=width, n_layer=n_layers,
        n_head=n_heads, embd_pdrop=0.0, attn_pdrop=0.0, resid_pdrop=0.0, bos_token_id=0,
        eos_token_id=0, tie_word_embeddings=False, use_cache=False,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = GPT2LMHeadModel(config)
    if attention_only:
        for block in model.transformer.h:
            block.mlp, block.ln_2 = _Nothing(), nn.Identity()
        model.transformer.wte.weight.data *= 5  # as large as the positions
        model.transformer.wpe.weight.data = 0.14 * _sinusoids(context, width)
    return model


class _Nothing(nn.Module):
    """What an MLP that is not there adds to the residual stream."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)


def _sinusoids(context: int, width: int) -> Float[Tensor, "context width"]:
    half = width // 2
    angles = torch.arange(context)[:, None] / 10_000 ** (torch.arange(half) / half)
    return torch.cat([angles.sin(), angles.cos()], dim=1)


@checked
def load_pretrained_language_model(
    source: str | Path, dtype: torch.dtype = torch.float32
) -> tuple[nn.Module, "tokenizers.Tokenizer | transformers.PreTrainedTokenizerBase"]:
    """Any causal language model and its tokeniser, from the Hugging Face hub or a local folder.

    A tokeniser that transformers writes in Python, such as those of bytes, stays one of its.

    dtype: of the weights: torch.bfloat16 for models that would not fit in float32.

    Raises:
        FileNotFoundError: it is neither on disk nor to be reached.
    """
    with extra("text"):
        from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        model = AutoModelForCausalLM.from_pretrained(source, dtype=dtype)
        tokeniser = AutoTokenizer.from_pretrained(source)
    except OSError as error:
        raise FileNotFoundError(
            f"no language model at {str(source)!r}: neither a local folder (config.json, "
            "model.safetensors and tokenizer.json) nor to be reached on the Hugging Face hub. "
            'Pass the path of such a folder, or choose the one trained here, MODEL = "gpt2_docs".'
        ) from error
    return model.eval().requires_grad_(False), getattr(tokeniser, "backend_tokenizer", tokeniser)
