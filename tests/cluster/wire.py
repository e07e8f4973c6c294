"""A network between namespaces that this process carries itself: packet by packet, with delay, loss and cuts.

Each host has one end of a tunnel (tun(4)), and what it sends comes out here as IP packets. So faults need no
kernel module such as netem, and whether a packet is lost is drawn from a seed.
"""

import ctypes
import fcntl
import heapq
import itertools
import os
import random
import select
import socket
import struct
import threading
import time
from dataclasses import dataclass

_TUNSETIFF = 0x400454CA
_IFF_TUN_NO_PI = 0x1001
_CLONE_NEWNET = 0x40000000
_MTU = 1500
DEVICE = "wire"


@dataclass
class Link:
    """What happens to packets on their way from one host to another."""

    delay: float = 0.0  # seconds
    loss: float = 0.0  # share of packets
    cut: bool = False


class Wire:
    """Carries packets between hosts until it is closed. Addresses are IPv4."""

    def __init__(self, seed=0):
        self._ends = {}  # an address: the tunnel's file
        self._links = {}
        self._forgotten = set()  # flows whose packets vanish, both ways
        self._flows = set()  # flows seen
        self._lock = threading.Lock()
        self._random = random.Random(seed)
        self._late = []  # heap of (time, number, target, packet)
        self._numbers = itertools.count()
        self._bell, self._ring = os.pipe()
        self._closing = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.carried = self.dropped = 0

    def attach(self, namespace, address):
        """Put the tunnel's end into a namespace, as the device `wire`; before `start`."""
        self._ends[address] = _in_namespace(namespace, _open_tunnel)

    def start(self):
        """Begin to carry."""
        self._thread.start()

    def link(self, source, target):
        """The way from one address to another, to be changed as one likes."""
        return self._links.setdefault((source, target), Link())

    def heal(self):
        """Let every packet of flows that are not forgotten through again."""
        self._links.clear()

    def forget_flows(self, address):
        """Lose all packets of the connections that a host has now, for good, as a restarted firewall does."""
        with self._lock:
            self._forgotten |= {flow for flow in self._flows if address in (flow[0][0], flow[1][0])}

    def close(self):
        """End; the tunnels' devices vanish."""
        self._closing = True
        os.write(self._ring, b"x")
        self._thread.join()
        for file in (*self._ends.values(), self._bell, self._ring):
            os.close(file)

    def _run(self):
        while not self._closing:
            wait = max(0.0, self._late[0][0] - time.monotonic()) if self._late else None
            ready, _, _ = select.select([*self._ends.values(), self._bell], [], [], wait)
            for file in ready:
                if file != self._bell:
                    self._take(os.read(file, 2 * _MTU))
            while self._late and self._late[0][0] <= time.monotonic():
                self._pass_on(*heapq.heappop(self._late)[2:])

    def _take(self, packet):
        """Drop a packet, or pass it on now or later."""
        if packet[0] >> 4 != 4:
            return  # the kernel's own, of IPv6
        source, target = socket.inet_ntoa(packet[12:16]), socket.inet_ntoa(packet[16:20])
        link = self._links.get((source, target))
        lost = target not in self._ends or self._is_forgotten(packet, source, target)
        if lost or (link and (link.cut or self._random.random() < link.loss)):
            self.dropped += 1
        elif link and link.delay:
            heapq.heappush(self._late, (time.monotonic() + link.delay, next(self._numbers), target, packet))
        else:
            self._pass_on(target, packet)

    def _is_forgotten(self, packet, source, target):
        """Note a packet's flow; return whether it is one of the forgotten."""
        start = 4 * (packet[0] & 15)
        if packet[9] != socket.IPPROTO_TCP:
            return False
        ports = struct.unpack_from("!HH", packet, start)
        flow = tuple(sorted([(source, ports[0]), (target, ports[1])]))
        with self._lock:
            self._flows.add(flow)
            return flow in self._forgotten

    def _pass_on(self, target, packet):
        try:
            os.write(self._ends[target], packet)
            self.carried += 1
        except OSError:  # its queue is full, or its device is down
            self.dropped += 1


def _open_tunnel():
    file = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(file, _TUNSETIFF, struct.pack("16sH", DEVICE.encode(), _IFF_TUN_NO_PI))
    return file


def _in_namespace(name, work):
    """Return what `work` gives on a thread of its own that has entered a network namespace."""
    found = []

    def enter():
        library = ctypes.CDLL(None, use_errno=True)
        file = os.open(f"/run/netns/{name}", os.O_RDONLY)
        try:
            if library.setns(file, _CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")
            found.append(work())
        except OSError as error:
            found.append(error)
        finally:
            os.close(file)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    if isinstance(found[0], OSError):
        raise found[0]
    return found[0]
