"""Text without JAX: tokenizer, chat template, detokenizer, stop strings."""
