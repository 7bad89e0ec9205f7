"""Wrap docstrings, comments and strings at 100 characters, which the formatter does not do.

``python tools/wrap.py FILE...``, then ``ruff format FILE...``, and both a second time. Paragraphs
with a longer line are wrapped; literal blocks, tables and headings stay. A comment behind code that
makes its line too long moves to the line above. A string that is too long is split at a space. The
code that Python sees is compared before and after.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import textwrap
import tokenize
from pathlib import Path

LENGTH = 100
_ITEM = re.compile(r"(?:[-*]|\d+\.) ")
_PRAGMA = re.compile(r"#\s*(?:noqa|type:|fmt:|pragma|ruff)")


def wrap_paragraphs(lines: list[str], first_width: int = 0) -> list[str]:
    """Wrap the paragraphs of dedented text lines that hold a line over the limit.

    Parameters
    ----------
    lines
        Text; indentation separates paragraphs, deeper lines after ``::`` are literal.
    first_width
        Characters before the first line, as of a docstring's quotes.
    """
    wrapped: list[str] = []
    position = 0
    literal_indent: int | None = None
    while position < len(lines):
        line = lines[position]
        indent = len(line) - len(line.lstrip())
        if literal_indent is not None and line.strip() and indent <= literal_indent:
            literal_indent = None
        if (
            not line.strip()
            or literal_indent is not None
            or line.lstrip().startswith((">>>", "|", "+-", "---", "==="))
        ):
            wrapped.append(line)
            position += 1
            continue
        end = position + 1
        hanging = indent + len(match[0]) if (match := _ITEM.match(line.lstrip())) else indent
        while (
            end < len(lines)
            and lines[end].strip()
            and len(lines[end]) - len(lines[end].lstrip()) == hanging
            and not _ITEM.match(lines[end].lstrip())
            and not re.fullmatch(r"\s*[-=]{3,}", lines[end])
        ):
            end += 1
        paragraph = lines[position:end]
        widths = [
            len(text) + (first_width if position + i == 0 else 0)
            for i, text in enumerate(paragraph)
        ]
        if max(widths) > LENGTH:
            text = " ".join(line.strip() for line in paragraph)
            padding = " " * (first_width if position == 0 else 0)
            paragraph = textwrap.wrap(
                padding + text if padding else text,
                LENGTH,
                initial_indent="" if padding else " " * indent,
                subsequent_indent=" " * hanging,
                break_long_words=False,
                break_on_hyphens=False,
                drop_whitespace=True,
            )
            if padding:
                paragraph[0] = paragraph[0].strip()
        wrapped += paragraph
        if paragraph[-1].rstrip().endswith("::"):
            literal_indent = indent
        position = end
    return wrapped


def wrap_docstring(source_lines: list[str], indent: int) -> list[str]:
    """Wrap the source lines of one docstring, quotes included."""
    match = re.match(r'\s*([rR]?""")', source_lines[0])
    if match is None or not source_lines[-1].rstrip().endswith('"""'):
        return source_lines
    opening = match[1]
    body = [source_lines[0][match.end() :], *source_lines[1:]]
    closes_alone = body[-1].strip() == '"""'
    body[-1] = body[-1].rstrip().removesuffix('"""')
    if closes_alone:
        body.pop()
    pad = " " * indent
    first = pad + opening
    text = [first + body[0], *body[1:]]
    text[0] = pad + body[0]  # measured with the quotes through first_width
    if len(text) == 1 and not closes_alone and len(pad + opening + body[0]) + 3 > LENGTH:
        limit = (
            LENGTH - len(opening) - 3
        )  # ruff puts the closing quotes behind a summary of one line
        text = textwrap.wrap(
            body[0],
            limit,
            initial_indent=pad,
            subsequent_indent=pad,
            break_long_words=False,
            break_on_hyphens=False,
        )
        return [first + text[0].strip(), *text[1:], pad + '"""']
    summary_end = next((i for i, line in enumerate(text) if not line.strip()), len(text))
    summary = text[:summary_end]
    widths = [len(line) + (len(opening) if i == 0 else 0) for i, line in enumerate(summary)]
    if len(summary) == len(text) == 1 and not closes_alone:
        widths[0] += 3
    if max(widths) > LENGTH:
        summary = textwrap.wrap(
            " ".join(line.strip() for line in summary),
            LENGTH - len(opening),
            initial_indent=pad,
            subsequent_indent=pad,
            break_long_words=False,
            break_on_hyphens=False,
        )
    rest_of_text = text[summary_end:]
    if summary[-1].rstrip().endswith("::"):  # the block that follows is literal
        end = next(
            (
                i
                for i, line in enumerate(rest_of_text)
                if line.strip() and not line.startswith(pad + " ")
            ),
            None,
        )
        literal, rest_of_text = rest_of_text[:end], rest_of_text[end:] if end is not None else []
        summary = [*summary, *literal]
    lines = [*summary, *wrap_paragraphs(rest_of_text)]
    lines[0] = first + lines[0].strip()
    if closes_alone or len(lines[-1]) + 3 > LENGTH:
        return [*lines, pad + '"""']
    return [*lines[:-1], lines[-1] + '"""']


