"""Regular expressions whose cost is linear in the text, whatever the pattern: selectors come from peers.

A subset of the usual syntax: characters, ``.``, classes (``[a-z]``, ``\\d``, ``\\w``, ``\\s``, their
opposites), each with ``*``, ``+``, ``?`` or ``{m,n}``; ``^``, ``$`` and ``|``. There are no groups,
backreferences or lookarounds. All alternatives run at once, as the bits of one integer, and nothing is tried
twice.
"""

from __future__ import annotations

import re
from collections.abc import Callable

MAX_ATOMS = 256
"""Characters and classes in a pattern, repetitions written out."""

MAX_TEXT_CHARS = 64 * 1024
"""Text beyond this is not looked at."""

_MAX_CACHED = 512

_SET_OPERATION = re.compile(r"(?<!\\)(\[|--|&&|\|\||~~)")

_ATOM = r"\\[dDwWsSntr]|\\[^A-Za-z0-9]|\[\^?\]?(?:\\.|[^\]\\])*\]|[^\\\[\](){}*+?|^$]"
_TOKEN = re.compile(rf"({_ATOM})(\*|\+|\?|\{{(\d{{1,3}})(,(\d{{1,3}})?)?\}})?", re.DOTALL)
_ALTERNATIVE = re.compile(r"(?:\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|[^|\\\[])*", re.DOTALL)


def compile_pattern(pattern: str) -> Callable[[str], bool]:
    """A function that tells whether ``pattern`` is found in a text.

    Raises:
        ValueError: the pattern is malformed, too long, or uses more than the subset.
    """
    machine = _Machine()
    position = 0
    while True:
        found = _ALTERNATIVE.match(pattern, position)
        assert found is not None  # it matches nothing, too
        machine.add(found.group())
        position = found.end()
        if position == len(pattern):
            return machine.found_in
        if pattern[position] != "|":
            raise ValueError(f"{pattern[position:][:20]!r} is not closed")
        position += 1


class _Machine:
    """Bit i of a state: the first i atoms of the row have been matched by the text up to here."""

    def __init__(self) -> None:
        self._atoms: list[re.Pattern[str]] = []
        self._skippable = 0  # bit i: atom i may be left out
        self._repeatable = 0  # bit i: atom i may be matched again
        self._first = 0  # where alternatives begin that may begin anywhere
        self._anchored = 0  # where those begin that must be at the beginning of the text
        self._final = 0
        self._final_at_end = 0
        self._bits: dict[str, int] = {}

    def add(self, alternative: str) -> None:
        """One alternative."""
        anchored = alternative.startswith("^")
        before_end = alternative[:-1]
        escaped = (len(before_end) - len(before_end.rstrip("\\"))) % 2 == 1
        at_end = alternative.endswith("$") and not escaped
        body = alternative[anchored : len(alternative) - at_end]
        start = 1 << len(self._atoms)
        position = 0
        while position < len(body):
            token = _TOKEN.match(body, position)
            if token is None:
                raise ValueError(f"{body[position:][:20]!r} is not understood, or not allowed")
            self._add_atom(*token.groups())
            position = token.end()
        end = 1 << len(self._atoms)
        self._atoms.append(_NEVER)  # keeps the alternatives apart
        if anchored:
            self._anchored |= start
        else:
            self._first |= start
        if at_end:
            self._final_at_end |= end
        else:
            self._final |= end

    def _add_atom(
        self, text: str, repeat: str | None, least: str | None, comma: str | None, most: str | None
    ) -> None:
        if text.startswith("[") and _SET_OPERATION.search(text, 1):
            raise ValueError(f"{text!r}: write - & | ~ [ with a backslash where they stand for themselves")
        try:
            atom = re.compile(text)
        except re.error as error:
            raise ValueError(f"{text!r}: {error}") from error
        if least is not None:
            low = int(least)
            high = low if comma is None else (int(most) if most is not None else None)
        else:
            low = 0 if repeat in ("*", "?") else 1
            high = None if repeat in ("*", "+") else 1
        if high is not None and high < low:
            raise ValueError(f"{repeat} repeats fewer than no times")
        copies = max(low, 1) if high is None else high
        if len(self._atoms) + copies > MAX_ATOMS:
            raise ValueError(f"more than {MAX_ATOMS} characters, with repetitions written out")
        for copy in range(copies):
            bit = 1 << len(self._atoms)
            if copy >= low:
                self._skippable |= bit
            self._atoms.append(atom)
        if high is None:
            self._repeatable |= 1 << (len(self._atoms) - 1)

    def found_in(self, text: str) -> bool:
        """Whether an alternative is found in ``text``."""
        repeatable, first, final = self._repeatable, self._skip(self._first), self._final
        state = self._skip(self._first | self._anchored)
        if state & final:
            return True
        bits, cache = self._bits, {}  # type: dict[str, int], dict[tuple[int, str], int]
        for character in text[:MAX_TEXT_CHARS]:
            known = cache.get((state, character))
            if known is None:
                accepted = bits.get(character)
                if accepted is None:
                    accepted = self._accepting(character)
                matched = state & accepted
                # A repeatable atom that has matched is also about to be matched.
                known = self._skip((matched << 1) | (matched & repeatable)) | first
                if len(cache) < _MAX_CACHED:
                    cache[state, character] = known
            state = known
            if state & final:
                return True
        return bool(state & self._final_at_end) and len(text) <= MAX_TEXT_CHARS

    def _skip(self, state: int) -> int:
        """The state, and what it comes to by leaving out what may be left out."""
        # In every run of skippable atoms, the bits from the lowest one of the state to just above the run are
        # to be set: those are the ones that an addition changes.
        skippable = self._skippable
        return state | (((state & skippable) + skippable) ^ skippable)

    def _accepting(self, character: str) -> int:
        accepted = 0
        for index, atom in enumerate(self._atoms):
            if atom.fullmatch(character) is not None:
                accepted |= 1 << index
        if len(self._bits) < _MAX_CACHED:
            self._bits[character] = accepted
        return accepted


_NEVER = re.compile(r"(?!)")
