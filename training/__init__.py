"""Makes the demonstration model: corpus, tokenizer, training, export, evaluation, model card."""
