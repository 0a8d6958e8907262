"""Block hashes of a prompt: one 64-bit number per whole block, which names the block and everything before it.

Decides how a prompt is cut and chained. Knows no requests, no endpoints and no tokenizer: a token is taken as four bytes.
"""

from __future__ import annotations

import struct

from xxhash import xxh64_intdigest

BYTES_PER_TOKEN = 4


def block_hashes(
    prompt: bytes | bytearray | memoryview, *, block_tokens: int, model: str = "", salt: str = "", limit: int | None = None
) -> list[int]:
    """Hash `prompt` in whole blocks of `block_tokens` tokens, at most `limit` of them.

    Each hash is the seed of the next, so two prompts share their n-th hash only if they share all bytes up to there, the
    model and the cache salt. The unfinished block at the end is left out: no model server can share it.
    """
    size = block_tokens * BYTES_PER_TOKEN
    view = memoryview(prompt)
    count = len(view) // size
    if limit is not None:
        count = min(count, limit)
    if count <= 0:
        return []
    # The lengths keep ("ab", "c") apart from ("a", "bc").
    seed = xxh64_intdigest(f"{len(model)}:{model}{len(salt)}:{salt}".encode("utf-8", "surrogatepass"))
    hashes: list[int] = []
    append = hashes.append
    for (block,) in struct.iter_unpack(f"{size}s", view[: count * size]):  # cuts faster than a slice a block
        seed = xxh64_intdigest(block, seed)
        append(seed)
    return hashes
