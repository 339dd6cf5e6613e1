"""Machines on one machine: network namespaces on a bridge, each behind a slow and lossy line.

with network(["ann", "ben"], Line()) as net:
    subprocess.run(net.words("ann", ["curl", f"http://{HUB}:80"]))

For root on Linux. The process itself moves into a new namespace, the hub, where the bridge is: what
it starts is there too, and nothing of the machine's own network is touched. A line is a veth pair
with netem, which delays, loses and limits, where the kernel has it. Else it is two taps and a
process of ours that carries each packet from one to the other, late or not at all; their rate is
then limited by the kernel's tbf. Both lose packets, not requests: TCP repeats them.
"""

import argparse
import asyncio
import ctypes
import fcntl
import os
import random
import signal
import socket
import statistics
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

HUB = "10.77.0.1"
_NEWNET = 0x40000000  # of unshare(2)
_TUNSETIFF, _TAP, _NO_HEADER = 0x400454CA, 0x0002, 0x1000  # of linux/if_tun.h
_INSTANT = 0.3  # seconds
_FRAME = 1 << 16  # bytes; larger than any packet


@dataclass(frozen=True)
class Line:
    """A line, the same in both directions."""

    delay: float = 0.05  # seconds, one way
    loss: float = 0.01  # share of packets
    rate: float = 20.0  # Mbit/s


@dataclass
class Network:
    """The namespaces, and how their lines are made: `netem` or `taps`."""

    line: Line
    way: str = "netem"
    addresses: dict[str, str] = field(default_factory=dict)
    carrier: "subprocess.Popen[bytes] | None" = None

    def words(self, name: str, command: Sequence[str]) -> list[str]:
        """Return the command that runs another on the machine `name`; its pid stays the same."""
        return ["ip", "netns", "exec", f"btm-{name}", *command]

    def cut(self, name: str) -> None:
        """Pull the plug of a machine."""
        _ip("link", "set", f"hub-{name}", "down")

    def mend(self, name: str) -> None:
        """Put the plug in again."""
        _ip("link", "set", f"hub-{name}", "up")

    def measure(self, name: str) -> dict[str, float]:
        """Measure the line of a machine: milliseconds and share of datagrams lost, there and back,
        and Mbit/s of one TCP connection from the hub.
        """
        with _answering() as (datagrams, streams):
            words = [sys.executable, __file__, "--ask", str(datagrams), str(streams)]
            done = subprocess.run(
                self.words(name, words), check=True, capture_output=True, text=True, timeout=120
            )
        found = [float(word) for word in done.stdout.split()]
        return dict(zip(("ms", "lost", "mbit_s"), found, strict=True))


@contextmanager
def network(names: Sequence[str], line: Line) -> Iterator[Network]:
    """Make machines on the bridge, and take them away after the block.

    Call it before any thread is started: a namespace is a thread's.
    """
    if os.geteuid() != 0:
        sys.exit("namespaces are for root")
    if ctypes.CDLL(None, use_errno=True).unshare(_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "unshare: no network namespace")
    net, ends = Network(line), []
    try:
        _ip("link", "set", "lo", "up")
        _ip("link", "add", "bridge", "type", "bridge")
        _ip("addr", "add", f"{HUB}/24", "dev", "bridge")
        _ip("link", "set", "bridge", "up")
        net.way = "netem" if _has_netem() else "taps"
        for number, name in enumerate(names):
            _ip("netns", "del", f"btm-{name}", check=False)  # of a run that was killed
            _ip("netns", "add", f"btm-{name}")
            net.addresses[name] = f"10.77.0.{10 + number}"
            ends += _join(net, name)
        if ends:
            net.carrier = _carrier(line, ends)
        yield net
    finally:
        if net.carrier is not None:
            net.carrier.kill()
            net.carrier.wait()
        for name in names:
            _ip("netns", "del", f"btm-{name}", check=False)


def _has_netem() -> bool:
    """Try the kernel's netem on the bridge."""
    return _tc("bridge", "netem", "delay", "1ms", check=False) and _tc("bridge", check=False)


def _join(net: Network, name: str) -> list[int]:
    """Join a machine to the bridge; return the ends of the line that a process must carry between."""
    near, far, inside, line = f"hub-{name}", f"far-{name}", f"btm-{name}", net.line
    ends: list[int] = []
    if net.way == "netem":
        _ip("link", "add", near, "type", "veth", "peer", "name", far)
        shape = ["netem", "delay", f"{line.delay * 1e3:g}ms", "loss", f"{line.loss:%}"]
        shape += ["rate", f"{line.rate:g}mbit"]
    else:
        ends = [_tap(near), _tap(far)]
        shape = ["tbf", "rate", f"{line.rate:g}mbit", "burst", "32kb", "latency", "400ms"]
    for end in (near, far):
        _tc(end, *shape)
    _ip("link", "set", near, "master", "bridge", "up")
    _ip("link", "set", far, "netns", inside)
    _tc(far, *shape, inside=inside)  # which a move undoes
    _ip("-n", inside, "link", "set", "lo", "up")
    _ip("-n", inside, "addr", "add", f"{net.addresses[name]}/24", "dev", far)
    _ip("-n", inside, "link", "set", far, "up")
    return ends


