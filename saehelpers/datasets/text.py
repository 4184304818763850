"""English text that is there without a network, and its tokens."""

import ast
import sysconfig
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from itertools import islice
from pathlib import Path
from pydoc_data.topics import topics
from typing import TYPE_CHECKING, Annotated

import torch
from jaxtyping import Int
from torch import Tensor

from saehelpers import runs
from saehelpers.runs.checking import checked
from saehelpers.runs.extras import extra
from saehelpers.runs.sweeps import sweep
from saehelpers.runs.wanted import NOT_EMPTY, Positive, Share

if TYPE_CHECKING:
    import tokenizers
    import transformers

PACKAGES = ("numpy", "scipy", "pandas", "sklearn", "matplotlib")
END = "<|endoftext|>"  # stands between documents
Documents = Annotated[Sequence[str], NOT_EMPTY]
SHORTEST = 100  # characters of a docstring that is kept
N_PARTS = 16  # of the files that they are collected from, side by side


class EmbeddedText(tuple):
    """Documents that are told by what they are: they differ between versions of Python.

    A model that reads them is the same model for all; what it reads is told by its tokens.
    """

    cause = "documentation of Python packages"


@checked
def documentation(folder: Path | str) -> EmbeddedText:
    """The documentation inside installed Python packages: 16 MB of English with code in it.

    The topics of `help()`, and the docstrings of the standard library, numpy, scipy, pandas,
    scikit-learn and matplotlib, each once, shuffled. Collecting them takes 10 seconds: the
    text is kept in `folder`, as documentation.txt.
    """
    path = Path(folder) / "documentation.txt"
    if not path.exists():
        roots = [Path(sysconfig.get_path("stdlib"))]
        with extra("text"):
            roots += [Path(import_module(package).__file__).parent for package in PACKAGES]
        documents = set(topics.values())
        for found in sweep(_docstrings, [(files,) for files in _sources(roots)], "documentation"):
            documents |= found
        path.parent.mkdir(parents=True, exist_ok=True)
        # shuffled, but the same on every machine: the first part of the text is a fair sample
        documents = sorted(sorted(document.strip() for document in documents), key=_checksum)
        text = f"\n{END}\n".join(documents)
        runs.write_atomically(path, text.encode(errors="ignore"))
    return EmbeddedText(read_documents(path))


@checked
def read_documents(path: Path | str) -> list[str]:
    """The documents of a local text file, kept apart by lines `<|endoftext|>`.

    A file without such a line is taken apart at blank lines. Documents without a character but
    blanks are left out.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not in UTF-8.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no text file at {path}")
    return list(_stream_file(path))


@checked
def stream_documents(source: Path | str) -> Iterator[str]:
    """The documents of a local text file, or of a Hugging Face dataset, one after another.

    A file is taken apart as by `read_documents`, for which its first million characters are
    looked at. Of a dataset, the column "text" of the split "train", streamed.

    Raises:
        FileNotFoundError: there is no such file, and no such dataset to be reached.
        ImportError: there is no such file, and the package `datasets` is not installed.
    """
    path = Path(source)
    return _stream_file(path) if path.is_file() else _stream_dataset(str(source))


def _stream_file(path: Path) -> Iterator[str]:
    document: list[str] = []
    try:
        with path.open(encoding="utf-8-sig") as file:
            looked_at = file.read(1_000_000).split("\n")
            between = END if END in map(str.strip, looked_at) else ""
            file.seek(0)
            for line in file:
                if line.strip() != between:
                    document.append(line)
                    continue
                yield from _not_blank("".join(document))
                document = []
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a text in UTF-8 ({error})") from error
    yield from _not_blank("".join(document))


def _not_blank(document: str | None) -> Iterator[str]:
    """A document without its last line's end; none if there is nothing in it."""
    if document and document.strip():
        yield document.removesuffix("\n")


def _stream_dataset(name: str) -> Iterator[str]:
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise ImportError(
            f"there is no text file {name!r}, and to read a Hugging Face dataset of that name "
            "the package `datasets` is needed: pip install datasets"
        ) from error
    try:
        rows = load_dataset(name, split="train", streaming=True)
    except (OSError, ValueError) as error:
        raise FileNotFoundError(
            f"no text at {name!r}: neither a local file nor a Hugging Face dataset with a split "
            '"train" that can be reached. Pass the path of a text file, or choose the embedded '
            'text, "python-documentation".'
        ) from error
    return _texts(rows, name)


