"""What a user may choose about the engines of a bundle, in one checked value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NoReturn

from ...runtime.bundle.contract import Manifest
from ...runtime.bundle.cuts import WHOLE, cuts, graph_names
from ...runtime.bundle.plan import Range
from ...runtime.errors import EngineError

NOT_OF_RTX: Final = ("9.0", "10.0", "10.3")
"""Compute capabilities of data-centre GPUs (Hopper, Blackwell), for which tensorrt-rtx has no
kernels (NVIDIA's support matrix, tensorrt-rtx 1.0 to 1.7)."""


def refuse_for_rtx(capability: str, whose: str) -> NoReturn:
    """Say what to take instead of tensorrt-rtx.

    Raises:
        EngineError: always.
    """
    raise EngineError(
        f"tensorrt-rtx has no kernels for data-centre GPUs of compute capability {capability} "
        f"({whose}); build there with library tensorrt, or run the ONNX graphs with provider cuda; "
        "for another machine's GPU name its compute capability, as 8.9",
        library="tensorrt",
        compute_capabilities=...,
    )


@dataclass(frozen=True)
class EngineOptions:
    """Options of one build; None leaves a choice to the library.

    Attributes:
        profile: ranges by dimension, as `parse_profiles` gives them; others take their default.
        cuts: of the network to build, of `CUTS`.
        workspace: the most scratch memory a layer may use on the device, in MiB.
        optimization_level: how long the builder searches, 0 to 5.
        timing_cache: a file of measured kernels, read if it exists and written again.
        compute_capabilities: GPUs to build for, as "8.9".
        weight_streaming: let the runtime keep weights in host memory.
        strip_weights: leave weights out of the engine; the runtime fills them in from the graph.
    """

    profile: Mapping[str, Range] = field(default_factory=dict)
    cuts: tuple[str, ...] = (WHOLE,)
    workspace: int | None = None
    optimization_level: int | None = None
    timing_cache: Path | None = None
    compute_capabilities: tuple[str, ...] = ()
    weight_streaming: bool = False
    strip_weights: bool = False

    def graphs(self, of: Manifest) -> list[str]:
        """The file names of the graphs to build of a bundle.

        Raises:
            EngineError: it has no such cut.
        """
        offered = {cut.name: cut.graph for cut in cuts(of)}
        for name in self.cuts:
            if name not in offered:
                raise EngineError(
                    f"cut {name} is none of {', '.join(offered)}, which the bundle has"
                )
        others = (graph for graph in graph_names(of) if graph not in offered.values())
        return [*others, *(graph for name, graph in offered.items() if name in self.cuts)]

    def check(self, library: str) -> None:
        """See that a library has what is asked of it.

        Raises:
            EngineError: it has not, or two options exclude each other there.
        """
        if library == "tensorrt" and self.compute_capabilities:
            raise EngineError(
                "tensorrt builds for the GPU of this machine alone; name no compute capability, "
                "or build with library tensorrt-rtx",
                library="tensorrt-rtx",
            )
        if self.strip_weights and self.compute_capabilities:
            raise EngineError(
                "weights are stripped for the GPU of this machine alone; strip none, or name no "
                "compute capability"
            )
        if any(capability.startswith("7.") for capability in self.compute_capabilities):
            # pytorch/TensorRT#4643: there a float32 product gives zeros and no error
            raise EngineError(
                "tensorrt-rtx has no float32 matrix products before compute capability 8.0, and "
                "the attention logits of every bundle are float32; name no compute capability 7.x"
            )
        for capability in self.compute_capabilities:
            if library == "tensorrt-rtx" and capability in NOT_OF_RTX:
                refuse_for_rtx(capability, "asked for")
        if library == "tensorrt-rtx" and self.timing_cache is not None:
            raise EngineError(
                "tensorrt-rtx measures nothing while it builds, so a timing cache has no effect; "
                "give none, or build with library tensorrt",
                library="tensorrt",
            )
