"""What one child gives up, prepared in the worker so that the child itself does as little as possible.

Every page a child touches is copied for it, so building ctypes objects or filter instructions there costs more than the
calls they are for. `Lock` does everything in the child; `LightLock` (tier A) leaves to the child only what is its own:
the worker already lives in the folder, under the limits and behind the filter that its children inherit.
Not covered: namespaces of the worker (cage.py).
"""

from __future__ import annotations

import os
import resource
import signal
import struct
import sys
from typing import TYPE_CHECKING

from kernel import OWN_PID, filter_program

if TYPE_CHECKING:
    from cage import Cage

LINUX = sys.platform == "linux"
NEWNS, NEWPID = 0x20000, 0x20000000
RDONLY, NOSUID, NODEV, NOEXEC, UMOUNT_DETACH = 1, 2, 4, 8, 2
PDEATHSIG, NO_NEW_PRIVS, SECCOMP, SUBREAPER = 1, 38, 22, 36
SCRATCH = b"size=64m,nr_inodes=1000,mode=1777"
_closerange, _setrlimit, _setresuid = os.closerange, resource.setrlimit, getattr(os, "setresuid", None)
SAME_FOR_ALL = {"RLIMIT_CORE": 0, "RLIMIT_STACK": 64 << 20, "RLIMIT_MEMLOCK": 0, "RLIMIT_MSGQUEUE": 0, "RLIMIT_NOFILE": 64}


def capped(wanted: dict[str, int]) -> list[tuple[int, tuple[int, int]]]:
    """Return (resource, (soft, hard)) for every limit this system has, never above what is allowed already."""
    found = []
    for name, value in wanted.items():
        if (which := getattr(resource, name, None)) is not None:
            hard = resource.getrlimit(which)[1]
            value = value if hard == resource.RLIM_INFINITY else min(value, hard)
            found.append((which, (value, value)))
    return found


class LightLock:
    """What is left to a child whose worker has settled (`Cage.settle`): session, own limits, user id, descriptors."""

    def __init__(self, uid: int, limits: dict) -> None:
        self.uid = uid
        self.limits = capped(
            {
                "RLIMIT_AS": limits["memory_bytes"],
                "RLIMIT_FSIZE": limits["file_bytes"],
                "RLIMIT_CPU": int(limits["cpu_s"]) + 2,
                "RLIMIT_NPROC": limits["processes"],
            }
        )

    def apply(self, folder: str, first_fd: int) -> None:
        """Give everything up, in the child; descriptors from `first_fd` close."""
        _closerange(first_fd, 65536)
        for which, values in self.limits:
            _setrlimit(which, values)
        _setresuid(self.uid, self.uid, self.uid)


class Lock:
    """Everything one child gives up: namespaces or landlock, limits, user id or capabilities, system calls.

    `kind` is candidate, judge or foreign (a program in another language)."""

    def __init__(self, cage: Cage, limits: dict, kind: str) -> None:
        judge = kind == "judge"
        self.tier, self.kernel, self.uid = cage.tier, cage.kernel, cage.uid + judge
        # interpreters below a closed home cannot be read under another uid, programs of the system can
        self.own_uid = self.tier == "A" or (kind == "foreign" and self.tier in "CD" and cage.root)
        self.others = 0 if self.own_uid or self.tier == "B" else cage.count_own_processes()
        self.limits = self._limits(limits, kind)
        self.first: list = []
        self.optional: tuple | None = None
        self.last: list = []
        if self.kernel is None:
            return
        prepare = self.kernel.prepare
        if self.tier in "AB":
            self.first = [
                prepare("unshare", NEWNS),
                prepare("mount", b"tmpfs", b"/tmp", b"tmpfs", NOSUID | NODEV, SCRATCH),
            ]
            if kind == "foreign":  # virtual machines and shells read their own entries
                self.optional = prepare("mount", b"proc", b"/proc", b"proc", NOSUID | NODEV | NOEXEC | RDONLY, None)
            if self.tier == "B" and cage._proc >= 0 and kind != "foreign":
                self.first.append(prepare("umount2", b"/proc", UMOUNT_DETACH))
        else:
            self.first = [prepare("syscall", 446, cage._ruleset, 0)]  # landlock_restrict_self
        if self.tier in "BC":  # capset to nothing
            self.last.append(
                prepare(
                    "capset", self.kernel.buffer(struct.pack("=Ii", 0x20080522, 0)), self.kernel.buffer(bytes(24))
                )
            )
        self.last.append(prepare("prctl", PDEATHSIG, int(signal.SIGKILL), 0, 0, 0))
        # without a countable uid of its own a job may not start processes: root is exempt from RLIMIT_NPROC
        # (a foreign job's processes are counted from outside)
        may_fork = kind != "candidate" or self.tier == "A" or (self.tier == "B" and not cage.root)
        code = filter_program(cage.machine, self.tier == "C", may_fork)
        self.own_pid_at = [at for at in range(4, len(code), 8) if code[at : at + 4] == struct.pack("=I", OWN_PID)]
        self.code = self.kernel.buffer(code)
        self.program = self.kernel.buffer(struct.pack("=HxxxxxxQ", len(code) // 8, self.kernel.address(self.code)))
        self.last.append(prepare("prctl", SECCOMP, 2, self.kernel.address(self.program), 0, 0))

    def _limits(self, limits: dict, kind: str) -> list[tuple[int, tuple[int, int]]]:
        wanted = SAME_FOR_ALL | {"RLIMIT_AS": limits["memory_bytes"], "RLIMIT_FSIZE": limits["file_bytes"]}
        if kind == "foreign":
            wanted["RLIMIT_NOFILE"] = 256
        if kind != "judge":
            wanted["RLIMIT_CPU"] = int(limits["cpu_s"]) + 2
        if self.own_uid or self.tier == "B" or kind == "foreign":  # counted per uid, which may be that of other work
            wanted["RLIMIT_NPROC"] = limits["processes"] + self.others
        return capped(wanted)

    def apply(self, folder: str, first_fd: int) -> None:
        """Give everything up, in the child; `folder` is its private one in tiers C and D, descriptors from `first_fd`
        close."""
        os.setsid()
        for call in self.first:
            self.kernel.make(call)
        if self.optional is not None:
            function, args, _ = self.optional
            function(*args)
        os.closerange(first_fd, 65536 if LINUX else 1024)
        os.chdir(folder or "/tmp")
        for which, values in self.limits:
            try:
                resource.setrlimit(which, values)
            except (ValueError, OSError):
                if self.tier != "D":  # macOS refuses some of them
                    raise
        if self.own_uid:
            if folder:
                os.chown(".", self.uid, self.uid)
            os.setresgid(self.uid, self.uid, self.uid)
            os.setresuid(self.uid, self.uid, self.uid)
        if self.kernel is not None:
            for at in self.own_pid_at:
                struct.pack_into("=I", self.code, at, os.getpid())
            for call in self.last:
                self.kernel.make(call)
