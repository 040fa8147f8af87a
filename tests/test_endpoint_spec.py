import pytest

from leanlens.endpoint import Endpoint
from leanlens.endpoint_spec import FIELDS, parse_endpoint


def test_an_address_with_its_settings():
    text = "http://localhost:11434/v1#qwen3:4b,key=MY_KEY,concurrency=2,rpm=60,tpm=1e5,tries=3,timeout=30,price_in=1,price_out=2"
    found = parse_endpoint(text, "reason 'x'")
    assert found == Endpoint(
        "http://localhost:11434/v1", "qwen3:4b", "MY_KEY", 2, requests_per_minute=60.0, tokens_per_minute=1e5,
        tries=3, timeout=30.0, input_price=1.0, output_price=2.0,
    )  # fmt: skip
    assert all(f"{key}=" in text for key in FIELDS)


@pytest.mark.parametrize("text", ["defualt", "http://h/v1", "http://h/v1#", "ftp://h#m", "#m"])
def test_the_form_is_named(text):
    with pytest.raises(
        ValueError, match=r"invalid reason 'x': expected MY FORM, such as http://localhost:8000/v1#MODEL"
    ):
        parse_endpoint(text, "reason 'x'", "MY FORM")
