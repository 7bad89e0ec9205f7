"""docs/errors.md: every message is there with a test (SCALE_ERRORS_HOLD=1 holds each test to it)."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def make_errors():
    spec = importlib.util.spec_from_file_location("make_errors", ROOT / "docs" / "make_errors.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_what_the_source_says(make_errors):
    page = make_errors.PAGE.read_text(encoding="utf-8")
    assert page == make_errors.page(make_errors.triggers()), "run: python docs/make_errors.py"


def test_every_message_has_a_test(make_errors):
    everything = {key for places in make_errors.lookup().values() for _, _, key in places}
    assert sorted(everything - set(make_errors.triggers())) == []


def test_the_tests_are_there(make_errors):
    for test in set(make_errors.triggers().values()):
        file, _, rest = test.partition("::")
        name = rest.partition("[")[0].split("::")[-1]
        assert f"def {name}(" in (ROOT / file).read_text(encoding="utf-8"), test
