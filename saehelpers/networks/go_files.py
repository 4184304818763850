"""KataGo's networks as they lie in files: gzip, words between white space, arrays of float32.

    name  version  planes  global inputs
    trunk: name and six sizes, stem, matmul, blocks, norm; policy head; value head
    an array: @BIN@ and its numbers, little-endian; of a kernel [y][x][in][out]

(The format of version 8, as KataGo's own reader takes it.)
"""

import gzip
import hashlib
import importlib.util
import math
import zlib
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from torch import Tensor

from saehelpers.datasets.go import N_GLOBAL, N_SPATIAL
from saehelpers.networks.go import (
    Block,
    GoNetwork,
    PolicyHead,
    PoolingBlock,
    ValueHead,
    make_go_network,
)
from saehelpers.runs.checking import checked
from saehelpers.runs.identities import identified
from saehelpers.runs.wanted import Name, at_least

VERSION = 8
WHEEL = "KaTrain==1.13.0"
IN_WHEEL = "models/g170e-b15c192-s1672170752-d466197061.bin.gz"
SHA256 = "1579a64e6190c3a8d73eeb96feb4dee1879f9e5e114279b15d6c56dbab3b0f78"
READS = f"KataGo networks of version {VERSION} (.bin or .bin.gz, such as g170-b15c192)"
LONGEST_WORD, ARRAY = 200, b"@BIN@"


@checked
def load_go_network(path: Path | str | None = None) -> GoNetwork:
    """A KataGo network from its file; by default the one of 15 blocks that KaTrain's wheel has.

    Raises:
        FileNotFoundError: there is no such file, or the wheel is not installed.
        ValueError: it is no such network, of another version, or cut short.
    """
    path = _in_wheel() if path is None else Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no Go network at {path}: pip install --no-deps {WHEEL}, or set NETWORK to "
            f"the path of one. Read are {READS}"
        )
    data = path.read_bytes()
    digits = hashlib.sha256(data).hexdigest()
    if path.name == Path(IN_WHEEL).name and digits != SHA256:
        raise ValueError(f"{path} is damaged: its SHA-256 is {digits}, not {SHA256}")
    try:
        data = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    except (EOFError, OSError, zlib.error) as error:
        raise ValueError(f"{path} is cut short or damaged: {error}. Read are {READS}") from error
    network = _Reader(data, path).network()
    return identified(network.eval().requires_grad_(False), {"go network": digits})


@checked
def named_go_network(
    name: Name, n_blocks: Annotated[int, at_least(2)] = 4
) -> tuple[GoNetwork, str]:
    """A network by its name, and which it is: "katago", "tiny", or the name of its file.

    Args:
        name: "katago", the one of KaTrain's wheel; "tiny", one of so many blocks with random
            weights; or the path of a file. Where the wheel is not installed, this is printed, and
            "tiny" takes its place.

    Raises:
        FileNotFoundError, ValueError: as `load_go_network` does, of a path.
    """
    if name == "tiny":
        return make_go_network(n_blocks), "tiny"
    if name != "katago":
        return load_go_network(name), Path(name).name
    try:
        return load_go_network(), "katago"
    except FileNotFoundError as error:
        print(error)
        return make_go_network(n_blocks), "tiny"


def _in_wheel() -> Path:
    found = importlib.util.find_spec("katrain")
    if found is None or found.origin is None:
        raise FileNotFoundError(
            f"KaTrain, which brings the Go network, is not installed: pip install --no-deps "
            f"{WHEEL}, or set NETWORK to the path of one. Read are {READS}"
        )
    path = Path(found.origin).parent / IN_WHEEL
    if not path.is_file():
        raise FileNotFoundError(
            f"the KaTrain that is installed has no {path.name}: newer ones carry another network. "
            f"pip install --no-deps {WHEEL}, or set NETWORK to the path of one"
        )
    return path


