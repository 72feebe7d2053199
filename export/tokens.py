"""The tokenizer as one file that `tokenizers` reads without transformers, and its proof."""

from __future__ import annotations

import re
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any, Final

import tokenizers

from ..runtime.bundle.contract import TokenizerSpec
from ..runtime.errors import ExportError
from .proof import Row

_PROMPTS: Final = (
    "",
    "a photo of a cat",
    "Traffic Light, MOUNTAIN bike and  ice-cream",
    "it's 42 m² of naïve café grass!",
    "日本語 🌲 <|endoftext|>",
)
_NAMES: Final = ("sky", "grass", "person", "car", "tree", "road", "house", "dog", "water", "boat")
_WORD: Final = re.compile("[a-z]{3,}</w>")  # a vocabulary's entry for a whole word
_WORDS_TRIED: Final = 512
_LEAST_LENGTH: Final = 3  # begin, a token, end


def tokenizer_spec(tokenizer: Any, positions: int) -> TokenizerSpec:
    """The ids and length a pipeline's prompts have.

    `positions` is the text encoder's own limit; a tokenizer that names none
    reports a huge length.

    Raises:
        ExportError: a prompt has no begin, end or padding token, or no room for a name.
    """
    ids: dict[str, Any] = {
        name: getattr(tokenizer, f"{name}_token_id", None) for name in ("bos", "eos", "pad")
    }
    if missing := [name for name, token in ids.items() if token is None]:
        raise ExportError(
            f"the tokenizer has no {missing[0]}_token; expected CLIP's, which begins, ends and "
            "pads a prompt: check tokenizer_config.json"
        )
    length = min(int(tokenizer.model_max_length), positions)
    if length < _LEAST_LENGTH:
        raise ExportError(
            f"the tokenizer's prompts hold {length} tokens, expected {_LEAST_LENGTH} or more"
        )
    return TokenizerSpec(max_length=length, **{name: int(token) for name, token in ids.items()})


def write_tokenizer(
    tokenizer: Any, path: Path, spec: TokenizerSpec, embeddings: int, names: Sequence[str] = ()
) -> Row:
    """Write `tokenizer.json` and prove it.

    Args:
        tokenizer: transformers' own, whose ids the file must give.
        path: the file.
        spec: the ids a prompt begins, ends and is padded with.
        embeddings: ids that the text encoder has a vector for, from 0 on.
        names: classes that the model knows; they are told apart beside a few common ones.

    Returns:
        The proof's row: no error, or an exception says what is wrong.

    Raises:
        ExportError: it gives other ids than transformers, ids that are beyond the embeddings, or
            prompts without begin and end; it reads different names alike or as unknown; or its
            merges do not lead to its vocabulary.
    """
    backend = tokenizers.Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.no_truncation()
    backend.no_padding()
    path.parent.mkdir(parents=True, exist_ok=True)
    backend.save(str(path))
    written = tokenizers.Tokenizer.from_file(str(path))
    _check_embeddings(written, spec, embeddings)
    _check_names(written, {spec.bos, spec.eos, tokenizer.unk_token_id}, (*_NAMES, *names))
    _check_merges(written)
    for prompt in (*_PROMPTS, *names):
        found, expected = written.encode(prompt).ids, tokenizer(prompt).input_ids
        if found != expected:
            raise ExportError(
                f"tokenizer.json reads {prompt!r} as {found}, transformers as {expected}"
            )
        bare = written.encode(prompt, add_special_tokens=False).ids
        if found != [spec.bos, *bare, spec.eos]:
            raise ExportError(
                f"the tokenizer reads {prompt!r} as {found}, expected {bare} between its begin "
                f"token {spec.bos} and its end token {spec.eos}; check its files"
            )
    prompts = len(_PROMPTS) + len(names)
    return Row(
        f"{path.parent.name}/{path.name}",
        "input_ids",
        ((prompts, spec.max_length),),
        error=0.0,
        tolerance=0.0,
    )


def _check_embeddings(written: Any, spec: TokenizerSpec, embeddings: int) -> None:
    """Every id has a vector."""
    largest = max((spec.bos, spec.eos, spec.pad, *written.get_vocab().values()))
    if largest >= embeddings:
        raise ExportError(
            f"the tokenizer's ids go up to {largest}, the text encoder embeds {embeddings}; "
            "the two are not of one model: check vocab.json and text_encoder/config.json"
        )


def _check_names(written: Any, foreign: AbstractSet[int], names: Sequence[str]) -> None:
    """Different names are read as different tokens, of which none is `foreign` to any name."""
    seen: dict[tuple[int, ...], str] = {}
    for name in dict.fromkeys(" ".join(name.lower().split()) for name in names):
        ids = tuple(written.encode(name, add_special_tokens=False).ids)
        if not ids or not foreign.isdisjoint(ids):
            raise ExportError(
                f"the tokenizer does not know the letters of {name!r} and reads it as "
                f"{list(ids)}; check its vocab.json and merges.txt, or its tokenizer.json"
            )
        if ids in seen:
            raise ExportError(
                f"the tokenizer reads {seen[ids]!r} and {name!r} as the same tokens {list(ids)}; "
                "check its vocab.json and merges.txt, or its tokenizer.json"
            )
        seen[ids] = name


def _check_merges(written: Any) -> None:
    """The merges build the vocabulary's words; without them every name falls apart into letters."""
    words = sorted(filter(_WORD.fullmatch, written.get_vocab()))
    tried = words[:: -(-len(words) // _WORDS_TRIED) or 1]
    ends = len("</w>")
    whole = sum(
        written.encode(word[:-ends], add_special_tokens=False).tokens == [word] for word in tried
    )
    if 2 * whole < len(tried):
        raise ExportError(
            f"the tokenizer reads {whole} of {len(tried)} words of its own vocabulary as one "
            "token, expected most; its merges are missing or another model's: check merges.txt"
        )
