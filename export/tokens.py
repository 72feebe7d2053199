"""The tokenizer as one file that `tokenizers` reads without transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import tokenizers

from ..runtime.contract import TokenizerSpec
from ..runtime.errors import ExportError

_PROMPTS: Final = (
    "",
    "a photo of a cat",
    "Traffic Light, MOUNTAIN bike and  ice-cream",
    "it's 42 m² of naïve café grass!",
    "日本語 🌲 <|endoftext|>",
)


def tokenizer_spec(tokenizer: Any, positions: int) -> TokenizerSpec:
    """The ids and length a pipeline's prompts have.

    `positions` is the text encoder's own limit; a tokenizer that names none
    reports a huge length.
    """
    return TokenizerSpec(
        max_length=min(int(tokenizer.model_max_length), positions),
        bos=int(tokenizer.bos_token_id),
        eos=int(tokenizer.eos_token_id),
        pad=int(tokenizer.pad_token_id),
    )


def write_tokenizer(tokenizer: Any, path: Path) -> None:
    """Write `tokenizer.json` and check that it gives the ids transformers gives.

    Raises:
        ExportError: it gives other ids.
    """
    backend = tokenizers.Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.no_truncation()
    backend.no_padding()
    path.parent.mkdir(parents=True, exist_ok=True)
    backend.save(str(path))
    written = tokenizers.Tokenizer.from_file(str(path))
    for prompt in _PROMPTS:
        found, expected = written.encode(prompt).ids, tokenizer(prompt).input_ids
        if found != expected:
            raise ExportError(
                f"tokenizer.json reads {prompt!r} as {found}, transformers as {expected}"
            )
