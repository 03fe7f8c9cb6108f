"""Throws made-up updates at the way that one takes into a document, and uses what was let through.

    python -m tests.fuzz.updates --inputs 1000000 [--seed N] [--save FILE]

Inputs are made and tried in processes of their own: a crash, a hang or a hunger for memory ends one of them,
is told with the input that did it, and the next goes on after it. Input N of a seed is always the same.
"""

from __future__ import annotations

import argparse
import faulthandler
import mmap
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pycrdt

from mesh.core import document, library
from mesh.core.browsers import contribute, unmarked
from mesh.core.document import ABSENT, DocumentState, Merged, arrive
from mesh.core.library import ROOT
from mesh.core.live import LiveDocuments
from mesh.core.update_reader import EMBED, FORMAT, GC, STRING, Item
from mesh.core.updates import items_of, read_update
from mesh.core.wire import Change
from mesh.errors import InvalidDocument
from tests.fuzz.bytes_of import damaged, number, text
from tests.unit.edits import plan_merge

CORPUS = Path(__file__).parent / "corpus" / "updates.hex"

STUCK_SECONDS = 10
"""An input that takes longer ends its process."""

SLOW_SECONDS = 0.25
"""CPU time that one input may take."""

MEMORY_BYTES = 2 << 30
"""Address space of a process."""

_PER_PROCESS = 5_000
_MAX_INPUT_BYTES = 1 << 16


class Harm(AssertionError):
    """What was let through is not harmless."""


# --- inputs -----------------------------------------------------------------------------------


def _real() -> list[bytes]:
    """States and deltas that Yjs clients have written, of everything that a document may hold."""
    doc: pycrdt.Doc[Any] = pycrdt.Doc(client_id=7)
    fields = doc.get(ROOT, type=pycrdt.Map)
    found = [doc.get_update()]
    for key, value in [("/a", 1.5), ("/b", "two"), ("/c", [1, {"d": None}]), ("/a", True), ("/d", {})]:
        before = doc.get_state()
        fields[key] = value
        found += [doc.get_update(before), doc.get_update()]
    del fields["/b"]
    found.append(doc.get_update())
    notes = doc.get("notes", type=pycrdt.Text)
    notes += "Hello 😀, world"
    notes.format(0, 5, {"bold": True})
    notes.insert_embed(3, {"image": "a.png"})
    del notes[1:3]
    array = doc.get("list", type=pycrdt.Array)
    array.extend([1, "two", {"three": [3]}])
    before = doc.get_state()
    array.append(pycrdt.Map({"k": pycrdt.Array([1, 2]), "t": pycrdt.Text("inner")}))
    del array[0]
    found += [doc.get_update(before), doc.get_update()]
    other: pycrdt.Doc[Any] = pycrdt.Doc(client_id=8)
    other.get(ROOT, type=pycrdt.Map)["/a"] = "mine"
    return [*found, other.get_update(), pycrdt.merge_updates(found[-1], other.get_update())]


def saved() -> list[bytes]:
    """The corpus: what has once done harm, or found a way through."""
    return [bytes.fromhex(line) for line in CORPUS.read_text().split()]


REAL = _real()
SEEDS = REAL + saved()

_CLIENTS = (1, 2, 7, 8, 9, 2**32, 2**53 - 1)
_KINDS = (0, 1, 1, 4, 4, 5, 6, 7, 7, 8, 8, 8, 8, 8)
_SCALARS = (
    b"\x7e",
    b"\x79",
    b"\x78",
    b"\x77\x01x",
    b"\x7d\x01",
    b"\x7d\x80\x01",
    b"\x7f",
    b"\x7c" + bytes(4),
)
_VALUES = (
    *_SCALARS,
    b"\x7b\x7f\xf0" + bytes(6),
    b"\x75\x01\x7e",
    b"\x76\x01\x01k\x78",
    b"\x76\x00",
    b"\x74\x01b",
)
_ROOTS = (ROOT, ROOT, "notes", "list", "new", "")
_KEYS = ("/a", "/b", "/new", "plain", "")


def invented(rng: random.Random) -> bytes:
    """An update with items of every kind, most of them where one can be."""
    blocks: list[tuple[int, int, list[bytes]]] = []
    elements = [(7, rng.randrange(12))]
    clients = rng.sample(_CLIENTS, rng.randint(1, 3))
    for client in clients:
        clock = start = 0 if rng.random() < 0.8 else rng.choice((1, 5, 6, 2**29 - 1, 2**31))
        items = []
        for _ in range(rng.randint(1, 6)):
            item, length = _item(rng, elements)
            items.append(item)
            elements.append((client, clock + rng.randrange(length or 1)))
            clock += length
        blocks.append((client, start, items))
    update = bytearray(number(len(blocks)))
    for client, start, items in blocks:
        update += number(len(items)) + number(client) + number(start) + b"".join(items)
    deleting = rng.sample(clients, rng.randint(0, len(clients)))
    update += number(len(deleting))
    for client in deleting:
        update += number(client) + number(1)
        update += number(rng.choice((0, 0, 1, 3))) + number(rng.choice((1, 1, 2, 5, 2**29)))
    return bytes(update)


