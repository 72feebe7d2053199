"""The whole pipeline on the embedded model."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from PIL import Image

import mdrt
from mdrt import kernels
from mdrt.benchmarks.lab.scenes.renderer import CLASSES, render
from mdrt.kernels import Grid
from mdrt.runtime.bundle import contract
from mdrt.runtime.bundle.loading import load_bundle, write_manifest
from mdrt.runtime.errors import BundleError, MdrtError, PromptError, ProviderError
from mdrt.runtime.heads import HEADS
from mdrt.runtime.look import tiles
from mdrt.runtime.look.rows import Rows
from mdrt.runtime.segmentation import Segmentation
from mdrt.runtime.segmenter import EMBEDDED
from mdrt.runtime.sessions.ort import OrtSession

NAMES = ("sky", "water", "boat")
MODES = ("paper", "released")


def agreement(a, b):
    return (a == b).mean()


def test_named_result(segmenter, picture):
    result = segmenter(picture, NAMES, presence=0, scores=True, refine="none")
    assert result.labels.shape == (256, 256)
    assert result.labels.dtype == np.uint8
    assert result.classes == NAMES
    assert result.scores.shape == (3, 256, 256)
    np.testing.assert_array_equal(result.scores.argmax(0), result.labels)
    np.testing.assert_allclose(result.scores.max(0), result.confidence, rtol=1e-4)
    assert result.confidence.max() <= 1 + 1e-5
    assert result.shares.sum() == pytest.approx(1)
    assert {"vae", "text", "unet", "attention", "prototypes", "assign"} <= set(result.timings)
    assert result.settings["tiles"] == 1


def test_masks_are_mostly_right(segmenter):
    """A coarse check of the whole chain: most pixels of ten held-out scenes, names given."""
    right = total = 0
    for seed in range(100, 110):
        scene = render(seed)
        index = np.array([CLASSES.index(name) for name in scene.visible])
        labels = index[segmenter(scene.image, scene.visible).labels]
        right, total = right + (labels == scene.mask).sum(), total + labels.size
    assert right / total > 0.6


def test_class_order_only_renames(segmenter, picture):
    once = segmenter(picture, NAMES)
    turned = segmenter(picture, NAMES[::-1])
    assert agreement(once.labels, 2 - turned.labels.astype(int)) > 0.9


def test_deterministic(segmenter, picture):
    first, second = (segmenter(picture, NAMES) for _ in range(2))
    np.testing.assert_array_equal(first.labels, second.labels)
    first, second = (segmenter(picture, segments="auto") for _ in range(2))
    np.testing.assert_array_equal(first.labels, second.labels)


@pytest.mark.parametrize("mode", ["paper", "released"])
@pytest.mark.parametrize("pooling", ["exp", "softmax", "logit"])
def test_modes_and_poolings_run_and_are_reported(segmenter, picture, mode, pooling):
    result = segmenter(picture, NAMES, mode=mode, pooling=pooling, timestep=50)
    assert result.settings["mode"] == mode
    assert result.settings["pooling"] == pooling
    assert result.settings["timestep"] == 50
    assert np.isfinite(result.confidence).all()


def test_released_attention_sees_no_noise(segmenter, picture, monkeypatch):
    """Whatever the noise, the class maps of mode released are the same; those of paper are not."""
    noise = segmenter.network.noise
    maps = {}
    for name, values in {"own": noise, "other": -noise}.items():
        monkeypatch.setattr(segmenter.network, "noise", values)
        for mode in MODES:
            for timestep in (100, 400):
                maps[name, mode, timestep] = segmenter(picture, NAMES, mode=mode, timestep=timestep)
    for timestep in (100, 400):
        for mode in MODES:
            own, other = (maps[name, mode, timestep] for name in ("own", "other"))
            assert (own.weights.values == other.weights.values).all() == (mode == "released")
            assert (own.confidence != other.confidence).any()  # features are noised in both
    early, late = (maps["own", "released", timestep].weights.values for timestep in (100, 400))
    assert np.abs(early - late).max() > 0.1  # the UNet is told the timestep all the same


def test_released_maps_lie_on_the_official_grid(segmenter, picture):
    wide = np.concatenate([picture, picture], axis=1)
    side = segmenter.manifest.image.native_size // 16
    for image in (picture, wide):
        result = segmenter(image, NAMES, mode="released")
        assert result.weights.size == (side, side)
    assert segmenter(wide, NAMES, mode="paper").weights.size != (side, side)
    assert tiles.squash_grid(512) == (32, 32)
    assert tiles.squash_grid(8) == (1, 1)


@pytest.mark.parametrize("method", ["spectral", "kmeans"])
def test_unnamed_segments(segmenter, picture, method):
    result = segmenter(picture, segments=4, head=method)
    assert result.classes == ("segment 1", "segment 2", "segment 3", "segment 4")
    assert set(np.unique(result.labels)) <= {0, 1, 2, 3}
    assert len(np.unique(result.labels)) >= 2


@pytest.mark.parametrize("colour", [(0, 0, 0), (128, 128, 128), (90, 140, 230), (255, 255, 255)])
def test_a_picture_of_one_colour_is_one_segment(segmenter, colour):
    """Whatever the network dreams up in it."""
    image = np.full((200, 256, 3), colour, np.uint8)
    image[::3, ::2] ^= 3  # as a camera or JPEG leaves it
    result = segmenter(image, segments="auto")
    assert result.classes == ("segment 1",)
    assert (result.labels == 0).all()
    assert len(segmenter(image, segments=3).classes) == 3  # a number is obeyed


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (3, 2), (70, 256), (257, 255), (300, 520)])
def test_any_size(segmenter, size):
    image = np.asarray(Image.fromarray(render(2).image).resize(size[::-1]))
    named = segmenter(image, NAMES)
    assert named.labels.shape == size
    assert np.isfinite(named.confidence).all()
    unnamed = segmenter(image, segments=2)
    assert unnamed.labels.shape == size


def test_a_small_picture_gives_the_large_ones_mask(segmenter, picture):
    small = np.asarray(Image.fromarray(picture).resize((128, 128), Image.Resampling.BOX))
    large = segmenter(picture, NAMES).labels[1::2, 1::2]
    assert agreement(segmenter(small, NAMES).labels, large) > 0.85


def test_padding_is_not_read_back(segmenter):
    """A picture beside a canvas edge: its mask is that of the picture, not of the mirror."""
    image = render(6).image[:200, :230]
    result = segmenter(image, NAMES)
    assert result.labels.shape == (200, 230)
    assert agreement(result.labels, segmenter(render(6).image, NAMES).labels[:200, :230]) > 0.8


def test_no_seams_on_a_smooth_gradient(segmenter):
    """Tiles meet without a step: scores change no faster at tile borders than elsewhere."""
    ramp = np.linspace(60, 220, 640)[None, :, None] * np.array([0.6, 0.8, 1.0])
    image = np.repeat(ramp, 256, axis=0).round().astype(np.uint8)
    result = segmenter(image, ("sky", "water"), presence=0, scores=True)
    assert result.settings["tiles"] > 1
    steps = np.abs(np.diff(result.scores, axis=2)).max(axis=(0, 1))
    # Scores are piecewise linear between cell centres, so borders are compared cell by cell.
    cells = steps[: len(steps) // 16 * 16].reshape(-1, 16).max(axis=1)
    manifest = segmenter.manifest
    canvas = tiles.plan((256, 640), manifest.image.native_size, manifest.image.size_multiple)
    starts = {x for _, x in canvas.origins}
    edges = starts | {x + canvas.tile[1] for x in starts}
    borders = [edge // 16 for edge in sorted(edges - {0, 640})]
    others = np.delete(cells, borders)
    assert cells[borders].max() <= 1.5 * others.max()


def test_long_class_lists_take_several_prompts(segmenter, picture):
    names = [*NAMES, *(f"unheard thing {i}" for i in range(40))]
    result = segmenter(picture, names)
    assert len(segmenter.network.words.encode(names).prompts.texts) > 1
    assert result.labels.max() < len(names)


def test_probabilities_of_several_prompts_are_one_softmax(segmenter, picture, monkeypatch):
    """Beside the formula in float64, on the graph's own logits, however they come in batches."""
    network, manifest = segmenter.network, segmenter.manifest
    text = network.words.encode([*CLASSES, *(f"thing {letter}" for letter in "abcdefgh")])
    prompts = text.prompts
    assert len(prompts.texts) > 1
    canvas = tiles.plan((256, 300), manifest.image.native_size, manifest.image.size_multiple)
    z = network.encode(np.asarray(Image.fromarray(picture).resize((300, 256))), canvas)
    layer = manifest.attention[1]
    unet = network.passes.session(network.passes.longest)
    raw = []
    for hidden in text.inputs[contract.ENCODER_HIDDEN_STATES]:
        feeds = {
            contract.SAMPLE: z[:1],
            contract.TIMESTEP: np.full(1, 400, np.int64),
            contract.ENCODER_HIDDEN_STATES: hidden[None],
        }
        raw.append(unet.infer(feeds, [layer.name])[layer.name][0].astype(np.float64))
    masses = [np.exp(values - max(v.max() for v in raw)) for values in raw]
    total = sum(
        mass[:, :, ~shared].sum(axis=2) + mass[:, :, shared].sum(axis=2) / len(raw)
        for mass, shared in zip(masses, prompts.shared, strict=True)
    )
    places = zip(prompts.prompt, prompts.position, strict=True)
    expected = np.stack([masses[i][:, :, place] / total for i, place in places], axis=1)
    for rows in (None, 1):
        monkeypatch.setattr(network, "_pass_rows", Rows(rows))
        seen = network.denoise(canvas, z, text, 400, noise=False, probabilities=True)
        values = seen.logits[1].reshape(expected.shape)
        np.testing.assert_allclose(values, expected, atol=1e-5)


