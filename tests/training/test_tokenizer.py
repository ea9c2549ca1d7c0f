"""The vocabulary that is trained is the one that serves."""

from benchmarks.vocabulary import CHAT_TEMPLATE
from models.gguf_file import open_gguf
from runtime.text.special_tokens import TokenType
from runtime.text.tokenizer import build_tokenizer
from training.export import write_model
from training.model import config_of, init_params
from training.tokenizer import CONTROL, control_ids, vocabulary_of

TEXT = "def größe(x):\n    return [x, 12345]  # 🙂\n\n\n<|im_end|>\tend"


def test_the_vocabulary_has_its_size(tokenizer):
    vocabulary = vocabulary_of(tokenizer)
    assert len(vocabulary.tokens) == len(vocabulary.types) == len(set(vocabulary.tokens))
    assert len(vocabulary.tokens) == tokenizer.get_vocab_size() + len(CONTROL)
    assert vocabulary.types.count(TokenType.CONTROL) == len(CONTROL) == 9
    assert {name: vocabulary.id_of(name) for name in CONTROL} == control_ids(tokenizer)


def test_the_file_reads_text_as_training_did(tmp_path, tokenizer):
    config = config_of("toy")
    file = open_gguf(write_model(tmp_path / "m.gguf", config, init_params(config, 0), tokenizer))
    serving = build_tokenizer(file.metadata)
    assert serving.encode(TEXT, parse_special=False) == tokenizer.encode(TEXT).ids
    assert serving.decode(serving.encode(TEXT, parse_special=False)) == TEXT
    assert serving.encode("<|im_start|>", parse_special=True) == [
        control_ids(tokenizer)["<|im_start|>"]
    ]


def test_the_file_says_what_its_tokens_are_for(tmp_path, tokenizer):
    config = config_of("toy", "toy coder")
    file = open_gguf(write_model(tmp_path / "m.gguf", config, init_params(config, 0), tokenizer))
    serving, ids = build_tokenizer(file.metadata), control_ids(tokenizer)
    assert serving.eos_id == ids["<|im_end|>"] and serving.pad_id == ids["<|endoftext|>"]
    assert {serving.eos_id, ids["<|endoftext|>"]} <= serving.stop_ids
    assert serving.prefix_ids == ()
    assert serving.fim.prefix == ids["<|fim_prefix|>"]
    assert serving.fim.suffix == ids["<|fim_suffix|>"]
    assert serving.fim.middle == ids["<|fim_middle|>"]
    assert file.metadata["tokenizer.chat_template"] == CHAT_TEMPLATE
    assert file.metadata["general.license"] == "apache-2.0"
    assert file.metadata["general.name"] == "toy coder"