class _Reader:
    """Words and arrays of a file one after another, as the tensors of a network."""

    def __init__(self, data: bytes, path: Path):
        self.data, self.path, self.place = data, path, 0
        self.tensors: dict[str, Tensor] = {}

    def network(self) -> GoNetwork:
        self.word()
        version = self.number("the version")
        if version != VERSION:
            raise self.refused(f"is a network of version {version}")
        inputs = self.number("its planes"), self.number("its global inputs")
        if inputs != (N_SPATIAL, N_GLOBAL):
            raise self.refused(f"takes {inputs[0]} planes and {inputs[1]} numbers")
        self.word()
        n_blocks, channels, mid, regular, _, n_pooled = (self.number("a size") for _ in range(6))
        self.conv("stem")
        self.matmul("from_global")
        blocks = []
        for i in range(n_blocks):
            pools = self.block(f"blocks.{i}.")
            with torch.device("meta"):
                blocks.append(
                    PoolingBlock(channels, regular, n_pooled) if pools else Block(channels, mid)
                )
        self.norm("norm")
        self.policy_head("policy_head.")
        self.value_head("value_head.")
        size = {name: len(tensor) for name, tensor in self.tensors.items()}
        with torch.device("meta"):
            policy = PolicyHead(
                channels, size["policy_head.conv.weight"], size["policy_head.pool.weight"]
            )
            hidden = size["value_head.hidden.weight"]
            value = ValueHead(channels, size["value_head.conv.weight"], hidden)
            width = self.tensors["stem.weight"].shape[-1]
            network = GoNetwork(channels, blocks, policy, value, width)
        try:
            network.load_state_dict(self.tensors, assign=True)
        except RuntimeError as error:
            raise self.refused(f"has parts that do not fit: {error}") from error
        return network

    def block(self, name: str) -> bool:
        """Read one block; whether it pools."""
        kind = self.word()
        if kind not in ("ordinary_block", "gpool_block"):
            raise self.refused(f"has a block that is not read, {kind!r}")
        self.word()
        self.norm(f"{name}norm1")
        self.conv(f"{name}conv1")
        if kind == "gpool_block":
            self.conv(f"{name}pool")
            self.norm(f"{name}pool_norm")
            self.matmul(f"{name}linear")
        self.norm(f"{name}norm2")
        self.conv(f"{name}conv2")
        return kind == "gpool_block"

    def policy_head(self, name: str) -> None:
        self.word()
        self.conv(f"{name}conv")
        self.conv(f"{name}pool")
        self.norm(f"{name}pool_norm")
        self.matmul(f"{name}linear")
        self.norm(f"{name}norm")
        self.conv(f"{name}points")
        self.matmul(f"{name}passing")

    def value_head(self, name: str) -> None:
        self.word()
        self.conv(f"{name}conv")
        self.norm(f"{name}norm")
        self.matmul(f"{name}hidden")
        self.bias(f"{name}hidden")
        self.word()  # the activation
        for part in ("value", "score"):
            self.matmul(f"{name}{part}")
            self.bias(f"{name}{part}")
        self.conv(f"{name}ownership")

    def conv(self, name: str) -> None:
        self.word()
        height, width, n_in, n_out = (self.number("the size of a kernel") for _ in range(4))
        if (self.number("a dilation"), self.number("a dilation")) != (1, 1):
            raise self.refused("has dilated convolutions")
        found = self.array(height, width, n_in, n_out)
        self.tensors[f"{name}.weight"] = found.permute(3, 2, 0, 1).contiguous()

    def norm(self, name: str) -> None:
        """A norm and the activation behind it."""
        self.word()
        channels, epsilon = self.number("channels"), float(self.word())
        has_scale, has_bias = self.number("has_scale"), self.number("has_bias")
        mean, variance = self.array(channels), self.array(channels)
        scale = (variance + epsilon).rsqrt() * (self.array(channels) if has_scale else 1)
        bias = (self.array(channels) if has_bias else 0) - mean * scale
        self.tensors[f"{name}.scale"] = scale
        self.tensors[f"{name}.bias"] = bias
        self.word()

    def matmul(self, name: str) -> None:
        self.word()
        found = self.array(self.number("inputs"), self.number("outputs"))
        self.tensors[f"{name}.weight"] = found.T.contiguous()

    def bias(self, name: str) -> None:
        self.word()
        self.tensors[f"{name}.bias"] = self.array(self.number("channels"))

    def word(self) -> str:
        while self.data[self.place : self.place + 1].isspace():
            self.place += 1
        found = self.data[self.place : self.place + LONGEST_WORD].split(maxsplit=1)
        if not found:
            raise self.refused("is cut short")
        if len(found[0]) == LONGEST_WORD:
            raise self.refused("is no KataGo network")
        self.place += len(found[0])
        return found[0].decode("ascii", "replace")

    def number(self, what: str) -> int:
        word = self.word()
        if not word.isdecimal():
            raise self.refused(f"is no KataGo network: {what} must be a number, not {word!r}")
        return int(word)

    def array(self, *shape: int) -> Tensor:
        start = self.data.find(ARRAY, self.place, self.place + 2 * len(ARRAY)) + len(ARRAY)
        self.place = start + 4 * math.prod(shape)
        if start < len(ARRAY) or self.place > len(self.data):
            raise self.refused("is cut short, or no KataGo network: an array is missing")
        read = np.frombuffer(self.data, "<f4", math.prod(shape), start).reshape(shape)
        return torch.from_numpy(read.astype(np.float32))

    def refused(self, why: str) -> ValueError:
        return ValueError(f"{self.path} {why}. Read are {READS}")
