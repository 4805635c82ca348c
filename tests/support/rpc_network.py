"""TVM's tracker and servers in one process, so that a test waits for one import of TVM only."""

import sys

from tvm.rpc.server import PopenRPCServerState
from tvm.rpc.tracker import PopenTrackerServerState

from benchmarks.rpc_servers import LOOPBACK

KEYS = ("host", "dying", "silent")
"""What the tracker knows: a board, one whose session will die, and one that will not answer."""
DIRECT = "direct"
"""A board without tracker; one that has a tracker takes nobody that does not come from there."""


def main(ports: list[int]) -> None:
    """Listen on the ports of the tracker, the board without tracker and the others, until somebody ends the process."""
    PopenTrackerServerState(LOOPBACK, ports[0], ports[0] + 1)
    PopenRPCServerState(LOOPBACK, ports[1], ports[1] + 1, key=DIRECT)
    for key, port in zip(KEYS, ports[2:], strict=True):
        PopenRPCServerState(LOOPBACK, port, port + 1, key=key, tracker_addr=(LOOPBACK, ports[0]))


if __name__ == "__main__":
    main([int(port) for port in sys.argv[1:]])
