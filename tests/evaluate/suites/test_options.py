import pytest

from leanlens.evaluate.suites.options import SuiteOptions


def test_the_defaults_ask_for_everything():
    options = SuiteOptions()
    assert (options.num, options.size, options.data, options.endpoints) == (None, None, None, ())


@pytest.mark.parametrize("name", ["num", "size"])
def test_numbers_are_positive(name):
    with pytest.raises(ValueError, match=f"invalid {name} 0: expected a whole number from 1"):
        SuiteOptions(**{name: 0})


@pytest.mark.parametrize("name", ["num", "size"])
def test_numbers_have_an_end(name):
    with pytest.raises(ValueError, match="to 1,000,000"):
        SuiteOptions(**{name: 10**20})
