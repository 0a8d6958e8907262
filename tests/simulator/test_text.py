from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from epp.simulator.text import Answer, block_hashes, count_tokens, render_chat


def test_four_bytes_are_a_token() -> None:
    """Rounded up, and at least one."""
    assert [count_tokens(b"x" * length) for length in (0, 1, 4, 5)] == [1, 1, 1, 2]


def test_a_token_of_the_answer_is_four_bytes() -> None:
    """So that an answer counts as many tokens in the next prompt as it did when it was made."""
    answer = Answer(b"prompt")
    assert all(len(answer.word(index).encode()) == 4 for index in range(200))
    assert answer.text(0, 50) == answer.text(0, 20) + answer.text(20, 50)


def test_equal_prompts_get_equal_answers_and_others_differ() -> None:
    """The answer depends on the prompt, and on nothing else."""
    assert Answer(b"one").text(0, 20) == Answer(b"one").text(0, 20) != Answer(b"two").text(0, 20)


@given(st.binary(max_size=400), st.binary(max_size=400), st.integers(1, 16))
def test_hashes_agree_exactly_on_the_common_prefix(first: bytes, second: bytes, block_size: int) -> None:
    """Two texts share the hashes of the full blocks they have in common, and none after."""
    width = block_size * 4
    left, right = block_hashes(first, block_size, "m"), block_hashes(second, block_size, "m")
    assert len(left) == len(first) // width
    common = 0
    while common < min(len(left), len(right)) and first[: (common + 1) * width] == second[: (common + 1) * width]:
        common += 1
    assert left[:common] == right[:common]
    assert not set(left[common:]) & set(right[common:])


def test_the_salt_keeps_models_apart() -> None:
    """An adapter's cache is of no use to another."""
    assert not set(block_hashes(b"x" * 640, 16, "a")) & set(block_hashes(b"x" * 640, 16, "b"))


def test_a_longer_chat_extends_a_shorter_one() -> None:
    """The next turn, answer included, begins with the bytes of this turn's prompt and answer."""
    turn = [{"role": "user", "content": "hello"}]
    prompt = render_chat(turn)
    answer = Answer(prompt).text(0, 9)
    following = render_chat([*turn, {"role": "assistant", "content": answer}, {"role": "user", "content": "more"}])
    assert following.startswith(prompt + answer.encode())


def test_roles_and_parts_matter() -> None:
    """A part list of text equals the text; another role does not."""
    plain = render_chat([{"role": "user", "content": "hello"}])
    assert render_chat([{"role": "user", "content": [{"type": "text", "text": "hel"}, "lo"]}]) == plain
    assert render_chat([{"role": "system", "content": "hello"}]) != plain
    assert render_chat([{"role": "user", "content": "hello"}], tools=[{"name": "f"}]) != plain
    image = [{"type": "image_url", "image_url": {"url": "data:,x"}}]
    assert b"data:,x" in render_chat([{"role": "user", "content": image, "tool_calls": [{"id": "1"}]}])
    assert render_chat([{"role": "user", "content": None}]) == render_chat([{"role": "user", "content": ""}])
