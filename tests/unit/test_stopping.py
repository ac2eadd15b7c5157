"""The flag by which a worker's children learn that they are to stop."""

import os

import pytest

from lern.errors import Stopping
from lern.stopping import StopFlag


def test_who_is_asked_to_stop_stops_at_the_next_look() -> None:
    flag = StopFlag()
    flag.check()
    flag.set()
    with pytest.raises(Stopping, match="another goes on"):
        flag.check()
    flag.clear()
    flag.check()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_children_that_were_forked_before_see_it() -> None:
    flag = StopFlag()
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.close(write)
        os.read(read, 1)
        os._exit(7 if flag.is_set() else 1)
    os.close(read)
    flag.set()
    os.close(write)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
