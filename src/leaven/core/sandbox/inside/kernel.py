"""The Linux calls Python 3.11 lacks, through ctypes, and the system call filter as BPF instructions.

Calls can be prepared once in the worker and made in each child: building ctypes objects and 300 filter instructions
in the child cost more copied pages than everything else the cage does. Numbers are listed per architecture; whatever
is newer than they are is refused too. Imported on every system, used on Linux only.
"""

from __future__ import annotations

import os
import struct
from typing import Any

# Refused with EPERM: making or naming sockets (sending over the one inherited is allowed), tracing, mounts, namespaces,
# modules, clocks, keys, ids, message queues, priorities.
_DENY = {
    "x86_64": [
        29, 30, 41, 42, 43, 49, 50, 64, 65, 68, 69, 70, 101, 103, 105, 106, 113, 114, 116, 117, 119,
        122, 123, 126, 133, 134, 135, 136, 139, 141, 142, 144, 153, 154, 155, 156, 159, 161, 163, 164,
        165, 166, 167, 168, 169, 170, 171, 172, 173, 174, 175, 176, 179, 180, 181, 182, 183, 184, 185,
        212, 227, 236, 237, 238, 239, 240, 241, 246, 248, 249, 250, 251, 253, 256, 259, 272, 278, 279,
        288, 294, 298, 300, 301, 303, 304, 305, 308, 310, 311, 312, 313, 314, 317, 320, 321, 323, 424,
        425, 426, 427, 428, 429, 430, 431, 432, 433,
    ],
    "aarch64": [
        18, 26, 30, 33, 39, 40, 41, 42, 51, 58, 60, 75, 89, 91, 92, 97, 104, 105, 106, 112, 116, 117,
        118, 119, 140, 142, 143, 144, 145, 146, 147, 149, 151, 152, 159, 161, 162, 170, 171, 180, 181,
        186, 188, 189, 190, 193, 194, 196, 198, 200, 201, 202, 203, 217, 218, 219, 224, 225, 235, 236,
        237, 238, 239, 241, 242, 262, 263, 264, 265, 266, 268, 270, 271, 272, 273, 274, 277, 280, 282,
        294, 424, 425, 426, 427, 428, 429, 430, 431, 432, 433,
    ],
}
# changes to files' modes, owners, times, attributes and (before its third version) sizes by path, which landlock does not know (tier C)
_DENY_METADATA = {
    "x86_64": [76, 90, 92, 94, 132, 188, 189, 197, 198, 235, 260, 261, 268, 280],
    "aarch64": [5, 6, 14, 15, 45, 53, 54, 88],
}
# architecture id of seccomp, then the calls whose arguments are inspected
ABI = {
    "x86_64": (
        0xC000003E,
        {
            "clone": 56,
            "socketpair": 53,
            "kill": 62,
            "tkill": 200,
            "tgkill": 234,
            "setsid": 112,
            "setpgid": 109,
            "rt_sigqueueinfo": 129,
            "rt_tgsigqueueinfo": 297,
            "prlimit64": 302,
            "setresuid": 117,
            "sched_setaffinity": 203,
            "fcntl": 72,
            "ioctl": 16,
        },
    ),
    "aarch64": (
        0xC00000B7,
        {
            "clone": 220,
            "socketpair": 199,
            "kill": 129,
            "tkill": 130,
            "tgkill": 131,
            "setsid": 157,
            "setpgid": 154,
            "rt_sigqueueinfo": 138,
            "rt_tgsigqueueinfo": 240,
            "prlimit64": 261,
            "setresuid": 147,
            "sched_setaffinity": 122,
            "fcntl": 25,
            "ioctl": 29,
        },
    ),
}
OWN_PID = 0x7EADBEEF
Call = tuple[Any, tuple, str]
_CLONE_NEW_ANY = 0x7E020080
_CLONE3, _FACCESSAT2, _FIRST_UNKNOWN, _CLONE_THREAD = 435, 439, 437, 0x10000
_FCNTL_REFUSED = (8, 10, 15, 1031)  # F_SETOWN, F_SETSIG, F_SETOWN_EX, F_SETPIPE_SZ
_IOCTL_REFUSED = (0x8901, 0x8902)  # FIOSETOWN, SIOCSPGRP
_ALLOW, _EPERM, _ENOSYS, _KILL = 0x7FFF0000, 0x00050001, 0x00050026, 0x80000000


class CageError(Exception):
    """A tier cannot be set up on this machine; the text says which call refused."""


