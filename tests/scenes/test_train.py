"""Training in miniature: it runs, a killed run continues to the same weights, it saves."""

from dataclasses import replace

import pytest

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
    whole = train.train_round(undisturbed, train.QUICK, 0, data, None)

    class Killed(Exception):
        pass

    losses = []

    def die_at_third(work, **row):
        losses.append(row)
        if row["step"] == 2:
            raise Killed

    recipe = replace(train.QUICK, log_every=1)
    monkeypatch.setattr(train, "_log", die_at_third)
    with pytest.raises(Killed):
        train.train_round(fresh, recipe, 0, data, None, minutes_between=0)
    assert (fresh / "unet-0.pt").exists()
    assert not (fresh / "round-0.pt").exists()
    monkeypatch.setattr(train, "_log", lambda work, **row: losses.append(row))
    resumed = train.train_round(fresh, recipe, 0, data, None, minutes_between=0)
    assert [row["step"] for row in losses] == [0, 1, 2, 2, 3]
    for name, weight in whole.items():
        torch.testing.assert_close(resumed[name], weight, msg=name)


def test_a_round_begins_where_the_last_one_ended(prepared, monkeypatch):
    """With synonyms that mean their class; a finished round is not run again."""
    work, vae, _ = prepared
    model = train.train_unet(work, train.QUICK, vae)
    assert (work / "round-1.pt").exists()
    first = torch.load(work / "round-0.pt")
    again = train.Denoiser(work / "tokenizer")
    again.load_state_dict(first)
    train.name_synonyms(again)
    table, number = again.text.get_input_embeddings().weight, again.tokenizer.get_vocab()
    torch.testing.assert_close(table[number["automobile</w>"]], table[number["car</w>"]])
    torch.testing.assert_close(table[number["sea</w>"]], table[number["water</w>"]])
    monkeypatch.setattr(train, "DDIMScheduler", None)  # nothing is trained twice
    kept = train.train_unet(work, train.QUICK, vae).state_dict()
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(kept[name], weight, msg=name)


def test_a_later_round_keeps_what_synonyms_became(prepared, fresh, monkeypatch):
    data = prepared[2]
    start = train.Denoiser(fresh / "tokenizer").state_dict()
    named = []
    monkeypatch.setattr(train, "name_synonyms", named.append)
    short = replace(train.QUICK.rounds[1], steps=1)
    for first, times in ((0.0, 1), (0.5, 0)):
        rounds = (replace(train.QUICK.rounds[0], synonyms=first), short)
        named.clear()
        train.train_round(fresh, replace(train.QUICK, rounds=rounds), 1, data, start)
        assert len(named) == times
        (fresh / "round-1.pt").unlink()


def test_the_pipeline_is_diffusers_own(prepared, tmp_path):
    from diffusers import StableDiffusionPipeline

    work, vae, _ = prepared
    train.save_pipeline(tmp_path / "p", vae, train.Denoiser(work / "tokenizer"))
    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path / "p")
    assert pipeline.unet.config.cross_attention_dim == models.TEXT_WIDTH
    assert pipeline.scheduler.config.prediction_type == "v_prediction"
