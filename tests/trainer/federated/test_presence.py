"""Who is there counts by the newest session, and since when it was enough."""

from trainer.federated.presence import Presence


def test_a_session_that_was_replaced_can_be_lost_without_anybody_leaving():
    presence = Presence(1, 0)
    presence.join("a", "first", 1)
    presence.join("a", "second", 2)

    presence.lose("a", "first", 3)

    assert presence.clients == {"a"}
    assert presence.is_from("a", "second")
    assert not presence.is_from("a", "first")
    assert not presence.is_given_up("a", 0, 10)


def test_it_is_known_since_when_there_are_enough_and_since_when_too_few():
    presence = Presence(2, 5)

    told = [(presence.short_since_ns, presence.enough_since_ns)]
    for call, client, now_ns in [
        (presence.join, "a", 10),
        (presence.join, "b", 20),
        (presence.join, "c", 30),
        (presence.lose, "c", 40),
        (presence.lose, "b", 50),
        (presence.lose, "a", 60),
    ]:
        call(client, f"session of {client}", now_ns)
        told.append((presence.short_since_ns, presence.enough_since_ns))

    assert told == [
        *((5, None), (5, None), (None, 20), (None, 20)),
        *((None, 20), (50, None), (50, None)),
    ]


def test_who_was_never_there_is_given_up_after_no_grace_only():
    presence = Presence(1, 0)
    presence.join("a", "s", 1)
    presence.lose("a", "s", 10)

    assert [presence.is_given_up("a", 5, now_ns) for now_ns in (10, 14, 15)] == [
        *(False, False, True),
    ]
    assert presence.is_given_up("stranger", 0, 1)
    assert not presence.is_given_up("stranger", 1, 100)
