"""Answer chat completions as OpenAI's API does, whole or as server-sent events (spec/8-serving.md §3).

Of what a request may say there, what has a meaning for a local model is passed to the program; the rest is ignored.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from strongroom.errors import StrongroomError
from strongroom.policy.document import ServingRules
from strongroom.serving.answers import limit_pieces
from strongroom.serving.http import Request, Response
from strongroom.serving.tensors import TensorError

RECEIPT_HEADER: Final = "strongroom-receipt"
MOST_MESSAGES: Final = 256
MOST_CHARACTERS: Final = 1 << 18
_PASSED: Final = ("temperature", "top_p", "seed", "stop")


class ChatRequestError(TensorError):
    """A request for a completion is not one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatDesk:
    """What a completion needs: credit, the program's generator, the rules, and a record of what left."""

    spend: Callable[[], None]
    talk: Callable[[Sequence[Mapping[str, Any]], Mapping[str, Any]], Iterator[str]]
    rules: Callable[[], ServingRules]
    record: Callable[[Request, bytes], str]


def answer_chat(desk: ChatDesk, request: Request, *, name: str) -> Response:
    """Return a completion, or a stream of its pieces; raise what is wrong with the request."""
    asked = _parse(request.body)
    if asked.get("model") not in (None, name):
        raise ChatRequestError(f"the model {str(asked.get('model'))[:80]!r} is not here", hint=f"the model is {name}")
    most = asked.get("max_completion_tokens", asked.get("max_tokens"))
    if most is not None and (type(most) is not int or most < 1):
        raise ChatRequestError("max_tokens is a whole number above 0")
    desk.spend()
    rules = desk.rules()  # as of the window that was spent from
    settings = {key: asked[key] for key in _PASSED if asked.get(key) is not None}
    settings["max_tokens"] = rules.tokens if most is None else min(most, rules.tokens)
    pieces = limit_pieces(desk.talk(_messages(asked), settings), rules=rules, most=most)
    head = {"id": f"chatcmpl-{secrets.token_hex(12)}", "created": int(time.time()), "model": name}
    if asked.get("stream") is True:
        first = next(pieces, None)  # what is wrong from the start is still an ordinary error
        return Response(status=200, body=_stream(desk, request, head, first, pieces), kind="text/event-stream")
    texts = list(pieces)
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": "".join(texts)},
        "finish_reason": "length" if len(texts) >= settings["max_tokens"] else "stop",
    }
    usage = {"prompt_tokens": 0, "completion_tokens": len(texts), "total_tokens": len(texts)}
    body = json.dumps({**head, "object": "chat.completion", "choices": [choice], "usage": usage}).encode()
    return Response(status=200, body=body, headers={RECEIPT_HEADER: desk.record(request, body)})


def _stream(
    desk: ChatDesk, request: Request, head: Mapping[str, Any], first: str | None, pieces: Iterator[str]
) -> Iterator[bytes]:
    sent = bytearray()

    def event(delta: Mapping[str, Any], finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        text = json.dumps({**head, "object": "chat.completion.chunk", "choices": [choice]})
        data = f"data: {text}\n\n".encode()
        sent.extend(data)
        return data

    try:
        yield event({"role": "assistant", "content": ""})
        if first is not None:
            yield event({"content": first})
            for piece in pieces:
                yield event({"content": piece})
        yield event({}, "stop")
    except StrongroomError as error:
        text = json.dumps({"error": {"message": error.message, "type": error.kind}})
        data = f"data: {text}\n\n".encode()
        sent.extend(data)
        yield data
    # Written down before the caller learns that this was all, and also if it stops listening.
    finally:
        place = desk.record(request, bytes(sent))
    yield f": {RECEIPT_HEADER} {place}\n\ndata: [DONE]\n\n".encode()


def _parse(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ChatRequestError("the request is not JSON") from error
    if not isinstance(value, dict):
        raise ChatRequestError("the request is not an object")
    return value


def _messages(asked: Mapping[str, Any]) -> list[dict[str, str]]:
    given = asked.get("messages")
    if not isinstance(given, list) or not 0 < len(given) <= MOST_MESSAGES:
        raise ChatRequestError(f"a request has 1 to {MOST_MESSAGES} messages")
    found = []
    for one in given:
        role, content = (one.get("role"), one.get("content")) if isinstance(one, dict) else (None, None)
        if isinstance(content, list):  # parts, of which only text has a meaning here
            content = "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
        if not isinstance(role, str) or not isinstance(content, str):
            raise ChatRequestError("a message has a role and a content")
        found.append({"role": role, "content": content})
    if sum(len(one["content"]) for one in found) > MOST_CHARACTERS:
        raise ChatRequestError(f"the messages have more than {MOST_CHARACTERS} characters together")
    return found
