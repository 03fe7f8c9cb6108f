"""Interest as one node hears and passes it on, and the ways that it chooses for documents."""

from __future__ import annotations

import msgspec
import pytest

from mesh.core.interest import EVERYTHING, InterestSet
from mesh.core.rivals import MAX_RISES, RISE_SECONDS
from mesh.core.routes import MAX_ORIGINS, SOFT_STATE_SECONDS, InterestTable
from mesh.core.ways import MAX_HOPS, MAX_SEQUENCE
from mesh.core.wire import WITHDRAWN, Interest, InterestEntry, Routes
from mesh.errors import ProtocolViolation

CARS = InterestEntry("cars")
RED = InterestEntry("cars", {"color": "red"})
BLUE = InterestEntry("cars", {"color": "blue"})
MAPS = InterestEntry("maps")
NOBODY = InterestSet([InterestEntry("nodes", {"_id": "me"})])


def said(origin: str, hops: int, *wanted: InterestEntry, sequence: int = 2) -> Interest:
    return Interest(origin, sequence, hops, list(wanted))


def table(*peers: str, own: tuple[InterestEntry, ...] = ()) -> InterestTable:
    """That of the node "me", once it has told its peers what there was to tell."""
    made = InterestTable("me")
    made.set_own(own, 2)
    for peer in peers:
        link(made, peer)
    return made


def link(made: InterestTable, peer: str, *heard: Interest) -> None:
    made.link_up(peer)
    for interest in heard:
        made.heard(peer, interest, 0.0)
    made.routed(peer, Routes([], []))
    made.tell(peer)


def relayed(made: InterestTable, peer: str) -> dict[str, Interest]:
    """What a peer knows of the origins "a" to "d"."""
    made.tell(peer)
    found = {origin: made._telling.announcement(peer, origin) for origin in "abcd"}
    return {origin: interest for origin, interest in found.items() if interest is not None}


def served(made: InterestTable, peer: str) -> InterestSet:
    made.tell(peer)
    return made.wanted_by(peer)


# --- who speaks as this node ----------------------------------------------------------------------


def test_what_an_earlier_run_has_said_is_gone_above() -> None:
    made = table("a", "b")
    for peer, sequence in (("a", 100), ("b", 40), ("b", 200)):
        assert made.heard(peer, said("me", 3, CARS, sequence=sequence), 0.0) == (sequence != 40)
        assert not made.outdone
    assert made._telling.announcement("a", "me") == said("me", 0, sequence=202)


@pytest.mark.limit("core.rivals.MAX_RISES")
def test_two_who_speak_as_one_node_do_not_go_on_for_ever() -> None:
    one, other = table("a", own=(CARS,)), table("b", own=(RED,))
    other.set_own([RED], 1000)
    tables = {"a": one, "b": other}
    hears, says, turns, now = "a", "b", 0, 0.0
    for _ in range(3):
        while True:
            interest = tables[says]._telling.announcement(says, "me")
            assert interest is not None
            if not tables[hears].heard(hears, msgspec.structs.replace(interest, hops=2), now):
                break
            assert not tables[hears].outdone
            hears, says, turns, now = says, hears, turns + 1, now + 0.01
        assert turns >= 2 * MAX_RISES - 1
        assert tables[hears].outdone
        due = tables[hears].next_expiry
        assert due is not None
        assert now < due <= now + RISE_SECONDS
        assert not tables[hears].expire(due - 0.001)
        assert tables[hears].expire(due)
        assert not tables[hears].outdone
        hears, says, now = says, hears, due
    assert turns <= 6 * MAX_RISES


