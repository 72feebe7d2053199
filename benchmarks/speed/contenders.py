"""The ways to run MaskDiffusion that are compared; each runs in a process of its own.

    python -m mdrt.benchmarks.speed.contenders NAME FOLDER COUNT WARMUP STARTED < task.json

NAME is a key of `CONTENDERS`, or a bundle's directory for mdrt on that one. It
prints one JSON line when loaded, one for every picture, and one with the peak memory. Label maps
go to FOLDER. STARTED is when the process was started, in seconds of `time.time`.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .task import Task

Seconds = dict[str, float]
Result = tuple[NDArray[Any], Seconds]


class Contender(Protocol):
    """Loaded by its constructor; a call segments one picture: labels and seconds a stage."""

    def __call__(self, image: NDArray[np.uint8]) -> Result: ...


class OurRuntime:
    """mdrt itself, or its pipeline on another runtime's sessions."""

    def __init__(self, task: Task, runtime: str) -> None:
        from ...runtime.heads.maskdiffusion import MaskDiffusionOptions
        from ...runtime.segmenter import Segmenter

        if runtime == "mdrt":
            self.segmenter = Segmenter(task.bundle, threads=task.threads)
        else:
            from .runtimes import opener

            graphs = opener(runtime, task.threads, Path(task.cache))
            self.segmenter = Segmenter(task.bundle, verify=False, open_graph=graphs)
        self.classes = list(task.classes)
        self.settings = vars(MaskDiffusionOptions())  # the paper's, whatever the bundle recommends

    def __call__(self, image: NDArray[np.uint8]) -> Result:
        result = self.segmenter(image, self.classes, head="maskdiffusion", **self.settings)
        return result.labels, result.timings


class Torch:
    """One VAE encode, one whole UNet pass with hooks, the equations at full resolution."""

    def __init__(self, task: Task, compiled: bool = False) -> None:
        import torch

        from ...runtime.bundle.loading import load_bundle
        from ..reference import Reference

        if task.threads is not None:
            torch.set_num_threads(task.threads)
        assert task.pipeline is not None
        bundle = load_bundle(task.bundle, verify=False)
        self.noise = torch.from_numpy(bundle.noise())
        manifest = bundle.manifest
        self.reference = Reference(
            task.pipeline,
            tuple(f.stride for f in manifest.features),
            tuple(dict.fromkeys(a.stride for a in manifest.attention)),
            vae=task.vae,
            dtype=torch.float32,
        )
        if compiled:
            self.reference.unet = torch.compile(self.reference.unet)
            self.reference.vae.encoder = torch.compile(self.reference.vae.encoder)
        self.prompt, owner = self.reference.prompt(task.classes)
        self.of_classes = owner >= 0
        self.owner = owner[self.of_classes]
        self.classes = len(task.classes)
        self.mode = "paper"
        self.grid: tuple[int, int] | None = None
        self.seconds: Seconds = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def __call__(self, image: NDArray[np.uint8]) -> Result:
        self.seconds = {}
        with self.stage("text"):
            states = self.reference.embed(self.prompt)
        with self.stage("vae"):
            latent = self.reference.noised(self.reference.encode(image), self.noise, 0)
        with self.stage("unet"):
            seen = self.reference.denoise(latent, 0, states, image.shape[:2])
        return self.post_process(seen.features, seen.logits, image.shape[:2]), self.seconds

    def post_process(self, features: Any, logits: Any, size: tuple[int, int]) -> NDArray[Any]:
        from .. import naive

        with self.stage("attention"):
            own = [layer[:, self.of_classes] for layer in logits]
            maps = naive.class_maps(own, self.owner, self.classes, size=self.grid)
        with self.stage("prototypes"):
            averages = naive.prototypes(features, maps, size, self.mode)
        with self.stage("assign"):
            labels = naive.assign(features, averages, size, self.mode)
        return np.asarray(labels.numpy())


class Official(Torch):
    """The passes of the official code: two VAE encodes, a UNet pass for the features, one for a
    DDIM step, a guided pair, three VAE decodes; prototypes as released.
    """

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.mode = "released"
        self.grid = self.reference.released_grid()

    def __call__(self, image: NDArray[np.uint8]) -> Result:
        import torch

        self.seconds = {}
        size = image.shape[:2]
        with self.stage("text"):
            empty, states = self.reference.embed(""), self.reference.embed(self.prompt)
        with self.stage("vae"):
            latent = self.reference.encode(image)
            noised = self.reference.noised(self.reference.encode(image), self.noise, 0)
        with self.stage("unet"), torch.no_grad():
            features = self.reference.denoise(noised, 0, empty, size).features
            self.reference.run(latent, 0, empty, size)
            logits = self.reference.denoise(latent, 0, states, size).logits
            self.reference.run(latent, 0, empty, size)
        with self.stage("decode"), torch.no_grad():
            for _ in range(3):
                self.reference.vae.decode(latent)
        return self.post_process(features, logits, size), self.seconds


_RUNTIMES: Final = ("mdrt", "onnxruntime", "openvino", "openvino-bf16", "mnn")

CONTENDERS: Final[dict[str, Callable[[Task], Contender]]] = {
    **{name: partial(OurRuntime, runtime=name) for name in _RUNTIMES},
    "torch": Torch,
    "torch-compile": lambda task: Torch(task, compiled=True),
    "official": Official,
}
PYTORCH: Final = ("torch", "torch-compile", "official")
EAGER: Final = ("torch", "official")
"""These take minutes and compile nothing for a size: a quarter of the side warms them up."""


def main() -> None:
    name, folder, count, warmup, began = sys.argv[1:]
    task = Task.from_dict(json.load(sys.stdin))
    started = time.perf_counter()
    if name in CONTENDERS:
        contender = CONTENDERS[name](task)
    else:  # mdrt on another bundle
        contender = OurRuntime(replace(task, bundle=name), "mdrt")
    _say(event="loaded", seconds=time.perf_counter() - started)
    for index in range(-int(warmup), int(count)):
        small = index < 0 and name in EAGER
        image = (replace(task, size=task.size // 4) if small else task).image(max(index, 0))
        started = time.perf_counter()
        labels, stages = contender(image)
        segmented = time.perf_counter()
        Image.fromarray(labels.astype(np.uint16)).save(
            Path(folder) / f"{Path(name).name}-{index}.png"
        )
        written = time.perf_counter()
        stages = stages | {"output": written - segmented}
        event = "warmup" if index < 0 else "picture"
        since = time.time() - float(began)
        first = index == -int(warmup) and not small
        _say(event=event, whole=written - started, stages=stages, since_start=since, first=first)
    _say(event="done", peak_bytes=_peak_bytes())


def _peak_bytes() -> int:
    """The largest resident size of this program; getrusage's, where there is no /proc, counts the
    process it was started from as well."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def _say(**event: Any) -> None:
    print(json.dumps(event), flush=True)


if __name__ == "__main__":
    main()
