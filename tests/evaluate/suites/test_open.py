from importlib import import_module

import pytest

from leanlens.evaluate.suites.open import SUITES, open_suite
from leanlens.evaluate.suites.options import SuiteOptions


def test_an_unknown_suite_is_an_error():
    with pytest.raises(ValueError, match=r"invalid suite 'nosuch': expected one of .*dpg"):
        open_suite("nosuch", SuiteOptions())


@pytest.mark.parametrize("name", list(SUITES))
def test_every_suite_has_a_function_of_its_name_and_a_line_of_description(name):
    assert callable(getattr(import_module(f"leanlens.evaluate.suites.{name}"), name))
    assert SUITES[name]
    assert "\n" not in SUITES[name]


def test_a_suite_is_opened_with_its_options(monkeypatch):
    made = []
    monkeypatch.setattr("leanlens.evaluate.suites.dpg.dpg", made.append)
    options = SuiteOptions(num=3)
    open_suite("dpg", options)
    open_suite("dpg", SuiteOptions())
    assert made == [options, SuiteOptions()]
