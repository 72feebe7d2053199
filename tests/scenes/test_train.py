"""Training in miniature: it runs, a killed run continues to the same weights, it saves."""

import json
import shutil
from contextlib import contextmanager
from dataclasses import replace

import click
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

torch = pytest.importorskip("torch")

from safetensors.torch import load_file  # noqa: E402

from mdrt.benchmarks.lab.scenes import (  # noqa: E402
    autoencoder,
    batches,
    models,
    recipes,
    runs,
    steps,
    train,
)
from mdrt.benchmarks.lab.scenes.renderer import render  # noqa: E402

QUICK, SIZE = recipes.QUICK, 256


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A work folder with a trained autoencoder, and the latents of a few scenes."""
    work = tmp_path_factory.mktemp("work")
    models.write_tokenizer(work / "tokenizer")
    rendering = autoencoder.Rendering(work, QUICK, workers=0)
    vae = autoencoder.train_vae(work, QUICK, rendering)
    return work, vae, autoencoder.encode_scenes(work, QUICK, vae, rendering)


@pytest.fixture
def fresh(prepared, tmp_path):
    """An empty work folder beside the prepared one's tokenizer."""
    models.write_tokenizer(tmp_path / "tokenizer")
    return tmp_path


def test_latents_have_unit_spread(prepared):
    _, vae, data = prepared
    twice = 2 * QUICK.scenes  # as they are and mirrored
    assert data.latents[SIZE].shape == (twice, models.LATENT_CHANNELS, 16, 16)
    assert data.latents[SIZE].std() == pytest.approx(1, abs=0.1)
    assert vae.config.scaling_factor != 1
    assert len(data.said) == twice


def test_encoded_scenes_are_kept(prepared, monkeypatch):
    work, vae, data = prepared
    monkeypatch.setattr(autoencoder, "encode", None)  # nothing is encoded twice
    monkeypatch.setattr(autoencoder, "render", None)  # or rendered
    rendering = autoencoder.Rendering(work, QUICK, workers=0)
    again = autoencoder.encode_scenes(work, QUICK, vae, rendering)
    torch.testing.assert_close(again.latents[SIZE], data.latents[SIZE])


def test_workers_render_the_same_scenes_in_the_same_order(tmp_path, monkeypatch):
    monkeypatch.setattr(autoencoder, "PART", 3)
    recipe = replace(QUICK, scenes=10, varied=0.5)
    alone = autoencoder.Rendering(tmp_path, recipe, workers=0)
    helped = autoencoder.Rendering(tmp_path, recipe, workers=2)
    early = helped.first(5)
    parts = list(helped.take(10))
    assert [len(part.images) for part in parts] == [3, 3, 3, 1]
    np.testing.assert_array_equal(np.concatenate([p.images for p in parts])[:5], early)
    for part, expected in zip(parts, alone.take(10), strict=True):
        np.testing.assert_array_equal(part.images, expected.images)
        assert part.said == expected.said


def test_pictures_are_enlarged_as_they_are_when_segmented(prepared):
    vae, image = prepared[1], render(3).image
    enlarged = np.asarray(Image.fromarray(image).resize((384, 384), Image.Resampling.BICUBIC))
    ours = autoencoder.encode(vae, image[None].copy(), 384)
    theirs = autoencoder.encode(vae, enlarged[None].copy(), 384)
    torch.testing.assert_close(ours, theirs, atol=0.02 * float(theirs.std()), rtol=0)


def test_ids_are_those_of_the_tokenizer(prepared):
    model = train.Denoiser(prepared[0] / "tokenizer")
    rng, said = np.random.default_rng(0), prepared[2].said
    shares = {"synonyms": 0.3, "lists": 0.5, "full": 0.3}
    captions = ["", *(batches.describe(said[i % len(said)], rng, **shares) for i in range(300))]
    expected = model.tokenizer(captions, padding="max_length", max_length=models.MAX_LENGTH)
    np.testing.assert_array_equal(model.vocabulary(captions), expected.input_ids)


def test_a_killed_run_continues_to_the_same_weights(prepared, fresh, tmp_path_factory, monkeypatch):
    data = prepared[2]
    undisturbed = tmp_path_factory.mktemp("undisturbed")
    models.write_tokenizer(undisturbed / "tokenizer")
    whole = train.train_unet(undisturbed, QUICK, data, train.Setup()).state_dict()

    class Killed(Exception):
        pass

    losses = []

    def die_in_the_second_round(work, **row):
        losses.append(row)
        if row["step"] == 5:
            raise Killed

    recipe, always = replace(QUICK, log_every=1), train.Setup(minutes_between=0)
    monkeypatch.setattr(train, "log", die_in_the_second_round)
    with pytest.raises(Killed):
        train.train_unet(fresh, recipe, data, always)
    assert (fresh / "round-0.pt").exists()
    assert not (fresh / "round-1.pt").exists()
    monkeypatch.setattr(train, "log", lambda work, **row: losses.append(row))
    resumed = train.train_unet(fresh, recipe, data, always).state_dict()
    assert [row["step"] for row in losses] == [0, 1, 2, 3, 4, 5, 5, 6]
    for name, weight in whole.items():
        torch.testing.assert_close(resumed[name], weight, msg=name)


