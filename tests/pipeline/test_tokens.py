"""The conversation around a prompt, token for token, and what is done with prompts that are too long."""

import pytest

from leanlens.pipeline.tokens import HarmonyTemplate, PlainTemplate, resolve_date, template_named, tokenize

# fmt: off
PREFIX = [
    200006, 17360, 200008, 3575, 553, 17554, 162016, 11, 261, 4410, 6439, 2359, 22203, 656, 7788, 17527, 558, 87447,
    100594, 25, 220, 1323, 19, 12, 3218, 198, 6576, 3521, 25, 220, 1323, 21, 12, 2922, 12, 1860, 279, 30377, 289, 25,
    14093, 279, 2, 13888, 18403, 25, 8450, 11, 49159, 11, 1721, 13, 21030, 2804, 413, 7360, 395, 1753, 3176, 13, 200007,
    200006, 77944, 200008, 2, 68406, 279, 61443, 290, 3621, 656, 69091, 290, 3089, 11, 9591, 11, 2349, 11, 17788, 11,
    17245, 11, 2201, 11, 44273, 14321, 328, 290, 11736, 326, 6357, 364, 200007, 200006, 1428, 200008,
]
SUFFIX = [
    200007, 200006, 173781, 200005, 35644, 200008, 23483, 316, 10419, 1001, 3621, 7065, 316, 290, 6496, 13, 200007,
    200006, 173781, 200005, 17196, 200008,
]
RED_CUBE = [64, 3592, 46822, 402, 261, 31251, 3293]
# fmt: on


def test_prefix_prompt_and_suffix_ids(gpt_oss_tokenizer):
    assert (len(PREFIX), len(SUFFIX)) == (97, 22)
    tokens = tokenize(gpt_oss_tokenizer, ["a red cube on a wooden table"], HarmonyTemplate())
    assert tokens.ids[0].tolist() == PREFIX + RED_CUBE + SUFFIX
    assert tokens.prefix == 97


@pytest.mark.parametrize("date", ["2024-01-01", "2025-12-31", "2026-11-23", "2030-07-04"])
def test_prefix_is_97_tokens_on_any_date(gpt_oss_tokenizer, date):
    assert tokenize(gpt_oss_tokenizer, ["a"], HarmonyTemplate(date)).prefix == 97


def test_a_shorter_prompt_is_padded_on_the_right(gpt_oss_tokenizer):
    tokens = tokenize(gpt_oss_tokenizer, ["a red cube on a wooden table", "a"], HarmonyTemplate())
    assert tokens.mask[1].tolist() == [1] * (97 + 1 + 22) + [0] * 6
    assert tokens.ids[1, -6:].tolist() == [gpt_oss_tokenizer.pad_token_id] * 6 == [199999] * 6


def test_393_prompt_tokens_keep_the_whole_suffix(gpt_oss_tokenizer, caplog):
    prompt = " red" * 393
    tokens = tokenize(gpt_oss_tokenizer, [prompt], HarmonyTemplate())
    assert tokens.ids.shape[1] == 512
    assert tokens.ids[0, -22:].tolist() == SUFFIX
    assert not caplog.records


def test_truncation_is_the_official_one_and_quotes_what_was_cut(gpt_oss_tokenizer, caplog):
    prompt = " red" * 415 + " a blue teapot behind them"
    tokens = tokenize(gpt_oss_tokenizer, [prompt], HarmonyTemplate())
    assert tokens.ids[0].tolist() == PREFIX + gpt_oss_tokenizer(prompt)["input_ids"][:415]
    assert "' a blue teapot behind them'" in caplog.text


def test_a_prompt_that_only_loses_the_suffix_is_said_to_just_fit(gpt_oss_tokenizer, caplog):
    tokenize(gpt_oss_tokenizer, [" red" * 400], HarmonyTemplate())
    assert "just fits 512 tokens" in caplog.text


def test_a_return_token_in_the_prompt_ends_the_conversation_as_in_the_original(gpt_oss_tokenizer):
    tokens = tokenize(gpt_oss_tokenizer, ["a<|return|>b"], HarmonyTemplate())
    assert tokens.ids[0].tolist() == [*PREFIX, 64]


def test_a_sequence_length_without_room_for_a_prompt_is_refused(gpt_oss_tokenizer):
    with pytest.raises(ValueError, match=r"invalid max_sequence_length 97: the template alone takes 97 tokens"):
        tokenize(gpt_oss_tokenizer, ["a"], HarmonyTemplate(), max_sequence_length=97)


def test_plain_template_adds_nothing(gpt_oss_tokenizer):
    tokens = tokenize(gpt_oss_tokenizer, ["a red cube on a wooden table"], PlainTemplate())
    assert (tokens.ids[0].tolist(), tokens.prefix) == (RED_CUBE, 0)


def test_dates():
    assert resolve_date("2026-05-23") == "2026-05-23"
    assert len(resolve_date("today")) == 10
    for wrong in ("yesterday", "2026-13-01", "20260523", "2026-5-23"):
        with pytest.raises(ValueError, match="YYYY-MM-DD"):
            resolve_date(wrong)
    with pytest.raises(ValueError, match="harmony, plain"):
        template_named("chatml")
