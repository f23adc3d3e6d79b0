"""CLIP's tokenizer: texts to token ids, as OpenAI's `clip.tokenize` gives them."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from promptclip.errors import UserError

_MARKERS = {"<|startoftext|>": "<start_of_text>", "<|endoftext|>": "<end_of_text>"}
_LONGEST = 5000  # characters; 75 tokens have far fewer


def tokenize(texts: str | Sequence[str], context_length: int = 77) -> Tensor:
    """Turns texts into the ids of start, words, end and zeros.

    Args:
        texts: one text, or C of them.
        context_length: number of tokens L that a row holds.

    Returns:
        Ids, int64, [C, L]. The end of the text is the largest id of its row.

    Raises:
        UserError: if a text is longer than L - 2 tokens, or no Unicode.
    """
    texts = [texts] if isinstance(texts, str) else texts
    tokenizer = _tokenizer()
    ids = torch.zeros(len(texts), context_length, dtype=torch.long)
    for row, text in zip(ids, texts, strict=True):
        tokens = [tokenizer.sot_token_id, *_encode(text), tokenizer.eot_token_id]
        if len(tokens) > context_length:
            raise UserError(
                f"a text may have at most {context_length - 2} tokens, this one has "
                f"{len(tokens) - 2}: {text!r:.80}; shorten it"
            )
        row[: len(tokens)] = torch.tensor(tokens)
    return ids


def _encode(text: str) -> list[int]:
    if len(text) > _LONGEST:  # for which the merging of pairs would take minutes
        raise UserError(
            f"a text may have at most {_LONGEST} characters, this one has {len(text)}: "
            f"{text!r:.80}; shorten it"
        )
    try:
        return list(_tokenizer().encode(text))
    except UnicodeEncodeError:
        raise UserError(f"a text must be Unicode, got half a character in {text!r:.80}") from None


def decode(tokens: Sequence[int]) -> str:
    """The text of some ids, as far as bytes make letters; in lower case, a space after a word."""
    return str(_tokenizer().decode(list(tokens)))


@functools.cache
def _tokenizer() -> Any:
    """open_clip's tokenizer, as OpenAI's."""
    module = _module()
    # This copy of the module has made one for itself already, a tenth of a second's work
    tokenizer = getattr(module, "_tokenizer", None) or module.SimpleTokenizer()
    # open_clip renamed the two markers; a text that spells one out must read as it did for OpenAI.
    pattern = tokenizer.pat.pattern
    for name, renamed in _MARKERS.items():
        pattern = pattern.replace(renamed, module.re.escape(name))
        tokenizer.encoder[name] = tokenizer.encoder[renamed]
        tokenizer.cache[name] = name
    tokenizer.pat = module.re.compile(pattern, module.re.IGNORECASE)
    return tokenizer


def _module() -> Any:
    """open_clip's module, from its file alone: `import open_clip` takes seconds."""
    package = importlib.util.find_spec("open_clip")
    if package is None or package.origin is None:
        raise UserError("CLIP's tokenizer needs open_clip: pip install open_clip_torch")
    file = Path(package.origin).with_name("tokenizer.py")
    spec = importlib.util.spec_from_file_location("promptclip._open_clip_tokenizer", file)
    try:
        module = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
        spec.loader.exec_module(module)  # type: ignore[union-attr]
    except (ImportError, OSError):  # a later open_clip may lay out its files otherwise
        return importlib.import_module("open_clip.tokenizer")
    return module