def test_steps_prepared_by_workers_are_the_same(prepared):
    data, recipe = prepared[2], replace(QUICK, sizes=((256, 4), (384, 3)))
    vocabulary = batches.Vocabulary(prepared[0] / "tokenizer")
    this = replace(QUICK.rounds[0], steps=2 * batches.BLOCK + 5, full=0.5)
    blocks = batches.Blocks(recipe, this, data.said, vocabulary, before=0, start=0)
    whole = list(batches.prepared(blocks, "cpu", workers=2))
    assert [len(batch.index) for batch in whole[:3]] == [4, 3, 4]
    assert len(whole) == this.steps
    later = list(batches.prepared(replace(blocks, start=7), "cpu", workers=0))
    for one, other in zip(whole[7:], later, strict=True):
        for mine, theirs in zip(one, other, strict=True):
            torch.testing.assert_close(mine, theirs)


def timed(prepared, tmp_path):
    """A recipe of two sizes whose round has no number of steps, and its latents."""
    recipe = replace(
        QUICK,
        scenes=8,
        sizes=((256, 3), (384, 2)),
        rounds=(replace(QUICK.rounds[1], steps=None, full=0.5),),
        log_every=1,
    )
    rendering = autoencoder.Rendering(tmp_path, recipe, workers=0)
    return recipe, autoencoder.encode_scenes(tmp_path, recipe, prepared[1], rendering)


def test_a_timed_round_ends_with_its_minutes_also_when_resumed(prepared, fresh, monkeypatch):
    recipe, data = timed(prepared, fresh)
    clock, rows = iter(range(0, 10**6, 2)), []
    monkeypatch.setattr(runs.time, "monotonic", lambda: next(clock))

    class Killed(Exception):
        pass

    def die_at(step):
        def note(work, **row):
            rows.append(row)
            if row["step"] == step:
                raise Killed

        return note

    monkeypatch.setattr(train, "log", die_at(3))
    setup = train.Setup(minutes=1.0, minutes_between=0)
    with pytest.raises(Killed):
        train.train_unet(fresh, recipe, data, setup)
    monkeypatch.setattr(train, "log", die_at(None))
    train.train_unet(fresh, recipe, data, setup)
    seconds = [row["seconds"] for row in rows]
    assert 50 < max(seconds) <= 64
    assert [row["step"] for row in rows] == [0, 1, 2, 3, *range(3, rows[-1]["step"] + 1)]


def test_snapshots_hold_the_averaged_weights_so_far(prepared, fresh):
    _, vae, data = prepared
    runs.log(fresh, stage="recipe")
    path = fresh / "so-far.tar"
    kept = []

    def keep(model):
        kept.append(model.unet.conv_in.weight.half())
        train.save_snapshot(path, fresh, vae, model)

    train.train_unet(fresh, QUICK, data, train.Setup(minutes_between=0, snapshot=keep))
    assert len(kept) == 7
    shutil.unpack_archive(path, fresh / "unpacked")
    weights = load_file(
        fresh / "unpacked" / "storybook" / "unet" / "diffusion_pytorch_model.safetensors"
    )
    torch.testing.assert_close(weights["conv_in.weight"], kept[-1])
    assert (fresh / "unpacked" / "log.jsonl").exists()
    assert data.latents[SIZE].dtype == vae.dtype == torch.float32  # a snapshot halves copies


def test_a_loss_that_is_no_number_stops_the_run(prepared, fresh):
    data = prepared[2]
    broken = replace(data, latents={SIZE: data.latents[SIZE] * float("nan")})
    with pytest.raises(click.ClickException, match="the loss is nan at step 0"):
        train.train_unet(fresh, QUICK, broken, train.Setup())


def test_a_finished_run_is_not_run_again(prepared, fresh, monkeypatch):
    data = prepared[2]
    model = train.train_unet(fresh, QUICK, data, train.Setup())
    monkeypatch.setattr(train, "DDIMScheduler", None)  # nothing is trained twice
    kept = train.train_unet(fresh, QUICK, data, train.Setup()).state_dict()
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(kept[name], weight, msg=name)


def test_synonyms_begin_as_their_class(fresh):
    model = train.Denoiser(fresh / "tokenizer")
    table, number = model.text.get_input_embeddings().weight, model.tokenizer.get_vocab()
    assert not torch.equal(table[number["automobile</w>"]], table[number["car</w>"]])
    train.name_synonyms(model)
    torch.testing.assert_close(table[number["automobile</w>"]], table[number["car</w>"]])
    torch.testing.assert_close(table[number["sea</w>"]], table[number["water</w>"]])


