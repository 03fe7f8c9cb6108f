"""The distributions that are known here, and which of them replaces which."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator

from mesh.core.delivery import is_live
from mesh.core.receipts import DistributionRecord, RemovedDistribution, merge_distributions


class Catalogue:
    """Depends on the set of records that it was given, not on their order."""

    def __init__(self) -> None:
        self._records: dict[str, DistributionRecord] = {}
        self._removed: dict[str, RemovedDistribution] = {}
        self._replacers: defaultdict[str, set[tuple[str, str]]] = defaultdict(set)

    def __iter__(self) -> Iterator[DistributionRecord]:
        return iter(self._records.values())

    def get(self, distribution_id: str) -> DistributionRecord | None:
        """The distribution as it is now."""
        return self._records.get(distribution_id)

    def live(self, now: float) -> Iterator[DistributionRecord]:
        """Those that nodes may still begin with, by the wall clock ``now``."""
        return (r for r in self if is_live(r, self.superseded_by(r.distribution_id), now))

    @property
    def removed(self) -> Collection[RemovedDistribution]:
        """The distributions that their publishers have removed."""
        return self._removed.values()

    def put(self, record: DistributionRecord) -> set[str]:
        """A record is known, or has changed. The ids of the distributions that this changes."""
        if record.distribution_id in self._removed:
            return set()
        held = self._records.get(record.distribution_id)
        merged = merge_distributions(held, record) if held else record
        if merged == held:
            return set()
        self._records[record.distribution_id] = merged
        return self._changed(merged)

    def remove(self, removed: RemovedDistribution) -> set[str]:
        """The publisher has removed a distribution. The ids of the distributions that this changes."""
        if removed.distribution_id in self._removed:
            return set()
        self._removed[removed.distribution_id] = removed
        self._records.pop(removed.distribution_id, None)
        return self._changed(removed)

    def forget(self, distribution_id: str) -> None:
        """Nothing is held of a distribution any more."""
        for gone in (self._removed.pop(distribution_id, None), self._records.pop(distribution_id, None)):
            if gone is not None and gone.supersedes is not None:
                self._replacers[gone.supersedes].discard((gone.publisher, distribution_id))

    def _changed(self, record: DistributionRecord | RemovedDistribution) -> set[str]:
        if record.supersedes is None:
            return {record.distribution_id}
        self._replacers[record.supersedes].add((record.publisher, record.distribution_id))
        return {record.distribution_id, record.supersedes}

    def superseded_by(self, distribution_id: str) -> str | None:
        """The distribution of the same publisher that replaces this one; the lowest id if several do."""
        old = self._records.get(distribution_id)
        if old is None:
            return None
        replacers = self._replacers.get(distribution_id, ())
        own = (new for publisher, new in replacers if publisher == old.publisher)
        return min(own, default=None)

    def superseded_at(self, distribution_id: str) -> float | None:
        """When it was superseded, by the publisher's clock, or since when that is not known any more."""
        by = self.superseded_by(distribution_id)
        if by is None:
            return None
        return self._removed[by].removed_at if by in self._removed else self._records[by].created_at
