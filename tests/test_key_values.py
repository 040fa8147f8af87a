import pytest

from leanlens.key_values import read_settings, split_settings


def test_settings_follow_a_source():
    assert split_settings("http://h/v1#a,b,steps=4, cfg =2") == ("http://h/v1#a,b", ",steps=4, cfg =2")
    found = read_settings(",steps=4,negative=a, b,cfg = 2 ", "model 'm'", ("steps", "negative", "cfg"), "FORM")
    assert found == {"steps": "4", "negative": "a, b", "cfg": "2"}
    assert read_settings("", "model 'm'", (), "FORM") == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (",stepz=4", "invalid model 'm': there is no key 'stepz'; the nearest is 'steps'"),
        (",q=4", "there is no key 'q'; there are steps, cfg"),
        (",steps=4,steps=5", "steps is given twice"),
        (",steps", "'steps' is no KEY=VALUE; expected FORM"),
    ],
)
def test_settings_that_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        read_settings(text, "model 'm'", ("steps", "cfg"), "FORM")
