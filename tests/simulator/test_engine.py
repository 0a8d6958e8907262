from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epp.simulator.engine import Engine, EngineSettings, Sequence, State
from epp.simulator.timing import Batch, LinearTiming

Finish = Callable[..., float]


class RecordingTiming:
    """One second a step; keeps the batches."""

    def __init__(self) -> None:
        """Start with none."""
        self.batches: list[Batch] = []

    def seconds(self, batch: Batch) -> float:
        """Note the batch."""
        self.batches.append(batch)
        return 1.0


def engine_with(timing: Any = None, **settings: Any) -> Engine:
    """Make an engine with blocks of 4 tokens unless told otherwise."""
    return Engine(EngineSettings(**{"block_size": 4, "num_blocks": 100, **settings}), timing or RecordingTiming())


def submit(engine: Engine, prompt: int, output: int, hashes: tuple[int, ...] = (), adapter: str = "") -> Sequence:
    """Submit one sequence at time 0."""
    sequence = Sequence(prompt, output, hashes, adapter)
    engine.submit(sequence, 0.0)
    return sequence


def test_an_empty_engine_has_nothing_to_do() -> None:
    """Without sequences there is no next time: the caller may sleep."""
    assert engine_with().step(0.0).until is None


def test_one_sequence_gets_a_token_a_step() -> None:
    """The first token comes when the prompt is computed, then one each step."""
    engine = engine_with()
    sequence = submit(engine, 10, 3)
    seen = [(engine.step(float(now)).until, sequence.generated, sequence.state) for now in range(4)]
    assert seen == [(1.0, 0, State.RUNNING), (2.0, 1, State.RUNNING), (3.0, 2, State.RUNNING), (None, 3, State.FINISHED)]
    assert sequence.first_token == 1.0


def test_a_step_is_not_ended_early() -> None:
    """Calling before the time has come changes nothing."""
    engine = engine_with()
    sequence = submit(engine, 10, 1)
    engine.step(0.0)
    assert engine.step(0.5).until == 1.0
    assert sequence.generated == 0


def test_sequences_run_together() -> None:
    """Decoding sequences share a step: three answers take no more steps than one."""
    engine = engine_with(timing := RecordingTiming())
    for _ in range(3):
        submit(engine, 4, 5)
    for now in range(6):
        engine.step(float(now))
    assert len(timing.batches) == 5
    assert [batch.decode_seqs for batch in timing.batches] == [0, 3, 3, 3, 3]


def test_a_step_computes_no_more_than_its_budget() -> None:
    """A long prompt is cut into chunks, and what others decode comes out of the same budget."""
    engine = engine_with(timing := RecordingTiming(), max_num_batched_tokens=8)
    submit(engine, 4, 10)
    engine.step(0.0)
    long = submit(engine, 20, 1)
    for now in range(1, 4):
        engine.step(float(now))
    assert [(batch.prefill_tokens, batch.decode_seqs) for batch in timing.batches] == [(4, 0), (7, 1), (7, 1), (6, 1)]
    assert long.first_token is None
    engine.step(4.0)
    assert long.first_token == 4.0


def test_no_more_sequences_run_than_allowed() -> None:
    """The rest waits, in its order."""
    engine = engine_with(max_num_seqs=2)
    sequences = [submit(engine, 4, 2) for _ in range(3)]
    engine.step(0.0)
    assert engine.running == sequences[:2]
    assert list(engine.waiting) == sequences[2:]


def test_a_cached_prefix_lowers_the_time_to_first_token(finish: Finish) -> None:
    """The second request with a prompt computes only what is new."""
    engine = Engine(EngineSettings(), LinearTiming())
    hashes = tuple(range(100))
    cold = Sequence(1_600, 1, hashes)
    engine.submit(cold, 0.0)
    now = finish(engine)
    warm = Sequence(1_610, 1, hashes)
    engine.submit(warm, now)
    finish(engine, now)
    assert cold.first_token is not None
    assert warm.first_token is not None
    assert (cold.cached, warm.cached) == (0, 1_600)
    assert warm.first_token - warm.arrived < (cold.first_token - cold.arrived) / 5
    assert (engine.totals.prefix_queries, engine.totals.prefix_hits) == (3_210, 1_600)


