"""The distributions that are known here, and which of them replaces which."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from mesh.core.receipts import DistributionRecord, merge_distributions


class Catalogue:
    """Depends on the set of records that it was given, not on their order."""

    def __init__(self) -> None:
        self._records: dict[str, DistributionRecord] = {}
        self._replacers: defaultdict[str, set[str]] = defaultdict(set)

    def __iter__(self) -> Iterator[DistributionRecord]:
        return iter(self._records.values())

    def get(self, distribution_id: str) -> DistributionRecord | None:
        """The distribution as it is now."""
        return self._records.get(distribution_id)

    def put(self, record: DistributionRecord) -> set[str]:
        """A record is known, or has changed. The ids of the distributions that this changes."""
        held = self._records.get(record.distribution_id)
        merged = merge_distributions(held, record) if held else record
        if merged == held:
            return set()
        self._records[record.distribution_id] = merged
        if merged.supersedes is None:
            return {record.distribution_id}
        self._replacers[merged.supersedes].add(record.distribution_id)
        return {record.distribution_id, merged.supersedes}

    def superseded_by(self, distribution_id: str) -> str | None:
        """The distribution of the same publisher that replaces this one; the lowest id if several do."""
        old = self._records.get(distribution_id)
        if old is None:
            return None
        replacers = self._replacers.get(distribution_id, ())
        own = (new for new in replacers if self._records[new].publisher == old.publisher)
        return min(own, default=None)
