"""docs/errors.md has every message, and tests/error_triggers.tsv a test for each (SCALE_ERRORS_HOLD=1 holds them to it)."""

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
    assert page == make_errors.page(), "run: python docs/make_errors.py"
    assert "test_" not in page


def test_every_message_has_a_test(make_errors):
    messages = {site.key for site in make_errors.sites()}
    assert sorted(messages - set(make_errors.triggers())) == [], "run: SCALE_ERRORS_SEEN=seen ./test TEST"
    assert sorted(set(make_errors.triggers()) - messages) == [], "run: python docs/make_errors.py"


def test_the_tests_exist(make_errors):
    for test in set(make_errors.triggers().values()):
        file, _, rest = test.partition("::")
        name = rest.partition("[")[0].split("::")[-1]
        assert f"def {name}(" in (ROOT / file).read_text(encoding="utf-8"), test


def test_a_message_keeps_its_test_when_its_words_or_file_change(make_errors):
    record = {("io/a.py", "… is off", "counts", ""): "t1", ("io/a.py", "no cells left", "some", "lower it"): "t2"}
    current = [("io/b.py", "no cells left", "some", "lower it"), ("io/a.py", "… is invalid", "counts", "")]
    assert make_errors.carry_over(record, current) == {current[0]: "t2", current[1]: "t1"}
    assert make_errors.carry_over(record, [("io/a.py", "a new message altogether", "", "")]) == {}