def test_more_than_255_classes(segmenter, picture):
    names = [f"n{i}" for i in range(300)]
    assert segmenter(picture, names).labels.dtype == np.uint16


def test_text_is_encoded_once(segmenter, picture, monkeypatch):
    segmenter(picture, ("sky", "road"))
    calls = []
    monkeypatch.setattr(
        segmenter.network.words.session(contract.text_encoder_name(0)),
        "infer",
        lambda feeds: calls.append(1),
    )
    segmenter(picture, ("sky", "road"))
    assert not calls


def test_regrouped_synonyms_are_not_confused(segmenter, picture):
    two = segmenter(picture, ["sky", "water"])
    one = segmenter(picture, [("sky", "water")])
    assert two.classes == ("sky", "water")
    assert one.classes == ("sky",)
    assert one.labels.max() == 0


def test_unknown_names_of_a_closed_vocabulary(segmenter):
    assert segmenter.unknown(["Sky", "zebra", ("car", "lorry")]) == ["zebra", "lorry"]
    assert segmenter.unknown(["Automobile", ("woods", "thicket")]) == ["thicket"]


def test_bad_calls(segmenter, picture):
    with pytest.raises(MdrtError, match="either classes"):
        segmenter(picture)
    with pytest.raises(MdrtError, match="either classes"):
        segmenter(picture, NAMES, segments=2)
    for segments in (0, 257, 2.5, "many"):
        with pytest.raises(MdrtError, match="expected 1 to 256"):
            segmenter(picture, segments=segments)
    with pytest.raises(MdrtError, match="segments is 3, and head diffseg finds how many"):
        segmenter(picture, segments=3, head="diffseg")
    with pytest.raises(PromptError, match="no class names"):
        segmenter(picture, [])
    with pytest.raises(MdrtError, match="timestep is 1000"):
        segmenter(picture, NAMES, timestep=1000)
    with pytest.raises(MdrtError, match=r"map_power is 10{30,}.*expected number above 0"):
        segmenter(picture, NAMES, map_power=10**400)
    with pytest.raises(MdrtError, match="mode is 'fast', expected one of paper, released"):
        segmenter(picture, NAMES, mode="fast")
    with pytest.raises(MdrtError, match="no setting sharpness; it has timestep, refine, mirror"):
        segmenter(picture, NAMES, sharpness=2)
    with pytest.raises(MdrtError, match="max_size"):
        segmenter(picture, NAMES, max_size=0)
    with pytest.raises(MdrtError, match="head 'best' is none of maskdiffusion"):
        segmenter(picture, NAMES, head="best")
    with pytest.raises(MdrtError, match="head spectral takes no names; choose of maskdiffusion"):
        segmenter(picture, NAMES, head="spectral")
    with pytest.raises(MdrtError, match="head attention needs names; choose of spectral"):
        segmenter(picture, segments=2, head="attention")
    with pytest.raises(MdrtError, match="feature_strides holds 8, and the bundle has 16"):
        segmenter(picture, NAMES, feature_strides=(16, 8))


