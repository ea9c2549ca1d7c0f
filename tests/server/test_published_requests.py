"""Requests as the documents of vLLM, llama-server and OpenAI have them are taken as they are."""

from typing import Any

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
SYSTEM = {"role": "system", "content": "You are a helpful assistant."}


def says(text: str) -> list[dict[str, str]]:
    return [SYSTEM, {"role": "user", "content": text}]


CAR = {
    "type": "object",
    "properties": {
        "brand": {"type": "string"},
        "model": {"type": "string"},
        "car_type": {"$ref": "#/$defs/CarType"},
    },
    "required": ["brand", "model", "car_type"],
    "$defs": {"CarType": {"type": "string", "enum": ["sedan", "SUV", "Truck", "Coupe"]}},
}
SQL = """
root ::= select_statement
select_statement ::= "SELECT " column " from " table " where " condition
column ::= "col_1 " | "col_2 "
table ::= "table_1 " | "table_2 "
condition ::= column "= " number
number ::= "1 " | "2 "
"""
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the current weather in a given location",
        "parameters": {
            "type": "object",
            "properties": {
                "location": {"type": "string", "description": "City and state"},
                "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
            },
            "required": ["location", "unit"],
        },
    },
}
VLLM: list[tuple[str, dict[str, Any]]] = [
    (COMPLETIONS, {"prompt": "San Francisco is a", "max_tokens": 7, "temperature": 0}),
    (CHAT, {"messages": says("Who won the world series in 2020?")}),
    (CHAT, {"messages": says("Positive or negative?"),
            "structured_outputs": {"choice": ["positive", "negative"]}}),
    (CHAT, {"messages": says("An address, please."), "stop": ["\n"],
            "structured_outputs": {"regex": r"\w+@\w+\.com\n"}}),
    (CHAT, {"messages": says("A car, please."),
            "response_format": {"type": "json_schema",
                                "json_schema": {"name": "car-description", "schema": CAR}}}),
    (CHAT, {"messages": says("A query, please."), "structured_outputs": {"grammar": SQL}}),
    (CHAT, {"messages": says("What's the weather like?"), "tools": [WEATHER],
            "tool_choice": "auto"}),
    (CHAT, {"messages": says("What's the weather like?"), "tools": [WEATHER],
            "tool_choice": {"type": "function", "function": {"name": "get_weather"}}}),
    (CHAT, {"messages": says("9.11 or 9.8?"), "top_k": 20, "repetition_penalty": 1.05,
            "chat_template_kwargs": {"enable_thinking": False}}),
    (COMPLETIONS, {"prompt": "A robot may not injure a human being", "stream": True,
                   "stream_options": {"include_usage": True, "continuous_usage_stats": True}}),
]  # fmt: skip
LLAMA_SERVER: list[tuple[str, dict[str, Any]]] = [
    (CHAT, {"messages": says("Write a limerick about python exceptions")}),
    (CHAT, {"messages": says("Hello"), "cache_prompt": True,
            "response_format": {"type": "json_object"}}),
    (CHAT, {"messages": says("Hello"),
            "response_format": {"type": "json_object",
                                "schema": {"type": "string", "minLength": 10, "maxLength": 100}}}),
    (CHAT, {"messages": says("Hello"),
            "response_format": {"type": "json_schema",
                                "schema": {"properties": {"name": {"type": "string"}}}}}),
    (CHAT, {"messages": says("Print hello world"), "parallel_tool_calls": False, "tools": [{
        "type": "function",
        "function": {
            "name": "python",
            "description": "Runs code and returns what it printed.",
            "parameters": {"type": "object", "required": ["code"],
                           "properties": {"code": {"type": "string"}}},
        }}]}),
    (COMPLETIONS, {"prompt": "I believe the meaning of life is", "max_tokens": 8}),
]  # fmt: skip
OPENAI: list[tuple[str, dict[str, Any]]] = [
    (CHAT, {"messages": [{"role": "developer", "content": "Be brief."}, *says("Hello!")]}),
    (CHAT, {"messages": says("Hello!"), "logprobs": True, "top_logprobs": 2, "store": False,
            "service_tier": "auto", "user": "somebody", "modalities": ["text"]}),
    (COMPLETIONS, {"prompt": "Say this is a test", "max_tokens": 7, "temperature": 0, "echo": True,
                   "best_of": 1, "n": 1, "logprobs": None, "stop": None, "suffix": None}),
]  # fmt: skip


async def test_they_are_taken(start_server: Any) -> None:
    client = await start_server(max_model_len=2048)
    for url, body in VLLM + LLAMA_SERVER + OPENAI:
        response = await client.post(url, json={"model": "tiny", "max_tokens": 4} | body)
        text = await response.text()
        assert response.status == 200, (body, text)
        assert not body.get("stream") or text.endswith("data: [DONE]\n\n")
