import pytest

from leanlens.endpoint import Endpoint
from leanlens.evaluate.judges.spec import JudgeSpec, judge_notes, parse_judge, parse_judges


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http://localhost:8000/v1#judge", JudgeSpec("judge", Endpoint("http://localhost:8000/v1", "judge"))),
        (
            "https://api.example.com/v1#Qwen/Qwen3-VL-8B,key=MY_KEY,concurrency=8,price_in=0.4,price_out=1.6,timeout=30",
            JudgeSpec("Qwen3-VL-8B", Endpoint(
                "https://api.example.com/v1", "Qwen/Qwen3-VL-8B", "MY_KEY", 8,
                input_price=0.4, output_price=1.6, timeout=30.0,
            )),
        ),
        (
            "mine = x=http://h/v1#a:b, rpm=60 ,tpm=1e5,tries=2",
            None,
        ),
        (
            "My judge=http://h/v1#a:b, rpm=60 ,tpm=1e5,tries=2",
            JudgeSpec("My judge", Endpoint(
                "http://h/v1", "a:b", requests_per_minute=60.0, tokens_per_minute=1e5, tries=2,
            )),
        ),
        ("http://h/v1#a,b", JudgeSpec("a,b", Endpoint("http://h/v1", "a,b"))),
    ],
)  # fmt: skip
def test_what_a_judge_says(text, expected):
    if expected is None:
        with pytest.raises(ValueError, match="invalid judge"):
            parse_judge(text)
    else:
        assert parse_judge(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gpt-4.1", r"invalid judge 'gpt-4.1': expected \[NAME=\]URL#MODEL"),
        ("http://h/v1", "expected"),
        ("http://h/v1#", "expected"),
        ("http://h/v1#a,concurency=4", "there is no key 'concurency'; the nearest is 'concurrency'"),
        ("http://h/v1#a,tries=2,tries=3", "tries is given twice"),
        ("http://h/v1#a,tries=two", "tries 'two'; expected a whole number"),
        ("http://h/v1#a,tries=0", "invalid tries 0"),
        ("http://h/v1#a,timeout=soon", "timeout 'soon'; expected a number"),
        ("http://h/v1#a,timeout=nan", "invalid timeout nan"),
        ("http://h/v1#a,price_in=-1", "invalid input_price -1"),
        ("http://user:pass@h/v1#a", "use key_variable"),
    ],
)
def test_what_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        parse_judge(text)


def test_a_key_is_named_and_never_shown():
    with pytest.raises(ValueError, match="expected the name of the environment variable") as raised:
        parse_judge("http://h/v1#a,key=sk-very-secret")
    assert "secret" not in str(raised.value)


def test_names_differ():
    with pytest.raises(ValueError, match="two judges have the name 'a'"):
        parse_judges(["http://h/v1#x/a", "http://h/v2#y/a"])
    assert [spec.name for spec in parse_judges(["http://h/v1#a", "b=http://h/v2#a"])] == ["a", "b"]


def test_the_report_says_who_judged():
    notes = judge_notes([parse_judge("http://h/v1#gpt-4.1").endpoint])
    assert notes[0] == "gpt-4.1 judges; its family is GPT."
    assert any("favour Lens" in note for note in notes)
    assert judge_notes([]) == []