def test_a_head_whose_taps_a_bundle_lacks_says_which(segmenter, tmp_path):
    bundle = shutil.copytree(EMBEDDED, tmp_path / "bundle")
    manifest = dataclasses.replace(segmenter.manifest, self_attention=())
    write_manifest(bundle, manifest)
    with pytest.raises(MdrtError, match=r"diffseg reads self-attention, which .* export it again"):
        mdrt.Segmenter(bundle).settle("diffseg")


def test_a_timestep_is_refused_before_the_picture_is_read(segmenter, tmp_path):
    with pytest.raises(MdrtError, match="timestep is 1000"):
        segmenter(tmp_path / "missing.png", NAMES, timestep=1000)


def test_settled_options_are_the_bundles_recommendations(segmenter):
    recommended = segmenter.manifest.recommended
    for head in HEADS.values():
        if head.offered(segmenter.manifest):
            settled = segmenter.settle(head)
            for name, value in recommended[head.name].items():
                assert getattr(settled, name) == value
            assert segmenter.settle(head.name, **vars(settled)) == settled
    assert segmenter.settle("maskdiffusion").timestep != 0
    chosen = {
        "mode": "paper",
        "pooling": "exp",
        "words": "late",
        "timestep": 7,
        "presence": 0.0,
        "map_power": 1.0,
        "attention": 0.25,
        "refine": "none",
        "mirror": False,
        "background": "constant",
        "threshold": 0.5,
        "feature_strides": (16,),
        "attention_strides": None,
    }
    assert vars(segmenter.settle("maskdiffusion", **chosen)) == chosen


