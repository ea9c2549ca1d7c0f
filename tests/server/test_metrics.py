"""Metrics: the names that vLLM's dashboards ask for, and figures that are right."""

from typing import Any

import pytest

# every metric that the Grafana dashboard in vLLM's repository asks for
DASHBOARD = """
vllm:e2e_request_latency_seconds_bucket vllm:e2e_request_latency_seconds_sum
vllm:e2e_request_latency_seconds_count vllm:prompt_tokens_total vllm:generation_tokens_total
vllm:inter_token_latency_seconds_bucket vllm:inter_token_latency_seconds_sum
vllm:inter_token_latency_seconds_count vllm:num_requests_running vllm:num_requests_waiting
vllm:time_to_first_token_seconds_bucket vllm:time_to_first_token_seconds_sum
vllm:time_to_first_token_seconds_count vllm:kv_cache_usage_perc
vllm:request_prompt_tokens_bucket vllm:request_generation_tokens_bucket
vllm:request_success_total vllm:request_queue_time_seconds_sum
vllm:request_prefill_time_seconds_sum vllm:request_decode_time_seconds_sum
vllm:request_max_num_generation_tokens_sum
""".split()


async def scrape(client: Any) -> dict[str, float]:
    text = await (await client.get("/metrics")).text()
    rows = [line.rpartition(" ") for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in rows}


async def test_the_dashboard_of_vllm_finds_all_that_it_asks_for(client: Any) -> None:
    await client.post("/v1/completions", json={"prompt": "XYZ", "max_tokens": 5})
    found = {name.partition("{")[0] for name in await scrape(client) if 'model_name="tiny"' in name}
    assert not set(DASHBOARD) - found


async def test_the_figures_are_those_of_the_requests(start_server: Any) -> None:
    client = await start_server()
    await client.post("/v1/completions", json={"prompt": "XYZ", "max_tokens": 5})
    await client.post("/v1/completions", json={"prompt": ""})
    found = await scrape(client)
    label = '{model_name="tiny"}'
    for name, value in {
        f"vllm:num_requests_running{label}": 0,
        f"vllm:kv_cache_usage_perc{label}": 0,
        f"vllm:prompt_tokens_total{label}": 3,
        f"vllm:generation_tokens_total{label}": 5,
        f"vllm:prefix_cache_queries_total{label}": 3,
        f"vllm:prefix_cache_hits_total{label}": 1,
        f"vllm:num_preemptions_total{label}": 0,
        f"vllm:time_to_first_token_seconds_count{label}": 1,
        f"vllm:e2e_request_latency_seconds_count{label}": 1,
        f"vllm:request_queue_time_seconds_count{label}": 1,
        f"vllm:request_prefill_time_seconds_count{label}": 1,
        f"vllm:request_decode_time_seconds_count{label}": 1,
        f"vllm:request_inference_time_seconds_count{label}": 1,
        f"vllm:request_time_per_output_token_seconds_count{label}": 1,
        f"vllm:request_prompt_tokens_sum{label}": 3,
        f"vllm:request_generation_tokens_sum{label}": 5,
        f"vllm:request_params_max_tokens_sum{label}": 5,
        f"vllm:request_params_n_sum{label}": 1,
        f"vllm:iteration_tokens_total_sum{label}": 8,
        'vllm:request_success_total{finished_reason="length",model_name="tiny"}': 1,
        'vllm:cache_config_info{block_size="64",model_name="tiny",num_gpu_blocks="64"}': 1,
        f"ggjax:compilations_total{label}": 0,
        f"ggjax:padding_tokens_total{label}": 0,
        'ggjax:bucket_steps_total{bucket="decode_8",model_name="tiny"}': 5,
        'ggjax:step_seconds_count{bucket="decode_8",model_name="tiny"}': 5,
        'ggjax:step_seconds_bucket{bucket="decode_8",le="0.001",model_name="tiny"}': 0,
        'ggjax:step_seconds_bucket{bucket="decode_8",le="0.003",model_name="tiny"}': 5,
        'ggjax:rejected_requests_total{code="invalid_value",model_name="tiny"}': 1,
        'http_requests_total{handler="/v1/completions",method="POST",status="2xx"}': 1,
        'http_requests_total{handler="/v1/completions",method="POST",status="4xx"}': 1,
    }.items():
        assert found[name] == value, name
    times = [
        found[f"vllm:request_{part}_time_seconds_sum{label}"] for part in ("queue", "inference")
    ]
    assert sum(times) == pytest.approx(found[f"vllm:e2e_request_latency_seconds_sum{label}"])


async def test_an_answer_that_is_left_counts_as_aborted(start_server: Any) -> None:
    client = await start_server("--delay", 0.02)
    async with client.post(
        "/v1/completions", json={"prompt": "XYZ", "max_tokens": 200, "stream": True}
    ) as response:
        await response.content.readline()
        response.close()
    name = 'vllm:request_success_total{finished_reason="abort",model_name="tiny"}'
    while name not in await scrape(client):
        pass
    assert (await scrape(client))[name] == 1


async def test_clients_cannot_make_metrics_up(client: Any) -> None:
    await client.get("/v1/CANARY")
    await client.request("CANARY", "/v1/models")
    found = await scrape(client)
    assert found['http_requests_total{handler="none",method="GET",status="4xx"}'] == 1
    assert not [name for name in found if "CANARY" in name]
