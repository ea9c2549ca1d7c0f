"""The served weights as a function: the served scores, traceable, with right gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from runtime.request import SamplingParams

TOKENS = jnp.array([5, 9, 900, 3, 17, 17, 42, 8])


def loss(llm, params, **changes):
    logits, _ = llm.model.forward(params, TOKENS, **changes)
    logprobs = jax.nn.log_softmax(logits[:-1], axis=-1)
    return -logprobs[jnp.arange(len(TOKENS) - 1), TOKENS[1:]].mean()


def test_it_scores_as_the_server_does(llm):
    params = SamplingParams(temperature=0, max_tokens=4, logprobs=5, ignore_eos=True)
    (output,) = llm.generate(TOKENS.tolist(), params)
    context = TOKENS.tolist() + output.outputs[0].token_ids[:-1]
    logits, record = jax.jit(llm.model.forward)(llm.params, jnp.array(context))
    assert record == {}
    logprobs = np.asarray(jax.nn.log_softmax(logits, axis=-1))
    for place, served in zip(logprobs[len(TOKENS) - 1 :], output.outputs[0].logprobs, strict=True):
        for token, entry in served.items():
            assert place[token] == pytest.approx(entry.logprob, abs=1e-4)


def test_every_weight_has_a_name_and_a_gradient(llm):
    gradient = jax.jit(jax.grad(lambda params: loss(llm, params)))(llm.params)
    assert gradient.keys() == llm.params.keys()
    assert {"embedding", "layers.1.mlp.down", "layers.0.attn.qkv", "head.weight"} <= gradient.keys()
    for name, values in gradient.items():
        assert np.isfinite(values).all() and np.any(values != 0), name


@pytest.mark.parametrize("name", ["layers.1.mlp.down", "layers.0.attn.bias", "head.norm.scale"])
def test_gradients_are_those_of_finite_differences(llm, name):
    weights = llm.params[name]
    direction = jax.random.normal(jax.random.key(0), weights.shape)
    direction *= jnp.linalg.norm(weights) / jnp.linalg.norm(direction)
    along = jax.jit(lambda x: loss(llm, llm.params | {name: weights + x * direction}))
    slope = jax.grad(along)(0.0)
    step = 1e-2
    # the error of a central difference is of second order, that of float32 sums below it
    assert (along(step) - along(-step)) / (2 * step) == pytest.approx(
        float(slope), rel=0.02, abs=2e-5
    )


def test_tokens_may_be_known_while_it_is_traced(llm):
    tokens = jnp.asarray(TOKENS)
    logits = jax.jit(lambda params: llm.model.forward(params, tokens)[0])(llm.params)
    np.testing.assert_allclose(logits, llm.model.forward(llm.params, tokens)[0], atol=1e-4)


def test_gradients_reach_the_embeddings(llm):
    _, record = llm.model.forward(llm.params, TOKENS, capture=["embed"])
    embeddings = record["embed"]
    assert loss(llm, llm.params, embeddings=embeddings) == loss(llm, llm.params)
    loss_and_gradient = jax.jit(jax.value_and_grad(lambda x: loss(llm, llm.params, embeddings=x)))
    before, gradient = loss_and_gradient(embeddings)
    assert gradient.shape == embeddings.shape
    changed = embeddings - 0.05 * gradient / jnp.linalg.norm(gradient)
    assert loss_and_gradient(changed)[0] < before


def test_vmap_runs_several_sequences(llm):
    rows = jnp.stack([TOKENS, TOKENS[::-1]])
    logits = jax.jit(jax.vmap(lambda row: llm.model.forward(llm.params, row)[0]))(rows)
    one, _ = llm.model.forward(llm.params, TOKENS[::-1])
    np.testing.assert_allclose(logits[1], one, atol=1e-4)


def test_a_hook_changes_what_follows_and_the_record_shows_it(llm):
    capture = ["layers.0.resid_post", "layers.1.mlp.out", "layers.1.resid_post"]
    zero = {"layers.1.mlp.out": jnp.zeros_like, "layers.1.attn.out": jnp.zeros_like}
    _, record = llm.model.forward(llm.params, TOKENS, capture=capture, hooks=zero)
    assert not record["layers.1.mlp.out"].any()
    np.testing.assert_array_equal(record["layers.0.resid_post"], record["layers.1.resid_post"])


def test_an_attention_pattern_is_causal_and_sums_to_one(llm):
    _, record = llm.model.forward(llm.params, TOKENS, capture=["layers.*.attn.pattern"])
    assert len(record) == 2
    for pattern in record.values():
        np.testing.assert_allclose(pattern.sum(axis=-1), 1, atol=1e-5)
        assert not np.triu(np.asarray(pattern[:, 0]), 1).any()


def test_what_does_not_fit_is_named(llm):
    with pytest.raises(ValueError, match="one axis, got shape"):
        llm.model.forward(llm.params, TOKENS[None])
    with pytest.raises(ValueError, match="no site is called 'layers.9.resid_post'"):
        llm.model.forward(llm.params, TOKENS, capture=["layers.9.resid_post"])
    with pytest.raises(ValueError, match="lacks embedding, 1 in all"):
        llm.model.forward({k: v for k, v in llm.params.items() if k != "embedding"}, TOKENS)
    with pytest.raises(ValueError, match="unknown names: spare"):
        llm.model.forward(llm.params | {"spare": TOKENS}, TOKENS)
    with pytest.raises(ValueError, match="layers.1.mlp.down must have shape .* got .8,."):
        llm.model.forward(llm.params | {"layers.1.mlp.down": TOKENS}, TOKENS)
    for tokens in (jnp.ones(3), jnp.array([], int)):
        with pytest.raises(ValueError, match="tokens must be one id or more"):
            llm.model.forward(llm.params, tokens)
    with pytest.raises(ValueError, match="tokens are ids, got a text"):
        llm.model.forward(llm.params, "def f")
    for token in (-1, llm.model.config.vocab_size):
        with pytest.raises(ValueError, match=f"ids of this model are 0 to .*, got {token}"):
            llm.model.forward(llm.params, [5, token])
    with pytest.raises(ValueError, match="embeddings must have shape .8, .* got .8, 7."):
        llm.model.forward(llm.params, TOKENS, embeddings=jnp.ones((8, 7)))
    for result in (None, TOKENS):
        with pytest.raises(ValueError, match="the hook of embed must give shape"):
            llm.model.forward(llm.params, TOKENS, hooks={"embed": lambda _, to=result: to})
    with pytest.raises(ValueError, match="hidden states are .* got shape .2, 7."):
        llm.model.unembed(llm.params, jnp.ones((2, 7)))
