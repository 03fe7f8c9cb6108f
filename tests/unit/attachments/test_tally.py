"""How far a transfer is: what was told is never taken back."""

from __future__ import annotations

from mesh.attachments.progress import Tally
from mesh.core.tokens import BlobToken

MIB = 1 << 20
TOKEN = BlobToken("0" * 64, 3 * MIB, "0" * 64)


def test_parts_count_until_their_chunk_is_here_and_the_best_of_several_sources_counts() -> None:
    tally = Tally()
    tally.set_held(MIB, 0.0)
    tally.part_came(TOKEN, 1, "a", 1000, 1.0)
    tally.part_came(TOKEN, 1, "b", 600, 1.0)
    tally.part_came(TOKEN, 2, "b", 50, 1.0)
    assert tally.told == MIB + 1050
    tally.part_came(TOKEN, 1, "b", 2 * MIB, 2.0)
    assert tally.told == 2 * MIB + 50
    tally.forget(1)
    tally.set_held(2 * MIB, 2.0)
    assert tally.told == 2 * MIB + 50


def test_what_is_of_no_use_after_all_is_made_up_for_before_it_goes_on() -> None:
    tally = Tally()
    tally.part_came(TOKEN, 0, "liar", MIB, 1.0)
    tally.forget(0, "liar")
    tally.part_came(TOKEN, 0, "a", 1000, 2.0)
    assert tally.told == MIB
    tally.forget(peer="a")
    tally.set_held(MIB, 3.0)
    tally.part_came(TOKEN, 1, "b", 1, 3.0)
    assert tally.told == MIB + 1
