"""A continuous-batching engine advanced in steps: who waits, who runs, what a step computes, who is preempted.

It follows vLLM's scheduler: running sequences first and in their order, then waiting ones while sequences, token
budget, adapter slots and blocks last; prompts in chunks; prefix reuse by block; the youngest running sequence gives
way when blocks run out. No I/O and no clock: the caller says what time it is, real or virtual.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from epp.simulator.cache import BlockCache
from epp.simulator.timing import Batch

if TYPE_CHECKING:
    from epp.simulator.timing import TimingModel


class State(Enum):
    """Where a sequence is on its way."""

    NEW = "new"
    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"
    ABORTED = "aborted"


@dataclass(slots=True, eq=False)
class Sequence:
    """One prompt and its answer. The first four fields are the caller's, the rest is the engine's to write.

    `hashes` name the full blocks of the prompt and, where the caller knows it, of the answer; each includes all before
    it. `output_tokens` 0 is a pooling request (an embedding): it ends when the prompt is computed.
    """

    prompt_tokens: int
    output_tokens: int
    hashes: tuple[int, ...] = ()
    adapter: str = ""

    state: State = State.NEW
    computed: int = 0  # tokens whose keys and values are in the cache
    generated: int = 0
    cached: int = 0  # prompt tokens found in the cache when the sequence first ran
    preemptions: int = 0
    blocks: list[int] = field(default_factory=list)
    arrived: float = 0.0
    started: float | None = None  # when it first left the queue
    first_token: float | None = None  # when the prompt had been computed
    due: float = 0.0  # when its next token comes, where latencies are fixed

    @property
    def total(self) -> int:
        """Tokens so far: the prompt and what has been generated."""
        return self.prompt_tokens + self.generated

    @property
    def over(self) -> bool:
        """Whether it has ended, either way."""
        return self.state in (State.FINISHED, State.ABORTED)


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """The engine's size. The defaults are vLLM's, with the cache of an 8B model on an 80 GiB GPU."""

    num_blocks: int = 26_000
    block_size: int = 16
    max_num_seqs: int = 256
    max_num_batched_tokens: int = 2_048
    max_loras: int = 4
    prefix_caching: bool = True

    def __post_init__(self) -> None:
        """Refuse an engine in which nothing could run."""
        for name in ("num_blocks", "block_size", "max_num_seqs", "max_num_batched_tokens", "max_loras"):
            value = getattr(self, name)
            if value < 1:
                msg = f"{name} is {value}: it must be at least 1"
                raise ValueError(msg)

    @property
    def capacity(self) -> int:
        """The most tokens one sequence can have."""
        return self.num_blocks * self.block_size


@dataclass(slots=True)
class Totals:
    """What has happened since the start."""

    prompt_tokens: int = 0
    generated_tokens: int = 0
    prefix_queries: int = 0  # prompt tokens looked up in the prefix cache
    prefix_hits: int = 0  # of those, found
    preemptions: int = 0
    steps: int = 0
    finished: int = 0
    aborted: int = 0


@dataclass(frozen=True, slots=True)
class Step:
    """What a call of `step` brought: the sequences that advanced or ended, and when to call again (None: when idle)."""

    advanced: tuple[Sequence, ...]
    until: float | None


class Engine:
    """The engine. `submit` and `abort` at any time; call `step(now)` when `until` has come or something was submitted."""

    def __init__(self, settings: EngineSettings, timing: TimingModel) -> None:
        """Start empty."""
        self.settings = settings
        self.timing = timing
        self.cache = BlockCache(settings.num_blocks)
        self.totals = Totals()
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self.adapters: Counter[str] = Counter()  # adapters in use, by how many running sequences
        self._plan: list[tuple[Sequence, int]] = []  # what the step under way computes
        self._until: float | None = None

    def submit(self, sequence: Sequence, now: float) -> None:
        """Queue `sequence`. Raises ValueError for one that could never run."""
        if sequence.state is not State.NEW or sequence.prompt_tokens < 1 or sequence.output_tokens < 0:
            msg = "a sequence is submitted once, with at least 1 prompt token and 0 or more output tokens"
            raise ValueError(msg)
        if sequence.prompt_tokens + sequence.output_tokens > self.settings.capacity:
            msg = f"{sequence.prompt_tokens} + {sequence.output_tokens} tokens exceed the capacity of {self.settings.capacity}"
            raise ValueError(msg)
        sequence.state, sequence.arrived = State.WAITING, now
        self.waiting.append(sequence)

    def abort(self, sequence: Sequence) -> None:
        """End `sequence` wherever it is and free its blocks; nothing happens when it has already ended."""
        if sequence.state is State.WAITING:
            self.waiting.remove(sequence)
        elif sequence.state is State.RUNNING:
            self._leave(sequence)
        else:
            return
        sequence.state = State.ABORTED
        self.totals.aborted += 1

    def waiting_adapters(self) -> list[str]:
        """Name the adapters that waiting sequences want, in the order of their first."""
        return list(dict.fromkeys(sequence.adapter for sequence in self.waiting if sequence.adapter))

    def step(self, now: float) -> Step:
        """End the step under way if its time has come, and begin the next one at `now`."""
        if self._until is not None and now < self._until:
            return Step((), self._until)
        advanced = tuple(sequence for sequence, tokens in self._plan if self._compute(sequence, tokens, now))
        self._plan, batch = self._schedule(now)
        self._until = None
        if self._plan:
            self.totals.steps += 1
            self._until = now + self.timing.seconds(batch)
        return Step(advanced, self._until)

    def _schedule(self, now: float) -> tuple[list[tuple[Sequence, int]], Batch]:
        plan: list[tuple[Sequence, int]] = []
        budget, preempted = self.settings.max_num_batched_tokens, self.totals.preemptions
        prefill = decode = context = 0
        while budget and len(plan) < len(self.running):
            sequence = self.running[len(plan)]
            tokens = min(sequence.total - sequence.computed, budget)
            if not self._grow(sequence, sequence.computed + tokens):
                break
            plan.append((sequence, tokens))
            budget -= tokens
            if tokens == 1 and sequence.generated:
                decode, context = decode + 1, context + sequence.computed
            else:
                prefill += tokens
        if self.totals.preemptions == preempted:  # who had to give way must not make room for a newcomer
            admitted = self._admit(budget, now)
            prefill += sum(tokens for _, tokens in admitted)
            plan += admitted
        return plan, Batch(prefill, decode, context, self.cache.usage)

    def _admit(self, budget: int, now: float) -> list[tuple[Sequence, int]]:
        """Let waiting sequences run while there is room; one that waits for an adapter slot does not hold up the rest."""
        admitted: list[tuple[Sequence, int]] = []
        passed: list[Sequence] = []
        size = self.settings.block_size
        while self.waiting and budget and len(self.running) < self.settings.max_num_seqs:
            sequence = self.waiting.popleft()
            if sequence.adapter and sequence.adapter not in self.adapters and len(self.adapters) >= self.settings.max_loras:
                passed.append(sequence)
                continue
            hits = self._hits(sequence)
            tokens = min(sequence.total - len(hits) * size, budget)
            blocks = self.cache.take(hits, -(-tokens // size))
            if blocks is None:
                passed.append(sequence)
                break
            sequence.blocks, sequence.computed = blocks, len(hits) * size
            self._enter(sequence, now)
            self._fill(sequence, sequence.computed + tokens)
            admitted.append((sequence, tokens))
            budget -= tokens
        self.waiting.extendleft(reversed(passed))
        return admitted

    def _hits(self, sequence: Sequence) -> list[int]:
        """Find reusable blocks; at least one token is left to compute, since its result is the next token."""
        if not self.settings.prefix_caching:
            return []
        return self.cache.lookup(sequence.hashes[: (sequence.total - 1) // self.settings.block_size])

    def _enter(self, sequence: Sequence, now: float) -> None:
        if sequence.started is None:
            sequence.started, sequence.cached = now, sequence.computed
            self.totals.prefix_queries += sequence.prompt_tokens
            self.totals.prefix_hits += sequence.cached
        sequence.state = State.RUNNING
        self.running.append(sequence)
        if sequence.adapter:
            self.adapters[sequence.adapter] += 1

    def _leave(self, sequence: Sequence) -> None:
        self.running.remove(sequence)
        self.cache.release(sequence.blocks)
        sequence.blocks = []
        if sequence.adapter:
            self.adapters[sequence.adapter] -= 1
            if not self.adapters[sequence.adapter]:
                del self.adapters[sequence.adapter]

    def _grow(self, sequence: Sequence, tokens: int) -> bool:
        """Give `sequence` blocks for `tokens` tokens, from the youngest if need be; False when it gave way itself."""
        missing = -(-tokens // self.settings.block_size) - len(sequence.blocks)
        if missing > 0:
            while (fresh := self.cache.take((), missing)) is None:
                youngest = self.running[-1]
                self._preempt(youngest)
                if youngest is sequence:
                    return False
            sequence.blocks += fresh
        self._fill(sequence, tokens)
        return True

    def _preempt(self, sequence: Sequence) -> None:
        """Send `sequence` back to the head of the queue; it computes all its tokens again, or finds them in the cache."""
        self._leave(sequence)
        sequence.state, sequence.computed = State.WAITING, 0
        sequence.preemptions += 1
        self.totals.preemptions += 1
        self.waiting.appendleft(sequence)

    def _fill(self, sequence: Sequence, tokens: int) -> None:
        """Note which blocks are full once this step has brought `sequence` to `tokens` tokens.

        That is said when the step is planned, as in vLLM: equal prompts in one step share their blocks.
        """
        if self.settings.prefix_caching:
            size = self.settings.block_size
            for index in range(sequence.computed // size, min(tokens // size, len(sequence.hashes))):
                self.cache.fill(sequence.blocks[index], sequence.hashes[index])

    def _compute(self, sequence: Sequence, tokens: int, now: float) -> bool:
        """Book what the step computed; True when that brought a token or the end."""
        if sequence.state is not State.RUNNING:
            return False  # aborted during the step
        sequence.computed += tokens
        if sequence.computed < sequence.total:
            return False
        if sequence.first_token is None:
            sequence.first_token = now
            self.totals.prompt_tokens += sequence.prompt_tokens
        if sequence.generated < sequence.output_tokens:
            sequence.generated += 1
            self.totals.generated_tokens += 1
        if sequence.generated >= sequence.output_tokens:
            self._leave(sequence)
            sequence.state = State.FINISHED
            self.totals.finished += 1
        return True
