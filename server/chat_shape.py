"""Chats as OpenAI writes them: messages, and the chunks of a message."""

from collections.abc import Callable, Sequence
from typing import Any

from runtime.text.answer import Piece
from runtime.text.tokenizer import Tokenizer
from server.generation import Call
from server.logprobs import chat_logprobs, prompt_logprobs
from server.respond import WholeAnswer
from server.schema import ChatBody
from server.tool_deltas import ToolDeltas, message_of


class ChatShape:
    """The route's `Shape`."""

    id_prefix = "chatcmpl"
    object_name = "chat.completion"
    chunk_name = "chat.completion.chunk"

    def __init__(
        self,
        tokenizer: Tokenizer,
        body: ChatBody,
        call: Call,
        make_tool_deltas: Callable[[], ToolDeltas] | None,
    ) -> None:
        """`make_tool_deltas`: finds the calls in one answer; None where none may be made."""
        self._tokenizer = tokenizer
        self._body = body
        self._call = call
        self._make_tool_deltas = make_tool_deltas
        self._tool_deltas: dict[int, ToolDeltas] = {}

    def deltas(self, piece: Piece, *, first: bool) -> list[dict[str, Any]]:
        found, has_calls = self._message_deltas(piece)
        if not found and (piece.scored or piece.token_ids or piece.finish_reason is not None):
            found = [{}]
        choices = [_choice(piece.index, delta) for delta in found]
        if piece.scored:
            choices[0]["logprobs"] = chat_logprobs(piece.scored, self._tokenizer)
        if piece.token_ids:
            choices[0]["token_ids"] = list(piece.token_ids)
        if piece.finish_reason is not None:
            choices[-1]["finish_reason"] = _finish_reason(piece.finish_reason, has_calls)
            choices[-1]["stop_reason"] = piece.stop_reason
        if first:
            choices.insert(0, _choice(piece.index, {"role": "assistant", "content": ""}))
        return choices

    def whole(self, index: int, answer: WholeAnswer) -> dict[str, Any]:
        has_calls = False
        if self._make_tool_deltas is None:
            message = {"role": "assistant", "content": answer.text, "refusal": None}
        else:
            tools = self._make_tool_deltas()
            message = message_of(tools.feed(answer.text) + tools.finish())
            has_calls = tools.has_calls
        choice = {
            "index": index,
            "message": message,
            "logprobs": chat_logprobs(answer.scored, self._tokenizer)
            if self._body.logprobs
            else None,
            "finish_reason": _finish_reason(answer.finish_reason, has_calls),
            "stop_reason": answer.stop_reason,
        }
        return choice | ({"token_ids": answer.token_ids} if self._body.return_token_ids else {})

    def prompt_fields(self, answers: Sequence[WholeAnswer]) -> dict[str, Any]:
        fields: dict[str, Any] = {}
        if self._body.return_token_ids:
            (fields["prompt_token_ids"],) = self._call.prompts
        num_top = self._body.prompt_logprobs
        if answers and num_top is not None and answers[0].prompt_logprobs is not None:
            fields["prompt_logprobs"] = prompt_logprobs(
                answers[0].prompt_logprobs, self._tokenizer, num_top=num_top
            )
        return fields

    def _message_deltas(self, piece: Piece) -> tuple[list[dict[str, Any]], bool]:
        """What a piece adds to its message, and whether that calls tools."""
        if self._make_tool_deltas is None:
            return ([{"content": piece.text}] if piece.text else []), False
        tools = self._tool_deltas.get(piece.index)
        if tools is None:
            tools = self._tool_deltas[piece.index] = self._make_tool_deltas()
        found = tools.feed(piece.text)
        if piece.finish_reason is not None:
            found += tools.finish()
        return found, tools.has_calls


def _choice(index: int, delta: dict[str, Any]) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}


def _finish_reason(reason: str | None, has_calls: bool) -> str | None:
    return "tool_calls" if has_calls and reason == "stop" else reason
