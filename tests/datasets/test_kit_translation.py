"""What the translation kit promises: its form, its size, its variety, its Spanish spelling, and topics held out."""

import json
import re
from importlib import resources
from itertools import combinations
from pathlib import Path

import pytest
from bundled import bundled_model_folder  # noqa: F401
from rapidfuzz.distance import LCSseq

from workbench.datasets.render import load_renderer
from workbench.datasets.starter import install_kit
from workbench.evaluation.prompts import kit_scorers, plan_answers, read_prompts
from workbench.records import Message, ModelSource
from workbench.scoring.rules import RULE_SCORERS
from workbench.scoring.scorers import METRICS, corpus_chrf, sentence_chrf
from workbench.store import models as model_store
from workbench.store.database import Store

KIT = resources.files("workbench.datasets") / "kits" / "translation"
ASK = "Translate into Spanish: "
# Everyday words that are never written without their accent or their ñ.
MUST_HAVE_ACCENTS = set(
    "adios aqui anden autobus azucar bano boton cafe cancion corazon dia dias estacion facil habia jardin lapiz leon "
    "linea manana maquina medico menu miercoles musica nino ninos otono pais pajaro pequeno proximo quiza rapido "
    "sabado senora tambien telefono tia tio ultimo unico violin vivia".split()
)
ENGLISH = set(
    "the and you your my is are was were of to for with from this that it we they she his her our please thank what "
    "where when who how do does not have in on at by".split()
)
Row = dict[str, str]


def read_rows(name: str) -> list[Row]:
    return [json.loads(line) for line in (KIT / name).read_text(encoding="utf-8").splitlines()]


TRAIN = read_rows("train.jsonl")
HELD_OUT = read_rows("held_out.jsonl")
ALL = TRAIN + HELD_OUT
CARD = json.loads((KIT / "kit.json").read_text(encoding="utf-8"))


def english(row: Row) -> str:
    """The sentence to translate: the fixed words before it are the same in every row."""
    return row["instruction"].removeprefix(ASK)


def rouge_tokens(text: str) -> list[str]:
    """Split as rouge_score does without a stemmer."""
    return re.findall("[a-z0-9]+", text.lower())


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def test_the_card_names_the_kit_its_metric_and_an_open_licence():
    assert CARD["name"] == "translation"
    assert CARD["licence"] == "CC0-1.0"
    assert CARD["system_prompt"] is None
    assert CARD["scorer"] == "chrf" and CARD["scorer"] in METRICS and CARD["scorer"] not in RULE_SCORERS
    assert CARD["title"] and CARD["description"] and CARD["format"]


def test_there_are_enough_rows_and_topics():
    assert len(TRAIN) >= 260
    assert len(HELD_OUT) >= 50
    assert len({row["topic"] for row in TRAIN}) >= 16
    assert len({row["topic"] for row in HELD_OUT}) >= 4


def test_every_row_has_the_same_four_filled_fields():
    for row in ALL:
        assert list(row) == ["id", "topic", "instruction", "response"]
        assert all(text and text == text.strip() for text in row.values()), row["id"]


def test_every_instruction_asks_in_the_same_words_for_one_english_sentence():
    for row in ALL:
        assert row["instruction"].startswith(ASK), row["id"]
        assert re.fullmatch(r"[A-Z][A-Za-z', .]*[.?!]", english(row)), row["id"]
        assert "  " not in english(row) and ASK not in english(row), row["id"]


def test_ids_are_unique_across_both_files():
    ids = [row["id"] for row in ALL]
    assert len(ids) == len(set(ids))


def test_held_out_topics_are_absent_from_training():
    assert not {row["topic"] for row in TRAIN} & {row["topic"] for row in HELD_OUT}


def test_the_first_held_out_rows_meet_every_held_out_topic():
    assert {row["topic"] for row in HELD_OUT[:12]} == {row["topic"] for row in HELD_OUT}


def test_held_out_words_are_partly_but_not_all_seen_in_training():
    seen = {word for row in TRAIN for word in words(row["response"])}
    met = [word in seen for row in HELD_OUT for word in words(row["response"])]
    assert 0.5 <= sum(met) / len(met) <= 0.8


@pytest.mark.parametrize("side", ["instruction", "response"])
def test_no_sentence_is_given_twice_on_either_side(side: str):
    sentences = [" ".join(words(row[side])) for row in ALL]
    assert len(sentences) == len(set(sentences))


