"""The graph I/O contract: declared once, written by export, checked by the runtime.

Four graphs, float32 at every rim whatever precision they compute in:

    vae_encoder.onnx   image (batch, 3, height, width) float32 in [-1, 1]
                       → latent (batch, latent_channels, h, w) float32: the mean of the
                         posterior, neither shifted nor scaled; the runtime computes
                         `(latent - shift_factor) * scaling_factor`
    text_encoder.onnx  input_ids (batch, max_length) int64
                       → encoder_hidden_states (batch, max_length, hidden) float32
    keys.onnx          encoder_hidden_states (batch, max_length, hidden) float32
                       → `keys_s<stride>_<n>` (batch, heads, max_length, d) float32: K of each
                         layer that has logits
                       → `values_s<stride>_<n>` (batch, heads, max_length, D) float32: V of each,
                         brought through its head's part of the output projection, so that a
                         layer gives Σ_heads softmax(QKᵀ/√d) values, and its bias
    unet.onnx          sample (batch, latent_channels, h, w) float32, timestep (batch,) int64,
                       encoder_hidden_states (batch, max_length, hidden) float32
                       → `features_s<stride>` (batch, channels, H/stride, W/stride) float32
                       → `logits_s<stride>_<n>` (batch, heads, pixels, max_length) float32:
                         QKᵀ/√d before softmax, pixels = H/stride · W/stride in row-major order
                       → `queries_s<stride>_<n>` (batch, heads, pixels, d) float32: Q/√d of each
                         layer that has logits; with the keys of any words, their logits
                       → `self_queries_s<stride>_<n>` and `self_keys_s<stride>_<n>` (batch, heads,
                         pixels, d) float32, if asked for: Q/√d and K of a self-attention layer,
                         whose map, a thousand times as large, nobody need hold
                       → `encoder_s<stride>` (batch, channels, H/stride, W/stride) float32, if the
                         down blocks have attention: what their last self-attention gives, before
                         it is added to what went in (DiffCut's features)

h = height / vae_factor, and image sides must be multiples of `size_multiple`.
A stride counts image pixels per cell.

Beside the UNet lie its cuts, `unet.<cut>.onnx`: the same inputs, fewer outputs, and nothing that
those do not need (`cuts.py`); all of them read the weights in `unet.onnx.data`.

Beside a graph may lie its twins for ONNX Runtime on CPUs, `<graph>.winograd.onnx` and
`<graph>.bf16x3.onnx`: the same function over the same weights' file, by mdrt's own operators
(kernels/cpu/operators.cpp), in float32 or by bfloat16 products.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, Protocol

from ..errors import BundleError
from .typed import Document, plain

SCHEMA_VERSION: Final = 6

VAE_ENCODER: Final = "vae_encoder.onnx"
TEXT_ENCODER: Final = "text_encoder.onnx"
UNET: Final = "unet.onnx"
KEYS: Final = "keys.onnx"
GRAPHS: Final = (VAE_ENCODER, TEXT_ENCODER, KEYS, UNET)
NOISE: Final = "noise.npy"
TOKENIZER: Final = "tokenizer/tokenizer.json"
MANIFEST: Final = "manifest.json"
DIGEST: Final = "sha256"  # the manifest's key for its own

IMAGE: Final = "image"
LATENT: Final = "latent"
INPUT_IDS: Final = "input_ids"
ENCODER_HIDDEN_STATES: Final = "encoder_hidden_states"
SAMPLE: Final = "sample"
TIMESTEP: Final = "timestep"

OPERATOR_DOMAIN: Final = "mdrt"
ONNXRUNTIME: Final = "onnxruntime"
WINOGRAD: Final = "winograd"
BF16X3: Final = "bf16x3"
OPERATORS: Final = (BF16X3, WINOGRAD, ONNXRUNTIME)
"""What may do the work of a graph on a CPU: mdrt's operators, of a twin, or ONNX Runtime's own."""

PRECISIONS: Final = ("fp32", "fp16", "bf16")
MOST_SEGMENTS: Final = 256  # unnamed segments of one picture; labels stay uint8
PREDICTION_TYPES: Final = ("epsilon", "v_prediction", "sample")

MOST_PIXELS: Final = 1 << 14  # a side of the pictures a model was trained on
_MOST_STEPS: Final = 100_000  # timesteps of a noise schedule
_MOST: Final[Mapping[str, int]] = {
    "vae_factor": 1 << 8,
    "latent_channels": 1 << 8,
    "size_multiple": 1 << 12,
    "native_size": MOST_PIXELS,
}
"""Far beyond any model, and small enough that no damaged number asks for all memory."""

_REMEDY: Final = "run `mdrt export` again"
_DOCUMENT: Final = Document("manifest", _REMEDY)
_require: Final = _DOCUMENT.require


def _bound(key: str, value: int, least: int, most: int) -> None:
    _require(least <= value <= most, key, value, f"{least} to {most}")


_LOGITS: Final = "logits"
_SELF: Final = "self"


def features_name(stride: int) -> str:
    """The name of the feature output at `stride` image pixels per cell."""
    return f"features_s{stride}"


def logits_name(stride: int, index: int) -> str:
    """The name of the `index`-th cross-attention layer at `stride`, in execution order."""
    return f"{_LOGITS}_s{stride}_{index}"


def self_attention_name(stride: int, index: int) -> str:
    """The name of the `index`-th self-attention layer at `stride`, in execution order."""
    return f"{_SELF}_s{stride}_{index}"


def encoder_name(stride: int) -> str:
    """The name of the encoder's output, at `stride` image pixels per cell."""
    return f"encoder_s{stride}"


