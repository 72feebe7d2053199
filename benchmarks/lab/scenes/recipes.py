"""How long and how fast to train, and on what: the shipped recipe, and one for a large GPU."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Round:
    """Training from the averaged weights of the round before: warm-up, then one cosine decay."""

    steps: int | None
    """None: as many as the minutes given allow (`--minutes`); the decay ends with them."""
    rate: float
    ema: float
    synonyms: float
    """Share of the names in captions that other words for the class replace."""
    lists: float
    """Share of the captions that are bare lists, some of whose names are wrong."""
    full: float = 0.0
    """Share of the lists that hold every class's name, as a prompt of all names does."""


@dataclass(frozen=True)
class Recipe:
    """How long and how fast to train."""

    vae_scenes: int = 1_200
    vae_steps: int = 700
    vae_batch: int = 16
    vae_crop: int = 64
    vae_rate: float = 2e-3
    scenes: int = 12_000
    varied: float = 0.0
    """Share of the scenes drawn in a varied style."""
    sizes: tuple[tuple[int, int], ...] = ((256, 24),)
    """Pixels that pictures are seen at, and how many a step takes of them; steps take turns."""
    rounds: tuple[Round, ...] = (
        Round(steps=6_000, rate=1e-3, ema=0.997, synonyms=0.0, lists=0.4),
        Round(steps=3_000, rate=8e-4, ema=0.998, synonyms=0.35, lists=0.4),
        Round(steps=6_500, rate=8e-4, ema=0.999, synonyms=0.25, lists=0.5),
        Round(steps=8_000, rate=8e-4, ema=0.999, synonyms=0.25, lists=0.5),
        Round(steps=4_000, rate=8e-4, ema=0.999, synonyms=0.25, lists=0.5),
    )
    warmup: int = 200
    empty_captions: float = 0.08
    timestep_power: float = 0.75
    log_every: int = 25
    compare_every: int = 250
    """Steps between two looks at the loss with the caption and without."""


QUICK = Recipe(
    vae_scenes=16,
    vae_steps=4,
    vae_batch=2,
    vae_crop=64,
    scenes=16,
    sizes=((256, 4),),
    rounds=(
        Round(steps=4, rate=1e-3, ema=0.997, synonyms=0.0, lists=0.5),
        Round(steps=3, rate=1e-3, ema=0.997, synonyms=0.5, lists=0.5),
    ),
)
"""Seconds instead of hours: proves that the stages, the checkpoints and the export work."""

LARGE = Recipe(
    vae_scenes=4_000,
    vae_steps=1_500,
    vae_batch=32,
    scenes=36_000,
    varied=0.5,
    sizes=((256, 128), (384, 64)),
    rounds=(Round(steps=None, rate=1.5e-3, ema=0.999, synonyms=0.25, lists=0.55, full=0.4),),
    warmup=500,
    log_every=100,
    compare_every=2_000,
)
"""For a large GPU: larger steps of more scenes, half of them in varied styles, at both the size
they are rendered at and the one they are looked at; as many as the minutes allow."""

FURTHER = Recipe(
    scenes=30_000,
    varied=0.4,
    sizes=((256, 96), (384, 48)),
    rounds=(Round(steps=None, rate=7e-4, ema=0.9995, synonyms=0.25, lists=0.5),),
    warmup=500,
    log_every=250,
    compare_every=2_000,
)
"""For a large GPU, on from weights that point already (`--start`): four scenes in ten in varied
styles, no list of every name, half the rate of `LARGE`."""

PLAINER = replace(FURTHER, varied=0.15, sizes=((256, 32), (384, 24)))
"""`FURTHER` with fewer varied styles and smaller steps, more like the shipped weights' rounds."""

RECIPES = {"shipped": Recipe(), "large": LARGE, "further": FURTHER, "plainer": PLAINER}
