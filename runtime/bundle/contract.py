"""The graph I/O contract: declared once, written by export, checked by the runtime.

The manifest describes a model's graphs, its law of noise and what its texts become; no family of
models has a name here. What is peculiar to one happens inside its graphs. All are float32 at every
rim, whatever precision they compute in:

    vae_encoder.onnx   image (batch, 3, height, width) float32, normalised as `ImageSpec` says
                       → latent (batch, channels, h, w) float32: the mean of the posterior, neither
                         shifted nor scaled; the runtime computes `(latent - shift) * scaling`.
                         Of models that see latents alone
    text_encoder.onnx  input_ids (batch, max_length) int64
                       → `encoder_hidden_states` (batch, max_length, hidden) float32
                       → `pooled` (batch, pooled) float32, where it has one;
                         a second and a third text encoder are text_encoder_2.onnx, …
    keys.onnx          the texts' hidden states
                       → `keys_s<stride>_<n>` (batch, heads, max_length, d) float32: K of each
                         layer that has queries
    values.onnx        the texts' hidden states
                       → `values_s<stride>_<n>` (batch, heads, max_length, D) float32: V of each,
                         brought through its head's part of the output projection, so that a
                         layer gives Σ_heads softmax(QKᵀ/√d) values, and its bias
    the network        sample (batch, channels, h, w) float32, a latent with noise, or else image;
                       timestep (batch,) int64, an index into the levels of noise, if it has any;
                       then of a model that words drive, of each text, `encoder_hidden_states` and,
                       where there is one, `pooled`, with `_2`, `_3` behind the names of later ones
                       → `features_s<stride>` (batch, channels, H/stride, W/stride) float32
                       → `logits_s<stride>_<n>` (batch, heads, pixels, max_length) float32:
                         QKᵀ/√d before softmax, pixels = H/stride · W/stride in row-major order
                       → `queries_s<stride>_<n>` (batch, heads, pixels, d) float32: Q/√d of each
                         layer whose logits follow from these and the keys of any words
                       → `self_queries_s<stride>_<n>` and `self_keys_s<stride>_<n>` (batch, heads,
                         pixels, d) float32, if asked for: Q/√d and K of a self-attention layer,
                         whose map, a thousand times as large, nobody need hold
                       → `encoder_s<stride>` (batch, channels, H/stride, W/stride) float32: what
                         the last self-attention on the way down gives, before it is added to
                         what went in (DiffCut's features)
                       → `<kind>_s<stride>` (batch, channels, H/stride, W/stride) float32: maps in
                         the space of the first text's pooled embedding

h = height / factor, and image sides must be multiples of `size_multiple`.
A stride counts image pixels per cell.

Beside the network lie its cuts, `<network>.<cut>.onnx`: the same inputs, fewer outputs, and nothing
that those do not need (`cuts.py`); all of them read the weights in `<network>.onnx.data`.

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

SCHEMA_VERSION: Final = 7

VAE_ENCODER: Final = "vae_encoder.onnx"
KEYS: Final = "keys.onnx"
VALUES: Final = "values.onnx"
NETWORKS: Final = ("unet.onnx", "transformer.onnx", "vit.onnx")
"""What the network's graph may be called."""
NOISE: Final = "noise.npy"
MANIFEST: Final = "manifest.json"
DIGEST: Final = "sha256"  # the manifest's key for its own

IMAGE: Final = "image"
LATENT: Final = "latent"
INPUT_IDS: Final = "input_ids"
ENCODER_HIDDEN_STATES: Final = "encoder_hidden_states"
POOLED: Final = "pooled"
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
LAWS: Final = ("diffusion", "flow")
PREDICTION_TYPES: Final = ("epsilon", "v_prediction", "sample", "flow_prediction")

MOST_PIXELS: Final = 1 << 14  # a side of the pictures a model was trained on
_MOST_LETTERS: Final = 1 << 10  # of a name
MOST_STEPS: Final = 100_000  # levels of noise
_MOST_MULTIPLE: Final = 1 << 12
# far beyond any model, and small enough that no damaged number asks for all memory

_REMEDY: Final = "run `mdrt export` again"
_DOCUMENT: Final = Document("manifest", _REMEDY)
_require: Final = _DOCUMENT.require


def _bound(key: str, value: int, least: int, most: int) -> None:
    _require(least <= value <= most, key, value, f"{least} to {most}")


def _numbered(name: str, index: int) -> str:
    """The name of what a bundle has several of, the first without a number."""
    return name if index == 0 else f"{name}_{index + 1}"


def text_encoder_name(index: int) -> str:
    """The file name of a text encoder's graph; `index` counts from 0."""
    return f"{_numbered('text_encoder', index)}.onnx"