def wrap_docstrings(source: str) -> str:
    """Wrap every docstring of a module."""
    lines = source.splitlines()
    nodes = [
        node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    ]
    for node in sorted(nodes, key=lambda node: -node.lineno):
        first, last = node.lineno - 1, node.end_lineno or node.lineno
        if any(len(line) > LENGTH for line in lines[first:last]):
            lines[first:last] = wrap_docstring(lines[first:last], node.col_offset)
    return "\n".join(lines) + "\n"


def move_comments(source: str) -> str:
    """Move comments behind code that make their line too long to a line above it."""
    lines = source.splitlines()
    tokens = [
        token
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    ]
    for token in reversed(tokens):
        row, column = token.start
        code = lines[row - 1][:column].rstrip()
        if code and len(lines[row - 1]) > LENGTH and not _PRAGMA.search(token.string):
            indent = len(code) - len(code.lstrip())
            lines[row - 1 : row] = [" " * indent + token.string, code]
    return "\n".join(lines) + "\n"


def wrap_comments(source: str) -> str:
    """Wrap blocks of comment lines."""
    lines = source.splitlines()
    strings = {
        number
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        for number in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    result: list[str] = []
    position = 0
    while position < len(lines):
        match = re.match(r"(\s*)(#:?) (?=\S)", lines[position])
        if match is None or position + 1 in strings or _PRAGMA.search(lines[position]):
            result.append(lines[position])
            position += 1
            continue
        prefix = match[0]
        end = position
        while (
            end < len(lines)
            and lines[end].startswith(prefix)
            and lines[end][len(prefix) :][:1].strip()
        ):
            end += 1
        block = lines[position:end]
        if max(map(len, block)) > LENGTH:
            text = " ".join(line[len(prefix) :] for line in block)
            block = textwrap.wrap(
                text,
                LENGTH,
                initial_indent=prefix,
                subsequent_indent=prefix,
                break_long_words=False,
                break_on_hyphens=False,
            )
        result += block
        position = end
    return "\n".join(result) + "\n"


def split_strings(source: str) -> str:
    """Split strings of one line that reach beyond the limit, at a space."""
    lines = source.splitlines()
    skipped = (tokenize.NL, tokenize.COMMENT)
    tokens = [
        t for t in tokenize.generate_tokens(io.StringIO(source).readline) if t.type not in skipped
    ]
    for previous, token, following in reversed(
        list(zip(tokens, tokens[1:], tokens[2:], strict=False))
    ):
        if token.type != tokenize.STRING:
            continue
        row, column = token.start
        line = lines[row - 1]
        match = re.match(r"([a-zA-Z]*)([\"'])(?!\2\2)(.*)\2$", token.string)
        if match is None or token.end[1] <= LENGTH - 1 or token.end[0] != row:
            continue
        prefix, quote, content = match.groups()
        space = _last_space(content, prefix, LENGTH - 2 - column - len(prefix))
        # a space at the end splits nothing off: the second piece would be empty
        if "r" in prefix.lower() or space is None or space + 1 == len(content):
            continue
        pieces = [content[: space + 1], content[space + 1 :]]
        literals = [
            f"{prefix if '{' in piece or '}' in piece else prefix.strip('fF')}{quote}{piece}{quote}"
            for piece in pieces
        ]
        alone = previous.string in "(,=[{" and following.string in ",)]}" and previous.string
        bare = tokenize.STRING in (previous.type, following.type) or alone
        joined = f"{literals[0]}\n{' ' * column}{literals[1]}"
        joined = joined if bare else f"({joined})"
        lines[row - 1] = line[:column] + joined + line[token.end[1] :]
    return "\n".join(lines) + "\n"


def _last_space(content: str, prefix: str, limit: int) -> int | None:
    """Return the last space before `limit` that is not inside the braces of an f-string."""
    depth, last = 0, None
    for position, character in enumerate(content[:limit]):
        if "f" in prefix.lower():
            depth += (character == "{") - (character == "}")
        if character == " " and depth == 0:
            last = position
    return last


def wrap(source: str) -> str:
    """Wrap docstrings, comments and strings; the code that Python sees stays as it is."""
    wrapped = wrap_comments(move_comments(wrap_docstrings(source)))
    split = split_strings(wrapped)
    try:
        if ast.dump(ast.parse(split)) == ast.dump(ast.parse(wrapped)):
            wrapped = split
    except SyntaxError:  # an assignment without brackets that could not take the second line
        pass
    if ast.dump(_without_docstrings(source)) != ast.dump(_without_docstrings(wrapped)):
        raise ValueError("wrapping would change the code")
    return wrapped


def _without_docstrings(source: str) -> ast.Module:
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
        ):
            node.value.value = ""
    return tree


if __name__ == "__main__":
    for name in sys.argv[1:]:
        path = Path(name)
        text = path.read_text(encoding="utf-8")
        if (result := wrap(text)) != text:
            path.write_text(result, encoding="utf-8")
            print(name)