def test_totals_are_sums_over_each_classs_pixels():
    labels = np.random.default_rng(0).integers(0, 3, (700, 900)).astype(np.uint8)
    values = np.linspace(0, 1, labels.size, dtype=np.float32).reshape(labels.shape)
    weights = Grid(np.ones((4, 1, 1), np.float32))
    image = np.zeros((700, 900, 3), np.uint8)
    result = Segmentation(
        labels, tuple("abcd"), values, None, weights, {}, {}, image, None, "m", "b"
    )
    assert result.totals().tolist() == [*(int((labels == c).sum()) for c in range(3)), 0]
    wanted = [values[labels == c].sum(dtype=float) for c in range(4)]
    np.testing.assert_allclose(result.totals(values), wanted, rtol=1e-9)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        (("features", 0, "channels"), r"unet\.onnx.*features_s16.*192.*7"),
        (("attention", 1, "heads"), r"unet\.onnx.*logits_s16_1.*4.*7"),
        (("latent", "channels"), r"vae_encoder\.onnx.*latent.*8.*7"),
        (("texts", 0, "tokens", "max_length"), r"unet\.onnx.*encoder_hidden_states.*40.*7"),
        (("texts", 0, "hidden"), r"unet\.onnx.*encoder_hidden_states.*128.*7"),
        (("features", 0, "name"), r"unet\.onnx lacks the tensor x7"),
        (("attention", 1, "channels"), r"unet\.onnx.*queries_s16_1.*24.*7"),
    ],
)
def test_a_manifest_that_is_not_its_graphs_is_refused(tmp_path, keys, words):
    bundle = tmp_path / "bundle"
    shutil.copytree(EMBEDDED, bundle)
    path = bundle / "manifest.json"
    manifest = json.loads(path.read_text())
    inner = manifest
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = "x7" if keys[-1] == "name" else 7
    manifest[contract.DIGEST] = contract.digest(manifest)
    path.write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=words + ".*mdrt export"):
        mdrt.Segmenter(bundle).prepare(["sky"])


@pytest.mark.parametrize(
    ("provider", "words"),
    [
        ("tpu", "unknown provider 'tpu'"),
        ("cuda", r"pip uninstall --yes onnxruntime && pip install '\.\[cuda\]'"),
        ("tensorrt", r"pip uninstall --yes onnxruntime && pip install '\.\[gpu\]'"),
        ("nvtensorrtrtx", r"run `pip install '\.\[rtx\]'`"),
        ("openvino", r"run `pip install '\.\[openvino\]'`"),
    ],
)
def test_a_provider_that_is_missing_names_the_command_that_brings_it(provider, words):
    with pytest.raises(ProviderError, match=words):
        mdrt.Segmenter(provider=provider)


def test_overflow_is_an_error_not_a_mask(segmenter, picture):
    session = segmenter.network.vae
    image = np.full((1, 3, 256, 256), np.nan, np.float32)
    with pytest.raises(MdrtError, match=r"vae_encoder\S* output latent holds NaN or infinity"):
        session.infer({"image": image})


