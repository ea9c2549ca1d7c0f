"""Fields that other servers know and this one does not: named in the error, never ignored."""

from collections.abc import Container
from types import MappingProxyType
from typing import Any

from runtime.errors import UnsupportedParameter

# name: values that ask for nothing, and so are let through; null always is one.
UNSUPPORTED = MappingProxyType(
    {
        # OpenAI
        "audio": (),
        "best_of": (1,),
        "echo": (False,),
        "function_call": ("none", "auto"),
        "functions": ([],),
        "metadata": ({},),
        "modalities": (["text"],),
        "parallel_tool_calls": (True, False),
        "prediction": (),
        "reasoning_effort": (),
        "response_format": ({"type": "text"},),
        "service_tier": ("auto", "default"),
        "store": (False,),
        "suffix": ("",),
        "tool_choice": ("none", "auto"),
        "tools": ([],),
        "verbosity": (),
        "web_search_options": (),
        # vLLM
        "allowed_token_ids": (),
        "bad_words": ([],),
        "chat_template": (),
        "detokenize": (True,),
        "documents": ([],),
        "early_stopping": (False,),
        "include_reasoning": (True, False),
        "kv_transfer_params": (),
        "length_penalty": (1, 1.0),
        "logits_processors": ([],),
        "mm_processor_kwargs": (),
        "priority": (0,),
        "prompt_embeds": (),
        "prompt_logprobs": (),
        "request_id": (),
        "return_token_ids": (False,),
        "return_tokens_as_token_ids": (False,),
        "spaces_between_special_tokens": (True, False),
        "structured_outputs": (),
        "thinking_token_budget": (),
        "truncate_prompt_tokens": (),
        "use_beam_search": (False,),
        "vllm_xargs": ({},),
        # vLLM before and SGLang
        "guided_choice": (),
        "guided_grammar": (),
        "guided_json": (),
        "guided_regex": (),
        "ebnf": (),
        "json_schema": (),
        "regex": (),
        "stop_regex": (),
        # llama.cpp
        "grammar": (),
        "mirostat": (0,),
        "mirostat_eta": (),
        "mirostat_tau": (),
        "repeat_penalty": (1, 1.0),
        "typical_p": (1, 1.0),
        "top_n_sigma": (-1, -1.0),
        "dynatemp_range": (0, 0.0),
        "dry_multiplier": (0, 0.0),
        "xtc_probability": (0, 0.0),
        "samplers": (),
        "n_probs": (0,),
        "cache_prompt": (True,),
        "id_slot": (-1,),
    }
)
# Fields of one route that elsewhere would be refused as unknown with no better reason.
CHAT_ADD_SPECIAL = "add_special_tokens"


def refuse_unsupported(body: dict[str, Any], known: Container[str]) -> dict[str, Any]:
    """The body without fields that ask for nothing.

    Args:
        known: fields that the route does implement.

    Raises:
        UnsupportedParameter: a field asks for something.
    """
    kept = {}
    for name, value in body.items():
        if name in known or (name not in UNSUPPORTED and name != CHAT_ADD_SPECIAL):
            kept[name] = value
            continue
        neutral = UNSUPPORTED.get(name, (False,))
        # 1 == True in Python; in JSON they differ
        if value is not None and not any(
            value == one and type(value) is type(one) for one in neutral
        ):
            raise UnsupportedParameter(f"{name} is not supported", param=name)
    return kept
