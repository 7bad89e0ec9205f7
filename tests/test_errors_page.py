"""docs/errors.md: every message is there with a test (that each test triggers its message is held by conftest.py)."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

#: Messages no test can trigger here, and why.
WITHOUT_A_TEST: dict[str, str] = {}


@pytest.fixture(scope="module")
def make_errors():
    spec = importlib.util.spec_from_file_location("make_errors", ROOT / "docs" / "make_errors.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_what_the_source_says(make_errors):
    page = make_errors.PAGE.read_text(encoding="utf-8")
    assert page == make_errors.page(make_errors.triggers()), "run: python docs/make_errors.py"


def test_every_message_has_a_test_or_a_reason(make_errors):
    named = make_errors.triggers()
    missing = {key for places in make_errors.lookup().values() for _, _, key in places} - set(named)
    assert missing == set(WITHOUT_A_TEST)


def test_the_tests_are_there(make_errors):
    for test in set(make_errors.triggers().values()):
        file, _, rest = test.partition("::")
        name = rest.partition("[")[0].split("::")[-1]
        assert f"def {name}(" in (ROOT / file).read_text(encoding="utf-8"), test