@pytest.mark.parametrize(
    ("shares", "named_before"),
    [((0.0, 0.5), [1]), ((0.5, 0.5), [0]), ((0.0, 0.5, 0.5), [1]), ((0.0, 0.0), [])],
)
def test_synonyms_are_named_once_before_the_first_round_with_them(
    prepared, fresh, monkeypatch, shares, named_before
):
    events = []
    monkeypatch.setattr(train, "name_synonyms", lambda model: events.append("named"))
    monkeypatch.setattr(train, "train_round", lambda *_: events.append("round"))
    rounds = tuple(replace(QUICK.rounds[0], synonyms=share) for share in shares)
    train.train_unet(fresh, replace(QUICK, rounds=rounds), prepared[2], train.Setup())
    rounds_before = [events[:at].count("round") for at, e in enumerate(events) if e == "named"]
    assert rounds_before == named_before
    assert events.count("round") == len(shares)


def test_a_round_begins_from_the_averaged_weights_of_the_one_before(prepared, fresh, monkeypatch):
    data = prepared[2]
    still = replace(QUICK.rounds[0], steps=1, rate=0.0)
    monkeypatch.setattr(train, "name_synonyms", lambda model: None)
    recipe = replace(QUICK, rounds=(QUICK.rounds[0], still))
    last = train.train_unet(fresh, recipe, data, train.Setup()).state_dict()
    for name, weight in torch.load(fresh / "round-0.pt").items():
        torch.testing.assert_close(last[name], weight, msg=name)


def test_the_command_trains_once_and_saves_a_pipeline(tmp_path, monkeypatch):
    from diffusers import StableDiffusionPipeline

    folders = ["--work", str(tmp_path / "work"), "-o", str(tmp_path / "pipeline")]
    done = CliRunner().invoke(train.main, [*folders, "--quick"])
    assert done.exit_code == 0, done.output
    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path / "pipeline")
    assert pipeline.unet.config.cross_attention_dim == models.TEXT_WIDTH
    assert pipeline.scheduler.config.prediction_type == "v_prediction"

    monkeypatch.setattr(train, "DDIMScheduler", None)  # nothing is trained twice
    monkeypatch.setattr(train, "save_pipeline", lambda *_: None)
    done = CliRunner().invoke(train.main, [*folders, "--quick"])
    assert done.exit_code == 0, done.output
    done = CliRunner().invoke(train.main, folders)
    assert done.exit_code == 2
    assert "holds a run with other settings" in done.output


class Recording:
    """Stands in for CUDA's graphs: the function runs when recorded, and again at every replay."""

    def __init__(self, monkeypatch):
        self.recorded, self.open = 0, False
        for name in ("Stream", "CUDAGraph", "stream", "graph", "current_stream"):
            monkeypatch.setattr(torch.cuda, name, getattr(self, name))

    def Stream(self):
        return self

    current_stream = Stream

    def wait_stream(self, other):
        pass

    def CUDAGraph(self):
        return self

    @contextmanager
    def stream(self, stream):
        yield

    @contextmanager
    def graph(self, graph):
        self.open = True
        yield
        self.open, self.recorded = False, self.recorded + 1

    def replay(self):
        self.again()


def test_a_recorded_step_reads_what_it_is_given_and_is_recorded_once(monkeypatch):
    recording = Recording(monkeypatch)
    seen, total = [], torch.zeros(())

    def add(number):
        seen.append(number)
        if not recording.open:  # recording runs nothing
            total.add_(number)
        return total

    graphed = steps.Graphed(add)
    recording.again = lambda: add(*graphed.inputs)
    sums = [float(graphed(torch.tensor(float(number)))) for number in range(1, 8)]
    assert sums == [1, 3, 6, 10, 15, 21, 28]
    assert recording.recorded == 1
    assert all(number is graphed.inputs[0] for number in seen[steps.WARM :])


def test_a_step_that_cannot_be_recorded_says_what_to_do(monkeypatch):
    recording = Recording(monkeypatch)

    def refuse(number):
        if recording.open:
            raise RuntimeError("operation not permitted when stream is capturing")
        return number

    graphed = steps.Graphed(refuse)
    for _ in range(steps.WARM):
        graphed(torch.zeros(()))
    with pytest.raises(click.ClickException, match=r"not permitted.*--eager"):
        graphed(torch.zeros(()))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that PyTorch finds")
def test_recorded_steps_learn_what_eager_ones_do(prepared, fresh, tmp_path_factory):
    recipe = replace(QUICK, log_every=1, rounds=(replace(QUICK.rounds[0], steps=12, rate=1e-4),))
    data = prepared[2]
    moved = replace(data, latents={SIZE: data.latents[SIZE].to("cuda")})
    eager = tmp_path_factory.mktemp("eager")
    models.write_tokenizer(eager / "tokenizer")
    losses = []
    for folder, how in ((fresh, False), (eager, True)):
        train.train_unet(folder, recipe, moved, train.Setup(device="cuda", eager=how))
        rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
        losses.append([row["loss"] for row in rows])
    assert len(losses[0]) == 12
    np.testing.assert_allclose(losses[0], losses[1], rtol=0.02)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_a_usage_error():
    done = CliRunner().invoke(train.main, ["--device", "cuda", "--quick"])
    assert done.exit_code == 2
    assert "finds no GPU" in done.output
