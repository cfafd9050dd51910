"""Whether model, tokenizer and chat template agree on what ends a turn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from gym_adapters.doctor.finding import Finding, failed, fine, warned
from gym_adapters.doctor.model_files import ModelFiles
from gym_adapters.doctor.template import Speech
from gym_adapters.items import assistant_message, user_message

__all__ = ["stop_token_findings"]

PART = "stop tokens"


def stop_token_findings(speech: Speech, model: ModelFiles) -> Iterator[Finding]:
    """Compare the template's end of turn with the end tokens of tokenizer and generation config."""
    texts = {i: text for text, i in speech.template.control.ids.items()}
    own = speech.tokenizer.eos_token_id
    generation = end_ids(model.generation)
    ends = _ends_of_turn(speech)
    if not ends:
        yield failed(
            PART,
            "end of turn",
            "the template ends turns with no control token, so that a model can't say it is done",
            "a chat template that ends the assistant's turn with one",
        )
        return
    known = generation | ({own} if own is not None else set())
    end_id = next((i for i in ends if i in known), None)
    if end_id is None:
        name, others = texts[ends[0]], ", ".join(texts.get(i, str(i)) for i in sorted(known))
        yield failed(
            PART,
            "end of turn",
            f"the template ends turns with {name}, and tokenizer and generation config stop at "
            f"{others or 'nothing'}: engines run past the end of a turn, and trainers take each "
            "for cut",
            f"tokenizer.eos_token = {name!r} and generation_config.eos_token_id = {ends[0]}, saved",
        )
    else:
        yield fine(PART, "end of turn", f"{texts[end_id]} ({end_id})")
    yield from _disagreements(own, generation, texts)
    yield _padding(speech, ends[0] if end_id is None else end_id)
    yield from _vocabulary(speech, model)


def end_ids(config: Mapping[str, Any]) -> set[int]:
    """The ids of ``eos_token_id``, which is one or a list."""
    found = config.get("eos_token_id")
    return set(found) if isinstance(found, list) else {found} if isinstance(found, int) else set()


def _ends_of_turn(speech: Speech) -> list[int]:
    """The control tokens that follow an assistant's text, in order.

    Some templates have several, some end a turn with the opening of the next, and some end the last
    turn of a conversation in another way than those before.
    """
    turns = [user_message("gymask"), assistant_message("gymsaid")]
    last = speech.template.render(turns, generation_prompt=False).rpartition("gymsaid")[2]
    after = speech.template.render([*turns, user_message("gymnext")], generation_prompt=False)
    between = after.rpartition("gymsaid")[2].partition("gymnext")[0]
    control = speech.template.control
    found = [match[0] for text in (last, between) for match in control.controls(text)]
    return [control.ids[name] for name in dict.fromkeys(found)]


def _disagreements(
    own: int | None, generation: set[int], texts: Mapping[int, str]
) -> Iterator[Finding]:
    if generation and own is not None and own not in generation:
        listed = ", ".join(texts.get(i, str(i)) for i in sorted(generation))
        yield warned(
            PART,
            "generation config",
            f"it stops at {listed}, and not at the tokenizer's {texts.get(own, own)}",
            f"add {own} to eos_token_id in generation_config.json",
        )
    elif not generation:
        yield warned(
            PART,
            "generation config",
            "it names no end token; engines fall back on config.json and the tokenizer",
            "a generation_config.json with eos_token_id",
        )
    else:
        yield fine(PART, "generation config", "it agrees with the tokenizer")


def _padding(speech: Speech, end_id: int) -> Finding:
    pad = getattr(speech.tokenizer, "pad_token_id", None)
    if pad is None:
        fix = "tokenizer.pad_token = a token that nothing else uses, saved"
        return warned(PART, "padding", "there is none; trainers take the end token for it", fix)
    if pad == end_id:
        return warned(
            PART,
            "padding",
            "it is the end of turn: what masks padding masks the end of each answer too, and a "
            "model tuned so never stops",
            "tokenizer.pad_token = a token that nothing else uses, saved",
        )
    return fine(PART, "padding", f"id {pad}, apart from the end of turn")


def _vocabulary(speech: Speech, model: ModelFiles) -> Iterator[Finding]:
    rows, ids = model.vocabulary, len(speech.tokenizer)  # type: ignore[arg-type]
    if rows is not None and ids > rows:
        yield failed(
            PART,
            "vocabulary",
            f"the tokenizer has {ids} ids and the model {rows} rows: the last can't be embedded",
            "model.resize_token_embeddings(len(tokenizer)), saved",
        )
