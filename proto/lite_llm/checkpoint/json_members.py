"""A large JSON object from a stranger, member by member: nothing is kept but a hash of each name.

The standard parsers build all of it before anything can be refused, at five to ten times its size.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterator
from itertools import islice
from typing import Final

import msgspec
import numpy as np
import xxhash

from lite_llm.checkpoint.dtypes import Buffer
from lite_llm.checkpoint.strict_json import corrupt

# Possessive, so that a failed match neither goes back nor remembers where it could.
_SPACE = rb"[ \t\n\r]*+"
_STRING = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_FLAT_OBJECT = rb'\{[^{}"]*+(?:' + _STRING + rb'[^{}"]*+)*+\}'
_OPENING: Final = re.compile(_SPACE + rb"\{" + _SPACE + rb"(\}?)")
_MEMBER: Final = re.compile(
    rb"(" + _STRING + rb")" + _SPACE + rb":" + _SPACE
    + rb"(" + _STRING + rb"|" + _FLAT_OBJECT + rb")" + _SPACE + rb"([,}])" + _SPACE,
    re.DOTALL,
)  # fmt: skip

_decode_name: Final = msgspec.json.Decoder(str).decode


def members(data: Buffer, where: str, *, max_count: int) -> Iterator[tuple[str, bytes]]:
    """Names and undecoded values of the object in ``data``, in its order.

    Values may be strings, or objects that have no object in them; the caller decodes them, which
    also tells what is no JSON there. Raises :class:`Corrupt` for anything else, for more members
    than ``max_count``, and at the end for a name that was there twice.
    """
    hashes = array("Q")
    for name, value in scan(data, where):
        if len(hashes) == max_count:
            raise corrupt(f"more than {max_count} members", where)
        hashes.append(xxhash.xxh3_64_intdigest(name.encode(errors="surrogatepass")))
        yield name, value
    _, places, counts = np.unique(
        np.frombuffer(hashes, np.uint64), return_index=True, return_counts=True
    )
    if (twice := places[counts > 1]).size:
        name, _ = next(islice(scan(data, where), int(twice[0]), None))
        raise corrupt(f"key {name[:80]!r} twice", where)


def scan(data: Buffer, where: str) -> Iterator[tuple[str, bytes]]:
    """The same of what was checked before: neither the number nor the names are."""
    opening = _OPENING.match(data)
    if opening is None:
        raise corrupt("not a JSON object", where)
    position, more = opening.end(), not opening[1]
    try:
        while more:
            member = _MEMBER.match(data, position)
            if member is None:
                raise corrupt(f"no name with a string or a flat object at byte {position}", where)
            position, more = member.end(), member[3] == b","
            yield _decode_name(member[1]), member[2]
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise corrupt(f"a name before byte {position}: {error}", where) from error
    if bytes(data[position:]).strip(b" \t\n\r"):
        raise corrupt(f"bytes behind the object's end at {position}", where)
