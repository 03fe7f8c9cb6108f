"""What a receiving node decides."""

from __future__ import annotations

import errno
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.core.catalogue import Catalogue
from mesh.core.delivery import Action, FetchQueue, decide, is_lasting, write_delay
from mesh.core.receipts import DistributionRecord, Receipt, advanced, distribution_id_of, new_receipt
from mesh.core.scopes import AllNodes, DistributionScope, Formation, NodeFacts, Nodes
from mesh.core.status import TransferPriority, TransferState
from mesh.core.tokens import BlobToken
from mesh.errors import BlobNotFound, FetchFailed, LinkClosed, StorageFull

NORTH = NodeFacts(("north",))
STATES = [state for state in TransferState if state is not TransferState.PENDING]


def _record(nonce: str = "0" * 32, publisher: str = "hq", **fields: Any) -> DistributionRecord:
    record = DistributionRecord(
        distribution_id_of(publisher, nonce),
        BlobToken("ab" * 32, 1000, "cd" * 32),
        Formation("north").to_dict(),
        TransferPriority.NORMAL,
        publisher,
        nonce,
        1.0,
    )
    return msgspec.structs.replace(record, **fields)


def _receipt(status: TransferState, attempt: int = 1) -> Receipt:
    fresh = msgspec.structs.replace(new_receipt(_record(), "van", NORTH, 0.0), attempt=attempt)
    return advanced(fresh, status, 1.0, error="because")


def _action(
    record: DistributionRecord, receipt: Receipt | None = None, **options: Any
) -> tuple[Action, bool]:
    chosen = {
        "node_id": "van",
        "facts": NORTH,
        "receive": "auto",
        "superseded_by": None,
        "now": 10.0,
        **options,
    }
    decision = decide(record, receipt, **chosen)
    assert decision.reason or decision.action in (Action.FETCH, Action.OFFER)
    return decision.action, decision.fresh


OVER: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"cancelled_at": 5.0}, {}),
    ({"expires_at": 5.0}, {}),
    ({}, {"superseded_by": "newer"}),
    ({}, {"facts": NodeFacts()}),
]


@pytest.mark.parametrize(("fields", "options"), OVER)
@pytest.mark.parametrize("receive", ["auto", "manual", "off"])
def test_what_is_over_or_not_for_this_node_is_never_begun(
    fields: dict[str, Any], options: dict[str, Any], receive: str
) -> None:
    assert _action(_record(**fields), None, receive=receive, **options) == (Action.IGNORE, False)


@pytest.mark.parametrize(("fields", "options"), OVER)
def test_what_is_over_stops_when_it_runs(fields: dict[str, Any], options: dict[str, Any]) -> None:
    expected = Action.FAIL if "expires_at" in fields else Action.STOP
    for status in (TransferState.CONNECTING, TransferState.TRANSFERRING):
        assert _action(_record(**fields), _receipt(status), **options) == (expected, False)


@given(st.sampled_from([*OVER, ({}, {}), ({"attempt": 3}, {})]), st.sampled_from(["auto", "manual", "off"]))
def test_completed_is_never_touched(case: tuple[dict[str, Any], dict[str, Any]], receive: str) -> None:
    fields, options = case
    done = _receipt(TransferState.COMPLETED)
    assert _action(_record(**fields), done, **options, receive=receive) == (Action.IGNORE, False)


def test_the_modes_of_receiving() -> None:
    assert _action(_record()) == (Action.FETCH, True)
    assert _action(_record(), receive="manual") == (Action.OFFER, True)
    assert _action(_record(), receive="off") == (Action.FAIL, True)


def test_what_runs_goes_on_after_a_restart() -> None:
    assert _action(_record(), _receipt(TransferState.TRANSFERRING)) == (Action.FETCH, False)


def test_a_retry_begins_afresh_what_runs() -> None:
    assert _action(_record(attempt=2), _receipt(TransferState.TRANSFERRING)) == (Action.FETCH, True)
    assert _action(_record(attempt=2), _receipt(TransferState.TRANSFERRING, 2)) == (Action.FETCH, False)


def test_failed_waits_for_a_retry_and_leaving_the_scope_for_a_return() -> None:
    assert _action(_record(), _receipt(TransferState.FAILED)) == (Action.IGNORE, False)
    assert _action(_record(attempt=2), _receipt(TransferState.FAILED, 2)) == (Action.IGNORE, False)
    assert _action(_record(attempt=2), _receipt(TransferState.FAILED)) == (Action.FETCH, True)
    assert _action(_record(), _receipt(TransferState.CANCELLED)) == (Action.FETCH, True)


@pytest.mark.parametrize("scope", [AllNodes(), Nodes(["van"])])
def test_other_scopes_need_no_formation(scope: DistributionScope) -> None:
    assert _action(_record(scope=scope.to_dict()), facts=NodeFacts()) == (Action.FETCH, True)