def tokenizer_name(index: int) -> str:
    """The file name of a text's tokenizer."""
    return f"{_numbered('tokenizer', index)}/tokenizer.json"


def states_name(index: int) -> str:
    """The network's input for the hidden states of a text."""
    return _numbered(ENCODER_HIDDEN_STATES, index)


def pooled_name(index: int) -> str:
    """The network's input for the pooled embedding of a text."""
    return _numbered(POOLED, index)


MASKCLIP: Final = "maskclip"
MASKCLIP_KEYS: Final = "maskclip_keys"
GEM: Final = "gem"
"""Kinds of maps in the space of pooled texts, of length 1; MaskCLIP's keys, which clean its map,
are in a space of their own."""

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


def aligned_name(kind: str, stride: int) -> str:
    """The name of a map of a kind in the space of pooled texts."""
    return f"{kind}_s{stride}"


def encoder_name(stride: int) -> str:
    """The name of the encoder's output, at `stride` image pixels per cell."""
    return f"encoder_s{stride}"


def weights_name(graph: str) -> str:
    """The file name of a graph's weights, where they are a file of their own: a cut's and a twin's
    are those of the whole."""
    return f"{graph.partition('.')[0]}.onnx.data"


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
    max_length) float32; a self-attention gives out queries and keys alone.

    Words alone do not make the keys of every cross-attention: with `channels` 0 it has logits and
    neither queries nor keys, and with `width` 0 no values. Where words share their softmax with
    pixels, a `joint` attention, logits are less a pixel's log Σ exp over all keys of both: their
    exp is what it gives to each word.
    """

    name: str
    stride: int
    heads: int
    channels: int  # d, of one head's queries and keys
    width: int  # D, of what the layer gives, and each head adds to
    layer: str  # module path inside the network
    joint: bool = False

    def __post_init__(self) -> None:
        _bound(f"attention.{self.name}.heads", self.heads, 1, 1 << 10)
        _bound(f"attention.{self.name}.channels", self.channels, 0, 1 << 16)
        _bound(f"attention.{self.name}.width", self.width, 0, 1 << 16)

    @property
    def queries(self) -> str:
        """The output with Q/√d, (batch, heads, pixels, channels) float32."""
        return self._part("queries")

    @property
    def keys(self) -> str:
        """K: of a cross-attention's words, an output of the graph of keys, (batch, heads,
        max_length, channels) float32; of a self-attention's pixels, an output of the network."""
        return self._part("keys")

    @property
    def values(self) -> str:
        """V of a cross-attention's words through the output projection, an output of the graph of
        values, (batch, heads, max_length, width) float32."""
        return self._part("values")

    def _part(self, of: str) -> str:
        kind, _, place = self.name.partition("_")
        return f"{of}_{place}" if kind == _LOGITS else f"{kind}_{of}_{place}"


class Outputs(Protocol):
    """What a network gives out, kind by kind, and the file name of its graph."""

    @property
    def network(self) -> str: ...
    @property
    def features(self) -> tuple[FeatureOutput, ...]: ...
    @property
    def attention(self) -> tuple[AttentionOutput, ...]: ...
    @property
    def self_attention(self) -> tuple[AttentionOutput, ...]: ...
    @property
    def encoder(self) -> tuple[FeatureOutput, ...]: ...
    @property
    def aligned(self) -> tuple[FeatureOutput, ...]: ...


def output_names(of: Outputs) -> tuple[str, ...]:
    """The outputs in a graph's order: features, logits, queries, of self-attention queries and
    keys, encoder, aligned."""
    return (
        *(output.name for output in of.features),
        *(output.name for output in of.attention),
        *(output.queries for output in of.attention if output.channels),
        *(name for output in of.self_attention for name in (output.queries, output.keys)),
        *(output.name for output in (*of.encoder, *of.aligned)),
    )


@dataclass(frozen=True)
class ImageSpec:
    """What a model takes of a picture.

    Attributes:
        mean, deviation: of red, green and blue in [0, 1]: the graph sees (rgb - mean) / deviation.
        native_size: the side in pixels that the model was trained on.
        size_multiple: image sides are multiples of it.
    """

    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    native_size: int
    size_multiple: int

    def __post_init__(self) -> None:
        for name in ("mean", "deviation"):
            values = getattr(self, name)
            least = 0.0 if name == "deviation" else -math.inf
            fits = len(values) == 3 and all(least < v < math.inf for v in values)
            _require(fits, f"image.{name}", list(values), "three numbers")
        _bound("image.size_multiple", self.size_multiple, 1, _MOST_MULTIPLE)
        _bound("image.native_size", self.native_size, 1, MOST_PIXELS)
        divides = self.native_size % self.size_multiple == 0
        expected = f"a multiple of {self.size_multiple}"
        _require(divides, "image.native_size", self.native_size, expected)