class Kernel:
    """The handful of Linux calls Python 3.11 lacks; every failure is a CageError naming the call."""

    def __init__(self) -> None:
        import ctypes

        self._ctypes = ctypes
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._libc.syscall.restype = ctypes.c_long

    def prepare(self, name: str, *args: object) -> Call:
        """Return a libc call ready to be made; ints are passed as C long, bytes as char*."""
        made = [self._ctypes.c_long(a) if isinstance(a, int) else a for a in args]
        if name == "fork_by_syscall":  # the interpreter's lock stays held: there is no other thread to let run
            held = self._ctypes.PyDLL(None, use_errno=True)
            held.syscall.restype = self._ctypes.c_long
            return held.syscall, tuple(made), "clone"
        return getattr(self._libc, name), tuple(made), name

    def make(self, call: Call) -> int:
        """Make a prepared call; raise CageError when it fails."""
        function, args, name = call
        done = function(*args)
        if done < 0:
            shown = ", ".join(str(getattr(a, "value", a)) for a in args)
            raise CageError(f"{name}({shown}): {os.strerror(self._ctypes.get_errno())}")
        return done

    def call(self, name: str, *args: object) -> int:
        """Prepare and make a call."""
        return self.make(self.prepare(name, *args))

    def landlock_abi(self) -> int:
        """Return the landlock version of the running kernel, -1 when there is none."""
        return self._libc.syscall(444, 0, 0, 1)

    def mount(self, source: bytes, target: bytes, kind: bytes | None, flags: int, data: bytes | None = None) -> None:
        """mount(2)."""
        self.call("mount", source, target, kind, flags, data)

    def buffer(self, data: bytes) -> object:
        """Return `data` as memory that stays valid while the object lives."""
        return self._ctypes.create_string_buffer(data, len(data))

    def address(self, memory: object) -> int:
        """Return where `buffer` put its bytes."""
        return self._ctypes.addressof(memory)


def _only_with(call: int, first: int) -> list[tuple[int, int, int, int]]:
    """Return the instructions that allow a call with this first argument alone."""
    return [(0x15, 0, 4, call), (0x20, 0, 0, 16), (0x15, 1, 0, first), (0x06, 0, 0, _EPERM), (0x06, 0, 0, _ALLOW)]


def _not_with(call: int, second: tuple[int, ...]) -> list[tuple[int, int, int, int]]:
    """Return the instructions that refuse a call with one of these second arguments."""
    checks = [(0x15, len(second) - place, 0, value) for place, value in enumerate(second)]
    return [(0x15, 0, len(second) + 3, call), (0x20, 0, 0, 24), *checks, (0x06, 0, 0, _ALLOW), (0x06, 0, 0, _EPERM)]


def filter_program(
    machine: str,
    shared_pids: bool,
    may_fork: bool,
    exact: tuple[tuple[str, tuple[int, ...]], ...] = (),
    clone_flags: int = -1 & 0xFFFFFFFF,
) -> bytes:
    """Return the BPF instructions of the system call filter; `shared_pids` adds what a pid namespace would have
    ensured, `exact` allows otherwise refused calls with exactly these first arguments, `clone_flags` one clone.

    Where a signal's target is compared the constant is `OWN_PID`, to be replaced in the child.
    """
    arch, number = ABI[machine]
    code: list[tuple[int, int, int, int]] = []

    def load(offset: int) -> None:
        code.append((0x20, 0, 0, offset))  # LD W ABS

    def give(what: int) -> None:
        code.append((0x06, 0, 0, what))  # RET

    load(4)
    code.append((0x15, 1, 0, arch))
    give(_KILL)
    load(0)
    code.append((0x15, 0, 1, _CLONE3))
    give(_ENOSYS)  # glibc then falls back to clone, whose flags can be read
    code.append((0x15, 1, 0, _FACCESSAT2))
    code.append((0x35, 0, 1, _FIRST_UNKNOWN))
    give(_ENOSYS)
    for name, arguments in exact:
        code.append((0x15, 0, 2 * len(arguments) + 2, number[name]))
        for place, value in enumerate(arguments):
            load(16 + 8 * place)
            code.append((0x15, 0, 2 * (len(arguments) - place) - 1, value))  # on to the refusal
        give(_ALLOW)
        give(_EPERM)
    denied = list(_DENY[machine])
    if shared_pids:
        signals = ("tkill", "setsid", "setpgid", "rt_sigqueueinfo", "rt_tgsigqueueinfo")
        denied += _DENY_METADATA[machine] + [number[n] for n in signals]
    if not may_fork and machine == "x86_64":
        denied += [57, 58]  # fork, vfork
    for one in denied:
        code.append((0x15, 0, 1, one))
        give(_EPERM)
    if may_fork:
        code += [
            (0x15, 0, 5, number["clone"]),
            (0x20, 0, 0, 16),
            (0x15, 2, 0, clone_flags),
            (0x45, 0, 1, _CLONE_NEW_ANY),
            (0x06, 0, 0, _EPERM),
            (0x06, 0, 0, _ALLOW),
        ]
    else:
        code += [
            (0x15, 0, 4, number["clone"]),
            (0x20, 0, 0, 16),
            (0x45, 1, 0, _CLONE_THREAD),
            (0x06, 0, 0, _EPERM),
            (0x06, 0, 0, _ALLOW),
        ]
    # who gets a descriptor's signals (any process of the same user), and the size of a pipe that later children use
    code += _not_with(number["fcntl"], _FCNTL_REFUSED) + _not_with(number["ioctl"], _IOCTL_REFUSED)
    code += _only_with(number["socketpair"], 1)
    if shared_pids:  # signals and limits only for itself
        for name, first in (("sched_setaffinity", 0), ("prlimit64", 0), ("kill", OWN_PID), ("tgkill", OWN_PID)):
            code += _only_with(number[name], first)
    give(_ALLOW)
    return b"".join(struct.pack("=HBBI", *one) for one in code)
