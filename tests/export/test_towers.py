"""The wrappers of vision transformers beside the naive ones, which know the weights alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import random_models
import torch
from published import gem, maskclip, vit
from transformers import CLIPModel, Dinov2Model, Dinov2WithRegistersModel

from mdrt.export.backbones.vit import answers, towers

CLIP = {"patch": 8, "heads": 4, "epsilon": 1e-5}
SIZES = [(5, 3), (4, 4), (1, 2)]  # 4 × 4 is what the models are made for


def weights_of(model: Any) -> dict[str, np.ndarray]:
    return {name: value.double().numpy() for name, value in model.state_dict().items()}


def picture(grid: tuple[int, int], patch: int, batch: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(grid))
    return torch.randn(batch, 3, grid[0] * patch, grid[1] * patch, generator=generator)


def flat(maps: torch.Tensor) -> np.ndarray:
    """(batch, channels, h, w) → (patches, channels) of the first picture."""
    return maps[0].flatten(1).T.numpy()


def assert_close(found: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(found, expected, atol=2e-5 * np.abs(expected).max())


@pytest.fixture(scope="module", params=[8, 3], ids=["deep", "shallow"])
def clip(request: pytest.FixtureRequest, workspace: Path) -> CLIPModel:
    """Of more blocks than GEM reads, and of fewer."""
    path = random_models.save_clip(workspace / f"clip{request.param}", blocks=request.param)
    return CLIPModel.from_pretrained(path, attn_implementation="eager").eval()


@pytest.mark.parametrize("grid", SIZES)
def test_clip_is_the_naive_one(clip: CLIPModel, grid: tuple[int, int]) -> None:
    image, weights = picture(grid, 8), weights_of(clip)
    given = {**CLIP, "blocks": len(clip.vision_model.encoder.layers)}
    with torch.no_grad():
        found = [flat(each) for each in towers.ClipTower(clip, 8, torch.float32)(image)]
    naive = image[0].double().numpy()
    values, keys = maskclip.features(weights, naive, **given)
    of_gem = gem.features(weights, naive, **given)
    expected = vit.clip_features(weights, naive, **given), values, vit.unit(keys), of_gem
    for one, other in zip(found, expected, strict=True):
        assert_close(one, other)
    for one in found[1:]:
        np.testing.assert_allclose((one**2).sum(axis=1), 1, atol=1e-5)
    assert np.abs(found[1] - found[3]).max() > 0.05  # two methods, not one


def test_clip_texts_are_the_naive_ones(clip: CLIPModel) -> None:
    end = clip.config.text_config.eos_token_id
    ids = [end - 1, 70, 3, 120, *[end] * 73]
    with torch.no_grad():
        _, pooled = towers.ClipText(clip)(torch.tensor([ids]))
    naive = vit.clip_text(weights_of(clip), ids, end, 4, 2, 1e-5)
    assert_close(vit.unit(pooled[0].numpy()), naive)


@pytest.mark.parametrize("grid", SIZES)
def test_dinov2_is_the_naive_one(workspace: Path, grid: tuple[int, int]) -> None:
    path = workspace / "dinov2"
    model = Dinov2Model.from_pretrained(
        path if path.exists() else random_models.save_dinov2(path), attn_implementation="eager"
    ).eval()
    image = picture(grid, 14)
    with torch.no_grad():
        found = towers.DinoTower(model, 14, 1, torch.float32)(image)
    naive = vit.dino_features(weights_of(model), image[0].double().numpy(), 14, 4, 3, 1e-6)
    assert_close(flat(found), naive)


@pytest.mark.parametrize("grid", SIZES)
def test_registers_are_left_out_and_positions_resized_as_transformers_does(
    workspace: Path, grid: tuple[int, int]
) -> None:
    path = workspace / "registers"
    model = Dinov2WithRegistersModel.from_pretrained(
        path if path.exists() else random_models.save_dinov2(path, registers=4),
        attn_implementation="eager",
    ).eval()
    image = picture(grid, 14)
    plain = answers.dino_answers(model, 5, image)
    own = model.embeddings.interpolate_pos_encoding
    with towers.resized_positions(model.embeddings, 14), torch.no_grad():
        assert model.embeddings.interpolate_pos_encoding != own
        found = towers.DinoTower(model, 14, 5, torch.float32)(image)
    assert model.embeddings.interpolate_pos_encoding == own
    np.testing.assert_allclose(flat(found), plain[0].numpy(), atol=1e-6)


def test_the_proof_knows_the_same_by_other_ways(clip: CLIPModel) -> None:
    image = picture((3, 5), 8, batch=2)
    with torch.no_grad():
        found = towers.ClipTower(clip, 8, torch.float32)(image)
    for one, other in zip(found, answers.clip_answers(clip, image), strict=True):
        assert_close(one.flatten(2).transpose(1, 2).numpy(), other.numpy())
