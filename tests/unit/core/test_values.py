"""Documents as registers: nothing is lost, writes do what a plain dictionary would, and replicas agree."""

from __future__ import annotations

import itertools
import json
import math
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mesh.core.plans import Writes, plan_increment, plan_unset
from mesh.core.registers import Registers, flatten, unflatten
from mesh.core.values import (
    MAX_DEPTH,
    MAX_SAFE_INTEGER,
    check_collection,
    check_id,
    escape,
    identical,
    path_of,
    pointer_of,
    split_path,
)
from mesh.errors import InvalidCollectionName, InvalidDocument
from tests.unit.edits import plan_merge, plan_replace

keys = st.text(st.characters(codec="utf-8"), max_size=4) | st.sampled_from(["a", "b", "/", "~", "~1", ""])
numbers = st.integers(-MAX_SAFE_INTEGER, MAX_SAFE_INTEGER) | st.floats(allow_nan=False, allow_infinity=False)
scalars = st.none() | st.booleans() | numbers | st.text(st.characters(codec="utf-8"), max_size=8)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=12,
)
documents = st.dictionaries(keys.filter(lambda key: key != "_id"), values, max_size=5)


def applied(held: Registers, writes: Writes) -> Registers:
    assert not writes.sets.keys() & writes.removes
    return {key: value for key, value in held.items() if key not in writes.removes} | writes.sets


def as_json(value: Any) -> Any:
    """Whole floats are integers, as they are once stored."""
    if isinstance(value, float) and value.is_integer() and abs(value) <= MAX_SAFE_INTEGER:
        return int(value)
    if isinstance(value, list):
        return [as_json(item) for item in value]
    return {key: as_json(item) for key, item in value.items()} if isinstance(value, dict) else value


def merged(held: Any, new: dict[str, Any]) -> dict[str, Any]:
    """What upsert means, on plain dictionaries."""
    result = dict(held) if isinstance(held, dict) else {}
    for key, value in new.items():
        result[key] = merged(result.get(key), value) if isinstance(value, dict) else value
    return result


@given(documents)
def test_flattening_loses_nothing(document: dict[str, Any]) -> None:
    registers = flatten(document)
    assert identical(unflatten(registers), as_json(document))
    assert all(key.startswith("/") for key in registers)
    assert not any(isinstance(value, dict) and value for value in registers.values())


@given(documents)
def test_the_order_of_keys_does_not_depend_on_how_they_came(document: dict[str, Any]) -> None:
    registers = flatten(document)
    backwards = dict(reversed(registers.items()))
    assert json.dumps(unflatten(registers)) == json.dumps(unflatten(backwards))


@given(documents, documents)
def test_a_merge_is_what_it_is_for_dictionaries(held: dict[str, Any], new: dict[str, Any]) -> None:
    registers = flatten(held)
    after = applied(registers, plan_merge(registers, new))
    assert identical(unflatten(after), merged(as_json(held), as_json(new)))
    assert not plan_merge(after, new), "what is equal already is not written"


@given(documents, documents)
def test_after_a_replacement_it_reads_exactly_so(held: dict[str, Any], new: dict[str, Any]) -> None:
    registers = flatten(held)
    after = applied(registers, plan_replace(registers, new))
    assert identical(unflatten(after), as_json(new))
    assert not plan_replace(after, new)