@dataclass(frozen=True)
class LatentSpec:
    """What the VAE encodes to: pixels a cell, channels; the network sees
    (latent - shift) * scaling."""

    factor: int
    channels: int
    scaling: float
    shift: float

    def __post_init__(self) -> None:
        _bound("latent.factor", self.factor, 1, 1 << 8)
        _bound("latent.channels", self.channels, 1, 1 << 8)
        finite = math.isfinite(self.scaling) and self.scaling > 0
        _require(finite, "latent.scaling", self.scaling, "a positive number")
        _require(math.isfinite(self.shift), "latent.shift", self.shift, "a number")


@dataclass(frozen=True)
class NoiseSpec:
    """How a latent z becomes z_t = a z + b ε at level t, counted from the least noise.

    Attributes:
        law: "diffusion": levels are ᾱ_t, a = √ᾱ_t and b = √(1 − ᾱ_t); "flow": levels are σ_t,
            a = 1 − σ_t and b = σ_t.
        levels: float64, one a timestep.
        prediction_type: what the network was trained to predict.
    """

    law: str
    levels: tuple[float, ...]
    prediction_type: str

    def __post_init__(self) -> None:
        _require(self.law in LAWS, "noise.law", self.law, LAWS)
        _bound("noise.levels: their number", len(self.levels), 1, MOST_STEPS)
        bounded = all(0.0 <= value <= 1.0 for value in self.levels)
        _require(bounded, "noise.levels", "a value outside it", "[0, 1]")
        known = self.prediction_type in PREDICTION_TYPES
        _require(known, "noise.prediction_type", self.prediction_type, PREDICTION_TYPES)

    def shares(self, timestep: int) -> tuple[float, float]:
        """(a, b) of a level."""
        level = self.levels[timestep]
        if self.law == "flow":
            return 1 - level, level
        return math.sqrt(level), math.sqrt(1 - level)


@dataclass(frozen=True)
class TokenizerSpec:
    """How a prompt becomes `max_length` ids: bos, the tokens, eos, then pad to the end; with bos
    -1 it begins with its tokens."""

    max_length: int
    bos: int
    eos: int
    pad: int

    def __post_init__(self) -> None:
        _bound("tokenizer.max_length", self.max_length, 3, 1 << 12)  # begin, a token, end
        for name in ("bos", "eos", "pad"):
            _bound(f"tokenizer.{name}", getattr(self, name), -(name == "bos"), 1 << 24)

    @property
    def begins(self) -> int:
        """Places before a prompt's own tokens: 1, or 0 without bos."""
        return int(self.bos >= 0)

    @property
    def room(self) -> int:
        """Tokens of its own that a prompt may have."""
        return self.max_length - self.begins - 1


