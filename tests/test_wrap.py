"""Lines are wrapped where a formatter leaves them, and the code stays what it was."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path

import pytest

SPEC = importlib.util.spec_from_file_location("wrap", Path(__file__).parents[1] / "tools/wrap.py")
tool = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(tool)

WORDS = "peak " * 30


@pytest.mark.parametrize(
    "source",
    [
        f'"""Summary.\n\n{WORDS}\n"""\n',
        f'def f():\n    """{WORDS.strip()}."""\n',
        f'def f():\n    """Summary {WORDS.strip()}.\n\n    - item {WORDS}\n      more\n    """\n',
        f'def f():\n    """Summary.\n\n    Returns\n    -------\n    {WORDS}\n    """\n',
        f"# {WORDS}\nx = 1\n",
        f"x = [\n    1,  # {WORDS}\n]\n",
        f"x = f({WORDS.strip()!r}, 2)\n",
        f"x = {WORDS.strip()!r}\n",
        f'x = f(f"{{a}} {WORDS}{{b[0]}} c")\n',
    ],
)
def test_long_lines_are_wrapped(source):
    wrapped = source
    for _ in range(3):
        wrapped = tool.wrap(wrapped)
    assert max(map(len, wrapped.splitlines())) <= tool.LENGTH
    words = [text.split() for text in (source, wrapped)]
    assert [w.strip("#()\"'") for w in words[1]].count("peak") >= 28
    assert "Returns" not in wrapped or "    -------\n" in wrapped
    assert ast.dump(tool._without_docstrings(source)) == ast.dump(tool._without_docstrings(wrapped))


@pytest.mark.parametrize(
    "source",
    [
        f'"""Summary::\n\n    {WORDS}\n"""\n',
        f'x = """\n{WORDS}\n"""\n',
        f"x = {'1 + ' * 40}1  # noqa: E501\n",
        f"x = r'{WORDS}'\n",
        '"""Short."""\nx = 1  # short\n',
        f'x = f("{WORDS[:91]} ")\n',
    ],
)
def test_what_has_to_stay_stays(source):
    assert tool.wrap(source) == source