def weights_name(graph: str) -> str:
    """The file name of a graph's weights, where they are a file of their own."""
    whole = UNET if graph.startswith(UNET.removesuffix("onnx")) else graph
    return f"{whole}.data"


def twin_name(graph: str, operators: str) -> str:
    """The file name of a graph's twin, or of the graph itself for ONNX Runtime's operators."""
    return graph if operators == ONNXRUNTIME else f"{graph.removesuffix('onnx')}{operators}.onnx"


def is_twin(graph: str) -> bool:
    """Whether a file name is that of a twin."""
    return graph.endswith((f".{WINOGRAD}.onnx", f".{BF16X3}.onnx"))


@dataclass(frozen=True)
class FeatureOutput:
    """One feature map: (batch, channels, H/stride, W/stride) float32."""

    name: str
    stride: int
    channels: int

    def __post_init__(self) -> None:
        _bound(f"features.{self.name}.channels", self.channels, 1, 1 << 16)


@dataclass(frozen=True)
class AttentionOutput:
    """One attention layer. A cross-attention's name is that of its logits, (batch, heads, pixels,
    max_length) float32; a self-attention gives out queries and keys alone."""

    name: str
    stride: int
    heads: int
    channels: int  # d, of one head's queries and keys
    width: int  # D, of what the layer gives, and each head adds to
    layer: str  # module path inside the UNet

    def __post_init__(self) -> None:
        _bound(f"attention.{self.name}.heads", self.heads, 1, 1 << 10)
        _bound(f"attention.{self.name}.channels", self.channels, 1, 1 << 16)
        _bound(f"attention.{self.name}.width", self.width, 1, 1 << 16)

    @property
    def queries(self) -> str:
        """The output with Q/√d, (batch, heads, pixels, channels) float32."""
        return self._part("queries")

    @property
    def keys(self) -> str:
        """K: of a cross-attention's words, an output of the graph of keys, (batch, heads,
        max_length, channels) float32; of a self-attention's pixels, an output of the UNet's."""
        return self._part("keys")

    @property
    def values(self) -> str:
        """V of a cross-attention's words through the output projection, an output of the graph of
        keys, (batch, heads, max_length, width) float32."""
        return self._part("values")

    def _part(self, of: str) -> str:
        kind, _, place = self.name.partition("_")
        return f"{of}_{place}" if kind == _LOGITS else f"{kind}_{of}_{place}"


class Outputs(Protocol):
    """What a UNet graph gives out, kind by kind."""

    @property
    def features(self) -> tuple[FeatureOutput, ...]: ...
    @property
    def attention(self) -> tuple[AttentionOutput, ...]: ...
    @property
    def self_attention(self) -> tuple[AttentionOutput, ...]: ...
    @property
    def encoder(self) -> tuple[FeatureOutput, ...]: ...


def output_names(of: Outputs) -> tuple[str, ...]:
    """The outputs in a graph's order: features, logits, queries, of self-attention queries and
    keys, encoder."""
    return (
        *(output.name for output in of.features),
        *(output.name for output in of.attention),
        *(output.queries for output in of.attention),
        *(name for output in of.self_attention for name in (output.queries, output.keys)),
        *(output.name for output in of.encoder),
    )


@dataclass(frozen=True)
class TokenizerSpec:
    """How a prompt becomes `max_length` ids: bos, the tokens, eos, then pad to the end."""

    max_length: int
    bos: int
    eos: int
    pad: int

    def __post_init__(self) -> None:
        _bound("tokenizer.max_length", self.max_length, 3, 1 << 12)  # begin, a token, end
        for name in ("bos", "eos", "pad"):
            _bound(f"tokenizer.{name}", getattr(self, name), 0, 1 << 24)


@dataclass(frozen=True)
class TextSpec:
    """The text encoder's output: (batch, max_length, hidden)."""

    hidden: int

    def __post_init__(self) -> None:
        _bound("text.hidden", self.hidden, 1, 1 << 16)


@dataclass(frozen=True)
class FileRecord:
    """What a bundle's file must be: its hexadecimal SHA-256 and its size."""

    sha256: str
    bytes: int

    def __post_init__(self) -> None:
        _bound("files.bytes", self.bytes, 0, 1 << 62)
        hexadecimal = len(self.sha256) == 64 and set(self.sha256) <= set("0123456789abcdef")
        _require(hexadecimal, "files.sha256", self.sha256, "64 hexadecimal digits")