def test_the_last_token_of_a_prompt_is_always_computed(finish: Finish) -> None:
    """A prompt that is cached in full still computes its last block, for the result is the first token."""
    engine = engine_with()
    submit(engine, 8, 1, (1, 2))
    finish(engine)
    again = submit(engine, 8, 1, (1, 2))
    finish(engine)
    assert again.cached == 4


def test_an_answer_is_a_prefix_of_the_next_turn(finish: Finish) -> None:
    """Blocks that the answer filled are found by a prompt that contains the answer."""
    engine = engine_with()
    submit(engine, 6, 6, (1, 2, 3))
    finish(engine)
    following = submit(engine, 16, 1, (1, 2, 9, 9))
    finish(engine)
    assert following.cached == 8


def test_prefix_caching_can_be_switched_off(finish: Finish) -> None:
    """Then nothing is ever found."""
    engine = engine_with(prefix_caching=False)
    for _ in range(2):
        submit(engine, 9, 1, (1, 2))
        finish(engine)
    assert engine.totals.prefix_hits == 0


def test_the_youngest_gives_way_when_blocks_run_out() -> None:
    """Both end with all their tokens, the elder first, and the younger was sent back once or more."""
    engine = engine_with(num_blocks=6)
    elder, younger = submit(engine, 8, 8), submit(engine, 8, 8)
    ended: list[Sequence] = []
    now: float | None = 0.0
    while now is not None:
        step = engine.step(now)
        ended += [sequence for sequence in step.advanced if sequence.over]
        now = step.until
        assert engine.cache.used <= 6
    assert ended == [elder, younger]
    assert (elder.preemptions, elder.generated, younger.generated) == (0, 8, 8)
    assert younger.preemptions == engine.totals.preemptions >= 1


def test_who_gave_way_is_next_and_nobody_overtakes_it() -> None:
    """A preempted sequence waits at the head of the queue, and no newcomer takes its place in that step."""
    engine = engine_with(num_blocks=5)
    elder, younger = submit(engine, 8, 8), submit(engine, 8, 8)
    engine.step(0.0)
    newcomer = submit(engine, 2, 1)
    for now in range(1, 10):
        engine.step(float(now))
        if younger.preemptions:
            break
    assert engine.running == [elder]
    assert list(engine.waiting) == [younger, newcomer]
    assert engine.cache.available >= 1, "there was room for the newcomer"


def test_who_gave_way_does_not_come_back_in_the_same_step() -> None:
    """Even where a first chunk of it would fit: it would take the blocks it has just given up."""
    engine = engine_with(num_blocks=6, max_num_batched_tokens=9)
    elder, younger = submit(engine, 8, 8), submit(engine, 16, 4)
    for now in range(20):
        engine.step(float(now))
        if younger.preemptions:
            break
    assert engine.running == [elder]
    assert engine.cache.available >= 2


def test_prompts_that_start_together_share_the_budget() -> None:
    """The second prompt gets what the first leaves of a step."""
    engine = engine_with(timing := RecordingTiming(), max_num_batched_tokens=10)
    first, second = submit(engine, 8, 1), submit(engine, 8, 1)
    for now in range(3):
        engine.step(float(now))
    assert [batch.prefill_tokens for batch in timing.batches] == [10, 6]
    assert (first.first_token, second.first_token) == (1.0, 2.0)


def test_a_batch_counts_what_decoding_attends_to() -> None:
    """The timing model sees the tokens that are in the cache for the sequences that decode."""
    engine = engine_with(timing := RecordingTiming())
    submit(engine, 8, 3)
    submit(engine, 20, 3)
    for now in range(3):
        engine.step(float(now))
    assert [batch.context_tokens for batch in timing.batches] == [0, 28, 30]
    assert timing.batches[1].kv_usage == 0.09


def test_a_sequence_that_can_never_run_is_refused() -> None:
    """What exceeds the whole cache would wait for ever."""
    engine = engine_with(num_blocks=2)
    with pytest.raises(ValueError, match="exceed the capacity of 8"):
        submit(engine, 8, 1)


def test_a_sequence_is_submitted_once() -> None:
    """A second submission would be counted twice."""
    engine = engine_with()
    sequence = submit(engine, 4, 1)
    with pytest.raises(ValueError, match="submitted once"):
        engine.submit(sequence, 0.0)


