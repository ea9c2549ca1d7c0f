"""Text to token ids and back, as the model file's vocabulary says."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from tokenizers import Regex, models, pre_tokenizers
from tokenizers import Tokenizer as WordTokenizer

from runtime.text.sentencepiece_model import sentencepiece_processor
from runtime.text.special_tokens import FimTokens, TokenSplitter, TokenType
from runtime.text.vocabulary import Vocabulary, read_vocabulary

SPACE_PIECE = "▁"  # SentencePiece writes a space so


class _Encoder(Protocol):
    """Encodes stretches of text in which no token is searched for."""

    def __call__(self, texts: list[str]) -> list[list[int]]: ...


class Tokenizer:
    """One vocabulary. Immutable; its methods may be called from several threads.

    Control tokens here are those of type CONTROL and UNKNOWN: they stand for no text.

    Attributes:
        vocab_size: number of tokens V; every id is below it.
        prefix_ids: what begins every sequence (the bos token, or nothing); `encode` leaves it out.
        stop_ids: ids that end a generation.
        fim: fill-in-the-middle tokens, where the model has them.
        strips_leading_space: a text's first piece carries a space that is not part of the text.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocab_size = len(vocabulary.tokens)
        self.bos_id = vocabulary.bos_id
        self.eos_id = vocabulary.eos_id
        self.pad_id = vocabulary.pad_id
        self.stop_ids = vocabulary.stop_ids
        self.fim: FimTokens | None = vocabulary.fim
        self.prefix_ids: tuple[int, ...] = ()
        if vocabulary.add_bos and vocabulary.bos_id is not None:
            self.prefix_ids = (vocabulary.bos_id,)
        self.strips_leading_space = vocabulary.add_space_prefix
        self._tokens = vocabulary.tokens
        self._types = vocabulary.types
        numbers = range(self.vocab_size)
        self._control_ids = frozenset(
            i for i in numbers if self._types[i] in (TokenType.CONTROL, TokenType.UNKNOWN)
        )
        always = {self._tokens[i]: i for i in numbers if self._types[i] == TokenType.USER_DEFINED}
        self.control_tokens: Mapping[str, int] = {self._tokens[i]: i for i in self._control_ids}
        self._plain_splitter = TokenSplitter(always)
        self._special_splitter = TokenSplitter(always | dict(self.control_tokens))
        if vocabulary.model == "gpt2":
            self._encode_plain: _Encoder = _bpe_encoder(vocabulary, self._control_ids)
            self._bytes_of: Callable[[str], bytes] = _bpe_bytes
        else:
            self._encode_plain = _sentencepiece_encoder(vocabulary)
            self._bytes_of = _sentencepiece_bytes

    def encode(self, text: str, *, parse_special: bool) -> list[int]:
        """The ids of `text`, without `prefix_ids`.

        Args:
            parse_special: text that spells a control token becomes that token. Never for text
                that a user wrote. User-defined tokens are recognised either way.

        Raises:
            ValueError: `text` holds a lone surrogate.
        """
        check_encodable(text)
        splitter = self._special_splitter if parse_special else self._plain_splitter
        parts = list(splitter.split(text))
        encoded = iter(self._encode_plain([part for part in parts if isinstance(part, str)]))
        ids: list[int] = []
        for part in parts:
            ids.extend(next(encoded) if isinstance(part, str) else (part,))
        return ids

    def decode(self, ids: Iterable[int], *, skip_special: bool = True, start: bool = True) -> str:
        """The text of `ids`; bytes that are no UTF-8 become U+FFFD.

        Args:
            skip_special: leave control tokens out; otherwise their text stands for them.
            start: the ids begin a text. False where they continue one (a SentencePiece
                vocabulary then keeps the first space).
        """
        joined = b"".join(map(self.token_bytes, self.visible(ids, skip_special)))
        if start and self.strips_leading_space:
            joined = joined.removeprefix(b" ")
        return joined.decode("utf-8", errors="replace")

    def visible(self, ids: Iterable[int], skip_special: bool) -> Iterable[int]:
        """The ids that `decode` turns into text."""
        return (i for i in ids if i not in self._control_ids) if skip_special else ids

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that a token adds to the text; a control token's are its name's.

        Raises:
            ValueError: no such id.
        """
        text = self.token_text(token_id)
        kind = self._types[token_id]
        if kind == TokenType.UNUSED:
            return b""
        if kind == TokenType.BYTE:
            return bytes.fromhex(text[3:5])
        return self._bytes_of(text) if kind == TokenType.NORMAL else text.encode()

    def token_text(self, token_id: int) -> str:
        """The token as the vocabulary spells it ("Ġthe", "▁the", "<|im_end|>").

        Raises:
            ValueError: no such id.
        """
        if not 0 <= token_id < self.vocab_size:
            raise ValueError(f"token id {token_id} is not below {self.vocab_size}")
        return self._tokens[token_id]

    def is_control(self, token_id: int) -> bool:
        """Whether the token stands for no text."""
        return token_id in self._control_ids


def build_tokenizer(metadata: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer that a GGUF file's metadata describes.

    Raises:
        ModelFileError: the metadata is incomplete, contradicts itself or asks for a tokenizer that
            is not supported; the key is named.
    """
    return Tokenizer(read_vocabulary(metadata))


def check_encodable(text: str) -> None:
    """Refuses text that UTF-8 cannot hold.

    Raises:
        ValueError: `text` holds a lone surrogate; JSON can carry one ("\\ud83d").
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"text holds a lone surrogate at character {error.start}") from None


def _bpe_encoder(vocabulary: Vocabulary, control_ids: frozenset[int]) -> _Encoder:
    assert vocabulary.words is not None
    # No merge and no whole word may spell a control token: it is left out of the model.
    control = {vocabulary.tokens[i] for i in control_ids}
    plain = {text: i for i, text in enumerate(vocabulary.tokens) if text not in control}
    merges = [(a, b) for a, b in vocabulary.merges if a + b in plain and a in plain and b in plain]
    tokenizer = WordTokenizer(
        models.BPE(plain, merges, ignore_merges=vocabulary.words.ignore_merges)
    )
    cuts = [pre_tokenizers.Split(Regex(p), "isolated") for p in vocabulary.words.patterns]
    to_letters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    # No normalizer: llama.cpp has none for these vocabularies, although Qwen2's own has NFC.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*cuts, to_letters])

    def encode(texts: list[str]) -> list[list[int]]:
        found = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return [encoding.ids for encoding in found]

    return encode


def _sentencepiece_encoder(vocabulary: Vocabulary) -> _Encoder:
    processor = sentencepiece_processor(vocabulary)

    def encode(texts: list[str]) -> list[list[int]]:
        return [processor.encode(text) for text in texts]

    return encode


def _byte_letters() -> dict[str, int]:
    """GPT-2's letter of each byte: itself where it can be seen, else the next from U+0100 on."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    letters = {chr(byte): byte for byte in visible}
    hidden = (byte for byte in range(256) if byte not in visible)
    return letters | {chr(0x100 + i): byte for i, byte in enumerate(hidden)}


BYTE_OF_LETTER = _byte_letters()


LETTERS = frozenset(BYTE_OF_LETTER)
TO_LATIN_1 = str.maketrans({letter: chr(byte) for letter, byte in BYTE_OF_LETTER.items()})


def _bpe_bytes(text: str) -> bytes:
    if not LETTERS.issuperset(text):
        return text.encode()  # a token added as plain text
    return text.translate(TO_LATIN_1).encode("latin-1")


def _sentencepiece_bytes(text: str) -> bytes:
    return text.replace(SPACE_PIECE, " ").encode()
