"""Connections to Redis notice that a server has vanished, not only that it has ended."""

from typing import Final

# Seconds. Redis answers at once, or it is away: a host that lost its power, or that a firewall has cut off, says
# nothing. By itself a client waits for it for ever (redis-py before version 8, kombu still), and what waits cannot even
# be told to end.
TIMEOUTS: Final = {"socket_timeout": 10, "socket_connect_timeout": 5}