def test_a_peer_is_contested_that_asks_for_its_own_document_while_another_speaks_as_it() -> None:
    own_document = InterestEntry("nodes", {"_id": "a"})
    made = table("b")
    link(made, "a", said("a", 0, own_document))
    made.heard("b", said("a", 1, RED, sequence=3), 0.0)
    assert not made.contested, "that one stood in for it"
    made.heard("b", said("a", 1, RED, sequence=4), 0.0)
    assert made.contested == {"a"}
    made.heard("a", said("a", 0, own_document, sequence=6), 0.0)
    assert made.contested == {"a"}, "it has the last word, for now"
    made.heard("a", said("a", 0, RED, sequence=8), 0.0)
    assert not made.contested
    made.heard("a", said("a", 0, own_document, sequence=10), 0.0)
    assert made.contested == {"a"}
    made.link_down("a", 0.0)
    assert not made.contested
    link(made, "a", said("a", 0, own_document, sequence=12))
    assert not made.contested, "perhaps the other one is gone"


def test_stand_ins_are_gone_above_however_often() -> None:
    made = table("a", own=(CARS,))
    for sequence in range(101, 101 + 8 * MAX_RISES, 4):
        assert made.heard("a", said("me", 3, CARS, sequence=sequence), 0.0)
    assert not made.outdone


# --- what is passed on ----------------------------------------------------------------------------


def test_own_interest_is_told_even_if_there_is_none() -> None:
    made = InterestTable("me")
    made.set_own([], 2)
    made.link_up("a")
    assert made.tell("a") == [Interest("me", 2, 0, []), Routes([], [])]
    assert made.tell("a") == []
    made.set_own([RED], 2)
    assert made.concerned == {"a"}
    assert made.tell("a") == [Interest("me", 4, 0, [RED])]
    assert made.concerned == set()


def test_sequences_are_even_and_grow_even_if_the_clock_does_not() -> None:
    made = table("a")
    sequences = []
    for now in (100, 51, 51, 201):
        made.set_own([RED], now)
        (interest,) = made.tell("a")
        assert isinstance(interest, Interest)
        sequences.append(interest.sequence)
    assert sequences == [100, 102, 104, 202]


def test_interest_is_passed_on_but_not_back() -> None:
    made = table("a", "b")
    assert made.heard("a", said("a", 0, RED), 0.0)
    assert relayed(made, "b") == {"a": said("a", 1, RED)}
    assert relayed(made, "a") == {}
    assert served(made, "a").covers(RED)
    assert not served(made, "b").covers(RED)


def test_what_this_node_wants_itself_is_not_passed_on() -> None:
    made = table("a", "b", own=(CARS,))
    made.heard("a", said("a", 0, RED, MAPS), 0.0)
    assert relayed(made, "b") == {"a": said("a", 1, MAPS)}
    made.set_own([], 4)
    assert relayed(made, "b") == {"a": said("a", 1, RED, MAPS)}
    made.set_own([EVERYTHING], 6)
    assert made.tell("b") == [said("me", 0, EVERYTHING, sequence=6), Interest("a", 0, WITHDRAWN, [])]


def test_neighbours_know_each_other() -> None:
    made = table("a")
    assert served(made, "a").matches("nodes", {"_id": "me"})
    assert not served(made, "a").matches("nodes", {"_id": "b"})
    assert made.wanted_from("a").matches("nodes", {"_id": "a"})


def test_the_same_word_again_changes_nothing() -> None:
    made = table("a")
    assert made.heard("a", said("a", 0, RED), 0.0)
    assert not made.heard("a", said("a", 0, RED), 0.0)


def test_what_a_peer_says_last_counts_whatever_its_number() -> None:
    """The peer asks to resume by what it said last: a clock set back must not end the link."""
    made = table("p")
    made.heard("p", said("p", 0, RED, sequence=8), 0.0)
    assert made.heard("p", said("p", 0, BLUE, sequence=4), 0.0)
    assert served(made, "p").covers(BLUE)
    assert not served(made, "p").covers(RED)