@dataclass(frozen=True)
class TextSpec:
    """One text encoder.

    Attributes:
        graph: its file name.
        tokenizer: its tokenizer's.
        tokens: what that makes of a prompt.
        hidden: of (batch, max_length, hidden), a vector a token.
        pooled: of (batch, pooled), a vector a prompt; 0 where nothing asks for one.
    """

    graph: str
    tokenizer: str
    tokens: TokenizerSpec
    hidden: int
    pooled: int = 0

    def __post_init__(self) -> None:
        _bound("texts.hidden", self.hidden, 1, 1 << 16)
        _bound("texts.pooled", self.pooled, 0, 1 << 16)


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

    Attributes:
        image: what a picture is to the first graph that sees it.
        latent: what that graph makes of it; None: the network sees pixels.
        noise: how latents are noised; None: they are not, and the network knows no timestep.
        texts: the text encoders; the first one's tokens are the columns of logits and keys. None
            for a model without words.
        network: the file name of the network's graph.
        features, attention, self_attention, encoder, aligned: what that gives out.
        recommended: what the exporter found best for this model, by head and by the head's
            options; a user's choice wins over it, and the first head that is named is the first
            choice.
        classes: the names a closed-vocabulary model knows, empty for an open one.
        synonyms: what else it calls them.
        files: path relative to the bundle → its record.
    """

    model_id: str
    created_by: Mapping[str, str]
    precision: str
    image: ImageSpec
    latent: LatentSpec | None
    noise: NoiseSpec | None
    texts: tuple[TextSpec, ...]
    network: str
    features: tuple[FeatureOutput, ...]
    attention: tuple[AttentionOutput, ...]
    self_attention: tuple[AttentionOutput, ...]
    encoder: tuple[FeatureOutput, ...]
    aligned: tuple[FeatureOutput, ...]
    recommended: Mapping[str, Mapping[str, object]]
    classes: tuple[str, ...]
    synonyms: tuple[str, ...]
    files: Mapping[str, FileRecord]
    schema_version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        """Check what spans fields.

        Raises:
            BundleError: a value cannot be true of any bundle.
        """
        for name in (self.model_id, *self.classes, *self.synonyms):
            seen = 0 < len(name) <= _MOST_LETTERS and name.isprintable()
            _require(seen, "model_id or classes", name, f"1 to {_MOST_LETTERS} printable letters")
        _require(self.precision in PRECISIONS, "precision", self.precision, PRECISIONS)
        _require(self.network in NETWORKS, "network", self.network, NETWORKS)
        multiple = self.image.size_multiple
        divides = multiple % self.factor == 0
        _require(divides, "image.size_multiple", multiple, f"a multiple of {self.factor}")
        for index, text in enumerate(self.texts):
            graph, tokenizer = text_encoder_name(index), tokenizer_name(index)
            _require(text.graph == graph, f"texts[{index}].graph", text.graph, graph)
            is_its = text.tokenizer == tokenizer
            _require(is_its, f"texts[{index}].tokenizer", text.tokenizer, tokenizer)
        outputs: tuple[FeatureOutput | AttentionOutput, ...] = (
            *self.features,
            *self.attention,
            *self.self_attention,
            *self.encoder,
            *self.aligned,
        )
        for output in outputs:
            divides = output.stride > 0 and multiple % output.stride == 0
            _require(divides, f"{output.name}.stride", output.stride, f"a divisor of {multiple}")
        for layer in self.self_attention:
            _bound(f"self_attention.{layer.name}.channels", layer.channels, 1, 1 << 16)
        names = self.output_names
        _require(len(set(names)) == len(names), "outputs", list(names), "distinct names")
        _require(bool(outputs), "features", "none, and nothing else", "at least one output")
        for kind, needs in (("attention", self.attention), ("aligned", self.aligned)):
            known = not needs or bool(self.texts)
            _require(known, f"{kind} without texts", [one.name for one in needs], "none")

    @property
    def factor(self) -> int:
        """Pixels a cell of what the network sees."""
        return 1 if self.latent is None else self.latent.factor

    @property
    def levels(self) -> int:
        """Levels of noise; without noise there is one, the picture as it is."""
        return 1 if self.noise is None else len(self.noise.levels)

    @property
    def late(self) -> tuple[AttentionOutput, ...]:
        """The cross-attention layers whose logits follow from queries and keys."""
        return tuple(layer for layer in self.attention if layer.channels)

    @property
    def with_values(self) -> tuple[AttentionOutput, ...]:
        """The cross-attention layers whose share in their outputs is known by values."""
        return tuple(layer for layer in self.late if layer.width)

    def inputs(self, graph: str, rows: int, height: int, width: int) -> dict[str, tuple[int, ...]]:
        """The shape of every input of a graph, for so many rows of pictures of a size in pixels; a
        cut's are the network's."""
        texts = dict(enumerate(self.texts))
        for text in self.texts:
            if graph == text.graph:
                return {INPUT_IDS: (rows, text.tokens.max_length)}
        states: dict[str, tuple[int, ...]] = {
            states_name(i): (rows, text.tokens.max_length, text.hidden) for i, text in texts.items()
        }
        if graph in (KEYS, VALUES):
            return states
        if graph == VAE_ENCODER:
            return {IMAGE: (rows, 3, height, width)}
        if self.latent is None:
            shapes: dict[str, tuple[int, ...]] = {IMAGE: (rows, 3, height, width)}
        else:
            cells = height // self.latent.factor, width // self.latent.factor
            shapes = {SAMPLE: (rows, self.latent.channels, *cells)}
        if self.noise is None:
            return shapes
        pooled = {pooled_name(i): (rows, text.pooled) for i, text in texts.items() if text.pooled}
        return shapes | {TIMESTEP: (rows,)} | states | pooled

    @property
    def output_names(self) -> tuple[str, ...]:
        """The network's outputs, in order."""
        return output_names(self)

    @cached_property
    def sha256(self) -> str:
        """The digest that the manifest is sealed with: of every value and, by its record, every
        file, so that of the whole bundle."""
        return str(self.to_json()[DIGEST])

    def to_json(self) -> dict[str, Any]:
        """The manifest as plain JSON values, the schema version and the digest first."""
        values = plain(self)
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
