"""What a client gets: the JSON and the server-sent events of the OpenAI APIs, as vLLM frames them.

Pure: counts in, bytes out. The words come from `text.Answer`; when they come is the engine's business.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from epp.simulator.calls import CHAT, EMBEDDINGS, RESPONSES, Call
from epp.simulator.text import Answer

if TYPE_CHECKING:
    from collections.abc import Sequence

DONE = b"data: [DONE]\n\n"
DIMENSIONS = 8  # of an embedding


@dataclass(frozen=True, slots=True)
class Spent:
    """The tokens a call has cost."""

    prompt: int
    completion: int
    cached: int

    def usage(self, api: str) -> dict[str, Any]:
        """Give the `usage` object of `api`."""
        total, cached = self.prompt + self.completion, {"cached_tokens": self.cached}
        if api == RESPONSES:
            usage = {"input_tokens": self.prompt, "input_tokens_details": cached, "output_tokens": self.completion}
            return {**usage, "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": total}
        usage = {"prompt_tokens": self.prompt, "total_tokens": total, "completion_tokens": self.completion}
        return {**usage, "prompt_tokens_details": cached}


def _event(data: dict[str, Any], kind: str | None = None) -> bytes:
    name = b"event: %s\n" % kind.encode() if kind else b""
    return b"%sdata: %s\n\n" % (name, msgspec.json.encode(data))


class Writer:
    """Writes the answer to one chat, completions or embeddings call, whole (`whole`) or in events."""

    def __init__(self, call: Call, ident: str, created: int, limit: int) -> None:
        """Answer `call` with up to `limit` tokens a choice; `ident` and `created` go into the answer."""
        self.call, self.limit = call, limit
        self.ident, self.created = ident, created
        self.answers = [Answer(prompt) for prompt in call.prompts]
        self.reason = "stop" if call.max_tokens is None else "length"

    def whole(self, spent: Spent) -> bytes:
        """Give the answer as one JSON document."""
        choices = [self._choice(index) for index in range(len(self.answers))]
        key, name = ("data", "list") if self.call.api == EMBEDDINGS else ("choices", self._object(streamed=False))
        return msgspec.json.encode({**self._head(name), key: choices, "usage": spent.usage(self.call.api)})

    def begin(self) -> bytes:
        """Give the events before the first token."""
        if self.call.api != CHAT:
            return b""
        first = {"delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
        return b"".join(self._chunk([{"index": index, **first}]) for index in range(len(self.answers)))

    def tokens(self, index: int, start: int, end: int) -> bytes:
        """Give the event for tokens `start` to `end` of choice `index`; the last carries the finish reason."""
        text = self.answers[index].text(start, end)
        content = {"delta": {"content": text}} if self.call.api == CHAT else {"text": text}
        reason = self.reason if end >= self.limit else None
        return self._chunk([{"index": index, **content, "logprobs": None, "finish_reason": reason}])

    def end(self, spent: Spent) -> bytes:
        """Give the events after the last token."""
        return (self._chunk([], spent.usage(self.call.api)) if self.call.include_usage else b"") + DONE

    def _chunk(self, choices: Sequence[dict[str, Any]], usage: dict[str, Any] | None = None) -> bytes:
        data: dict[str, Any] = {**self._head(self._object(streamed=True)), "choices": choices}
        if usage is not None:
            data["usage"] = usage
        return _event(data)

    def _head(self, name: str) -> dict[str, Any]:
        return {"id": self.ident, "object": name, "created": self.created, "model": self.call.model}

    def _object(self, *, streamed: bool) -> str:
        if self.call.api == CHAT:
            return "chat.completion.chunk" if streamed else "chat.completion"
        return "text_completion"

    def _choice(self, index: int) -> dict[str, Any]:
        if self.call.api == EMBEDDINGS:
            return {"index": index, "object": "embedding", "embedding": _vector(self.answers[index])}
        text = self.answers[index].text(0, self.limit)
        content = {"message": {"role": "assistant", "content": text}} if self.call.api == CHAT else {"text": text}
        return {"index": index, **content, "logprobs": None, "finish_reason": self.reason}


class ResponsesWriter(Writer):
    """Writes the answer to a call of the responses API, whose events are named and numbered."""

    def __init__(self, call: Call, ident: str, created: int, limit: int) -> None:
        """Answer `call`, numbering events from 0."""
        super().__init__(call, ident, created, limit)
        self._number = -1
        self._place = {"item_id": f"msg_{ident}", "output_index": 0, "content_index": 0}

    def whole(self, spent: Spent) -> bytes:
        """Give the answer as one JSON document."""
        return msgspec.json.encode(self._response("completed", spent))

    def begin(self) -> bytes:
        """Open the response, its one message, and the message's one part."""
        progress = self._response("in_progress", None)
        return (
            self._named("response.created", response=progress)
            + self._named("response.in_progress", response=progress)
            + self._named("response.output_item.added", output_index=0, item=self._item("in_progress"))
            + self._named("response.content_part.added", **self._place, part=_part(""))
        )

    def tokens(self, index: int, start: int, end: int) -> bytes:
        """Give the delta for tokens `start` to `end`."""
        delta = self.answers[index].text(start, end)
        return self._named("response.output_text.delta", **self._place, delta=delta, logprobs=[])

    def end(self, spent: Spent) -> bytes:
        """Close what `begin` opened; `response.completed` carries the usage."""
        text = self.answers[0].text(0, self.limit)
        return (
            self._named("response.output_text.done", **self._place, text=text, logprobs=[])
            + self._named("response.content_part.done", **self._place, part=_part(text))
            + self._named("response.output_item.done", output_index=0, item=self._item("completed"))
            + self._named("response.completed", response=self._response("completed", spent))
        )

    def _named(self, kind: str, **data: Any) -> bytes:
        self._number += 1
        return _event({"type": kind, "sequence_number": self._number, **data}, kind)

    def _item(self, status: str) -> dict[str, Any]:
        content = [_part(self.answers[0].text(0, self.limit))] if status == "completed" else []
        item = {"id": self._place["item_id"], "type": "message", "role": "assistant", "status": status}
        return {**item, "content": content}

    def _response(self, status: str, spent: Spent | None) -> dict[str, Any]:
        head = {"id": self.ident, "object": "response", "created_at": self.created, "status": status, "model": self.call.model}
        output = [self._item(status)] if status == "completed" else []
        return {**head, "error": None, "output": output, "usage": spent.usage(RESPONSES) if spent else None}


def writer(call: Call, ident: str, created: int, limit: int) -> Writer:
    """Give the writer for `call`."""
    return (ResponsesWriter if call.api == RESPONSES else Writer)(call, ident, created, limit)


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": []}


def _vector(answer: Answer) -> list[float]:
    """Give a unit vector that depends on the prompt only."""
    values = [float(sum(answer.word(index + 1).encode()) % 17 - 8) or 1.0 for index in range(DIMENSIONS)]
    norm = sum(value * value for value in values) ** 0.5
    return [round(value / norm, 6) for value in values]