@pytest.mark.limit("core.ways.MAX_HOPS")
def test_hops_are_limited() -> None:
    made = table("p", "x")
    made.heard("p", said("a", MAX_HOPS, RED), 0.0)
    assert served(made, "p").covers(RED)
    assert relayed(made, "x") == {}, "it goes no further"
    assert made.heard("p", said("a", MAX_HOPS + 1, RED), 0.0), (
        "what has come too far is as good as taken back"
    )
    assert not served(made, "p").covers(RED)


def test_a_withdrawal_takes_back() -> None:
    made = table("p", "x")
    made.heard("p", said("a", 3, RED), 0.0)
    assert made.heard("p", Interest("a", 0, WITHDRAWN, []), 0.0)
    assert relayed(made, "x") == {}
    assert not made.heard("p", Interest("a", 0, WITHDRAWN, []), 0.0), "there is nothing left to take back"
    assert served(made, "p").entries == NOBODY.entries


# --- ways -----------------------------------------------------------------------------------------


def test_documents_go_the_shortest_way_of_the_newest_word() -> None:
    made = table("far", "near", "x")
    made.heard("far", said("a", 5, RED), 0.0)
    assert served(made, "far").covers(RED)
    made.heard("near", said("a", 2, RED), 0.0)
    assert not served(made, "far").covers(RED), "they take one way"
    assert served(made, "near").covers(RED)
    assert relayed(made, "x") == {"a": said("a", 3, RED)}
    made.heard("far", said("a", 5, BLUE, sequence=4), 0.0)
    assert relayed(made, "x") == {"a": said("a", 6, BLUE, sequence=4)}
    assert relayed(made, "far") == {}, "not back to where the best word came from"
    assert served(made, "near").entries == NOBODY.entries


def test_a_way_that_is_as_good_is_no_reason_to_change() -> None:
    made = table("p", "b")
    made.heard("p", said("a", 2, RED), 0.0)
    made.heard("b", said("a", 2, RED), 0.0)
    assert served(made, "p").covers(RED)


def test_the_origin_itself_is_always_the_best_way() -> None:
    made = table("a", "p")
    made.heard("p", said("a", 2, RED, sequence=9), 0.0)
    made.heard("a", said("a", 0, RED, sequence=2), 0.0)
    assert served(made, "a").covers(RED)
    assert not served(made, "p").covers(RED)


def test_the_peer_is_told_which_way_documents_go() -> None:
    made = table("p", "q")
    made.heard("p", said("a", 2, RED), 0.0)
    assert Routes(["a"], []) in made.tell("p")
    made.heard("q", said("a", 1, RED), 0.0)
    assert Routes([], ["a"]) in made.tell("p")
    assert Routes(["a"], []) in made.tell("q")


def test_a_peer_is_followed_for_the_origins_that_it_sends_this_way() -> None:
    made = table("a", "x")
    made.heard("a", said("a", 0, RED), 0.0)
    made.tell("x")
    assert not made.wanted_from("x").covers(RED)
    made.routed("x", Routes(["a", "unheard of"], []))
    assert made.wanted_from("x").covers(RED)
    made.heard("a", said("a", 0, BLUE, sequence=4), 0.0)
    made.tell("x")
    assert made.wanted_from("x").covers(BLUE)
    made.routed("x", Routes([], ["a"]))
    assert not made.wanted_from("x").covers(BLUE)


# --- origins that are lost ------------------------------------------------------------------------


def test_a_node_stands_in_for_an_origin_that_it_lost() -> None:
    made = table("a", "b", "x")
    made.heard("a", said("a", 0, RED), 0.0)
    made.heard("b", said("b", 0, BLUE), 0.0)
    assert relayed(made, "x").keys() == {"a", "b"}
    made.link_down("a", 100.0)
    assert relayed(made, "x") == {"a": said("a", 1, RED, sequence=3), "b": said("b", 1, BLUE)}
    assert made.next_expiry == 100.0 + SOFT_STATE_SECONDS
    assert not made.expire(100.0 + SOFT_STATE_SECONDS - 1)
    assert made.expire(100.0 + SOFT_STATE_SECONDS)
    assert relayed(made, "x").keys() == {"b"}
    assert made.next_expiry is None


