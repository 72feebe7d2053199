"""The renderer and its captions: deterministic, truthful, every class often absent."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdrt.benchmarks.lab.scenes import canvas, plain, shapes, styles, unseen
from mdrt.benchmarks.lab.scenes.captions import SYNONYMS, WORDS, caption
from mdrt.benchmarks.lab.scenes.renderer import CLASSES, MINIMUM_VISIBLE, PAINTS, render

SEEDS = st.integers(0, 2**31)
CLASS_OF = {word: name for name, words in SYNONYMS.items() for word in words}


def test_no_word_means_two_things():
    assert set(SYNONYMS) == set(CLASSES)
    assert len(CLASS_OF) == sum(len(words) for words in SYNONYMS.values())
    assert not set(CLASS_OF) & {*CLASSES, *PAINTS}


@settings(max_examples=60, deadline=None)
@given(SEEDS, st.sampled_from(["plain", "varied", "unseen"]))
def test_a_scene_is_its_seed(seed, style):
    scene, again = render(seed, style=style), render(seed, style=style)
    np.testing.assert_array_equal(scene.image, again.image)
    np.testing.assert_array_equal(scene.mask, again.mask)
    assert scene.visible == again.visible
    assert scene.image.shape == (256, 256, 3)
    counts = np.bincount(scene.mask.ravel(), minlength=len(CLASSES))
    assert len(counts) == len(CLASSES)
    visible = [name for name, n in zip(CLASSES, counts, strict=True) if n >= MINIMUM_VISIBLE]
    assert list(scene.visible) == visible


@settings(max_examples=60, deadline=None)
@given(SEEDS, st.integers(0, 100), st.sampled_from([0.0, 0.5, 1.0]))
def test_captions_say_what_is_visible(seed, draw, synonyms):
    scene = render(seed, size=64)
    text = caption(scene, np.random.default_rng(draw), synonyms)
    words = text.replace(",", "").split()
    assert set(words) <= set(WORDS)
    assert synonyms < 1 or not set(words) & set(CLASSES)
    assert synonyms > 0 or not set(words) & set(CLASS_OF)
    words = [CLASS_OF.get(word, word) for word in words]
    named = [word for word in words if word in CLASSES]
    assert len(named) == len(set(named))
    if set(named) <= set(scene.visible):
        assert len(named) >= len(scene.visible) - 1
    else:  # a bare list: wrong names may stand in it, but no right one is missing
        assert set(scene.visible) < set(named)
        assert set(words) <= {*CLASSES, "and"}


def test_a_full_list_names_every_class():
    scene = render(3, size=64)
    for draw in range(20):
        text = caption(scene, np.random.default_rng(draw), lists=1.0, full=1.0)
        words = text.replace(",", "").split()
        assert sorted(set(words) - {"and"}) == sorted(CLASSES)
        assert len(words) - words.count("and") == len(CLASSES)


def test_the_plain_style_stays_what_was_scored():
    digest = hashlib.sha256()
    for seed in (0, 1, 2, 3, 499):
        scene = render(seed)
        digest.update(scene.image.tobytes() + scene.mask.tobytes())
        digest.update(repr((scene.visible, scene.colours)).encode())
    assert digest.hexdigest() == "d0d3b987d57294bada2ddde9a0a99cf55039c2027e48e9ddd75a4d33a117a9af"


def test_varied_styles_differ_from_each_other_and_from_the_plain_one():
    pictures = [render(seed, zoom=False, style="varied").image for seed in range(6)]
    pictures += [render(seed, zoom=False).image for seed in range(6)]
    spectra = [np.histogram(picture, 16, (0, 256))[0] / picture.size for picture in pictures]
    for at, one in enumerate(spectra[:6]):
        assert all(np.abs(one - other).sum() > 0.1 for other in spectra[at + 1 :])


def test_training_sees_nothing_of_the_unseen_style():
    trained = {kind for kinds in shapes.THINGS.values() for kind in kinds}
    assert not trained & set(unseen.UNSEEN.things.values())
    for seed in range(200):
        style = styles.varied(seed)
        assert style.sky is not unseen.UNSEEN.sky
        assert style.road is not unseen.UNSEEN.road
        assert style.finish is not unseen.UNSEEN.finish


def test_lines_and_paints_leave_the_mask_alone():
    seed = 12
    style = styles.varied(seed)
    bare = replace(style, ink=None, outline=None, finish=plain.finish)
    lined = replace(bare, ink=lambda name, colour: (9, 9, 9), outline=canvas.Outline(2.0))
    masks = []
    for each in (bare, lined):
        drawn, rng = each.canvas(canvas.View(0, 0, 256), 256), np.random.default_rng(seed)
        each.sky(drawn, rng, 120)
        for name, draw in each.things.items():
            draw(drawn, rng, 20 + 40 * len(name), 200, 50)
        masks.append(each.finish(drawn, rng)[1])
    np.testing.assert_array_equal(*masks)


def test_colour_words_of_strongly_changed_classes_are_dropped():
    for seed in range(60):
        style = styles.varied(seed)
        assert not style.unnamed & set(render(seed, style="varied").colours)


@pytest.mark.parametrize("style", ["plain", "varied", "unseen"])
def test_every_class_is_often_absent_and_often_there(style):
    scenes = [render(seed, size=64, style=style) for seed in range(400)]
    for name in CLASSES:
        present = np.mean([name in scene.visible for scene in scenes])
        assert 0.1 < present < 0.7, name


def test_larger_pictures_show_the_same_scene():
    small, large = render(12), render(12, size=512)
    agreed = (large.mask[::2, ::2] == small.mask).mean()
    assert agreed > 0.97


def test_words_are_one_token_each(tmp_path):
    transformers = pytest.importorskip("transformers")
    from mdrt.benchmarks.lab.scenes.models import write_tokenizer

    write_tokenizer(tmp_path)
    tokenizer = transformers.CLIPTokenizer.from_pretrained(tmp_path)
    assert all(len(tokenizer.tokenize(word)) == 1 for word in WORDS)
    assert len(tokenizer.tokenize("zebra")) > 1
    assert tokenizer.unk_token_id not in tokenizer.convert_tokens_to_ids(tokenizer.tokenize("Qé"))