def test_a_scope_that_is_not_understood_delivers_nothing_and_says_why() -> None:
    record = _record(scope={"type": "moon"})
    decision = decide(record, None, node_id="van", facts=NORTH, receive="auto", superseded_by=None, now=0.0)
    assert (decision.action, decision.fresh) == (Action.FAIL, True)
    assert "not understood" in decision.reason


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("add"), st.integers(0, 20), st.sampled_from(TransferPriority)),
            st.tuples(st.just("remove"), st.integers(0, 20), st.just(TransferPriority.LOW)),
        )
    )
)
def test_the_queue_keeps_its_bound_and_its_order(steps: list[tuple[str, int, TransferPriority]]) -> None:
    queue = FetchQueue(limit=3)
    waiting: dict[str, tuple[int, float, str]] = {}
    running: dict[str, bool] = {}
    for age, (step, number, priority) in enumerate(steps):
        job = str(number)
        if step == "add":
            if job not in waiting and job not in running:
                waiting[job] = (-priority, float(age), job)
            queue.add(job, priority, float(age))
            assert job in queue
        else:
            waiting.pop(job, None)
            running.pop(job, None)
            queue.remove(job)
            assert job not in queue
        for started in queue.start():
            assert waiting[started] == min(waiting.values())
            running[started] = -waiting.pop(started)[0] == TransferPriority.CRITICAL
        bounded = sum(not critical for critical in running.values())
        assert bounded <= 3
        assert bounded == 3 or not waiting
        assert all(rank > -TransferPriority.CRITICAL for rank, _, _ in waiting.values())


@given(
    st.lists(st.sampled_from(TransferPriority), max_size=20),
    st.lists(st.tuples(st.sampled_from(["source", "none", "tell", "end"]), st.integers(0, 19))),
)
def test_a_job_with_a_source_is_never_kept_waiting_by_jobs_without(
    priorities: list[TransferPriority], steps: list[tuple[str, int]]
) -> None:
    queue, sources, running = FetchQueue(limit=3), set[str](), set[str]()

    def tell(job: str) -> None:
        (queue.resume if job in sources else queue.park)(job)
        settle()

    def settle() -> None:
        started = queue.start()
        running.update(started)
        for job in started:
            tell(job)

    for age, priority in enumerate(priorities):
        queue.add(str(age), priority, float(age))
    settle()
    for step, number in steps:
        job = str(number)
        if step == "source":
            sources.add(job)
        elif step == "none":
            sources.discard(job)
        elif step == "end":
            running.discard(job)
            queue.remove(job)
            settle()
        for told in [job] if step == "tell" else sorted(running):
            tell(told)
        waiting = [job for job in map(str, range(len(priorities))) if job in queue and job not in running]
        assert not waiting or len(running & sources) >= 3


def test_receipts_are_written_when_it_is_worth_it() -> None:
    pending = new_receipt(_record(), "van", NORTH, 0.0)
    running = advanced(pending, TransferState.TRANSFERRING, 1.0, progress_bytes=100)
    assert write_delay(None, pending, float("inf")) == 0.0
    assert write_delay(pending, running, 10.0) == 0.0
    assert write_delay(pending, running, 0.1) == pytest.approx(0.4)
    more = advanced(running, TransferState.TRANSFERRING, 1.0, progress_bytes=149)
    assert write_delay(running, more, 10.0) is None
    enough = advanced(running, TransferState.TRANSFERRING, 1.0, progress_bytes=150)
    assert write_delay(running, enough, 10.0) == 0.0
    stalled = advanced(running, TransferState.TRANSFERRING, 1.0, error="the link is gone")
    assert write_delay(running, stalled, 10.0) == 0.0
    moving = advanced(running, TransferState.TRANSFERRING, 1.0, progress_bytes=101, rate=50.0)
    assert advanced(moving, TransferState.TRANSFERRING, 2.0, progress_bytes=101, rate=20.0) is moving
    stopped = advanced(moving, TransferState.TRANSFERRING, 2.0, progress_bytes=101)
    assert stopped.rate == 0.0
    assert write_delay(moving, stopped, 10.0) == 0.0
    assert write_delay(moving, stopped, 0.1) == pytest.approx(0.4)
    assert write_delay(stopped, moving, 10.0) is None
    for status in (TransferState.COMPLETED, TransferState.FAILED, TransferState.CANCELLED):
        assert write_delay(running, advanced(running, status, 1.0, error="x"), 0.0) == 0.0


@pytest.mark.parametrize(
    ("error", "lasting"),
    [
        (FetchFailed("ab", "corrupt"), True),
        (OSError(errno.ENOSPC, "full"), False),
        (StorageFull("/data", 100, 50, capacity=100), False),
        (StorageFull("/data", 101, 50, capacity=100), True),
        (OSError(errno.EIO, "?"), False),
        (LinkClosed("gone"), False),
        (BlobNotFound("ab"), False),
        (RuntimeError("a bug"), False),
    ],
)
def test_what_does_not_heal_by_itself(error: Exception, lasting: bool) -> None:
    assert is_lasting(error) is lasting


def test_only_the_same_publisher_supersedes_in_any_order() -> None:
    old = _record()
    new = _record("1" * 32, supersedes=old.distribution_id)
    theft = _record("2" * 32, publisher="mallory", supersedes=old.distribution_id)
    for order in ([old, new, theft], [theft, new, old]):
        catalogue = Catalogue()
        changed = [catalogue.put(record) for record in order]
        assert old.distribution_id in changed[1]
        assert catalogue.put(order[0]) == set()
        assert catalogue.superseded_by(old.distribution_id) == new.distribution_id
        assert catalogue.superseded_by(new.distribution_id) is None
