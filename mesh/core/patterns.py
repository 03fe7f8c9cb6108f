"""Regular expressions whose cost is linear in the text, whatever the pattern: selectors come from peers.

A subset of the usual syntax: characters, ``.``, classes (``[a-z]``, ``\\d``, ``\\w``, ``\\s``, their
opposites) and groups (``(...)`` or ``(?:...)``, which remember nothing), each with ``*``, ``+``, ``?`` or
``{m,n}``; ``^``, ``$`` and ``|``. There are no backreferences or lookarounds.

A pattern becomes an automaton of atoms, each of which matches one character, and of what may come after each.
It is in all of its states at once, as the bits of one integer, and nothing is tried twice.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from operator import or_
from typing import NamedTuple

MAX_PATTERN_CHARS = 128

MAX_STATES = 512
"""Characters, classes and repetitions in a pattern, with what is repeated written out."""

MAX_TEXT_CHARS = 64 * 1024
"""Text beyond this is not looked at."""

_MAX_CACHED = 512

_ATOM = re.compile(r"\\[dDwWsSntr]|\\[^A-Za-z0-9]|\[\^?\]?(?:\\.|[^\]\\])*\]|[^\\\[\](){}*+?|^$]", re.DOTALL)
_REPEAT = re.compile(r"[*+?]|\{(\d{1,3})(,(\d{1,3})?)?\}")
_SET_OPERATION = re.compile(r"(?<!\\)(\[|--|&&|\|\||~~)")

_NO_ATOMS = ("", "|", "^", "$")
_CLASSES = tuple("dDwWsS")
_CONTROLS = {r"\n": "\n", r"\t": "\t", r"\r": "\r"}

_FOUND_AT_END, _FOUND, _FIRST_ATOM = 1, 2, 4
"""Bits of a state: found if the text ends here; found; the first of the atoms that may match next."""


def compile_pattern(pattern: str) -> Callable[[str], bool]:
    """A function that tells whether ``pattern`` is found in a text.

    Raises:
        ValueError: the pattern is malformed, too long, or uses more than the subset; it says where.
    """
    if len(pattern) > MAX_PATTERN_CHARS:
        raise ValueError(f"{len(pattern)} characters are over the limit of {MAX_PATTERN_CHARS}")
    ways = _Ways()
    start = _Parser(pattern, ways).parsed().before(ways.end)
    return _Automaton(ways, start).found_in


class _Part(NamedTuple):
    """A part of a pattern: how many states it stands for, and what adds the ways through it, given the way
    that comes after it, and returns the first of them."""

    size: int
    before: Callable[[int], int]


class _Ways:
    """What leads from the beginning of a pattern to its end: each way is an atom, an anchor or a fork, and
    the ways that may come next."""

    end = 0

    def __init__(self) -> None:
        self.kinds = [""]
        self.next: list[tuple[int, ...]] = [()]

    def add(self, kind: str, *after: int) -> int:
        self.kinds.append(kind)
        self.next.append(after)
        return len(self.kinds) - 1

    def row(self, parts: list[_Part], then: int) -> int:
        for part in reversed(parts):
            then = part.before(then)
        return then

    def repeated(self, part: _Part, low: int, high: int | None, then: int) -> int:
        way = then
        if high is None:
            way = self.add("|")  # what is repeated comes back to here
            self.next[way] = (part.before(way), then)
        else:
            for _ in range(high - low):
                way = self.add("|", part.before(way), then)
        return self.row([part] * low, way)


class _Parser:
    def __init__(self, pattern: str, ways: _Ways) -> None:
        self._pattern = pattern
        self._ways = ways
        self._at = 0

    def parsed(self) -> _Part:
        part = self._choice()
        if self._at < len(self._pattern):
            raise self._refused(self._at, "closes no group")
        return part

    def _choice(self) -> _Part:
        start = self._at
        rows = [self._row()]
        while self._taken("|"):
            rows.append(self._row())
        if len(rows) == 1:
            return rows[0]
        size = self._bounded(1 + sum(row.size for row in rows), start)
        return _Part(size, lambda then: self._ways.add("|", *[row.before(then) for row in rows]))

    def _row(self) -> _Part:
        parts: list[_Part] = []
        size = 0
        while self._at < len(self._pattern) and self._pattern[self._at] not in "|)":
            start = self._at
            parts.append(self._repeated(start, self._single()))
            size = self._bounded(size + parts[-1].size, start)
        return _Part(size, lambda then: self._ways.row(parts, then))

    def _single(self) -> _Part:
        start = self._at
        if self._taken("("):
            if self._taken("?") and not self._taken(":"):
                raise self._refused(start, "of groups, there are (...) and (?:...) only")
            group = self._choice()
            if not self._taken(")"):
                raise self._refused(start, "is not closed")
            return group
        text = self._pattern[start]
        if text not in "^$":
            text = self._atom(start)
        self._at += len(text)
        return _Part(1, lambda then: self._ways.add(text, then))

    def _atom(self, start: int) -> str:
        found = _ATOM.match(self._pattern, start)
        if found is None:
            raise self._refused(start, "is not understood, or not allowed")
        text = found.group()
        if text.startswith("["):
            if _SET_OPERATION.search(text, 1):
                raise self._refused(start, "write - & | ~ [ with a backslash where they stand for themselves")
            try:
                re.compile(text)
            except re.error as error:
                raise self._refused(start, error.msg) from error
        return text

    def _repeated(self, start: int, part: _Part) -> _Part:
        found = _REPEAT.match(self._pattern, self._at)
        if found is None:
            return part
        if self._pattern[start] in "^$":
            raise self._refused(start, "cannot be repeated")
        self._at = found.end()
        self._taken("?")  # how much of the text is taken makes no difference
        least, comma, most = found.groups()
        if least is None:
            low = int(found.group() == "+")
            high = 1 if found.group() == "?" else None
        else:
            low = int(least)
            high = low if comma is None else None if most is None else int(most)
        if high is not None and high < low:
            raise self._refused(start, "is repeated fewer than no times")
        copies = low + 1 if high is None else high
        return _Part(copies * (part.size + 1), lambda then: self._ways.repeated(part, low, high, then))

    def _taken(self, character: str) -> bool:
        taken = self._pattern.startswith(character, self._at)
        self._at += taken
        return taken

    def _bounded(self, size: int, start: int) -> int:
        if size > MAX_STATES:
            raise self._refused(start, f"more than {MAX_STATES} states, with repetitions written out")
        return size

    def _refused(self, at: int, why: str) -> ValueError:
        return ValueError(f"{self._pattern[at : at + 20]!r} (character {at + 1}): {why}")


class _Automaton:
    def __init__(self, ways: _Ways, start: int) -> None:
        atoms = [way for way, kind in enumerate(ways.kinds) if kind not in _NO_ATOMS]
        bits = {way: _FIRST_ATOM << place for place, way in enumerate(atoms)}
        reached = _reached(ways, bits, at_beginning=False)
        self._after = [reached[ways.next[way][0]] for way in atoms]
        self._anywhere = reached[start]
        self._at_beginning = _reached(ways, bits, at_beginning=True)[start]
        self._bytes = (len(atoms) + 7) // 8
        self._literals: dict[str, int] = {}
        classes: dict[str, int] = {}
        for place, way in enumerate(atoms):
            literal = _literal(ways.kinds[way])
            known, text = (classes, ways.kinds[way]) if literal is None else (self._literals, literal)
            known[text] = known.get(text, 0) | 1 << place
        self._classes = [(re.compile(text), places) for text, places in classes.items()]

    def found_in(self, text: str) -> bool:
        """Whether the pattern is found in ``text``."""
        state = self._at_beginning
        if state & _FOUND:
            return True
        moves: dict[tuple[int, str], int] = {}
        accepted: dict[str, int] = {}
        after: list[dict[int, int]] = [{} for _ in range(self._bytes)]
        for character in text[:MAX_TEXT_CHARS]:
            known = moves.get((state, character))
            if known is None:
                places = accepted.get(character)
                if places is None:
                    places = accepted[character] = self._accepting(character)
                known = self._next(state // _FIRST_ATOM & places, after)
                if len(moves) < _MAX_CACHED:
                    moves[state, character] = known
            state = known
            if state & _FOUND:
                return True
        return bool(state & _FOUND_AT_END) and len(text) <= MAX_TEXT_CHARS

    def _next(self, matched: int, after: list[dict[int, int]]) -> int:
        """The state once some atoms have matched; ``after`` keeps what eight of them at a time lead to."""
        state = self._anywhere
        for index, eight in enumerate(matched.to_bytes(self._bytes, "little")):
            if eight:
                leads = after[index].get(eight)
                if leads is None:
                    leads = 0
                    for place in range(8):
                        if eight >> place & 1:
                            leads |= self._after[8 * index + place]
                    after[index][eight] = leads
                state |= leads
        return state

    def _accepting(self, character: str) -> int:
        places = self._literals.get(character, 0)
        for pattern, those in self._classes:
            if pattern.fullmatch(character) is not None:
                places |= those
        return places


def _reached(ways: _Ways, bits: dict[int, int], *, at_beginning: bool) -> list[int]:
    """The state that each way leads to before another character."""
    reached = [_FOUND] + [0] * (len(ways.kinds) - 1)
    before: list[int] = []
    while reached != before:  # repetitions lead back
        before = list(reached)
        for way, (kind, then) in enumerate(zip(ways.kinds, ways.next, strict=True)):
            if kind == "|":
                reached[way] = functools.reduce(or_, [reached[after] for after in then])
            elif kind == "$":
                reached[way] = _FOUND_AT_END * bool(reached[then[0]] & (_FOUND | _FOUND_AT_END))
            elif kind == "^":
                reached[way] = reached[then[0]] * at_beginning
            elif kind:
                reached[way] = bits[way]
    return reached


def _literal(atom: str) -> str | None:
    """The one character that an atom matches; ``None``: there are several."""
    if atom == "." or atom[0] == "[" or atom[1:] in _CLASSES:
        return None
    return _CONTROLS.get(atom, atom[-1])