def _item(rng: random.Random, elements: list[tuple[int, int]]) -> tuple[bytes, int]:
    kind = rng.choice(_KINDS)
    if kind == 0:
        length = rng.choice((1, 2, 1000))
        return bytes((0,)) + number(length), length
    info, head = kind, b""
    if rng.random() < 0.5:
        for flag in (0x80, 0x40):
            if rng.random() < (0.7 if flag == 0x80 else 0.3):
                info |= flag
                head += b"".join(map(number, rng.choice(elements)))
    if not head:
        if rng.random() < 0.75:
            root = rng.choice(_ROOTS)
            head = number(1) + text(root)
            keyed = rng.random() < (0.95 if root == ROOT else 0.1)
        else:
            head = number(0) + b"".join(map(number, rng.choice(elements)))
            keyed = rng.random() < 0.5
        if keyed:
            info |= 0x20
            head += text(rng.choice(_KEYS))
    content, length = _content(rng, kind)
    return bytes((info,)) + head + content, length


def _content(rng: random.Random, kind: int) -> tuple[bytes, int]:
    if kind == 1:
        length = rng.choice((1, 1, 2, 100))
        return number(length), length
    if kind == 4:
        words = rng.choice(("x", "ab", "é", "😀", "a😀b", "\0", "\ud7ff"))
        return text(words), len(words.encode("utf-16-le")) // 2
    if kind == 5:
        return text(rng.choice(("{}", "1", '{"a":[1]}', "null", "1e999"))), 1
    if kind == 6:
        return text(rng.choice(("bold", "", "i"))) + text(rng.choice(("true", "null", "{}"))), 1
    if kind == 7:
        return number(rng.choice((0, 1, 2, 2, 3, 4, 6))) + (text("p") if rng.random() < 0.1 else b""), 1
    length = rng.choice((1, 1, 1, 2, 3))
    return number(length) + b"".join(rng.choice(_VALUES) for _ in range(length)), length


def made(rng: random.Random) -> bytes:
    """One input."""
    way = rng.random()
    if way < 0.4:
        update = invented(rng)
        return damaged(rng, update, SEEDS) if rng.random() < 0.2 else update
    if way < 0.5:
        pair = rng.sample(SEEDS, 2)
        try:
            return bytes(pycrdt.merge_updates(pair[0], damaged(rng, pair[1], REAL)))
        except BaseException:  # noqa: BLE001 - a panic is one, and the library is not what is tried here
            return pair[0]
    return damaged(rng, rng.choice(SEEDS), SEEDS)[:_MAX_INPUT_BYTES]


# --- trying one -------------------------------------------------------------------------------


def _held() -> list[DocumentState]:
    vector = {b"h" * 8: 1}
    return [ABSENT, *(DocumentState((0, 0), update, vector) for update in (REAL[-6], REAL[-3], REAL[-1]))]


HELD = _held()
_MORE = REAL[-2]


def offered(update: bytes, clock: bytes, since: dict[bytes, int] | None = None) -> Change:
    """A change as a peer sends it."""
    return Change("c", "d", (0, 0), since or {}, {clock: 1}, update)


def try_one(update: bytes, documents: Sequence[DocumentState] = HELD) -> int:
    """Let ``update`` arrive at each of some documents; how many took it.

    Raises:
        Harm: one took it that should not have.
    """
    taken = 0
    for held in documents:
        kept = LiveDocuments()
        try:
            outcome = arrive(held, offered(update, b"k" * 8), kept)
        except InvalidDocument:
            continue
        if not isinstance(outcome, Merged):
            continue
        taken += 1
        try:
            _use(held, outcome, kept)
            _contribute(held, update)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            raise Harm(f"{update.hex()} harms where {held.update.hex()} is held: {error!r}") from error
    return taken


def _contribute(held: DocumentState, update: bytes) -> None:
    """Let a browser say it, as its whole document: others have to take what becomes of that."""
    name = ("c", "d")
    try:
        incarnation, rest = unmarked(name, update)
        said = contribute(held, rest, incarnation=incarnation, tick=lambda: (b"g" * 8, 1), name=name)
    except InvalidDocument:
        return
    if said is not None:
        change, merged = said
        elsewhere = arrive(held, change)
        assert isinstance(elsewhere, Merged), "what a browser said cannot be passed on"
        assert elsewhere.fields == merged.fields, "what a browser said reads differently elsewhere"


def _use(held: DocumentState, merged: Merged, kept: LiveDocuments) -> None:
    """Everything that becomes of a document later."""
    state = merged.state
    elsewhere = arrive(ABSENT, offered(state.update, b"e" * 8))
    assert isinstance(elsewhere, Merged), "what was let in cannot be passed on"
    assert elsewhere.fields == merged.fields, "it reads differently elsewhere"
    library.difference(state.update, library.state_vector(HELD[-1].update))
    read_update(library.difference(state.update, library.state_vector(held.update)), library.ROOT_NAME)
    assert library.difference(state.update, library.state_vector(state.update))
    more = arrive(state, offered(_MORE, b"m" * 8), kept)
    assert isinstance(more, Merged), "it takes no other change"
    edited = document.edit(
        state, lambda registers: plan_merge(registers, {"new": 1}), tick=lambda: (b"t" * 8, 1), client_id=99
    )
    assert edited is None or edited[1].fields is not None
    document.anew(state, b"a" * 8, 1, former=None, grown={}, client_id=5, yielding_id=6)
    _read(state.update)


