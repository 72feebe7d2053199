"""What a user may choose about an export, in one checked value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from ..runtime.bundle.contract import PRECISIONS
from ..runtime.errors import ExportError, MdrtError
from ..runtime.heads import find_head

OPSETS: Final = (18, 23)  # what torch's exporter writes
DEFAULT_OPSET: Final = 20  # read by ONNX Runtime 1.20+ and by tensorrt-rtx 1.7 (DESIGN §4)
BFLOAT16_OPSET: Final = 22  # the first whose Conv may be bfloat16
WEIGHTS: Final = ("same", "fp16")


@dataclass(frozen=True)
class ExportOptions:
    """Options of one export.

    Attributes:
        feature_strides: image pixels per cell of the features to return; None: the paper's 64,
            32, 16 (sizes 8, 16, 32 at 512², Table 6), those that the model has.
        attention_strides: the same for cross-attention logits; None: 64 and 32 likewise (sizes 8,
            16, Table 5).
        self_attention_strides: the same for self-attention's queries and keys, which heads refined
            and diffseg read; none by default.
        blocks: of a transformer, whose joint attention to return; Seg4Diff's by default.
        precision: what the graphs compute in; norms, softmax, logits and
            outputs are float32 always.
        weights: "fp16" stores weights in half and widens them at load, so that
            files halve and arithmetic stays float32; only with fp32 precision.
        opset: ONNX opset version; None takes the lowest that serves the precision.
        vae: a VAE's directory, file or hub id to use instead of the pipeline's own, as a TAESD's.
        loras: LoRA files to merge, each `FILE` or `FILE:scale`.
        tokenizer: a directory with another vocabulary; a one-file checkpoint has none.
        config: a diffusers pipeline's directory with the configuration of a one-file checkpoint.
        variant: of the weights in directories and on the hub, as fp16.
        revision: of a hub id.
        recommended: what the manifest recommends to the runtime, by head and by the head's
            settings.
        classes: the names a closed-vocabulary model knows, a class's synonyms after its name;
            empty for an open one.
        overwrite: replace an existing bundle.
    """

    feature_strides: tuple[int, ...] | None = None
    attention_strides: tuple[int, ...] | None = None
    self_attention_strides: tuple[int, ...] = ()
    blocks: tuple[int, ...] = ()
    precision: str = "fp32"
    weights: str = "same"
    opset: int | None = None
    vae: str | None = None
    loras: tuple[str, ...] = ()
    tokenizer: Path | None = None
    config: Path | None = None
    variant: str | None = None
    revision: str | None = None
    recommended: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    classes: tuple[tuple[str, ...], ...] = ()
    overwrite: bool = False

    def __post_init__(self) -> None:
        """Check single values and what spans fields.

        Raises:
            ExportError: a value is unknown, or two contradict each other.
        """
        if self.precision not in PRECISIONS:
            raise ExportError(
                f"precision {self.precision!r} is unknown; expected {', '.join(PRECISIONS)}"
            )
        if self.weights not in WEIGHTS:
            raise ExportError(f"weights {self.weights!r} is unknown; expected {', '.join(WEIGHTS)}")
        if len(set(self.blocks)) != len(self.blocks) or any(block < 0 for block in self.blocks):
            raise ExportError(f"blocks {self.blocks} repeat or are negative; expected as in 8,9")
        if self.weights == "fp16" and self.precision != "fp32":
            raise ExportError(
                f"weights fp16 stores float32 weights in half, but precision {self.precision} "
                "stores them so already; give one of them"
            )
        lowest = BFLOAT16_OPSET if self.precision == "bf16" else OPSETS[0]
        if self.opset is not None and not lowest <= self.opset <= OPSETS[1]:
            raise ExportError(
                f"opset {self.opset} cannot hold {self.precision} graphs; "
                f"expected {lowest}…{OPSETS[1]}"
            )
        names = [name for synonymous in self.classes for name in synonymous]
        if len(set(names)) != len(names) or not all(map(str.strip, names)):
            raise ExportError(f"classes {names} hold an empty or repeated name")
        checked = {head: _checked(head, found) for head, found in self.recommended.items()}
        object.__setattr__(self, "recommended", checked)

    @property
    def opset_version(self) -> int:
        """The opset to write."""
        if self.opset is not None:
            return self.opset
        return BFLOAT16_OPSET if self.precision == "bf16" else DEFAULT_OPSET


def _checked(head: str, settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """What is recommended for a head, each value in its own type.

    Raises:
        ExportError: there is no such head, or it does not take them.
    """
    if not isinstance(settings, Mapping):
        raise ExportError(
            f"recommended: {head} is {settings!r}, expected a head's settings by name"
        )
    try:
        options = find_head(head).settle({}, settings)
    except MdrtError as error:
        raise ExportError(f"recommended for {head}: {error}") from error
    return {name: getattr(options, name) for name in settings}
