"""What holds for all tests: none reaches the network, and none begins when time is up.

Every connection leaves this machine through here, or fails.
"""

import ctypes
import gc
import ipaddress
import socket
import sys
import time
from collections.abc import Iterator

import pytest

_BEGUN = time.monotonic()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--time-limit",
        type=float,
        metavar="SECONDS",
        help="skip, by name, the tests that would begin later than this",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    limit = item.config.getoption("--time-limit")
    if limit is not None and time.monotonic() - _BEGUN > limit:
        pytest.skip(f"the time limit of {limit:g} s is over (--time-limit)")


@pytest.fixture(scope="module", autouse=True)
def _memory_is_given_back() -> Iterator[None]:
    """Give back what a module's tests freed: the command line, run in this process, keeps it."""
    yield
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def _is_here(address: object) -> bool:
    """Say whether an address is this machine's own; sockets of files have no address."""
    if not isinstance(address, tuple) or not address:
        return True
    host = str(address[0]).partition("%")[0]
    if host in ("", "localhost", socket.gethostname()):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback or host in _OWN
    except ValueError:  # a name that would have to be asked for
        return False


def _own_addresses() -> set[str]:
    try:
        return {str(entry[4][0]) for entry in socket.getaddrinfo(socket.gethostname(), None)}
    except OSError:
        return set()


_OWN = _own_addresses()  # Ray's processes talk to each other by them


@pytest.fixture(scope="session", autouse=True)
def network_guard() -> Iterator[list[str]]:
    """Refuse connections to other machines; yields those that were tried."""
    tried: list[str] = []
    patch = pytest.MonkeyPatch()

    def guarded(original):
        def connect(self, address):
            if not _is_here(address):
                tried.append(repr(address))
                raise OSError(f"the tests' network guard: {address!r} is another machine")
            return original(self, address)

        return connect

    for name in ("connect", "connect_ex"):
        patch.setattr(socket.socket, name, guarded(getattr(socket.socket, name)))
    yield tried
    patch.undo()


@pytest.fixture(autouse=True)
def _nothing_reached_for_the_network(network_guard: list[str]) -> Iterator[None]:
    before = len(network_guard)
    yield
    assert network_guard[before:] == []
