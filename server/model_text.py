"""The served model's text side: prompts to token ids, chats through the file's template."""

import asyncio
import functools
import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from models.errors import ModelFileError
from models.gguf_file import open_gguf
from runtime.errors import RequestError
from runtime.text.chat_template import ChatTemplate
from runtime.text.grammar_process import GrammarChecker
from runtime.text.prompt_shield import RenderedChat
from runtime.text.template_process import TemplateError, TemplateWorker
from runtime.text.tokenizer import Tokenizer, build_tokenizer
from server.answer_form import AnswerForm

logger = logging.getLogger(__name__)

# Longer texts are encoded beside the event loop: a megabyte takes most of a second.
INLINE_CHARS = 8192
NUM_THREADS = 2


class ModelText:
    """Tokenizer and chat template of one model; close it when done.

    Args:
        template: Jinja text, or None where there is none.
        template_worker: renders it; closed by `close`.
    """

    def __init__(
        self, tokenizer: Tokenizer, template: str | None, template_worker: TemplateWorker
    ) -> None:
        self.tokenizer = tokenizer
        self.template = ChatTemplate(template, tokenizer, template_worker)
        self._worker = template_worker
        self._grammars: GrammarChecker | None = None  # its process starts when it is needed
        self._threads = ThreadPoolExecutor(NUM_THREADS, thread_name_prefix="text")

    async def encode(
        self, text: str, *, parse_special: bool = True, add_special: bool = True
    ) -> list[int]:
        """The ids of a raw prompt; `add_special` puts the bos token, if there is one, first."""
        encode = functools.partial(self.tokenizer.encode, text, parse_special=parse_special)
        if len(text) <= INLINE_CHARS:
            ids = encode()
        else:
            ids = await asyncio.get_running_loop().run_in_executor(self._threads, encode)
        return [*self.tokenizer.prefix_ids, *ids] if add_special else ids

    async def render_chat(
        self, messages: Sequence[Mapping[str, Any]], **options: Any
    ) -> RenderedChat:
        """The prompt of a chat; options as those of `ChatTemplate.render_chat`.

        Raises:
            RequestError: the template refuses the chat.
        """
        render = functools.partial(self.template.render_chat, messages, **options)
        try:
            # rendering waits for the worker, and a long chat takes long to encode
            return await asyncio.get_running_loop().run_in_executor(self._threads, render)
        except TemplateError as error:
            raise RequestError(str(error), param="messages", code="invalid_chat") from error

    async def check_form(self, form: AnswerForm) -> None:
        """Returns if answers can be given this form.

        Raises:
            RequestError: they cannot, or it takes too much to find out.
        """
        if self._grammars is None:
            self._grammars = GrammarChecker()
        await self._grammars.check_async(form.wanted, param=form.param)

    def close(self) -> None:
        """Ends the workers."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._worker.close()
        if self._grammars is not None:
            self._grammars.close()


def load_text(model: Path, template_file: Path | None) -> ModelText:
    """The text side of a model file; `template_file` replaces the file's own chat template.

    Raises:
        ModelFileError: the file, or the template file, cannot be used.
    """
    metadata = open_gguf(model).metadata
    tokenizer = build_tokenizer(metadata)
    template = metadata.get("tokenizer.chat_template")
    if template_file is not None:
        template = _read_template(template_file)
    source = template if isinstance(template, str) else None
    text = ModelText(tokenizer, source, TemplateWorker())
    if source is None:
        logger.warning("the model file has no chat template: only /v1/completions will work")
    else:
        _check_template(text)
    return text


def _read_template(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelFileError(f"the chat template cannot be read: {error}", path=path) from error


def _check_template(text: ModelText) -> None:
    """Renders usual chats once: a template that cannot is better found now than by a client."""
    try:
        refused = text.template.check()
    except TemplateError as error:
        text.close()
        raise ModelFileError(f"the chat template does not work: {error}") from error
    logger.info("chat template sha256 %s", text.template.sha256)
    if refused:
        logger.warning("the chat template refuses: %s", ", ".join(refused))
