"""Writes a trained model as a complete GGUF file: weights, vocabulary, template, licence."""

from os import PathLike
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type
from gguf.quants import quantize
from tokenizers import Tokenizer

from benchmarks.vocabulary import CHAT_TEMPLATE
from models.config import ModelConfig
from training.model import Params, tensors_of
from training.tokenizer import PRE, vocabulary_of

NAME = "ggjax demo coder 15M"
LICENCE = "apache-2.0"
AUTHOR = "The ggjax authors"
TAGS = ["text-generation", "code", "demonstration"]
DESCRIPTION = (
    "A demonstration model that ships with ggjax: 15 million parameters, trained for minutes on"
    " permissively licensed Python. It completes ordinary Python and fills in the middle; it knows"
    " nothing, and its code is to be read before it is run."
)
# role of a fill-in-the-middle token in the metadata → the token
FIM_KEYS = {
    "fim_pre": "<|fim_prefix|>",
    "fim_suf": "<|fim_suffix|>",
    "fim_mid": "<|fim_middle|>",
    "fim_pad": "<|fim_pad|>",
    "fim_rep": "<|repo_name|>",
    "fim_sep": "<|file_sep|>",
}
FILE_TYPES = {
    Type.F32: gguf.LlamaFileType.ALL_F32,
    Type.Q8_0: gguf.LlamaFileType.MOSTLY_Q8_0,
}


def write_model(
    path: str | PathLike[str],
    config: ModelConfig,
    params: Params,
    tokenizer: Tokenizer,
    kind: Type = Type.Q8_0,
) -> Path:
    """Writes the file and returns its path; matrices of type `kind`, norms and biases float32."""
    check_vocabulary(config, tokenizer)
    writer = gguf.GGUFWriter(path, config.architecture)
    add_metadata(writer, config, kind)
    add_vocabulary(writer, tokenizer)
    for name, values in tensors_of(params).items():
        array = np.asarray(values, np.float32)
        tensor_type = kind if array.ndim > 1 else Type.F32
        data = quantize(array, tensor_type)
        writer.add_tensor(name, data, raw_dtype=tensor_type)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()
    return Path(path)


def check_vocabulary(config: ModelConfig, tokenizer: Tokenizer) -> None:
    """Refuses a tokenizer that is not the model's.

    Raises:
        ValueError: the number of tokens is another.
    """
    num_tokens = len(vocabulary_of(tokenizer).tokens)
    if num_tokens != config.vocab_size:
        raise ValueError(
            f"the tokenizer has {num_tokens:,} tokens, the model {config.vocab_size:,}"
        )


def add_metadata(writer: gguf.GGUFWriter, config: ModelConfig, kind: Type) -> None:
    """What the model is, and its shape."""
    writer.add_type("model")
    writer.add_name(config.name)
    writer.add_author(AUTHOR)
    writer.add_description(DESCRIPTION)
    writer.add_license(LICENCE)
    writer.add_languages(["en"])
    writer.add_tags(TAGS)
    writer.add_block_count(config.num_layers)
    writer.add_context_length(config.context_length)
    writer.add_embedding_length(config.width)
    writer.add_feed_forward_length(config.ffn_width)
    writer.add_head_count(config.num_heads)
    writer.add_head_count_kv(config.num_kv_heads)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_layer_norm_rms_eps(config.rms_eps)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_file_type(FILE_TYPES[kind])


def add_vocabulary(writer: gguf.GGUFWriter, tokenizer: Tokenizer) -> None:
    """Tokens, merges, and what the control tokens are for."""
    vocabulary = vocabulary_of(tokenizer)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(PRE)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.types)
    writer.add_token_merges(vocabulary.merges)
    writer.add_bos_token_id(vocabulary.id_of("<|endoftext|>"))
    writer.add_eos_token_id(vocabulary.id_of("<|im_end|>"))
    writer.add_pad_token_id(vocabulary.id_of("<|endoftext|>"))
    for role, token in FIM_KEYS.items():
        writer.add_uint32(f"tokenizer.ggml.{role}_token_id", vocabulary.id_of(token))
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)
