"""`ggjax run`: an answer streamed to the terminal, or a chat."""

import asyncio
import logging
import secrets
import signal
import sys
from dataclasses import replace
from typing import TextIO

from models.errors import ModelFileError
from runtime.errors import EngineDied, RequestError
from runtime.messages import Submit
from runtime.request import SamplingParams, answer_room
from runtime.text.answer import Answer
from server.engine_exit import EXIT_ENGINE, EXIT_USAGE, EngineNotStarted
from server.errors import AnswerFailed
from server.hub import ModelNotFound
from server.served_model import ModelOptions, ServedModel, in_thread, open_model

logger = logging.getLogger(__name__)

PROMPT = "\n>>> "


async def converse(options: ModelOptions, prompt: str | None, params: SamplingParams) -> int:
    """Answers the prompt, or chats until the input ends; the exit code of the process."""
    try:
        async with open_model(options) as model:
            if prompt is None:
                await chat(model, params)
            else:
                await say(model, [{"role": "user", "content": prompt}], params, sys.stdout)
            return 0
    except (ModelNotFound, ModelFileError, RequestError) as error:
        logger.error("%s", error)
        return EXIT_USAGE
    except EngineNotStarted as error:
        logger.error("%s", error)
        return error.exit_code
    except (EngineDied, AnswerFailed) as error:
        logger.error("%s", error)
        return EXIT_ENGINE


async def chat(model: ServedModel, params: SamplingParams) -> None:
    """Takes turns until the end of the input; Ctrl-C ends an answer, and at the prompt the chat."""
    messages: list[dict[str, str]] = []
    turn: asyncio.Task[str] | None = None

    def interrupt() -> None:
        if turn is not None:
            turn.cancel()

    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, interrupt)
    sys.stderr.write("Ctrl-D ends the chat, Ctrl-C an answer.\n")
    while True:
        try:
            turn = asyncio.create_task(in_thread(lambda: input(PROMPT)))
            line = await turn
        except (EOFError, asyncio.CancelledError):
            sys.stdout.write("\n")
            return
        if not line.strip():
            continue
        messages.append({"role": "user", "content": line})
        try:
            turn = asyncio.create_task(say(model, messages, params, sys.stdout))
            messages.append({"role": "assistant", "content": await turn})
        except asyncio.CancelledError:
            messages.pop()
            sys.stdout.write("\n")
        except RequestError as error:
            messages.pop()
            sys.stderr.write(f"{error}\n")


async def say(
    model: ServedModel, messages: list[dict[str, str]], params: SamplingParams, out: TextIO
) -> str:
    """Writes the answer to a chat as it comes, and returns it.

    Raises:
        RequestError: the chat is refused or too long.
        EngineDied: the engine is gone.
    """
    prompt = await model.text.render_chat(messages)
    room = answer_room(
        len(prompt.ids),
        params.max_tokens,
        max_model_len=model.info.max_model_len,
        kv_tokens=model.info.kv_tokens,
    )
    request = Submit(
        model.engine.new_id(),
        prompt.ids,
        replace(params, max_tokens=room),
        seed=secrets.randbits(63),
    )
    answer = Answer(0, model.text.tokenizer, request.params, start=True)
    texts: list[str] = []
    async with model.engine.generate([request]) as stream:
        while outputs := await stream.take():
            texts.append(answer.push(outputs).text)
            out.write(texts[-1])
            out.flush()
    out.write("\n")
    return "".join(texts)
