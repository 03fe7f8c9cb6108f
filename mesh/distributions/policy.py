"""The application's word on what this node takes, before anything moves."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from mesh.core.receipts import DistributionRecord
from mesh.core.status import TransferPriority
from mesh.core.structs import Struct
from mesh.core.tokens import BlobToken
from mesh.distributions.tasks import Tasks

logger = logging.getLogger("mesh.distributions")


class Offer(Struct, frozen=True):
    """A distribution that this node is in the scope of. Its name is ``token.metadata.name``, its size
    ``token.size_bytes``."""

    distribution_id: str
    publisher: str
    token: BlobToken
    priority: TransferPriority


Policy = Callable[[Offer], str | Awaitable[str | None] | None]
"""Takes an :class:`Offer` and returns ``None`` to take it, or why it is refused."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the policy has said. ``refusal``: why it is not taken."""

    refusal: str | None


_TAKEN = Verdict(None)


class Verdicts:
    """Asks the policy once for each attempt at a distribution, and again after a restart.

    One that takes its time holds up nothing but its own distribution.
    """

    def __init__(self, policy: Policy | None, tasks: Tasks, wake: Callable[[str], None]) -> None:
        """
        Args:
            wake: called with the id of a distribution that the policy has judged.
        """
        self._policy = policy
        self._tasks = tasks
        self._wake = wake
        self._asked: dict[str, tuple[int, Verdict | None]] = {}

    def on(self, record: DistributionRecord) -> Verdict | None:
        """The verdict; ``None``: the policy is being asked."""
        if self._policy is None:
            return _TAKEN
        attempt, verdict = self._asked.get(record.distribution_id, (0, None))
        if attempt < record.attempt:
            verdict = None
            self._asked[record.distribution_id] = (record.attempt, None)
            self._tasks.spawn(self._ask(self._policy, record), f"policy on {record.distribution_id}")
        return verdict

    def forget(self, distribution_id: str) -> None:
        """The distribution is gone."""
        self._asked.pop(distribution_id, None)

    async def _ask(self, policy: Policy, record: DistributionRecord) -> None:
        offer = Offer(record.distribution_id, record.publisher, record.token, record.priority)
        try:
            said = policy(offer)
            refusal = await said if inspect.isawaitable(said) else said
            if not (refusal is None or isinstance(refusal, str)):
                raise TypeError(f"a policy returns None or a reason, not {refusal!r}")
            reason = None if refusal is None else f"refused by the policy here: {refusal}"
        except (Exception, asyncio.CancelledError) as error:
            if (task := asyncio.current_task()) is not None and task.cancelling():
                raise
            logger.exception("the policy failed on distribution %s: it is not taken", offer.distribution_id)
            reason = f"the policy here failed ({_described(error)}); retry() asks it again"
        if self._asked.get(offer.distribution_id) == (record.attempt, None):
            self._asked[offer.distribution_id] = (record.attempt, Verdict(reason))
            self._wake(offer.distribution_id)


def _described(error: BaseException) -> str:
    """Of what kind an error of the application is, and what it says, if it can be made to."""
    kind = type(error).__name__
    try:
        return f"{kind}: {error}"
    except Exception:  # noqa: BLE001 - the other one is in the log already
        return kind