def test_session_checks_names_types_and_shapes(segmenter, tmp_path):
    session = segmenter.network.words.session(contract.text_encoder_name(0))
    with pytest.raises(MdrtError, match="input_ids was not given"):
        session.infer({})
    with pytest.raises(MdrtError, match="ids is no input"):
        session.infer(
            {"ids": np.zeros((1, 77), np.int64), "input_ids": np.zeros((1, 77), np.int64)}
        )
    with pytest.raises(MdrtError, match="input_ids is int32"):
        session.infer({"input_ids": np.zeros((1, 77), np.int32)})
    with pytest.raises(MdrtError, match=r"input_ids is int64 \(1, 5\)"):
        session.infer({"input_ids": np.zeros((1, 5), np.int64)})
    broken = tmp_path / "x.onnx"
    broken.write_bytes(b"not a graph")
    with pytest.raises(BundleError, match="cannot load"):
        OrtSession(broken)


def test_a_bfloat16_bundle_on_a_cpu_names_the_remedies(tmp_path):
    bundle = shutil.copytree(EMBEDDED, tmp_path / "bundle")
    manifest = load_bundle(bundle).manifest
    plain = {"files": dict(manifest.files), "created_by": dict(manifest.created_by)}
    write_manifest(bundle, dataclasses.replace(manifest, precision="bf16", **plain))
    with pytest.raises(ProviderError, match=r"bf16.*cuda.*precision fp32.*weights in fp16"):
        mdrt.Segmenter(bundle)


def test_names_that_are_not_there_are_left_out(segmenter):
    """With presence an absent name takes no pixel; scores and maps stay those of every name."""
    look = segmenter.look(render(2).image)  # sky, mountains, boats on water
    wrong = [name for name in CLASSES if name not in render(2).visible]
    names = (*render(2).visible, *wrong)
    plain, gated = (
        look.segment(names, pooling="softmax", presence=share, scores=True) for share in (0.0, 0.01)
    )
    assert plain.settings["absent"] == []
    assert plain.settings["presence"] == 0
    assert set(gated.settings["absent"]) & set(wrong)
    missing = [gated.classes.index(name) for name in gated.settings["absent"]]
    assert not np.isin(gated.labels, missing).any()
    np.testing.assert_array_equal(plain.scores, gated.scores)
    np.testing.assert_array_equal(plain.weights.values, gated.weights.values)
    others = [i for i in range(len(names)) if i not in missing]
    expected = np.array(others)[plain.scores[others].argmax(axis=0)]
    assert (gated.labels == expected).mean() > 0.999


def test_map_power_is_a_power_of_the_maps(segmenter, picture):
    look = segmenter.look(picture)
    soft = {"pooling": "softmax", "presence": 0.0, "attention": 0.0, "refine": "none"}
    plain = look.segment(NAMES, **soft, map_power=1.0)
    sharp = look.segment(NAMES, **soft, map_power=2)
    np.testing.assert_allclose(sharp.weights.values, plain.weights.values**2, rtol=1e-6)
    assert (sharp.labels != plain.labels).any()
    assert sharp.settings["map_power"] == 2
    recommended = segmenter.manifest.recommended["maskdiffusion"]
    settled = segmenter.settle("maskdiffusion", pooling=recommended["pooling"])
    assert settled.map_power == recommended["map_power"] != 1
    assert segmenter.settle("maskdiffusion", pooling="exp").map_power == 1
    for wrong in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(MdrtError, match=r"map_power is .*, expected number above 0"):
            segmenter.settle("maskdiffusion", map_power=wrong)


def test_affinity_power_is_a_power_between_cells(segmenter, picture):
    look = segmenter.look(picture)
    plain, cells, nearly, sharp = (
        look.segments(4, affinity=affinity, affinity_power=power)
        for affinity, power in (("grid", 1.0), ("cells", 1.0), ("cells", 1.000001), ("cells", 4.0))
    )
    assert plain.weights.size == kernels.AFFINITY_SIZE
    side = segmenter.manifest.image.native_size // 16
    assert max(cells.weights.size) == max(sharp.weights.size) == side  # the network's own cells
    assert (cells.labels != nearly.labels).mean() < 1e-3  # nothing jumps at 1
    assert (sharp.labels != plain.labels).any()
    assert (plain.settings["affinity_power"], sharp.settings["affinity_power"]) == (1, 4)
    with pytest.raises(MdrtError, match=r"affinity_power 2 .* give affinity cells too"):
        look.segments(4, affinity="grid", affinity_power=2.0)
    with pytest.raises(MdrtError, match="kmeans has no setting affinity_power"):
        look.segments(4, "kmeans", affinity_power=2.0)