@dataclass(frozen=True)
class Manifest:
    """Everything the runtime must know about a bundle's graphs.

    Lengths are in image pixels unless said otherwise. `alphas_cumprod` holds
    ᾱ_t in float64 for every training timestep. `recommended` is what the
    exporter found best for this model, by head and by the head's options; a
    user's choice wins over it. `classes` are the names a closed-vocabulary
    model knows, empty for an open one, and `synonyms` what else it calls
    them. `files` maps a path relative to the bundle to its record.
    """

    model_id: str
    created_by: Mapping[str, str]
    precision: str
    prediction_type: str
    alphas_cumprod: tuple[float, ...]
    scaling_factor: float
    shift_factor: float
    vae_factor: int  # pixels per latent cell
    latent_channels: int
    size_multiple: int  # image sides are multiples of it
    native_size: int  # the side the model was trained on
    tokenizer: TokenizerSpec
    text: TextSpec
    features: tuple[FeatureOutput, ...]
    attention: tuple[AttentionOutput, ...]
    encoder: tuple[FeatureOutput, ...]  # one, or none where the down blocks have no attention
    recommended: Mapping[str, Mapping[str, object]]
    classes: tuple[str, ...]
    files: Mapping[str, FileRecord]
    self_attention: tuple[AttentionOutput, ...] = ()  # of bundles exported with it
    synonyms: tuple[str, ...] = ()
    schema_version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        """Check what spans fields.

        Raises:
            BundleError: a value cannot be true of any bundle.
        """
        _require(self.precision in PRECISIONS, "precision", self.precision, PRECISIONS)
        known = self.prediction_type in PREDICTION_TYPES
        _require(known, "prediction_type", self.prediction_type, PREDICTION_TYPES)
        steps = len(self.alphas_cumprod)
        _bound("alphas_cumprod: its length", steps, 1, _MOST_STEPS)
        bounded = all(0.0 <= value <= 1.0 for value in self.alphas_cumprod)
        _require(bounded, "alphas_cumprod", "a value outside it", "[0, 1]")
        finite = math.isfinite(self.scaling_factor) and self.scaling_factor > 0
        _require(finite, "scaling_factor", self.scaling_factor, "a positive number")
        _require(math.isfinite(self.shift_factor), "shift_factor", self.shift_factor, "a number")
        for name, most in _MOST.items():
            _bound(name, getattr(self, name), 1, most)
        divides = self.size_multiple % self.vae_factor == 0
        _require(divides, "size_multiple", self.size_multiple, f"a multiple of {self.vae_factor}")
        divides = self.native_size % self.size_multiple == 0
        _require(divides, "native_size", self.native_size, f"a multiple of {self.size_multiple}")
        outputs: tuple[FeatureOutput | AttentionOutput, ...] = (
            *self.features,
            *self.attention,
            *self.self_attention,
            *self.encoder,
        )
        for output in outputs:
            divides = output.stride > 0 and self.size_multiple % output.stride == 0
            expected = f"a divisor of {self.size_multiple}"
            _require(divides, f"{output.name}.stride", output.stride, expected)
        names = self.output_names
        _require(len(set(names)) == len(names), "outputs", list(names), "distinct names")
        _require(bool(self.features), "features", "none", "at least one output")
        _require(bool(self.attention), "attention", "none", "at least one output")

    @property
    def output_names(self) -> tuple[str, ...]:
        """The UNet graph's outputs, in order."""
        return output_names(self)

    @cached_property
    def sha256(self) -> str:
        """The digest that the manifest is sealed with: of every value and, by its record, every
        file, so that of the whole bundle."""
        return str(self.to_json()[DIGEST])

    def to_json(self) -> dict[str, Any]:
        """The manifest as plain JSON values, the schema version and the digest first."""
        values = plain(self)
        for name in ("self_attention", "synonyms"):
            if not values[name]:  # as bundles of earlier exports: the same bytes
                del values[name]
        own = digest(values)
        return {"schema_version": values.pop("schema_version"), DIGEST: own, **values}

    @classmethod
    def from_json(cls, values: object) -> Manifest:
        """Read a decoded `manifest.json`.

        Raises:
            BundleError: another schema version, an edited value, or a missing, unknown or
                ill-typed key.
        """
        values = _DOCUMENT.read_object(values)
        version = values.get("schema_version")
        if type(version) is not int or version != SCHEMA_VERSION:
            raise BundleError(
                f"manifest has schema version {version!r}, this mdrt reads version "
                f"{SCHEMA_VERSION}; {_REMEDY} or install the mdrt that wrote it"
            )
        if DIGEST not in values:
            raise BundleError(f"manifest lacks the key {DIGEST}; {_REMEDY}")
        if values[DIGEST] != (found := digest(values)):
            raise BundleError(
                f"manifest has SHA-256 {found[:12]}…, expected {str(values[DIGEST])[:12]}…: "
                f"it was changed after export; {_REMEDY}"
            )
        return _DOCUMENT.build(cls, {key: values[key] for key in values if key != DIGEST})


def digest(values: Mapping[str, Any]) -> str:
    """The hexadecimal SHA-256 of a manifest's values, all but the digest itself.

    Taken of canonical JSON, so that white space and the order of keys do not matter.
    """
    content = {key: values[key] for key in values if key != DIGEST}
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()
