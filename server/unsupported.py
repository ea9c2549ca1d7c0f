"""Fields that other servers know and this one does not: named in the error, never ignored."""

from collections.abc import Container, Mapping
from types import MappingProxyType
from typing import Any

from runtime.errors import UnsupportedParameter

# name: values that ask for nothing, and so are let through; null always is one.
UNSUPPORTED: Mapping[str, tuple[Any, ...]] = MappingProxyType(
    {
        # OpenAI
        "audio": (),
        "function_call": ("none", "auto"),
        "functions": ([],),
        "metadata": ({},),
        "modalities": (["text"],),
        "prediction": (),
        "reasoning_effort": (),
        "service_tier": ("auto", "default"),
        "store": (False,),
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
        "prompt_embeds": (),
        "return_tokens_as_token_ids": (False,),
        "spaces_between_special_tokens": (True, False),
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
# Fields of one of the two routes; the other refuses them with a better reason than "unknown".
ONE_ROUTE: Mapping[str, tuple[Any, ...]] = MappingProxyType(
    {
        "add_special_tokens": (False,),
        "echo": (False,),
        "suffix": ("",),
        "parallel_tool_calls": (True, False),
        "tool_choice": ("none", "auto"),
        "tools": ([],),
    }
)


def refuse_unsupported(body: dict[str, Any], known: Container[str]) -> dict[str, Any]:
    """The body without fields that ask for nothing.

    Args:
        known: fields that the route does implement.

    Raises:
        UnsupportedParameter: a field asks for something.
    """
    kept = {}
    for name, value in body.items():
        neutral = UNSUPPORTED.get(name, ONE_ROUTE.get(name))
        if name in known or neutral is None:
            kept[name] = value
            continue
        # 1 == True in Python; in JSON they differ
        if value is not None and not any(
            value == one and type(value) is type(one) for one in neutral
        ):
            raise UnsupportedParameter(f"{name} is not supported", param=name)
    return kept
