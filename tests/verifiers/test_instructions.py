"""Instructions: each is told apart from its opposite, on any text, with arguments checked first."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, strategies as st

from gym_adapters.errors import InvalidRow
from gym_adapters.verifiers.instructions import INSTRUCTIONS, check_arguments, follows
from gym_adapters.verifiers.instructions.language import KNOWN_LANGUAGES, possible_languages
from gym_adapters.verifiers.instructions.text import paragraphs, sentences, tokens

LESS, MORE = "less than", "at least"
# id, arguments, a text that follows it, one that does not
CASES: list[tuple[str, dict[str, Any], str, str]] = [
    (
        "length_constraints:number_sentences",
        {"num_sentences": 2, "relation": MORE},
        "Go on. Why?",
        "Go on.",
    ),
    (
        "length_constraints:number_sentences",
        {"num_sentences": 2, "relation": LESS},
        "Go on.",
        "Go on. Why?",
    ),
    ("length_constraints:number_words", {"num_words": 3, "relation": MORE}, "a b-c", "a b"),
    ("length_constraints:number_words", {"num_words": 3, "relation": LESS}, "a b", "a b c"),
    (
        "length_constraints:number_paragraphs",
        {"num_paragraphs": 2},
        "a\n***\nb\n***",
        "a ***  *** b",
    ),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "Crash"},
        "a b\n\n'crash, it",
        "crash\n\na",
    ),
    ("paragraphs:paragraphs", {}, "a\n***\nb", "a\n\nb"),
    ("paragraphs:paragraphs2", {}, "a\n\nb", "a\n\nb\n\nc"),
    ("count:lowercase_counting", {"N": 2}, "One two three", "one two three"),
    (
        "count:counting_composition",
        {"n_sent": 1, "n_words": 3},
        "Go on.\n***\nDo so.\n***\nOh my.",
        "Go on.\n***\nDo so.",
    ),
    ("count:count_unique", {}, "each word once", "each word once each"),
    ("count:count_increment_word", {"keyword1": "ab", "keyword2": "cd"}, "ab cd CD", "ab cd"),
    ("letters:letter_counting", {"N": 3, "relation": MORE}, "a1b2c", "ab12345"),
    ("letters:letter_counting", {"N": 3, "relation": LESS}, "ab é", "abc"),
    (
        "letters:letter_counting2",
        {"letter": "a", "let_frequency": 2, "let_relation": MORE},
        "A banana",
        "an egg",
    ),
    ("keywords:existence", {"keywords": ["c++", "Go"]}, "I go to C++", "I go to C"),
    ("keywords:frequency", {"keyword": "ab", "frequency": 2, "relation": MORE}, "Ab cab", "ab"),
    ("keywords:frequency", {"keyword": "ab", "frequency": 2, "relation": LESS}, "ab", "ab ab"),
    (
        "keywords:word_count_different_numbers",
        {"keyword": "ab", "frequency": 2, "relation": MORE},
        "ab ab",
        "ab",
    ),
    ("keywords:forbidden_words", {"forbidden_words": ["part"]}, "a party", "in Part, yes"),
    (
        "keywords:letter_frequency",
        {"letter": "!", "let_frequency": 2, "let_relation": LESS},
        "so!",
        "so!!",
    ),
    ("keywords:word_once", {"keyword": "ab"}, "an ab", "ab AB"),
    ("keywords:exclude_word_harder", {"keyword": "ab"}, "ab cd", "cd ab cd"),
    ("keywords:no_adjacent_consecutive", {}, "apple cat", "apple bat"),
    ("keywords:palindrome", {}, "my level", "my word"),
    (
        "keywords:keyword_specific_position",
        {"keyword": "b", "n": 2, "m": 2},
        "Go on. Be b.",
        "Be b.",
    ),
    ("keywords:start_end", {}, "So it is so", "So it is so."),
    ("first_word:first_word_sent", {"first_word": "so"}, "So it is. So be it.", "So it is. Be it."),
    ("first_word:first_word_answer", {"first_word": "so"}, "So it is.", "So, it is."),
    ("last_word:last_word_sent", {"last_word": "so"}, "Be so. Is it so?", "Be so. It is."),
    ("last_word:last_word_answer", {"last_word": "contest"}, "A Contest!", "contest it"),
    ("language:response_language", {"language": "de"}, "Das ist nicht gut.", "That is not good."),
    ("change_case:english_capital", {}, "THIS IS IT", "THIS is it"),
    ("change_case:english_lowercase", {}, "this is it", "das ist es nicht und auch der hund"),
    (
        "change_case:capital_word_frequency",
        {"capital_frequency": 2, "capital_relation": MORE},
        "I AM here",
        "I am here",
    ),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}, "[a] [b]", "[a] [b"),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, "a\np. s. b", "a\nPS b"),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"}, "P.P.S b", "P.S. b"),
    ("detectable_content:postscript", {"postscript_marker": "N.B."}, "n.b. x", "nb x"),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}, "* a\n  - b\n**c**", "* a"),
    ("detectable_format:constrained_response", {}, "So: My answer is no.", "No."),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 2}, "*a* **b**", "*a* **"),
    (
        "detectable_format:multiple_sections",
        {"section_spliter": "Part", "num_sections": 2},
        "Part 1 a\nPart 2 b",
        "Part one\nPart two",
    ),
    ("detectable_format:json_format", {}, '```json\n{"a": [1]}\n```', "{a: 1}"),
    ("detectable_format:title", {}, "<<a title>>\nb", "<< >>\n<<a\n>>"),
    ("detectable_format:sentence_hyphens", {}, "One here.-Two here.", "One here. - Two here."),
    ("detectable_format:square_brackets", {}, "[a] [b]", "[a] b"),
    ("detectable_format:bigram_wrapping", {}, "<<a b>> <<c d>>", "<<a b c>> d"),
    ("combination:two_responses", {}, "a\n******\nb", "a\n******\na"),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Say hi."}, "say hi. Hi.", "Hi."),
    ("copy:copy", {"prompt_to_repeat": "Say hi."}, " say HI.\n", "Say hi. Hi."),
    ("copy:copying_simple", {"prompt_to_repeat": "Say hi."}, "Say hi.", "Hi."),
    ("copy:copying_multiple", {"prompt_to_repeat": "Hi", "N": 2}, "hi ****** Hi", "hi"),
    (
        "copy:repeat_phrase",
        {"phrase": "go to bed", "small_n": 2},
        "go to bed, go the bed",
        "go to bed, go to bed",
    ),
    (
        "new:copy_span_idx",
        {"prompt_to_repeat": "abcdef", "n_start": 1, "n_end": 3},
        "BC",
        "bcd",
    ),
    ("startend:end_checker", {"end_phrase": "The end."}, 'It is "the end."', "The end. So."),
    ("startend:quotation", {}, ' "a" ', '"a'),
    ("punctuation:no_comma", {}, "a; b", "a, b"),
    ("punctuation:punctuation_dot", {}, "a!", "a."),
    ("punctuation:punctuation_exclamation", {}, "a.", "a!"),
]


def test_every_instruction_has_a_case() -> None:
    assert {case[0] for case in CASES} == set(INSTRUCTIONS)
    assert len(INSTRUCTIONS) == 54


@pytest.mark.parametrize(("instruction", "arguments", "good", "bad"), CASES)
def test_an_instruction_is_told_apart_from_its_opposite(
    instruction: str, arguments: dict[str, Any], good: str, bad: str
) -> None:
    check_arguments(instruction, arguments, "kwargs[0]")
    assert follows(good, instruction, arguments) is True
    assert follows(bad, instruction, arguments) is False
    assert follows(" \n", instruction, arguments) is False


@given(st.text(alphabet="ab A.!?,'\"*#[]<>-{}\n1é中", max_size=80) | st.text(max_size=40))
def test_no_text_makes_a_check_fail(text: str) -> None:
    for instruction, arguments, _, _ in CASES:
        assert follows(text, instruction, arguments) in (True, False)


@pytest.mark.parametrize(
    ("instruction", "arguments", "problem"),
    [
        ("no:such", {}, "unknown instruction"),
        ("count:lowercase_counting", None, "needs N"),
        ("count:lowercase_counting", {"N": "3"}, "a whole number"),
        ("count:lowercase_counting", {"N": True}, "a whole number"),
        ("keywords:existence", {"keywords": []}, None),
        ("keywords:existence", {"keywords": "river"}, "a list of texts"),
        ("language:response_language", {"language": "tlh"}, "one of ar, bg"),
        ("keywords:letter_frequency", {"letter": "ab"}, "one character"),
        (
            "length_constraints:number_words",
            {"num_words": 3, "relation": "more than"},
            "less than",
        ),
    ],
)
def test_arguments_are_checked(
    instruction: str, arguments: dict[str, Any] | None, problem: str | None
) -> None:
    if problem is None:
        check_arguments(instruction, arguments, "kwargs[2]")
        return
    with pytest.raises(InvalidRow, match=problem) as caught:
        check_arguments(instruction, arguments, "kwargs[2]")
    assert caught.value.field == "kwargs[2]"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("One. Two! Three?", ["One.", "Two!", "Three?"]),
        ("Dr. Who met Mr. X at 3.5 p.m. today.", ["Dr. Who met Mr. X at 3.5 p.m. today."]),
        ('He said "no." Then he left.', ['He said "no."', "Then he left."]),
        ("Wait... what?!", ["Wait...", "what?!"]),
        ("See example.com for more.", ["See example.com for more."]),
        ("one\ntwo", ["one two"]),
        ("J. R. Smith came. So did I.", ["J. R. Smith came.", "So did I."]),
        ("", []),
    ],
)
def test_sentences_are_found(text: str, said: list[str]) -> None:
    assert sentences(text) == said


@given(st.text(alphabet="ab .!?\n\"'J", max_size=60))
def test_sentences_lose_nothing_but_space(text: str) -> None:
    assert "".join("".join(sentences(text)).split()) == "".join(text.split())


def test_tokens_are_words_and_marks() -> None:
    assert tokens("Don't stop, well-known U.S. man's 3.5...") == [
        "Do", "n't", "stop", ",", "well-known", "U.S", ".", "man", "'s", "3.5", "...",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "found"),
    [("a\n***\nb", 2), ("***a***", 1), ("a", 1), ("", 0), ("******", None), ("a***b***", 2)],
)
def test_paragraphs_are_what_stands_between_dividers(text: str, found: int | None) -> None:
    parts = paragraphs(text, "***")
    assert (None if parts is None else len(parts)) == found


LANGUAGES = {
    "en": "The cat is on the mat and it was good.",
    "es": "El perro está en la casa y no quiere salir.",
    "pt": "O cachorro está em casa e não quer sair.",
    "fr": "Le chien est dans la maison et ne veut pas sortir.",
    "de": "Der Hund ist im Haus und will nicht raus.",
    "it": "Il cane è nella casa e non vuole uscire.",
    "vi": "Con chó ở trong nhà và không muốn ra ngoài.",
    "pl": "Pies jest w domu i nie chce wyjść.",
    "fi": "Koira on talossa eikä se halua ulos.",
    "sw": "Mbwa yuko ndani ya nyumba na hataki kutoka.",
    "ru": "Собака в доме и не хочет выходить.",
    "uk": "Собака в будинку і не хоче виходити.",
    "bg": "Кучето е в къщата и не иска да излезе.",
    "ar": "الكلب في البيت ولا يريد الخروج من هذا المكان",
    "fa": "سگ در خانه است و نمی خواهد بیرون برود",
    "ur": "کتا گھر میں ہے اور باہر نہیں جانا چاہتا",
    "hi": "कुत्ता घर में है और बाहर नहीं जाना चाहता।",
    "mr": "कुत्रा घरात आहे आणि तो बाहेर जाऊ इच्छित नाही.",
    "ne": "कुकुर घरमा छ र बाहिर जान चाहँदैन।",
    "bn": "কুকুরটি ঘরে আছে",
    "pa": "ਕੁੱਤਾ ਘਰ ਵਿੱਚ ਹੈ",
    "gu": "કૂતરો ઘરમાં છે",
    "ta": "நாய் வீட்டில் உள்ளது",
    "te": "కుక్క ఇంట్లో ఉంది",
    "kn": "ನಾಯಿ ಮನೆಯಲ್ಲಿದೆ",
    "ml": "നായ വീട്ടിലുണ്ട്",
    "th": "สุนัขอยู่ในบ้าน",
    "he": "הכלב בבית",
    "ko": "개가 집에 있다",
    "ja": "犬は家の中にいます",
    "zh": "狗在房子里不想出去",
}


@pytest.mark.parametrize(("language", "text"), LANGUAGES.items())
def test_a_sentence_is_in_its_language(language: str, text: str) -> None:
    assert possible_languages(text) == {language}


def test_every_known_language_has_a_sentence() -> None:
    assert set(LANGUAGES) == KNOWN_LANGUAGES


def test_few_words_may_be_in_several_languages_and_nonsense_is_in_none() -> None:
    assert {"en", "de"} <= possible_languages("HELLO WORLD")
    assert possible_languages("123 !?") == frozenset()
    assert possible_languages("asdf qwer zxcv asdf qwer zxcv") == {"und"}