def test_another_way_that_cannot_be_an_echo_is_taken_instead() -> None:
    made = table("p", "q", "x")
    made.heard("p", said("a", 3, RED), 0.0)
    made.heard("q", said("a", 3, RED), 0.0)
    relayed(made, "x")
    made.link_down("p", 0.0)
    assert relayed(made, "x") == {"a": said("a", 4, RED)}
    assert served(made, "q").covers(RED)
    made.heard("x", said("a", 4, RED), 0.0)
    made.link_down("q", 0.0)
    assert relayed(made, "x") == {"a": said("a", 1, RED, sequence=3)}, "x has it from here, for all it says"


def test_nobody_hears_of_a_way_that_was_lost_and_found_where_nobody_depended_on_it() -> None:
    made = table("p")
    made.heard("p", said("a", 3, RED), 0.0)
    made.link_down("p", 0.0)
    made.link_up("p")
    assert [message for message in made.tell("p") if isinstance(message, Interest)] == [said("me", 0)]
    made.heard("p", said("a", 3, RED), 0.0)
    made.routed("p", Routes([], []))
    assert made.tell("p") == [Routes(["a"], [])]
    assert made.next_expiry is None


def test_whoever_does_not_know_the_origin_hears_of_who_stands_in_for_it() -> None:
    made = table("p")
    made.heard("p", said("a", 3, RED), 0.0)
    made.link_down("p", 0.0)
    made.link_up("x")
    made.routed("x", Routes([], []))
    assert relayed(made, "x") == {"a": said("a", 1, RED, sequence=3)}


def test_an_origin_that_comes_back_goes_above_who_stood_in_for_it() -> None:
    made, origin = table("a", "x"), InterestTable("a")
    origin.set_own([RED], 2)
    origin.link_up("me")
    made.heard("a", said("a", 0, RED), 0.0)
    relayed(made, "x")
    made.link_down("a", 0.0)
    relayed(made, "x")
    link(made, "a", said("a", 0, RED))
    assert relayed(made, "x") == {"a": said("a", 1, RED, sequence=3)}
    news = relayed(made, "a")["a"]
    assert news == said("a", 1, sequence=3)
    assert origin.heard("me", news, 0.0)
    assert origin.tell("me")[0] == said("a", 0, RED, sequence=4)
    made.heard("a", said("a", 0, RED, sequence=4), 0.0)
    assert relayed(made, "x") == {"a": said("a", 1, RED, sequence=4)}
    assert relayed(made, "a") == {}
    assert not origin.heard("me", news, 0.0), "once is enough"


def test_whoever_is_on_an_older_way_hears_of_the_newer_one_though_nothing_is_left_to_ask_for() -> None:
    made = table("p", "q", own=(CARS,))
    made.heard("q", said("a", 2, RED), 0.0)
    made.heard("p", said("a", 5, RED, sequence=3), 0.0)
    assert relayed(made, "q") == {"a": said("a", 6, sequence=3)}
    made.heard("q", Interest("a", 0, WITHDRAWN, []), 0.0)
    assert relayed(made, "q") == {"a": said("a", 6, sequence=3)}, "or it would turn round and round"
    assert not table("p", "q", own=(CARS,)).heard("p", Interest("a", 0, WITHDRAWN, []), 0.0)


# --- what misbehaves ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "forged",
    [
        said("b", 0, RED),
        said("a", 1, RED),
        said("a", 0, sequence=MAX_SEQUENCE + 1),
        said("a", 0, sequence=-1),
        said("b", -1),
    ],
)
def test_forged_words_are_a_violation(forged: Interest) -> None:
    with pytest.raises(ProtocolViolation):
        table("a").heard("a", forged, 0.0)