def _tap(name: str) -> int:
    """Make a tap: an interface whose packets a process reads and writes; return its handle."""
    handle = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(handle, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _TAP | _NO_HEADER))
    return handle


def _carrier(line: Line, ends: list[int]) -> "subprocess.Popen[bytes]":
    """Start the process that carries packets between each two ends."""
    words = [str(line.delay), str(line.loss), *map(str, ends)]
    started = subprocess.Popen([sys.executable, __file__, "--carry", *words], pass_fds=ends)
    for end in ends:
        os.close(end)
    return started


def carry(delay: float, loss: float, ends: list[int]) -> None:
    """Carry packets between ends, each `delay` seconds late; a share `loss` of them never comes."""
    loop = asyncio.new_event_loop()

    def send(end: int, packet: bytes) -> None:
        with suppress(OSError):  # the plug is out
            os.write(end, packet)

    def heard(end: int, other: int) -> None:
        with suppress(OSError):
            packet = os.read(end, _FRAME)
            if random.random() >= loss:
                loop.call_later(delay, send, other, packet)

    for near, far in zip(ends[::2], ends[1::2], strict=True):
        loop.add_reader(near, heard, near, far)
        loop.add_reader(far, heard, far, near)
    loop.run_forever()


@contextmanager
def slowed(process: "subprocess.Popen[str]", share: float) -> Iterator[None]:
    """Let a process run for `share` of each instant only, while the block runs: a slow machine."""
    done = threading.Event()

    def work() -> None:
        while not done.is_set() and process.poll() is None:
            process.send_signal(signal.SIGSTOP)
            done.wait(_INSTANT * (1 - share))
            process.send_signal(signal.SIGCONT)
            done.wait(_INSTANT * share)

    thread = threading.Thread(target=work)
    if share < 1:
        thread.start()
    try:
        yield
    finally:
        done.set()
        if share < 1:
            thread.join()


@contextmanager
def _answering() -> Iterator[tuple[int, int]]:
    """Answer datagrams and send a stream on two ports of the hub while the block runs."""
    with socket.socket(type=socket.SOCK_DGRAM) as echo, socket.socket() as stream:
        echo.bind((HUB, 0))
        stream.bind((HUB, 0))
        stream.listen()

        def answer() -> None:
            with suppress(OSError):
                while True:
                    echo.sendto(*echo.recvfrom(_FRAME))

        def pour() -> None:
            with suppress(OSError):
                other, _ = stream.accept()
                with other:
                    while True:
                        other.sendall(bytes(_FRAME))

        for work in (answer, pour):
            threading.Thread(target=work, daemon=True).start()
        yield echo.getsockname()[1], stream.getsockname()[1]


def ask(datagrams: int, streams: int, count: int = 200, seconds: float = 8.0) -> None:
    """Print what `Network.measure` returns, from the machine whose line it is."""
    times: list[float] = []
    with socket.socket(type=socket.SOCK_DGRAM) as one:
        one.settimeout(1.0)
        one.connect((HUB, datagrams))
        for _ in range(count):
            begun = time.monotonic()
            one.send(b"?")
            with suppress(TimeoutError):
                one.recv(1)
                times.append(time.monotonic() - begun)
    with socket.create_connection((HUB, streams)) as other:
        begun, size = time.monotonic(), 0
        while (spent := time.monotonic() - begun) < seconds:
            size += len(other.recv(_FRAME))
    print(
        f"{statistics.median(times) * 1e3:.1f} {1 - len(times) / count:.3f} "
        f"{8e-6 * size / spent:.1f}"
    )


def _ip(*words: str, check: bool = True) -> None:
    subprocess.run(["ip", *words], check=check, stderr=None if check else subprocess.DEVNULL)


def _tc(end: str, *words: str, inside: str | None = None, check: bool = True) -> bool:
    """Give an interface a queue, or without words its own again; return whether that worked."""
    where = ["-n", inside] if inside else []
    verb = "replace" if words else "del"
    done = subprocess.run(
        ["tc", *where, "qdisc", verb, "dev", end, "root", *words],
        check=check,
        stderr=None if check else subprocess.DEVNULL,
    )
    return done.returncode == 0


def main() -> None:
    """Measure a line, or do what a process of its own does: carry packets, ask."""
    words = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    words.add_argument("--carry", nargs="+", help="seconds, share, and handles of taps")
    words.add_argument("--ask", nargs=2, type=int, help="ports of the hub")
    asked = words.parse_args()
    if asked.carry:
        delay, loss, *ends = asked.carry
        carry(float(delay), float(loss), [int(end) for end in ends])
    elif asked.ask:
        ask(*asked.ask)
    else:
        with network(["one"], Line()) as net:
            print(net.way, net.measure("one"))


if __name__ == "__main__":
    main()
