"""A chat's messages to the prompt that the model was trained on."""

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import msgspec

from runtime.text.prompt_shield import PromptShield, RenderedChat
from runtime.text.template_process import TemplateError, TemplateLimitError, TemplateWorker
from runtime.text.tokenizer import Tokenizer, check_encodable

type Message = Mapping[str, Any]

ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function"})
# What a caller's keyword arguments may not replace.
OURS = frozenset(
    """messages tools documents add_generation_prompt bos_token eos_token pad_token range dict
    namespace raise_exception strftime_now""".split()
)
WEATHER_TOOL = MappingProxyType(
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "The weather of a city.",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
)
USER = MappingProxyType({"role": "user", "content": "Hello"})
# Chats that `check` renders; only the first must succeed.
CANONICAL_CHATS: Mapping[str, tuple[tuple[Message, ...], tuple[Message, ...] | None]] = (
    MappingProxyType(
        {
            "user": ((USER,), None),
            "system": (({"role": "system", "content": "Be brief."}, USER), None),
            "several turns": ((USER, {"role": "assistant", "content": "Hi."}, USER), None),
            "tools": ((USER,), (WEATHER_TOOL,)),
            "empty content": (({"role": "user", "content": ""},), None),
        }
    )
)


class ChatTemplate:
    """The chat template of a model file, or the operator's own, bound to a tokenizer.

    Args:
        source: the Jinja text (`tokenizer.chat_template`), or None where the file has none.
        worker: renders it; the caller opens and closes it.

    Attributes:
        sha256: hex digest of the source, for the log; a template is code that comes with a model.
    """

    def __init__(self, source: str | None, tokenizer: Tokenizer, worker: TemplateWorker) -> None:
        self.source = source
        self._tokenizer = tokenizer
        self._worker = worker
        self._shield = PromptShield(tokenizer)
        encoded = None if source is None else source.encode("utf-8", errors="replace")
        self.sha256 = None if encoded is None else hashlib.sha256(encoded).hexdigest()

    def render_chat(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        **kwargs: Any,
    ) -> RenderedChat:
        """The prompt of a chat, as text and ids; no user's text in it is a control token.

        A trailing assistant message without tool calls is a prefill: the prompt ends with it, open.

        Args:
            messages: as in OpenAI's API; lists of text parts are joined by newlines.
            add_generation_prompt: end with the beginning of the assistant's answer. Without it a
                trailing assistant message is closed like any other.
            continue_final_message: the last message must be a prefill.
            tools: as in OpenAI's API.
            kwargs: further names for the template, such as `enable_thinking`.

        Raises:
            TemplateError: there is no template, the chat is not well formed, or the template
                refuses or cannot render it in time.
        """
        variables, prefill, sentinel = self._prepare(
            messages, add_generation_prompt, continue_final_message, tools, kwargs
        )
        rendered = self._worker.render(self._template(), variables)
        return self._finish(rendered + prefill, sentinel)

    async def render_chat_async(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        **kwargs: Any,
    ) -> RenderedChat:
        """`render_chat` without blocking the event loop (a megabyte takes 0.5 s)."""
        variables, prefill, sentinel = await asyncio.to_thread(
            self._prepare, messages, add_generation_prompt, continue_final_message, tools, kwargs
        )
        rendered = await self._worker.render_async(self._template(), variables)
        return await asyncio.to_thread(self._finish, rendered + prefill, sentinel)

    def check(self) -> tuple[str, ...]:
        """Renders a few usual chats, and returns the names of those that the template refuses.

        Raises:
            TemplateError: it cannot render even one message of a user, or exceeds a limit.
        """
        refused = []
        for name, (messages, tools) in CANONICAL_CHATS.items():
            try:
                self.render_chat(messages, tools=tools)
            except TemplateLimitError:
                raise
            except TemplateError:
                if name == "user":
                    raise
                refused.append(name)
        return tuple(refused)

    def _template(self) -> str:
        if self.source is None:
            raise TemplateError(
                "the model file has no chat template; start with --chat-template FILE, or use "
                "completions instead of chats"
            )
        return self.source

    def _prepare(
        self,
        messages: Sequence[Message],
        add_generation_prompt: bool,
        continue_final_message: bool,
        tools: Sequence[Mapping[str, Any]] | None,
        kwargs: Mapping[str, Any],
    ) -> tuple[dict[str, Any], str, str]:
        """The template's variables, the prefill and the sentinel; the first two shielded."""
        template = self._template()
        reserved = sorted(OURS & set(kwargs))
        if reserved:
            raise TemplateError(f"a chat template argument must not be called {reserved[0]!r}")
        chat = [_message(message) for message in messages]
        prefill = ""
        if chat and _is_prefill(chat[-1]) and (add_generation_prompt or continue_final_message):
            prefill = chat.pop()["content"]
            add_generation_prompt = True
        elif continue_final_message:
            raise TemplateError("only a final assistant message with text can be continued")
        theirs = {"messages": chat, "tools": tools and list(tools), **kwargs}
        sentinel = self._shield.sentinel(template, theirs, prefill)
        variables = self._shield.shield(theirs, sentinel)
        names = {
            "bos_token": self._tokenizer.bos_id,
            "eos_token": self._tokenizer.eos_id,
            "pad_token": self._tokenizer.pad_id,
        }
        variables |= {
            name: self._tokenizer.token_text(i) for name, i in names.items() if i is not None
        }
        variables["add_generation_prompt"] = add_generation_prompt
        return variables, self._shield.shield(prefill, sentinel), sentinel

    def _finish(self, rendered: str, sentinel: str) -> RenderedChat:
        chat = self._shield.encode_rendered(rendered, sentinel)
        prefix = list(self._tokenizer.prefix_ids)
        # Many templates print the bos token themselves, and one is enough.
        missing = prefix if chat.ids[: len(prefix)] != prefix else []
        return RenderedChat(chat.text, missing + chat.ids)


def _is_prefill(message: Message) -> bool:
    return message["role"] == "assistant" and not message.get("tool_calls")


def _message(message: Message) -> dict[str, Any]:
    """A message as templates expect it: text content, tool arguments as objects."""
    role = message.get("role")
    if role not in ROLES:
        raise TemplateError(f"unknown role {role!r}; known are {', '.join(sorted(ROLES))}")
    done = dict(message)
    calls = message.get("tool_calls")
    done["content"] = _content(message.get("content"), empty=None if calls else "")
    if calls:
        done["tool_calls"] = [_tool_call(call) for call in calls]
    return done


def _content(content: Any, empty: str | None) -> str | None:
    if content is None:
        return empty
    texts = [content] if isinstance(content, str) else [_part(part) for part in content]
    for text in texts:
        try:
            check_encodable(text)
        except ValueError as error:
            raise TemplateError(str(error)) from None
    return "\n".join(texts)


def _part(part: Any) -> str:
    text = part.get("text") if isinstance(part, Mapping) and part.get("type") == "text" else None
    if not isinstance(text, str):
        raise TemplateError("message content must be text or a list of text parts")
    return text


def _tool_call(call: Any) -> Any:
    """A tool call whose arguments, a string of JSON in OpenAI's API, are the object they spell."""
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping):
        raise TemplateError("a tool call must hold a function")
    arguments = function.get("arguments") or "{}"
    if isinstance(arguments, str):
        try:
            arguments = msgspec.json.decode(arguments)
        except (msgspec.DecodeError, RecursionError):
            arguments = None
    if not isinstance(arguments, Mapping):
        raise TemplateError("the arguments of a tool call must be a JSON object")
    return {**call, "function": {**function, "arguments": arguments}}
