"""A SentencePiece model from a GGUF vocabulary, written as its protobuf message byte by byte."""

import struct

from sentencepiece import SentencePieceProcessor

from models.errors import ModelFileError
from runtime.text.special_tokens import TokenType
from runtime.text.vocabulary import Vocabulary

# Field numbers of sentencepiece_model.proto; its TokenType has the same values as GGUF's.
MODEL_PIECES, MODEL_TRAINER, MODEL_NORMALIZER = 1, 2, 3
PIECE_TEXT, PIECE_SCORE, PIECE_TYPE = 1, 2, 3
TRAINER_MODEL_TYPE, TRAINER_BYTE_FALLBACK, TRAINER_UNK_ID = 3, 35, 40
TRAINER_BOS_ID, TRAINER_EOS_ID, TRAINER_PAD_ID = 41, 42, 43
NORMALIZER_NAME, NORMALIZER_DUMMY_PREFIX, NORMALIZER_EXTRA_SPACES = 1, 3, 4
BPE_MODEL = 2
ABSENT = (1 << 64) - 1  # -1 as a varint


def sentencepiece_processor(vocabulary: Vocabulary) -> SentencePieceProcessor:
    """The processor of a "llama" vocabulary.

    Raises:
        ModelFileError: there is not exactly one unknown token, not every byte has one, or
            SentencePiece cannot hold a token (too long, a null character).
    """
    unknown = [i for i, kind in enumerate(vocabulary.types) if kind == TokenType.UNKNOWN]
    if len(unknown) != 1:
        raise ModelFileError(
            f"{len(unknown)} tokens of type UNKNOWN, expected one",
            subject="tokenizer.ggml.token_type",
        )
    num_bytes = sum(kind == TokenType.BYTE for kind in vocabulary.types)
    if num_bytes not in (0, 256):
        raise ModelFileError(
            f"{num_bytes} tokens of type BYTE, expected none or 256",
            subject="tokenizer.ggml.token_type",
        )
    pieces = zip(vocabulary.tokens, vocabulary.scores, vocabulary.types, strict=True)
    trainer = (
        _number(TRAINER_MODEL_TYPE, BPE_MODEL)
        + _number(TRAINER_BYTE_FALLBACK, num_bytes == 256)
        + _number(TRAINER_UNK_ID, unknown[0])
        # The tokens keep their type; no id gets a meaning that its type does not give it.
        + _number(TRAINER_BOS_ID, ABSENT)
        + _number(TRAINER_EOS_ID, ABSENT)
        + _number(TRAINER_PAD_ID, ABSENT)
    )
    normalizer = (
        _bytes(NORMALIZER_NAME, b"identity")
        + _number(NORMALIZER_DUMMY_PREFIX, vocabulary.add_space_prefix)
        + _number(NORMALIZER_EXTRA_SPACES, vocabulary.remove_extra_whitespaces)
    )
    message = b"".join(_bytes(MODEL_PIECES, _piece(*piece)) for piece in pieces)
    message += _bytes(MODEL_TRAINER, trainer) + _bytes(MODEL_NORMALIZER, normalizer)
    try:
        return SentencePieceProcessor(model_proto=message)
    except RuntimeError as error:  # its word for a piece that it cannot hold
        raise ModelFileError(str(error), subject="tokenizer.ggml.tokens") from None


def _piece(text: str, score: float, kind: int) -> bytes:
    number = _varint(PIECE_SCORE << 3 | 5) + struct.pack("<f", score)
    return _bytes(PIECE_TEXT, text.encode()) + number + _number(PIECE_TYPE, kind)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value