def test_ncut_takes_a_given_number_all_at_once_if_asked_to(segmenter, picture):
    look, seen = segmenter.look(picture), {"timestep": 200, "features": "decoder", "mode": "paper"}
    cuts, kway = (look.segments(4, "ncut", given=given, **seen) for given in ("cuts", "kway"))
    spectral = look.segments(4, "spectral", affinity="grid", affinity_power=1.0, **seen)
    np.testing.assert_array_equal(kway.labels, spectral.labels)
    assert (cuts.labels != kway.labels).any()
    found = [look.segments("auto", "ncut", given=given, **seen) for given in ("cuts", "kway")]
    np.testing.assert_array_equal(found[0].labels, found[1].labels)


@pytest.mark.parametrize("segments", [64, 200, 256])
def test_many_segments_of_few_cells_are_found(segmenter, picture, segments):
    """More eigenvectors than a Krylov basis over the network's own cells has room to converge."""
    result = segmenter(picture, segments=segments, affinity="cells", affinity_power=4.0)
    assert len(result.classes) == segments
    assert len(np.unique(result.labels)) > segments // 4


def test_attention_is_the_share_of_the_maps(segmenter, picture):
    plain = {"mode": "paper", "map_power": 1.0, "presence": 0.0, "refine": "none"}
    cosines, both, maps = (
        segmenter(picture, NAMES, **plain, attention=share, scores=True)
        for share in (0.0, 0.4, 1.0)
    )
    assert (both.labels != cosines.labels).any()
    fine = (
        4 * segmenter.manifest.image.native_size // 16,
        4 * segmenter.manifest.image.native_size // 16,
    )
    own = kernels.resize(Grid(kernels.resize(maps.weights, fine)), (256, 256))
    np.testing.assert_allclose(maps.scores, own, atol=1e-5)
    assert (maps.labels == own.argmax(axis=0)).all()
    # cosines go by way of the grid of a quarter of a cell: what bilinear resizing loses there
    difference = np.abs(both.scores - 0.6 * cosines.scores - 0.4 * own)
    assert np.quantile(difference, 0.99) < 0.03
    np.testing.assert_allclose(both.confidence, both.scores.max(axis=0), rtol=1e-5)
    assert both.settings["attention"] == 0.4
    assert segmenter.settle("maskdiffusion", pooling="exp").attention == 0
    for wrong in (-0.1, 1.1, float("nan")):
        with pytest.raises(MdrtError, match=r"attention is .*, expected number from 0 to 1"):
            segmenter.settle("maskdiffusion", attention=wrong)


@pytest.mark.parametrize("named", [True, False])
def test_refined_boundaries_follow_the_picture(segmenter, named):
    """More of the true boundary is met, with names and without."""
    met = {"none": 0, "guided": 0, "pamr": 0}
    for seed in (1, 2, 5):
        scene = render(seed)
        task = {"classes": scene.visible} if named else {"segments": len(scene.visible)}
        for refine in met:
            result = segmenter(scene.image, **task, refine=refine, scores=True)
            assert result.settings["refine"] == refine
            labels = result.labels.astype(int)
            boundary = (labels[:, 1:] != labels[:, :-1])[:-1] | (labels[1:] != labels[:-1])[:, :-1]
            truth = scene.mask.astype(int)
            true = (truth[:, 1:] != truth[:, :-1])[:-1] | (truth[1:] != truth[:-1])[:, :-1]
            met[refine] += int((boundary & true).sum())
            if refine != "none" and not result.settings["absent"]:
                assert (labels == result.scores.argmax(axis=0)).mean() > 0.999
                np.testing.assert_allclose(result.confidence, result.scores.max(axis=0), atol=1e-5)
    assert met["guided"] > 1.5 * met["none"]
    assert met["pamr"] > 1.2 * met["none"]


def test_presence_needs_probabilities(segmenter, picture):
    with pytest.raises(MdrtError, match=r"presence 0\.01 compares probabilities"):
        segmenter(picture, NAMES, pooling="exp", presence=0.01)
    with pytest.raises(MdrtError, match=r"presence is 1\.0, expected number from 0 to below 1"):
        segmenter.settle("maskdiffusion", presence=1.0)
    recommended = segmenter.manifest.recommended["maskdiffusion"]["presence"]
    assert segmenter.settle("maskdiffusion", pooling="softmax").presence == recommended
    assert segmenter.settle("maskdiffusion", pooling="exp").presence == 0