def paths_in(value: Any, above: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    if not isinstance(value, dict):
        return []
    return [path for key in value for path in [(*above, key), *paths_in(value[key], (*above, key))]]


@given(documents, st.data())
def test_unset_removes_fields_and_what_is_below(held: dict[str, Any], data: st.DataObject) -> None:
    paths = data.draw(st.lists(st.sampled_from([("no", "such"), ("nothing",), *paths_in(held)]), max_size=4))
    registers = flatten(held)
    pointers = ["".join("/" + part.replace("~", "~0").replace("/", "~1") for part in path) for path in paths]
    after = applied(registers, plan_unset(registers, pointers))

    model = json.loads(json.dumps(as_json(held)))
    for path in paths:
        at: Any = model
        for part in path[:-1]:
            at = at.get(part) if isinstance(at, dict) else None
        if isinstance(at, dict):
            at.pop(path[-1], None)
    assert identical(unflatten(after), model)


def test_unsetting_an_object_and_a_field_in_it_removes_the_object() -> None:
    held = flatten({"a": {"b": 1}, "c": 2})
    for order in itertools.permutations(["/a", "/a/b"]):
        assert unflatten(applied(held, plan_unset(held, order))) == {"c": 2}


def test_descendants_beat_a_register_above_them() -> None:
    for above in (5, [1], {}, {"hidden": 1}):
        registers = {"/a": above, "/a/b": 1}
        assert unflatten(registers) == {"a": {"b": 1}}
        assert registers == {"/a": above, "/a/b": 1}, "reading changes nothing"


# --- two replicas -------------------------------------------------------------------------------


class Replica:
    """Registers under the rule that of concurrent writes to a key the later stamp wins, as in a CRDT map."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.stamped: dict[str, tuple[int, str, Any]] = {}
        self.time = 0

    @property
    def registers(self) -> Registers:
        return {key: value for key, (_, _, value) in self.stamped.items() if value is not _GONE}

    def write(self, writes: Writes) -> None:
        self.time += 1
        for key in writes.removes:
            self.stamped[key] = (self.time, self.name, _GONE)
        for key, value in writes.sets.items():
            self.stamped[key] = (self.time, self.name, value)

    def merge(self, other: Replica) -> None:
        self.time = max(self.time, other.time)
        for key, stamp in other.stamped.items():
            if key not in self.stamped or stamp[:2] > self.stamped[key][:2]:
                self.stamped[key] = stamp


_GONE = object()

small = st.dictionaries(
    st.sampled_from("ab"),
    st.recursive(
        st.sampled_from([1, 2.5, "x", [1]]), lambda i: st.dictionaries(st.sampled_from("ab"), i), max_leaves=4
    ),
)
operations = st.one_of(
    st.tuples(st.just("merge"), small),
    st.tuples(st.just("replace"), small),
    st.tuples(st.just("unset"), st.sampled_from(["/a", "/b", "/a/a", "/a/b", "/b/a/a"])),
    st.tuples(st.just("increment"), st.sampled_from(["/a", "/b", "/a/a", "/a/b"])),
)


def operate(replica: Replica, operation: tuple[str, Any]) -> None:
    kind, argument = operation
    held = replica.registers
    if kind == "merge":
        replica.write(plan_merge(held, argument))
    elif kind == "replace":
        replica.write(plan_replace(held, argument))
    elif kind == "unset":
        replica.write(plan_unset(held, [argument]))
    else:
        try:
            replica.write(plan_increment(held, argument, 1, replica.name))
        except InvalidDocument:
            return


@given(
    st.lists(operations, max_size=4),
    st.lists(operations, max_size=4),
    st.lists(operations, max_size=4),
    documents,
)
def test_concurrent_writes_read_the_same_in_either_order(
    first: list[Any], left: list[Any], right: list[Any], last: dict[str, Any]
) -> None:
    a, b = Replica("aa"), Replica("bb")
    for operation in first:
        operate(a, operation)
    b.merge(a)
    for operation in left:
        operate(a, operation)
    for operation in right:
        operate(b, operation)
    a.merge(b)
    b.merge(a)
    assert json.dumps(unflatten(a.registers)) == json.dumps(unflatten(b.registers))
    # However strange the registers got, a write of everything makes it read exactly so.
    a.write(plan_replace(a.registers, last))
    assert identical(unflatten(a.registers), as_json(last))


@given(st.lists(operations, max_size=8), st.lists(operations, max_size=8), small)
def test_a_merge_into_whatever_replicas_made_is_a_merge_of_what_is_read(
    left: list[Any], right: list[Any], new: dict[str, Any]
) -> None:
    a, b = Replica("aa"), Replica("bb")
    for operation in left:
        operate(a, operation)
    for operation in right:
        operate(b, operation)
    a.merge(b)
    before = unflatten(a.registers)
    a.write(plan_merge(a.registers, new))
    assert identical(unflatten(a.registers), merged(before, new))


# --- counters -----------------------------------------------------------------------------------


@given(
    st.lists(st.integers(-1000, 1000) | st.floats(-1e6, 1e6), max_size=6),
    st.lists(st.integers(-9, 9), max_size=6),
)
def test_concurrent_increments_add_up(left: list[float], right: list[int]) -> None:
    a, b = Replica("aa"), Replica("bb")
    a.write(plan_merge({}, {"n": 10}))
    b.merge(a)
    for by in left:
        a.write(plan_increment(a.registers, "/n", by, "aa"))
    for by in right:
        b.write(plan_increment(b.registers, "/n", by, "bb"))
    a.merge(b)
    b.merge(a)
    assert unflatten(a.registers) == unflatten(b.registers)
    assert unflatten(a.registers)["n"] == pytest.approx(math.fsum([10, *left, *right]))


@pytest.mark.parametrize(
    ("write", "expected"),
    [
        (lambda held: plan_unset(held, ["/n"]), {"x": 1}),
        (lambda held: plan_merge(held, {"n": 3}), {"x": 1, "n": 3}),
        (lambda held: plan_merge(held, {"n": {"m": 1}}), {"x": 1, "n": {"m": 1}}),
        (lambda held: plan_replace(held, {"x": 2}), {"x": 2}),
    ],
)
def test_what_ends_a_counter_ends_increments_that_have_not_seen_it(write: Any, expected: Any) -> None:
    a, b = Replica("aa"), Replica("bb")
    a.write(plan_merge({}, {"x": 1}))
    a.write(plan_increment(a.registers, "/n", 5, "aa"))
    b.merge(a)
    b.write(plan_increment(b.registers, "/n", 7, "bb"))
    a.write(write(a.registers))
    a.merge(b)
    b.merge(a)
    assert unflatten(a.registers) == unflatten(b.registers) == expected
    if "n" not in expected:
        a.write(plan_increment(a.registers, "/n", 2, "aa"))
        assert unflatten(a.registers)["n"] == 2


def test_a_write_of_the_value_that_a_counter_shows_is_no_write() -> None:
    held = applied({}, plan_increment({}, "/n", 5, "aa"))
    assert not plan_merge(held, {"n": 5})
    assert not plan_replace(held, {"n": 5})
    assert not plan_increment(held, "/n", 0, "aa")


def test_merging_an_empty_object_into_an_object_of_counters_changes_nothing() -> None:
    held = applied({}, plan_increment({}, "/a/b", 5, "aa"))
    assert not plan_merge(held, {"a": {}})
    ended = applied(held, plan_replace(held, {}))
    assert unflatten(applied(ended, plan_merge(ended, {"a": {}}))) == {"a": {}}


def test_what_overflows_is_the_largest_number_in_every_order() -> None:
    for amounts in itertools.permutations([1.7e308, 1.7e308, -1.7e308, 1.0e308]):
        registers = {f"+0.c{i}/n": amount for i, amount in enumerate(amounts)}
        assert unflatten(registers) == {"n": pytest.approx(1.7976931348623157e308)}
    with pytest.raises(InvalidDocument, match="not a JSON number"):
        plan_increment({"+0.aa/n": 1.7e308}, "/n", 1.7e308, "aa")


@pytest.mark.parametrize(
    "key",
    [
        f"+{'9' * 5000}.aa/n",
        "+01.aa/n",
        "+\u0663.aa/n",
        "+-1.aa/n",
        "+1aa/n",
        "+1.aa",
        "+.aa/n",
        "+1 .aa/n",
        "",
        "x",
    ],
)
def test_a_key_that_is_no_counter_is_no_counter(key: str) -> None:
    registers = {"+1.aa/n": 2, key: 100}
    assert unflatten(registers) == {"n": 2}
    assert unflatten(dict(reversed(registers.items()))) == {"n": 2}
    assert applied(registers, plan_increment(registers, "/n", 1, "aa"))["+1.aa/n"] == 3


@pytest.mark.parametrize("held", ["text", True, None, [1], {}, {"a": 1}])
def test_only_numbers_can_be_incremented(held: Any) -> None:
    with pytest.raises(InvalidDocument, match="/n: holds something other than a number"):
        plan_increment(flatten({"n": held}), "/n", 1, "aa")


@pytest.mark.parametrize("by", ["1", None, True, [1], math.nan, math.inf])
def test_only_numbers_can_be_added(by: Any) -> None:
    with pytest.raises(InvalidDocument, match="/n"):
        plan_increment({}, "/n", by, "aa")


@pytest.mark.parametrize("pointer", ["/_id", "/_id/x"])
def test_the_id_is_no_field(pointer: str) -> None:
    with pytest.raises(InvalidDocument, match="never changes"):
        pointer_of(pointer)


@pytest.mark.parametrize("path", [5, None, b"x", "a\ud800", "a." * 32 + "b", "/a" * 33])
def test_what_no_field_can_be_called(path: Any) -> None:
    with pytest.raises(InvalidDocument):
        pointer_of(path)


def test_a_document_that_nests_too_deeply_cannot_be_read() -> None:
    assert unflatten({"/a" * 64: 1})
    for registers in ({"/a" * 990: 1}, {"+0.aa" + "/a" * 990: 1}):
        with pytest.raises(InvalidDocument, match="deep"):
            unflatten(registers)


# --- what cannot be stored ----------------------------------------------------------------------


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("value", "path"),
    [
        (math.nan, "/a/b/1"),
        (math.inf, "/a/b/1"),
        (2**53, "/a/b/1"),
        (-(2**53), "/a/b/1"),
        ("\ud800", "/a/b/1"),
        ({"\ud800": 1}, "/a/b/1"),
        ({1: 1}, "/a/b/1"),
        ({None: 1}, "/a/b/1"),
        ({"x/y": {"~": object()}}, "/a/b/1/x~1y/~0"),
        (b"bytes", "/a/b/1"),
        (bytearray(b"bytes"), "/a/b/1"),
        ({1, 2}, "/a/b/1"),
        (1j, "/a/b/1"),
        (nested(MAX_DEPTH - 2), "/a/b/1" + "/0" * (MAX_DEPTH - 3)),
    ],
)
def test_what_cannot_be_stored_is_refused_and_named(value: Any, path: str) -> None:
    for plan in (plan_merge, plan_replace):
        with pytest.raises(InvalidDocument) as caught:
            plan({}, {"ok": 1, "a": {"b": [0, value]}})
        assert caught.value.path == path
        assert str(caught.value).startswith(path)


@pytest.mark.parametrize(
    ("document", "path"),
    [
        ({"n": math.nan}, "/n"),
        ({"a/b": 2**53}, "/a~1b"),
        ({"s": "\udfff"}, "/s"),
        ({"o": {"s": "a\ud800"}}, "/o/s"),
        ({1: 1}, ""),
        ({"\ud800": 1}, ""),
        ({"o": {"\ud800": 1}}, "/o"),
        ({"l": [{"k": {2: 1}}]}, "/l/0/k"),
        ({"l": [1, [{"k": -math.inf}]]}, "/l/1/0/k"),
    ],
)
def test_the_path_is_that_of_the_offender(document: Any, path: str) -> None:
    with pytest.raises(InvalidDocument) as caught:
        flatten(document)
    assert caught.value.path == path


class Text(str):
    pass


class Whole(int):
    pass


def test_values_come_back_as_they_went_in() -> None:
    document = {
        "one": 1,
        "half": 1.5,
        "whole": 1.0,
        "yes": True,
        "text": "1",
        "zero": -0.0,
        "l": [1.0, {"x": 2.0}],
    }
    read = unflatten(flatten(document))
    assert json.dumps(read, sort_keys=True) == (
        '{"half": 1.5, "l": [1, {"x": 2}], "one": 1, "text": "1", "whole": 1, "yes": true, "zero": 0}'
    )
    plain = flatten({Text("k"): Text("é"), "n": Whole(3), "l": (1, Text("x"))})
    assert {type(key) for key in plain} == {str}
    assert [type(value) for value in plain.values()] == [str, int, list]
    assert type(plain["/l"][1]) is str


def test_the_limits_themselves_are_stored() -> None:
    document = {"n": MAX_SAFE_INTEGER, "m": -MAX_SAFE_INTEGER, "deep": nested(MAX_DEPTH - 1), "big": 1e300}
    assert identical(unflatten(flatten(document)), document)


def test_something_that_contains_itself_is_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(InvalidDocument, match="levels deep"):
        flatten({"loop": loop})


@pytest.mark.parametrize("document", [None, [], "text", 5])
def test_a_document_is_a_mapping(document: Any) -> None:
    with pytest.raises(InvalidDocument, match="mapping"):
        flatten(document)


@pytest.mark.parametrize("document_id", ["", "x" * 513, "é" * 257, "\ud800", 5, None, b"x", ["x"]])
def test_ids_that_cannot_be(document_id: Any) -> None:
    with pytest.raises(InvalidDocument, match="/_id"):
        check_id(document_id)


@pytest.mark.parametrize("document_id", ["x", "x" * 512, "é" * 256, "a/b", "\0", " "])
def test_ids_that_can_be(document_id: str) -> None:
    assert check_id(document_id) == document_id


@pytest.mark.parametrize("name", ["", ".x", "-x", "a b", "a/b", "é", "x" * 129, "x\n", 5, None])
def test_collection_names_that_cannot_be(name: Any) -> None:
    with pytest.raises(InvalidCollectionName):
        check_collection(name)


@pytest.mark.parametrize("name", ["x", "_x", "Cars.v2-new", "x" * 128, "0"])
def test_collection_names_that_can_be(name: str) -> None:
    assert check_collection(name) == name


def test_pointers_and_dotted_paths() -> None:
    assert pointer_of("a.b") == "/a/b" == pointer_of("/a/b")
    assert pointer_of("a~b") == "/a~0b"
    assert pointer_of("/a.b") == "/a.b" == pointer_of(r"a\.b")
    assert pointer_of("/a~b") == "/a~0b", "one spelling of a field in a document"


@given(st.lists(st.text("a.\\/~0\0", max_size=4), min_size=1, max_size=3))
@example(["a\\", "b"])
@example(["/a"])
def test_every_field_can_be_named(keys: list[str]) -> None:
    assert split_path(path_of(keys)) == tuple(keys)
    assert split_path("".join("/" + escape(key) for key in keys)) == tuple(keys)


@pytest.mark.parametrize(
    ("a", "b"), [(1, True), (0, False), (1, "1"), (None, False), ([1], [True]), ({"a": 1}, {"a": True})]
)
def test_equality_tells_kinds_apart(a: Any, b: Any) -> None:
    assert not identical(a, b)
    assert plan_merge(flatten({"x": a}), {"x": b})
