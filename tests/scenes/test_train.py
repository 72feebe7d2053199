"""Training in miniature: it runs, a killed run continues to the same weights, it saves."""

from dataclasses import replace

import pytest
from click.testing import CliRunner

torch = pytest.importorskip("torch")

from mdrt.benchmarks.scenes import models, train  # noqa: E402


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A work folder with a trained autoencoder, and the latents of a few scenes."""
    work = tmp_path_factory.mktemp("work")
    models.write_tokenizer(work / "tokenizer")
    vae = train.train_vae(work, train.QUICK)
    return work, vae, train.encode_scenes(work, train.QUICK, vae)


@pytest.fixture
def fresh(prepared, tmp_path):
    """An empty work folder beside the prepared one's tokenizer."""
    models.write_tokenizer(tmp_path / "tokenizer")
    return tmp_path


def test_latents_have_unit_spread(prepared):
    _, vae, data = prepared
    twice = 2 * train.QUICK.scenes  # as they are and mirrored
    assert data.latents.shape == (twice, models.LATENT_CHANNELS, 16, 16)
    assert data.latents.std() == pytest.approx(1, abs=0.1)
    assert vae.config.scaling_factor != 1


def test_encoded_scenes_are_kept(prepared, monkeypatch):
    work, vae, data = prepared
    monkeypatch.setattr(train, "_latents", None)  # nothing is encoded twice
    again = train.encode_scenes(work, train.QUICK, vae)
    torch.testing.assert_close(again.latents, data.latents)


def test_a_killed_run_continues_to_the_same_weights(prepared, fresh, tmp_path_factory, monkeypatch):
    data = prepared[2]
    undisturbed = tmp_path_factory.mktemp("undisturbed")
    models.write_tokenizer(undisturbed / "tokenizer")
    whole = train.train_unet(undisturbed, train.QUICK, data).state_dict()

    class Killed(Exception):
        pass

    losses = []

    def die_in_the_second_round(work, **row):
        losses.append(row)
        if row["step"] == 5:
            raise Killed

    recipe = replace(train.QUICK, log_every=1)
    monkeypatch.setattr(train, "_log", die_in_the_second_round)
    with pytest.raises(Killed):
        train.train_unet(fresh, recipe, data, minutes_between=0)
    assert (fresh / "round-0.pt").exists()
    assert not (fresh / "round-1.pt").exists()
    monkeypatch.setattr(train, "_log", lambda work, **row: losses.append(row))
    resumed = train.train_unet(fresh, recipe, data, minutes_between=0).state_dict()
    assert [row["step"] for row in losses] == [0, 1, 2, 3, 4, 5, 5, 6]
    for name, weight in whole.items():
        torch.testing.assert_close(resumed[name], weight, msg=name)


def test_a_finished_run_is_not_run_again(prepared, fresh, monkeypatch):
    data = prepared[2]
    model = train.train_unet(fresh, train.QUICK, data)
    monkeypatch.setattr(train, "DDIMScheduler", None)  # nothing is trained twice
    kept = train.train_unet(fresh, train.QUICK, data).state_dict()
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
    rounds = tuple(replace(train.QUICK.rounds[0], synonyms=share) for share in shares)
    train.train_unet(fresh, replace(train.QUICK, rounds=rounds), prepared[2])
    rounds_before = [events[:at].count("round") for at, e in enumerate(events) if e == "named"]
    assert rounds_before == named_before
    assert events.count("round") == len(shares)


def test_a_round_begins_from_the_averaged_weights_of_the_one_before(prepared, fresh, monkeypatch):
    data = prepared[2]
    still = replace(train.QUICK.rounds[0], steps=1, rate=0.0)
    monkeypatch.setattr(train, "name_synonyms", lambda model: None)
    recipe = replace(train.QUICK, rounds=(train.QUICK.rounds[0], still))
    last = train.train_unet(fresh, recipe, data).state_dict()
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