def _read(update: bytes) -> None:
    """Read a state as a Yjs client does that knows what its roots are."""
    doc: pycrdt.Doc[Any] = pycrdt.Doc()
    doc.apply_update(update)
    for root, is_text in _roots_of(update).items():
        if is_text:
            str(doc.get(root, type=pycrdt.Text))
        else:
            doc.get(root, type=pycrdt.Array).to_py()
    doc.get(ROOT, type=pycrdt.Map).to_py()
    assert doc.get_update()


def _place(item: Item) -> tuple[int, int]:
    return item.client, item.clock


def _roots_of(update: bytes) -> dict[str, bool]:
    """The collaborative roots of a state, and whether they are texts."""
    items, _ = items_of(update, library.ROOT_NAME)
    known = sorted((item for item in items if item.kind != GC), key=_place)

    def at(client: int, clock: int) -> Item | None:
        index = bisect_right(known, (client, clock), key=_place)
        holder = known[index - 1] if index else None
        return holder if holder is not None and holder.client == client and clock < holder.end else None

    found: dict[str, bool] = {}
    for item in items:
        near: Item | None = item
        while near is not None and near.parent is None:
            near = at(*(near.left or near.right or (0, 0)))
        if near is not None and isinstance(near.parent, str) and near.parent != ROOT:
            is_text = item.kind in (STRING, EMBED, FORMAT)
            found[near.parent] = found.get(near.parent, False) or is_text
    return found


# --- many -------------------------------------------------------------------------------------


def _work(seed: int, first: int, inputs: int, current: Path) -> None:
    """Try some inputs; the one being tried is in the file ``current``, so that it outlives this process."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    with current.open("r+b") as file:
        memory = mmap.mmap(file.fileno(), 8 + 4 + _MAX_INPUT_BYTES * 2)
    taken = 0
    for index in range(first, first + inputs):
        rng = random.Random(f"{seed}:{index}")
        update = made(rng)
        memory[:12] = index.to_bytes(8) + len(update).to_bytes(4)
        memory[12 : 12 + len(update)] = update
        faulthandler.dump_traceback_later(STUCK_SECONDS, exit=True)
        started = time.process_time()
        taken += try_one(update, [rng.choice(HELD)])
        if time.process_time() - started > SLOW_SECONDS:
            raise Harm(f"{update.hex()} takes {time.process_time() - started:.2f} s")
    faulthandler.cancel_dump_traceback_later()
    print(taken)


def fuzz(inputs: int, seed: int, told: Callable[[str, bytes], None]) -> Counter[str]:
    """Try many inputs in processes; ``told`` of every one that ended its process, and how."""
    totals: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        current = Path(folder) / "current"
        done = 0
        while done < inputs:
            current.write_bytes(bytes(8 + 4 + _MAX_INPUT_BYTES * 2))
            some = min(_PER_PROCESS, inputs - done)
            command = [sys.executable, "-m", "tests.fuzz.updates", "--work", str(current)]
            command += ["--seed", str(seed), "--first", str(done), "--inputs", str(some)]
            ended = subprocess.run(command, capture_output=True, text=True, check=False)
            if ended.returncode == 0:
                totals["taken"] += int(ended.stdout)
                done += some
            else:
                memory = current.read_bytes()
                update = memory[12 : 12 + int.from_bytes(memory[8:12])]
                told(f"exit {ended.returncode}: {_said(ended.stderr)}", update)
                totals["harmful"] += 1
                done = int.from_bytes(memory[:8]) + 1
    totals["inputs"] = done
    return totals


def _said(stderr: str) -> str:
    """What a process said last: of its error, or of where it was stuck."""
    lines = stderr.strip().splitlines() or ["nothing said"]
    stuck = next((i for i, line in enumerate(lines) if line.startswith("Timeout")), None)
    return lines[-1][-400:] if stuck is None else " ".join(lines[stuck : stuck + 6])


def main() -> int:
    """What the command line asks for; 1 if anything did harm."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--save", type=Path, help="the file to add what did harm to")
    parser.add_argument("--first", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work is not None:
        _work(arguments.seed, arguments.first, arguments.inputs, arguments.work)
        return 0

    def told(how: str, update: bytes) -> None:
        print(f"{how}\n  {update.hex()[:400]}", flush=True)
        if arguments.save is not None:
            with arguments.save.open("a") as file:
                file.write(update.hex() + "\n")

    started = time.monotonic()
    totals = fuzz(arguments.inputs, arguments.seed, told)
    print(f"{dict(totals)} in {time.monotonic() - started:.0f} s, process {os.getpid()}")
    return 1 if totals["harmful"] else 0


if __name__ == "__main__":
    sys.exit(main())
