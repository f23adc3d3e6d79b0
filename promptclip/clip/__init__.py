"""The frozen CLIP: its shape, its weights from any source, its towers, its tokenizer."""

from promptclip.clip.config import CLIPConfig
from promptclip.clip.load import Source, load_clip, read_clip, resolve_precision
from promptclip.clip.tokenizer import tokenize

__all__ = ["CLIPConfig", "Source", "load_clip", "read_clip", "resolve_precision", "tokenize"]