def _texts(rows: Iterable[dict], name: str) -> Iterator[str]:
    for row in rows:
        if "text" not in row:
            raise ValueError(f"the dataset {name!r} has no column 'text', but {', '.join(row)}")
        yield from _not_blank(row["text"])


@checked
def held_out(documents: Documents, share: Share = 0.05) -> tuple[list[str], list[str]]:
    """(training, held-out) documents; of a long text, which is which depends on each alone.

    Held out are those with the smallest checksums: a share of all possible ones, and of a short
    text as many more as make half that share of its characters.
    """
    ranks = [_checksum(document) % 10_000 for document in documents]
    least, length, chosen = sum(map(len, documents)) * share / 2, 0, set()
    for i in sorted(range(len(documents)), key=ranks.__getitem__):
        if ranks[i] >= 10_000 * share and length >= least:
            break
        chosen.add(i)
        length += len(documents[i])
    pairs = list(enumerate(documents))
    return [d for i, d in pairs if i not in chosen], [d for i, d in pairs if i in chosen]


@checked
def train_tokeniser(documents: Documents, vocab_size: Positive) -> "tokenizers.Tokenizer":
    """A byte-level BPE tokeniser; token 0 is the end of a document."""
    with extra("text"):
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

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


@checked
def token_blocks(
    documents: Iterable[str],
    tokeniser: "tokenizers.Tokenizer | transformers.PreTrainedTokenizerBase",
    context: Positive,
    n_blocks: Positive | None = None,
) -> Int[Tensor, "n context"]:
    """The documents one after another, cut into blocks of `context` tokens.

    Between them stands the token `<|endoftext|>`, if there is one. Documents are tokenised whole,
    whatever truncation and padding the tokeniser was stored with. With `n_blocks`, no more than
    these, and no more documents are taken than they need.

    Raises:
        ValueError: the text is shorter than one block.
    """
    tokens: list[int] = []
    documents = iter(documents)
    with _whole(tokeniser) as (encode, end):
        while chunk := list(islice(documents, 1000)):
            for ids in encode(chunk):
                tokens += ids if end is None else [*ids, end]
            if n_blocks is not None and len(tokens) >= n_blocks * context:
                break
    n_blocks = min(n_blocks or len(tokens), len(tokens) // context)
    if n_blocks == 0:
        raise ValueError(
            f"the documents have {len(tokens)} tokens, fewer than one context of {context}"
        )
    return torch.tensor(tokens[: n_blocks * context]).view(n_blocks, context)


@contextmanager
def _whole(tokeniser) -> Iterator[tuple[Callable[[list[str]], list[list[int]]], int | None]]:
    """How a tokeniser encodes documents as a whole, and its token `<|endoftext|>`.

    The tokenisers of transformers are written in Python (those of bytes, such as ByT5's), or
    hold one of `tokenizers`, which is told by what was stored where to cut and to pad.
    """
    fast = getattr(tokeniser, "backend_tokenizer", tokeniser)
    if not hasattr(fast, "encode_batch"):
        yield lambda chunk: fast(chunk, verbose=False)["input_ids"], fast.get_vocab().get(END)
        return
    truncation, padding = fast.truncation, fast.padding
    fast.no_truncation()
    fast.no_padding()
    try:
        yield lambda chunk: [found.ids for found in fast.encode_batch(chunk)], fast.token_to_id(END)
    finally:
        if truncation is not None:
            fast.enable_truncation(**truncation)
        if padding is not None:
            fast.enable_padding(**padding)


@checked
def repeated_tokens(
    n: Positive,
    context: Positive,
    vocab_size: Positive,
    generator: torch.Generator,
    period: Positive | None = None,
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


def _sources(roots: list[Path]) -> list[list[Path]]:
    """The Python files below some folders, without their tests, in parts of like size."""
    files = [
        file
        for root in roots
        for file in root.rglob("*.py")
        if not {"site-packages", "tests", "test"} & set(file.relative_to(root).parts)
    ]
    return [files[part::N_PARTS] for part in range(N_PARTS)]


def _docstrings(files: list[Path]) -> set[str]:
    """The longer docstrings in these files."""
    found = set()
    for file in files:
        with warnings.catch_warnings(action="ignore"):
            try:
                tree = ast.parse(file.read_bytes())
            except (SyntaxError, ValueError):
                continue  # some packages ship templates that are no Python
        kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        nodes = (node for node in ast.walk(tree) if isinstance(node, kinds))
        found |= {ast.get_docstring(node) or "" for node in nodes}
    return {docstring for docstring in found if len(docstring) >= SHORTEST}
