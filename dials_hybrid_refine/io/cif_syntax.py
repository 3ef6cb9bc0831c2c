"""CIF text to data items.

iotbx's own parser is not used: in DIALS 3.12 a file cut off within the header of a loop makes it
crash the interpreter, and its messages run over many lines.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from dials_hybrid_refine.io.structure_atoms import ModelError

#: values of the items of a data block; names in lower case, with the _ of CIF 1 for the . of DDLm
Items = dict[str, list[str]]

_TOKEN = re.compile(
    r"""
    (?P<comment> \#[^\n]*)
    | ^;(?P<text> .*?)^;(?=\s|\Z)
    | (?P<triple> '{3}|"{3})(?P<long> .*?)(?P=triple)(?=\s|\Z)
    | (?P<quote> ['"])(?P<quoted> [^\n]*?)(?P=quote)(?=\s|\Z)
    | (?P<bare> \S+)
    """,
    re.MULTILINE | re.DOTALL | re.VERBOSE,
)


def parse_cif(text: str) -> dict[str, Items]:
    """The data blocks of a CIF, by name.

    Raises:
        ModelError: names the line where the text stops being CIF.
    """
    blocks: dict[str, Items] = {}
    items: Items | None = None
    block: Items = {}
    tokens = _Tokens(text.replace("\r\n", "\n").replace("\r", "\n"))
    while not tokens.at_end:
        word, is_value = tokens.take()
        lower = word.lower()
        if is_value:
            raise tokens.error(f"the value {word[:20]!r} belongs to no item")
        if lower.startswith("data_"):
            name = word[5:] if word[5:] not in blocks else f"{word[5:]}_{len(blocks) + 1}"
            items = block = blocks.setdefault(name, {})
        elif lower.startswith("save_"):
            items = {} if len(word) > 5 else block  # frames of a dictionary are not kept
        elif lower == "global_":
            items = {}
        elif items is None:
            raise tokens.error("there is no data block (data_...) yet")
        elif lower == "loop_":
            _add_loop(tokens, items)
        else:
            _add(tokens, items, word, [tokens.value_of(word)])
    return blocks


class _Tokens:
    """The words of a CIF, one after the other."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._words = self._split()
        self._position = 0
        self._next = next(self._words, None)

    def _split(self) -> Iterator[tuple[str, bool, int]]:
        for match in _TOKEN.finditer(self._text):
            if match["comment"] is not None:
                continue
            position, word = match.start(), match["bare"]
            if word is None:
                kinds = (match["text"], match["long"], match["quoted"])
                yield next(k for k in kinds if k is not None), True, position
                continue
            starts_line = position == 0 or self._text[position - 1] == "\n"
            if word[0] in "'\"" or (word[0] == ";" and starts_line):
                self._position = position
                raise self.error("a text or quotation has no end")
            special = word[0] == "_" or re.match(r"(data_|save_|loop_$|global_$)", word, re.I)
            yield word, not special, position

    @property
    def at_end(self) -> bool:
        return self._next is None

    @property
    def at_value(self) -> bool:
        return self._next is not None and self._next[1]

    @property
    def at_name(self) -> bool:
        return self._next is not None and not self._next[1] and self._next[0][0] == "_"

    def take(self) -> tuple[str, bool]:
        """The next word, and whether it is a value."""
        assert self._next is not None
        word, is_value, self._position = self._next
        self._next = next(self._words, None)
        return word, is_value

    def value_of(self, name: str) -> str:
        if not self.at_value:
            raise self.error(f"{name} has no value")
        return self.take()[0]

    def error(self, reason: str) -> ModelError:
        line = 1 + self._text.count("\n", 0, self._position)
        return ModelError(
            f"not readable as CIF file (line {line}: {reason}): it is truncated or corrupt, give a complete one"
        )


def _add(tokens: _Tokens, items: Items, name: str, values: list[str]) -> None:
    key = name.lower().replace(".", "_")
    if key in items:
        raise tokens.error(f"{name} is given twice")
    items[key] = values


def _add_loop(tokens: _Tokens, items: Items) -> None:
    names, values = [], []
    while tokens.at_name:
        names.append(tokens.take()[0])
    while tokens.at_value:
        values.append(tokens.take()[0])
    if not names or not values or len(values) % len(names):
        start = f"the loop of {names[0]}" if names else "a loop"
        raise tokens.error(f"{start} has {len(values)} values for {len(names)} columns")
    for i, name in enumerate(names):
        _add(tokens, items, name, values[i :: len(names)])
