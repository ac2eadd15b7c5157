"""What a user owns, as `lern ownership check` finds it, and documents that are made to follow."""

from lern.ownership import Follower, owned
from tests.batches import OTHER, SOURCE, ZONE, World, batch, document


def test_every_batch_that_names_the_user_in_either_store_is_found(world: World) -> None:
    rows = [batch(1), batch(2, createdby=OTHER, mentors=[SOURCE], status=2), batch(3, createdby=OTHER)]
    world.load(rows)
    done: list[float] = []
    found = {one.key[1]: one for one in owned(world.services.store, world.search, SOURCE, done.append)}
    assert {name: one.roles(SOURCE) for name, one in found.items()} == {
        "Batch-00001": (("creator",), ("creator",)),
        "Batch-00002": (("mentor",), ("mentor",)),
    }
    assert all(one.agree for one in found.values())
    assert done == sorted(done)
    assert done[-1] == 1.0


def test_where_the_stores_disagree_is_found_and_mended_by_the_database(server_world: World) -> None:
    world = server_world
    lagging, ahead, lost, alone = batch(1), batch(2, createdby=OTHER), batch(3), batch(4)
    world.load([lagging, ahead, lost], documents=False)
    world.search.insert([document({**lagging, "createdby": OTHER}), document({**ahead, "createdby": SOURCE})])
    world.search.insert([document(alone)])
    found = {one.key[1]: one for one in owned(world.services.store, world.search, SOURCE)}
    assert sorted(found) == ["Batch-00001", "Batch-00002", "Batch-00003", "Batch-00004"]
    assert not any(one.agree for one in found.values())
    assert found["Batch-00003"].document is None
    assert found["Batch-00004"].row is None
    follower = Follower(world.services.store, world.search, ZONE)
    followed = follower.follow([one.key for one in found.values() if one.row is not None], lambda: None)
    assert (followed.written, followed.missing) == (2, ("Batch-00003",))
    world.agree([lagging, ahead])