def test_no_two_english_sentences_have_a_rouge_l_above_0_7():
    """Judged on the sentence itself: with the fixed words before it any two short instructions look alike."""
    rows = [(row["id"], rouge_tokens(english(row))) for row in ALL]
    near = [
        (first, second)
        for (first, a), (second, b) in combinations(rows, 2)
        if 2 * LCSseq.similarity(a, b) / (len(a) + len(b)) > 0.7
    ]
    assert near == []


def test_spanish_is_written_with_spanish_letters_and_plain_signs_only():
    for row in ALL:
        assert re.fullmatch(r"[A-Za-zÁÉÍÓÚáéíóúüñ ,.¿?¡!]+", row["response"]), row["id"]
        assert not re.search(r"  | [,.?!]|[¿¡] |,(?! )", row["response"]), row["id"]


def test_a_spanish_sentence_begins_with_a_capital_and_ends_with_one_sign():
    for row in ALL:
        assert re.fullmatch(r"[¿¡]?[A-ZÁÉÍÓÚ][^.?!]*[.?!]", row["response"]), row["id"]


def test_both_languages_end_with_the_same_sign():
    assert [row["id"] for row in ALL if english(row)[-1] != row["response"][-1]] == []


@pytest.mark.parametrize(("opening", "closing"), ["¿?", "¡!"])
def test_questions_and_exclamations_are_opened_and_closed(opening: str, closing: str):
    for row in ALL:
        text = row["response"]
        assert text.count(opening) == text.count(closing) <= 1, row["id"]
        assert text.find(opening) <= text.find(closing), row["id"]


def test_a_question_word_carries_its_accent():
    for row in ALL:
        asked = row["response"].partition("¿")[2]
        assert not re.match(r"(?:(?:a|de|por|en|con) )?(que|como|cuando|cuant[oa]s?|donde|quien|cual)\b", asked.lower())


def test_words_that_need_an_accent_have_it():
    assert {word for row in ALL for word in words(row["response"])} & MUST_HAVE_ACCENTS == set()


def test_no_english_is_left_in_a_translation():
    alike = set("chocolate kilo kilos hospital visa final color total piano radio".split())
    for row in ALL:
        spanish = set(words(row["response"]))
        assert not spanish & ENGLISH, row["id"]
        shared = {word for word in spanish & set(words(english(row))) - alike if len(word) > 2}
        # What both languages share must be a name: capital in both.
        assert all(word.capitalize() in row["response"] for word in shared), (row["id"], shared)


def test_references_against_themselves_have_a_chrf_of_100():
    references = [row["response"] for row in HELD_OUT]
    assert corpus_chrf(references, references) == pytest.approx(100)
    assert [sentence_chrf(text, text) for text in references] == pytest.approx([100] * len(references))


def test_the_english_sentence_given_back_scores_low():
    """A model that repeats the question must not look like one that translates."""
    scores = [sentence_chrf(english(row), row["response"]) for row in HELD_OUT]
    assert sum(scores) / len(scores) < 25


def test_the_installed_kit_is_answered_with_chrf_as_its_only_scorer(store: Store):
    train, held_out = install_kit(store, "translation")
    assert (train.rows, held_out.rows) == (len(TRAIN), len(HELD_OUT))
    model = model_store.add_model(store, "tiny", ModelSource.LOCAL, "/nowhere")
    variant = model_store.add_variant(store, "base", model_id=model.id)
    assert kit_scorers(store, held_out) == ()
    plan = plan_answers(store, prompts=held_out.id, variants=[variant.id])
    assert plan.scorers == ("chrf",)
    assert [prompt.reference for prompt in read_prompts(store, plan)] == [row["response"] for row in HELD_OUT]


@pytest.mark.bundled
def test_rows_are_short_for_the_bundled_model(bundled_model_folder: Path):  # noqa: F811
    renderer = load_renderer(bundled_model_folder)
    lengths = []
    for row in ALL:
        turns = [
            Message(role="user", content=row["instruction"]),
            Message(role="assistant", content=row["response"]),
        ]
        lengths.append(sum(len(rendered.ids) for rendered in renderer.render(turns)))
    assert max(lengths) <= 100
    assert sum(lengths) / len(lengths) <= 70