@pytest.mark.parametrize("selector", [{"$where": 1}, {"a": {"$regex": "("}}, {"a": "x" * 9000}])
def test_a_selector_that_cannot_be_is_a_violation(selector: dict[str, object]) -> None:
    with pytest.raises(ProtocolViolation):
        table("a").heard("a", said("a", 0, InterestEntry("cars", selector)), 0.0)


def test_sequences_end_somewhere_and_nothing_goes_round_there() -> None:
    made = table("p", own=(RED,))
    assert made.heard("p", said("me", 2, sequence=MAX_SEQUENCE - 1), 0.0)
    assert made.tell("p") == [said("me", 0, RED, sequence=MAX_SEQUENCE)]
    assert not made.heard("p", said("me", 2, sequence=MAX_SEQUENCE), 0.0)
    made.set_own([BLUE], 4)
    assert made.tell("p") == [said("me", 0, BLUE, sequence=MAX_SEQUENCE)]


def test_a_peer_speaks_for_a_bounded_number_of_origins() -> None:
    made = table("p")
    for i in range(MAX_ORIGINS):
        made.heard("p", said(f"o{i}", 1), 0.0)
    with pytest.raises(ProtocolViolation):
        made.heard("p", said("one more", 1), 0.0)
    made.heard("p", said("o1", 1, RED), 0.0)
    with pytest.raises(ProtocolViolation):
        made.routed("p", Routes([f"o{i}" for i in range(MAX_ORIGINS + 1)], []))


@pytest.mark.parametrize("wanted", [[RED], [InterestEntry(f"c{n}") for n in range(4000)]])
def test_who_makes_up_origins_does_not_make_others_say_too_much(wanted: list[InterestEntry]) -> None:
    relay, other = InterestTable("relay"), InterestTable("other")
    relay.set_own([BLUE], 2)
    for peer in ("liar", "honest", "other"):
        relay.link_up(peer)
    other.link_up("relay")

    def pass_on() -> None:
        for message in relay.tell("other"):
            if isinstance(message, Interest):
                other.heard("relay", message, 0)  # it is no violation

    try:
        for made_up in range(MAX_ORIGINS):
            relay.heard("liar", said(f"o{made_up}", 1, *wanted), 0)
    except ProtocolViolation:
        pass
    pass_on()
    told = other._origins.keys() - {"relay"}
    for n in range(10):
        relay.heard("honest", said(f"p{n}", 1, *wanted), 0)
        pass_on()
    assert {"relay", *(f"p{n}" for n in range(10))} < other._origins.keys()
    relay.link_up("late")
    relay.heard("late", said("late", 0, *wanted), 0)
    pass_on()
    assert {"late", *(f"p{n}" for n in range(10))} < other._origins.keys()
    before = set(other._origins)
    for origin in told & before:
        relay.heard("liar", Interest(origin, 0, WITHDRAWN, []), 0)
    pass_on()
    assert other._origins.keys() - before, "there is room for more of the rest now"


def test_what_is_said_again_or_taken_back_is_counted_no_longer() -> None:
    made = table("p", "q")
    state = made._links["p"]
    link_bytes = []
    for words in (said("o", 1, RED, BLUE), said("p", 0, RED), said("o", 1, RED)):
        made.heard("p", words, 0.0)
        link_bytes.append(state.heard_bytes)
    assert link_bytes[0] < link_bytes[1] > link_bytes[2]
    made.heard("p", said("o", WITHDRAWN, sequence=0), 0.0)
    made.heard("p", said("p", 0, sequence=4), 0.0)
    assert state.heard_bytes == sum(state.heard.values()) == 0


def test_a_peer_that_comes_and_goes_leaves_a_bounded_number_of_origins_behind() -> None:
    made = table()
    for visit in range(3):
        link(made, "p", *(said(f"o{visit}/{i}", 1, RED) for i in range(MAX_ORIGINS // 2 + 1)))
        made.link_down("p", float(visit))
    assert len(made._origins) == MAX_ORIGINS
    made.expire(SOFT_STATE_SECONDS + 3)
    assert not made._origins
