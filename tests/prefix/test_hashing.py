"""Block hashes: what is shared, what is told apart."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from epp.prefix.hashing import BYTES_PER_TOKEN, block_hashes

BLOCK = 4  # tokens, 16 bytes


@given(prompt=st.binary(max_size=200), more=st.binary(max_size=100))
def test_a_growing_prompt_keeps_its_hashes(prompt: bytes, more: bytes) -> None:
    """What is appended to a prompt must not change the hashes of its whole blocks."""
    before = block_hashes(prompt, block_tokens=BLOCK)
    after = block_hashes(prompt + more, block_tokens=BLOCK)
    assert after[: len(before)] == before


@given(prompt=st.binary(max_size=200))
def test_only_whole_blocks_count(prompt: bytes) -> None:
    """The unfinished block at the end has no hash."""
    assert len(block_hashes(prompt, block_tokens=BLOCK)) == len(prompt) // (BLOCK * BYTES_PER_TOKEN)


@given(prompt=st.binary(min_size=32, max_size=200), at=st.integers(min_value=0))
def test_a_changed_byte_changes_all_hashes_from_its_block_on(prompt: bytes, at: int) -> None:
    """A hash stands for its block and everything before it."""
    at %= len(prompt)
    changed = bytearray(prompt)
    changed[at] ^= 1
    block = at // (BLOCK * BYTES_PER_TOKEN)
    before, after = block_hashes(prompt, block_tokens=BLOCK), block_hashes(changed, block_tokens=BLOCK)
    assert before[:block] == after[:block]
    assert not set(before[block:]) & set(after[block:])


def test_model_and_salt_tell_equal_prompts_apart() -> None:
    """Equal bytes for another model, or with another cache salt, share nothing, however the two names are cut."""
    prompt = b"x" * 64
    variants = [("", ""), ("ab", ""), ("", "ab"), ("a", "b"), ("b", "a")]
    hashes = [block_hashes(prompt, block_tokens=BLOCK, model=model, salt=salt) for model, salt in variants]
    assert len({chain[0] for chain in hashes}) == len(variants)


def test_equal_blocks_at_different_places_have_different_hashes() -> None:
    """A prompt that repeats itself does not hold the same block twice."""
    hashes = block_hashes(b"x" * 160, block_tokens=BLOCK)
    assert len(set(hashes)) == 10


def test_the_limit_cuts_the_tail() -> None:
    """No more than `limit` blocks are hashed, and they are the first ones."""
    prompt = bytes(range(160))
    assert block_hashes(prompt, block_tokens=BLOCK, limit=3) == block_hashes(prompt, block_tokens=BLOCK)[:3]
    assert block_hashes(prompt, block_tokens=BLOCK, limit=0) == []


def test_a_model_name_that_is_no_unicode_is_hashed() -> None:
    """Lone surrogates, as JSON can carry them, do not raise."""
    assert block_hashes(b"x" * 16, block_tokens=BLOCK, model="\ud800") != block_hashes(b"x" * 16, block_tokens=BLOCK)
