"""Whether another process runs with this node's identity, as the documents prove that nodes write of
themselves.

A process draws an *instance* and says it in its node's document. Who meets that document as another instance
wrote it cannot tell whether that one still runs: an earlier run may have said it, and a relay kept it, or
this node be a backup that was put back. So it puts the document right, and *answers* that instance. Who finds
its own instance answered knows that another process has had its key since it drew it: nobody else can sign
such a document. It draws another instance then, and answers in turn. Who answers that one runs at this time.
Of two that run, the one that started later stops; the other answers once more, for it to hear.

No process answers an instance of its own. A virtual machine that is put back to an earlier state meets what
it has said since then, and would else find an answer to itself there when that is done again.
"""

from __future__ import annotations

from typing import NamedTuple

from mesh.core.receipts import NodeRecord


class Finding(NamedTuple):
    """What follows from a document of this node that it has not written.

    Attributes:
        proven: another process runs with this node's identity.
        stops: it is this one that has to stop.
        forked: another process has gone on from the memory of this one, so that both have given the same
            numbers and ids to what they wrote.
    """

    proven: bool
    stops: bool
    forked: bool


class Clones:
    """What one process knows of others with its identity.

    Attributes:
        instance: names this process, in the document of its node.
        answers: the instance that it has answered last.
    """

    def __init__(self, instance: str) -> None:
        self.instance = instance
        self.answers: str | None = None
        self._asks = False  # the instance was drawn to find out whether the other process still runs

    def meet(self, record: NodeRecord, started_at: float, fresh: str) -> Finding:
        """Take in this node's document, signed with its key, as this process has not written it. The document
        is to be written again, with ``instance`` and ``answers`` as they are then, unless this one stops.

        Args:
            record: what the document says.
            started_at: what this process says.
            fresh: an instance to draw, which nobody has had.
        """
        theirs, mine = record.instance, self.instance
        answered = record.answers == mine and theirs is not None and theirs != mine
        proven = answered and self._asks
        stops = proven and (record.started_at, theirs or "") < (started_at, mine)
        self.answers = theirs if theirs != mine else None
        if not proven and (answered or theirs == mine):
            self.instance, self._asks = fresh, True
        return Finding(proven, stops, theirs == mine or record.started_at == started_at)
