"""Which agent has probably seen the beginning of a prompt: remembered from our own routing."""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Iterator, Sequence

import xxhash

from lite_llm.proto.v1.generate_pb2 import GenerateStart

BLOCK_TOKENS = 64
BLOCK_BYTES = 256  # of text: about as many tokens
MAX_BLOCKS = 256  # of a prompt: what is beyond 16,000 tokens makes no difference to the choice
MAX_ENTRIES = 1 << 16
"""Of the index: blocks of about as many recent prompts, in some 20 MB."""
MAX_NODES = 4  # of one block; a system prompt that everybody sends is everywhere soon


def prefix_hashes(start: GenerateStart) -> Sequence[int]:
    """Of the prompt's whole blocks, each with all before it; of other tenants' or models' none."""
    prompt, size = _prompt_of(start)
    seed = xxhash.xxh3_64_intdigest(
        f"{start.tenant}\0{start.model.namespace}\0{start.model.name}\0{size}".encode()
    )
    hashes = array("Q")
    for begin in range(0, min(len(prompt) // size, MAX_BLOCKS) * size, size):
        seed = xxhash.xxh3_64_intdigest(prompt[begin : begin + size], seed=seed)
        hashes.append(seed)
    return hashes


def _prompt_of(start: GenerateStart) -> tuple[bytes, int]:
    """Its bytes, and how many of them make a block."""
    match start.WhichOneof("prompt"):
        case "token_ids":
            ids = start.token_ids.ids[: BLOCK_TOKENS * MAX_BLOCKS]
            return array("I", ids).tobytes(), array("I").itemsize * BLOCK_TOKENS
        case "text":
            return start.text[: BLOCK_BYTES * MAX_BLOCKS].encode(), BLOCK_BYTES
        case _:
            return b"".join(_parts(start)), BLOCK_BYTES


def _parts(start: GenerateStart) -> Iterator[bytes]:
    room = BLOCK_BYTES * MAX_BLOCKS
    yield start.chat.tools_json[:room].encode()
    for message in start.chat.messages:
        if room <= 0:
            return
        part = f"{message.role}\0{message.content[:room]}\0{message.extra_json[:room]}\0".encode()
        room -= len(part)
        yield part


class PrefixIndex:
    """Bounded and approximate: agents forget without a word, and other orchestrators route too."""

    def __init__(self, max_entries: int = MAX_ENTRIES) -> None:
        self._max_entries = max_entries
        self._nodes: OrderedDict[int, tuple[str, ...]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._nodes)

    def hits(self, hashes: Sequence[int]) -> dict[str, float]:
        """Share of the blocks that each agent has seen, as far as that is not none, by node."""
        found: dict[str, int] = {}
        for number, key in enumerate(hashes):
            nodes = self._nodes.get(key, ())
            goes_on = False
            for node in nodes:
                if found.get(node, 0) == number:
                    found[node] = number + 1
                    goes_on = True
            if not goes_on:
                break
        return {node: blocks / len(hashes) for node, blocks in found.items()}

    def add(self, hashes: Sequence[int], node: str) -> None:
        """The agent computes this prompt now."""
        # The last blocks first: of a prompt that is forgotten bit by bit, its end goes first.
        for key in reversed(hashes):
            others = [other for other in self._nodes.pop(key, ()) if other != node]
            self._nodes[key] = (node, *others[: MAX_NODES - 1])
        while len(self._nodes) > self._max_entries:
            self._nodes.popitem(last=False)
