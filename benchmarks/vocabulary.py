"""A byte-level BPE vocabulary of any size: bytes, merges, Qwen2's control tokens, padding."""

from dataclasses import dataclass

from gguf import TokenType

# Qwen2.5-Coder's, in its order; the two tool tags are plain text to a reader of the answer
CONTROL_TOKENS = {
    "<|endoftext|>": TokenType.CONTROL,
    "<|im_start|>": TokenType.CONTROL,
    "<|im_end|>": TokenType.CONTROL,
    "<|object_ref_start|>": TokenType.CONTROL,
    "<|object_ref_end|>": TokenType.CONTROL,
    "<|box_start|>": TokenType.CONTROL,
    "<|box_end|>": TokenType.CONTROL,
    "<|quad_start|>": TokenType.CONTROL,
    "<|quad_end|>": TokenType.CONTROL,
    "<|vision_start|>": TokenType.CONTROL,
    "<|vision_end|>": TokenType.CONTROL,
    "<|vision_pad|>": TokenType.CONTROL,
    "<|image_pad|>": TokenType.CONTROL,
    "<|video_pad|>": TokenType.CONTROL,
    "<tool_call>": TokenType.USER_DEFINED,
    "</tool_call>": TokenType.USER_DEFINED,
    "<|fim_prefix|>": TokenType.CONTROL,
    "<|fim_middle|>": TokenType.CONTROL,
    "<|fim_suffix|>": TokenType.CONTROL,
    "<|fim_pad|>": TokenType.CONTROL,
    "<|repo_name|>": TokenType.CONTROL,
    "<|file_sep|>": TokenType.CONTROL,
}

# Qwen2.5's; smaller vocabularies keep a 32nd unused, for the padding of the matrices is to be seen
MAX_MERGES = 151_387
MIN_UNUSED = 271

WORDS = (
    " the of and to in is that for it as was with be by on not he his but at are this have from or"
    " had an they which one you were her all she there would their we him been has when who will"
    " more no if out so said what up its about into than them can only other new some could time"
    " these two may then do first any my now such like our over man me even most made after also"
    " did many before must through back years where much your way well down should because each"
    " def return class self import from while for else elif print range len list dict str int"
    " float None True False yield lambda async await raise except assert with global pass break"
    " continue function variable value number string array object model token result error test"
)

CHAT_TEMPLATE = (
    "{%- if messages[0]['role'] != 'system' %}"
    "{{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}"
    "{%- endif %}"
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}"
    "{{- '<|im_start|>assistant\\n' }}"
    "{%- endif %}"
)


@dataclass(frozen=True)
class Vocabulary:
    """What the tokenizer keys of a GGUF file hold."""

    tokens: list[str]
    types: list[TokenType]
    merges: list[str]

    def id_of(self, token: str) -> int:
        return self.tokens.index(token)


def byte_tokens() -> list[str]:
    """GPT-2's printable stand-in of each byte, in the order of the token ids."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    num_others = 256 - len(printable)
    return [chr(byte) for byte in printable] + [chr(0x100 + i) for i in range(num_others)]


def make_vocabulary(size: int) -> Vocabulary:
    """Bytes, merges, control tokens, and unused ones to fill the size.

    The first merges spell `WORDS` from left to right; those of a large vocabulary append bytes to
    what exists, so that every token can be reached.
    """
    tokens = byte_tokens()
    num_free = size - len(tokens) - len(CONTROL_TOKENS)
    if num_free < 0:
        raise ValueError(f"a vocabulary needs at least {size - num_free} tokens, got {size}")
    num_merges = min(MAX_MERGES, num_free - min(MIN_UNUSED, num_free // 32))
    known = set(tokens)
    merges: list[str] = []

    def merge(left: str, right: str) -> None:
        if len(merges) < num_merges and left + right not in known:
            known.add(left + right)
            tokens.append(left + right)
            merges.append(f"{left} {right}")

    for word in WORDS.split():
        for spelled in ("Ġ" + word, word):
            for end in range(1, len(spelled)):
                merge(spelled[:end], spelled[end])
    appended = byte_tokens()
    for left in tokens:
        if len(merges) == num_merges:
            break
        for right in appended:
            merge(left, right)

    types = [TokenType.NORMAL] * len(tokens)
    tokens += CONTROL_TOKENS
    types += CONTROL_TOKENS.values()
    tokens += [f"[PAD{index}]" for index in range(len(tokens), size)]
    types += [TokenType.UNUSED] * (size - len(types))
    return Vocabulary(tokens, types, merges)
