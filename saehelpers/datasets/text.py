"""English text that is there without a network, and its tokens."""

import ast
import sysconfig
import warnings
import zlib
from importlib.util import find_spec
from pathlib import Path
from pydoc_data.topics import topics

import torch
from jaxtyping import Int
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor

from saehelpers import runs

PACKAGES = ("numpy", "scipy", "pandas", "sklearn", "matplotlib")
END = "<|endoftext|>"  # stands between documents
SHORTEST = 100  # characters of a docstring that is kept


def documentation(folder: Path | str) -> list[str]:
    """The documentation inside installed Python packages: 16 MB of English with code in it.

    The topics of `help()`, and the docstrings of the standard library, numpy, scipy, pandas,
    scikit-learn and matplotlib, each once, shuffled. Collecting them takes 20 seconds: the
    text is kept in `folder`, as documentation.txt.
    """
    path = Path(folder) / "documentation.txt"
    if not path.exists():
        roots = [Path(sysconfig.get_path("stdlib"))]
        roots += [Path(find_spec(package).origin).parent for package in PACKAGES]
        documents = dict.fromkeys(topics.values())
        for root in roots:
            for file in sorted(root.rglob("*.py")):
                if not {"site-packages", "tests", "test"} & set(file.relative_to(root).parts):
                    documents |= dict.fromkeys(_docstrings(file))
        path.parent.mkdir(parents=True, exist_ok=True)
        # shuffled, but the same on every machine: the first part of the text is a fair sample
        documents = sorted((document.strip() for document in documents), key=_checksum)
        text = f"\n{END}\n".join(documents)
        runs.write_atomically(path, text.encode(errors="ignore"))
    return read_documents(path)


def read_documents(path: Path | str) -> list[str]:
    """The documents of a local text file, kept apart by lines `<|endoftext|>`.

    A file without such a line is taken apart at blank lines.

    Raises:
        FileNotFoundError: there is no such file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no text file at {path}")
    text = path.read_text(encoding="utf-8")
    return text.split(f"\n{END}\n") if END in text else text.split("\n\n")


def held_out(documents: list[str], share: float = 0.05) -> tuple[list[str], list[str]]:
    """(training, held-out) documents; which is which depends on each document alone."""
    chosen = [_checksum(document) % 10_000 < 10_000 * share for document in documents]
    pairs = list(zip(documents, chosen, strict=True))
    return [d for d, out in pairs if not out], [d for d, out in pairs if out]


def train_tokeniser(documents: list[str], vocab_size: int) -> Tokenizer:
    """A byte-level BPE tokeniser; token 0 is the end of a document."""
    tokeniser = Tokenizer(models.BPE())
    tokeniser.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokeniser.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokeniser.train_from_iterator(documents, trainer)
    return tokeniser


def token_blocks(
    documents: list[str], tokeniser: Tokenizer, context: int
) -> Int[Tensor, "n context"]:
    """The documents one after another, cut into blocks of `context` tokens.

    Raises:
        ValueError: the text is shorter than one block.
    """
    tokens: list[int] = []
    for encoding in tokeniser.encode_batch(documents):
        tokens += [*encoding.ids, tokeniser.token_to_id(END)]
    n_blocks = len(tokens) // context
    if n_blocks == 0:
        raise ValueError(f"the text has {len(tokens)} tokens, fewer than one context of {context}")
    return torch.tensor(tokens[: n_blocks * context]).view(n_blocks, context)


def repeated_tokens(
    n: int,
    context: int,
    vocab_size: int,
    generator: torch.Generator,
    period: int | None = None,
) -> tuple[Int[Tensor, "n context"], Int[Tensor, " n"]]:
    """Random tokens that begin again after a period, and the periods.

    tokens[t] = tokens[t - period]: after the first period, what comes next is known from what
    came next before, at position t - period + 1. A period is drawn from 2 to half the context
    for each sequence, or given. Token 0 stands for the end of a document and is left out.

    Raises:
        ValueError: the period does not fit into the context twice, or the vocabulary is empty.
    """
    shortest, longest = 2 if period is None else period, context // 2
    if not 1 <= shortest <= longest or vocab_size < 2:
        raise ValueError(
            f"a period from 1 to {longest} repeats within {context} tokens of a vocabulary of two "
            f"or more, got period {shortest} and {vocab_size} tokens"
        )
    tokens = torch.randint(1, vocab_size, (n, context), generator=generator)
    longest = longest if period is None else period
    periods = torch.randint(shortest, longest + 1, (n,), generator=generator)
    return tokens.gather(1, torch.arange(context) % periods[:, None]), periods


def _checksum(document: str) -> int:
    return zlib.crc32(document.encode(errors="ignore"))


def _docstrings(file: Path) -> list[str]:
    with warnings.catch_warnings(action="ignore"):
        try:
            tree = ast.parse(file.read_bytes())
        except (SyntaxError, ValueError):
            return []  # some packages ship templates that are no Python
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found = [ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, kinds)]
    return [docstring for docstring in found if docstring and len(docstring) >= SHORTEST]