def test_aborting_frees_blocks_wherever_the_sequence_is() -> None:
    """Running or waiting, an aborted sequence is gone at once; aborting again changes nothing."""
    engine = engine_with(max_num_seqs=1)
    running, waiting = submit(engine, 9, 5), submit(engine, 9, 5)
    engine.step(0.0)
    assert engine.cache.used == 3
    for _ in range(2):
        engine.abort(running)
        engine.abort(waiting)
    assert (engine.cache.used, len(engine.running), len(engine.waiting), engine.totals.aborted) == (0, 0, 0, 2)
    assert engine.step(1.0).until is None
    assert running.generated == 0


def test_an_embedding_ends_with_its_prompt(finish: Finish) -> None:
    """A sequence without output tokens generates none and is done after the prompt."""
    engine = engine_with()
    sequence = submit(engine, 10, 0)
    assert finish(engine) == 1.0
    assert (sequence.state, sequence.generated) == (State.FINISHED, 0)


def test_adapters_take_turns_for_their_slots(finish: Finish) -> None:
    """Only max_loras adapters run at once; one that waits does not hold up requests behind it."""
    engine = engine_with(max_loras=1)
    first, second = submit(engine, 4, 3, adapter="a"), submit(engine, 4, 3, adapter="b")
    third, base = submit(engine, 4, 3, adapter="a"), submit(engine, 4, 3)
    engine.step(0.0)
    assert engine.running == [first, third, base]
    assert (list(engine.adapters), engine.waiting_adapters()) == (["a"], ["b"])
    last = submit(engine, 4, 3, adapter="c")
    engine.step(1.0)
    assert list(engine.waiting) == [second, last]
    finish(engine, 2.0)
    assert second.state is State.FINISHED
    assert not engine.adapters


@pytest.mark.parametrize("name", ["num_blocks", "block_size", "max_num_seqs", "max_num_batched_tokens", "max_loras"])
def test_an_engine_in_which_nothing_could_run_is_refused(name: str) -> None:
    """The error names the setting."""
    settings: dict[str, Any] = {name: 0}
    with pytest.raises(ValueError, match=f"{name} is 0"):
        EngineSettings(**settings)


REQUESTS = st.lists(
    st.tuples(
        st.integers(1, 40),  # prompt tokens
        st.integers(0, 12),  # output tokens
        st.integers(0, 2),  # which conversation: equal ones share prefixes
        st.sampled_from(["", "", "a", "b", "c"]),  # adapter
        st.integers(0, 8),  # submitted after so many steps
        st.one_of(st.none(), st.integers(0, 25)),  # aborted after so many steps
    ),
    max_size=12,
)


@given(REQUESTS, st.integers(13, 40), st.integers(1, 4), st.integers(1, 16), st.integers(1, 2))
def test_every_sequence_ends_and_every_block_comes_back(
    requests: list[tuple[int, int, int, str, int, int | None]], num_blocks: int, max_seqs: int, budget: int, max_loras: int
) -> None:
    """Whatever comes and goes: limits hold at each step, work never stalls, and in the end the cache is unused."""
    engine = engine_with(
        num_blocks=num_blocks, max_num_seqs=max_seqs, max_num_batched_tokens=budget, max_loras=max_loras, timing=LinearTiming()
    )
    sequences = [
        Sequence(prompt, output, tuple(conversation * 1_000 + block for block in range((prompt + output) // 4)), adapter)
        for prompt, output, conversation, adapter, _, _ in requests
    ]
    now, steps = 0.0, 0
    while steps < 10 or any(not sequence.over for sequence in sequences):
        for sequence, (_, _, _, _, arrival, abort) in zip(sequences, requests, strict=True):
            if arrival == steps:
                engine.submit(sequence, now)
            if abort == steps and sequence.state is not State.NEW:
                engine.abort(sequence)
        until = engine.step(now).until
        assert (until is None) == (not engine.running and not engine.waiting)
        assert len(engine.running) <= max_seqs
        assert len(engine.adapters) <= max_loras
        held = {block for sequence in engine.running for block in sequence.blocks}
        assert engine.cache.used == len(held) <= num_blocks
        assert all(sequence.computed <= len(sequence.blocks) * 4 for sequence in engine.running)
        now, steps = now if until is None else until, steps + 1
        assert steps < 20_000
    assert engine.cache.used == 0
    assert not engine.adapters
    for sequence in sequences:
        assert sequence.state is State.ABORTED or sequence.generated == sequence.output_tokens
        assert sequence.blocks == []
    assert engine.totals.finished + engine.totals.aborted == len(sequences)
