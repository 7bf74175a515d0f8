"""Rights -> fewer rights: what a worker and its children give up, per tier, through ctypes alone (no compiler
needed).

A  (root)          namespaces (pid, mount, net, ipc, uts), a private read-only root, own uid, seccomp, limits
B  (plain user)    the same inside a user namespace; capabilities dropped instead of the uid
C  (in containers) seccomp and landlock, no capabilities, no new processes, limits
D  (anything)      limits only: programs that the allow-list does not prove harmless must not run here

In tier B started by root (tier A is then the better one) the number of processes is not bounded by the kernel, which
counts root's never; programs in other languages are counted from outside there.

Why a pid namespace per child: killing its first process ends every descendant. What can be prepared or given up once
in the worker is (lock.py). Not covered: cgroups (the memory of one job's processes
together is bounded by limits x processes only); disk use in tier C (each file is limited, their number is not; the
folder is removed after the job).
"""

from __future__ import annotations

import os
import resource
import signal
import stat
import struct
import sys
import time

from kernel import ABI, CageError, Kernel, filter_program
from lock import (
    LINUX,
    NEWNS,
    NEWPID,
    NO_NEW_PRIVS,
    NODEV,
    NOEXEC,
    NOSUID,
    PDEATHSIG,
    RDONLY,
    SAME_FOR_ALL,
    SCRATCH,
    SECCOMP,
    SUBREAPER,
    UMOUNT_DETACH,
    LightLock,
    Lock,
    capped,
)

_NEWUTS, _NEWIPC, _NEWUSER, _NEWNET = 0x4000000, 0x8000000, 0x10000000, 0x40000000
_REMOUNT, _BIND, _REC, _PRIVATE = 32, 4096, 16384, 1 << 18
_TICKS, _PAGE = (os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")) if LINUX else (100, 4096)
_SYSTEM_FOLDERS = ("/usr/lib", "/usr/lib64", "/lib", "/lib64", "/usr/bin", "/bin")


_LIBRARIES = "/libraries"
"""Where a child of tiers A and B finds the environment's packages that it may import."""


class Cage:
    """One worker's isolation: `enter` once in the worker, `fork` and `lock` for every child.

    Args:
        tier: "A", "B", "C" or "D".
        uid: first of two user ids this worker may give its children (tier A).
        scratch: a folder of this worker; children get a fresh private one in it (tiers C, D) or a tmpfs (A, B).
    """

    def __init__(self, tier: str, uid: int, scratch: str) -> None:
        self.tier = tier
        self.uid = uid
        self.scratch = scratch
        self.jobs = os.path.join(scratch, "jobs")
        self.root = LINUX and os.geteuid() == 0
        self.machine = os.uname().machine
        self._pidns = -1
        self._proc = -1
        self.kernel: Kernel | None = None
        self._ruleset = -1
        self._locks: dict[tuple, Lock | LightLock] = {}
        self.settled = False
        self._free_inodes = 0
        if tier != "D":
            if not LINUX or self.machine not in ABI:
                raise CageError(
                    f"tier {tier} needs Linux on x86_64 or aarch64, found {sys.platform} on {self.machine}"
                )
            self.kernel = Kernel()
        if tier == "A" and not self.root:
            raise CageError(f"tier A needs root, found uid {os.geteuid()}")

    # -- the worker ---------------------------------------------------------------------------------------------------

    def enter(self, readable: list[str], libraries: list[str]) -> list[str]:
        """Isolate the calling process for good, `readable` paths and `libraries` aside; return where to import those from.

        In tiers A and B it returns in a new process, first of its pid namespace.
        """
        if self.tier in "AB":
            self._enter_namespaces()
            self._build_root(readable, libraries)
            folders = [_LIBRARIES]
        else:
            folders = self._prepare_scratch(libraries)
        if self.tier in "CD" and LINUX:
            self._proc = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)
        if self.tier in "CD" and LINUX:  # what leaves its process group comes back to this worker as an orphan
            (self.kernel or Kernel()).call("prctl", SUBREAPER, 1, 0, 0, 0)
        if self.tier == "C":
            self._ruleset = self._build_ruleset([*readable, *libraries, *folders, *_SYSTEM_FOLDERS])
        if self.tier == "A":
            os.setgroups([])
            os.setresgid(self.uid, self.uid, self.uid)
        if self.kernel is not None:
            self.kernel.call("prctl", NO_NEW_PRIVS, 1, 0, 0, 0)
        os.umask(0o077)
        return folders

    def _prepare_scratch(self, libraries: list[str]) -> list[str]:
        """Make the folder of jobs, and one with links to the libraries: a listing of theirs would promise more than may be
        read."""
        os.chmod(self.scratch, 0o711)  # a job of another uid lives in a folder of its own below
        os.mkdir(self.jobs, 0o711)
        linked = os.path.join(self.scratch, "libraries")
        os.mkdir(linked, 0o755)
        for path in libraries:
            if not os.path.lexists(os.path.join(linked, os.path.basename(path))):
                os.symlink(path, os.path.join(linked, os.path.basename(path)))
        return [linked]

    def _enter_namespaces(self) -> None:
        kernel, uid, gid = self.kernel, os.geteuid(), os.getegid()
        spaces = NEWNS | _NEWNET | _NEWIPC | _NEWUTS | NEWPID
        kernel.call("unshare", spaces | (_NEWUSER if self.tier == "B" else 0))
        if self.tier == "B":
            for name, text in (("setgroups", "deny"), ("uid_map", f"65534 {uid} 1"), ("gid_map", f"65534 {gid} 1")):
                with open(f"/proc/self/{name}", "w") as handle:
                    handle.write(text)
        inner = os.fork()
        if inner:
            os.closerange(3, 256)
            os.waitpid(inner, 0)
            os._exit(0)
        kernel.call("prctl", PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        self._pidns = os.open("/proc/self/ns/pid", os.O_RDONLY)
        self._here = kernel.prepare("setns", self._pidns, NEWPID)
        self._below = kernel.prepare("unshare", NEWPID)

    def _build_root(self, readable: list[str], libraries: list[str]) -> None:
        """Replace / by a tmpfs holding the interpreter and the system libraries, read-only, with no /proc, /etc or home.

        `libraries` lie side by side in a folder of their own: an environment below /tmp would vanish behind the jobs' /tmp.
        """
        mount = self.kernel.mount
        mount(b"none", b"/", None, _REC | _PRIVATE)
        root = next((d for d in ("/sys", "/mnt", "/media", "/srv") if os.path.isdir(d)), "/tmp")
        mount(b"tmpfs", root.encode(), b"tmpfs", NOSUID | NODEV, b"size=1m,mode=755")
        shown = {f"{_LIBRARIES}/{os.path.basename(path)}": path for path in reversed(libraries)}  # the first of a name wins
        for place, path in (*((f, f) for f in (*_SYSTEM_FOLDERS, *readable)), *shown.items()):
            target = root + place
            if os.path.exists(path) and not os.path.ismount(target):
                if os.path.isdir(path):
                    os.makedirs(target, 0o755, exist_ok=True)
                else:
                    os.makedirs(os.path.dirname(target), 0o755, exist_ok=True)
                    os.close(os.open(target, os.O_CREAT | os.O_WRONLY))
                mount(path.encode(), target.encode(), None, _BIND)
                self._read_only(target.encode())
        for folder in ("dev", "proc", "etc", "tmp", "var/tmp"):
            os.makedirs(f"{root}/{folder}", 0o755, exist_ok=True)
        for device in ("null", "zero", "urandom"):
            os.close(os.open(f"{root}/dev/{device}", os.O_CREAT | os.O_WRONLY))
            mount(f"/dev/{device}".encode(), f"{root}/dev/{device}".encode(), None, _BIND)
        for name, target in (("fd", "/proc/self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")):
            os.symlink(target, f"{root}/dev/{name}")  # they lead somewhere only where a child has a /proc
        try:  # for the worker, which reads run-queue delays in it; its children have no /proc or only their own
            mount(b"proc", f"{root}/proc".encode(), b"proc", NOSUID | NODEV | NOEXEC)
            self._proc = os.open(f"{root}/proc", os.O_RDONLY | os.O_DIRECTORY)
            if self.tier == "A":  # in a user namespace a new /proc can be mounted only while another one is in sight
                self.kernel.call("umount2", f"{root}/proc".encode(), UMOUNT_DETACH)
        except CageError:
            self._proc = -1  # a container may forbid it; wall limits are then not stretched
        os.chdir(root)
        self.kernel.call("syscall", {"x86_64": 155, "aarch64": 41}[self.machine], b".", b".")  # pivot_root
        self.kernel.call("umount2", b".", UMOUNT_DETACH)
        os.chdir("/")
        self._read_only(b"/", RDONLY | NOSUID | NODEV, bind=False)

    def _read_only(self, target: bytes, flags: int = RDONLY | NOSUID | NODEV, bind: bool = True) -> None:
        # a user namespace may not clear flags the host set: keep those that statvfs reports
        kept = os.statvfs(target).f_flag & (NOEXEC | 1024 | 2048 | 4096)
        extra = (NOEXEC if kept & NOEXEC else 0) | (kept & 3072) | ((1 << 21) if kept & 4096 else 0)
        self.kernel.mount(b"none", target, None, _REMOUNT | flags | extra | (_BIND if bind else 0))

    def _build_ruleset(self, readable: list[str]) -> int:
        """Landlock: read and execute the interpreter and system libraries, everything inside the folder of jobs, no
        more."""
        abi = self.kernel.landlock_abi()
        if abi < 1:
            raise CageError("tier C needs landlock, which this kernel or container does not offer")
        handled = (1 << (13 if abi == 1 else 14 if abi == 2 else 15)) - 1
        ruleset = self.kernel.call("syscall", 444, self.kernel.buffer(struct.pack("=Q", handled)), 8, 0)
        devices = [(f"/dev/{d}", 0b110) for d in ("null", "zero", "urandom")]
        folders = [(p, 0b1101 if os.path.isdir(p) else 0b101) for p in readable]
        for path, rights in [*folders, *devices, (self.jobs, handled)]:
            if os.path.exists(path):
                handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
                self.kernel.call(
                    "syscall", 445, ruleset, 1, self.kernel.buffer(struct.pack("=Qi", rights, handle)), 0
                )
                os.close(handle)
        high = os.dup2(ruleset, 200, inheritable=False)  # out of the way of the low numbers children are given
        os.close(ruleset)
        return high

    def settle(self) -> None:
        """Give up in the worker what its candidates may not have, so that they inherit it (tier A; the judge has started).

        The worker keeps root for exactly two calls, which are refused in any other form: a child in a new pid namespace,
        and that child's change to its own user id. Candidates share the mount namespace and thus /tmp, which `tidy`
        empties between them. Their standard output is the worker's own.
        """
        if self.tier != "A":
            return
        self.kernel.mount(b"tmpfs", b"/tmp", b"tmpfs", NOSUID | NODEV, SCRATCH)
        os.chdir("/tmp")
        for which, values in capped(SAME_FOR_ALL):
            resource.setrlimit(which, values)
        self.kernel.make(self._here)  # the judge's namespace was below; clone makes one only from the worker's own
        flags = NEWPID | int(signal.SIGCHLD)
        self._clone = self.kernel.prepare("fork_by_syscall", ABI[self.machine][1]["clone"], flags, 0, 0, 0, 0)
        exact = (("setresuid", (self.uid, self.uid, self.uid)),)
        code = self.kernel.buffer(filter_program(self.machine, False, True, exact, flags))
        program = self.kernel.buffer(struct.pack("=HxxxxxxQ", len(code) // 8, self.kernel.address(code)))  # type: ignore[arg-type]
        self.kernel.call("prctl", SECCOMP, 2, self.kernel.address(program), 0, 0)
        self._free_inodes = os.statvfs("/tmp").f_ffree
        self._waited = struct.Struct("=q4q")
        self._wait_room = self.kernel.buffer(bytes(8 + 256))
        at = self.kernel.address(self._wait_room)
        self._wait = self.kernel.prepare("wait4", -1, at, 0, at + 8)
        self.settled = True
        self._locks.clear()

    def tidy(self) -> None:
        """Empty the folder that candidates of a settled worker use one after the other; none of them is alive."""
        if self.settled and os.statvfs("/tmp").f_ffree != self._free_inodes:
            empty_folder("/tmp")
            if os.listdir("/tmp"):
                raise CageError("the folder of candidates could not be emptied")
            self._free_inodes = os.statvfs("/tmp").f_ffree  # a deleted file may live on for a while in a message nobody took

    # -- the children -------------------------------------------------------------------------------------------------

    def fork(self) -> int:
        """Fork; in tiers A and B the child is the first process of a fresh pid namespace. Returns 0 in the child."""
        if self.settled:
            # not os.fork, which prepares for threads that are not here and touches many pages on both sides
            return self.kernel.make(self._clone)
        if self._pidns >= 0:  # a namespace can be unshared only from the one the process itself lives in
            self.kernel.make(self._here)
            self.kernel.make(self._below)
        return os.fork()

    def wait(self, pid: int) -> tuple[int, float]:
        """Bury a child of a settled worker; return its wait status and CPU seconds.

        os.wait4 imports a module at every call to make its result.
        """
        while True:
            function, args, _ = self._wait
            if function(*args) == pid:
                status, user_s, user_us, system_s, system_us = self._waited.unpack_from(self._wait_room)
                return status & 0xFFFFFFFF, user_s + system_s + (user_us + system_us) / 1e6

    def waited_s(self, pid: int, everyone: bool = False) -> float:
        """Return the seconds a child's first thread was ready to run but had no core; 0.0 where the system does not
        say. `everyone`: the longest such wait of any process of its job."""
        if self._proc < 0:
            return 0.0
        if everyone:
            return max((self.waited_s(one) for one in self._family(pid, 0)), default=0.0)
        try:
            handle = os.open(f"{pid}/schedstat", os.O_RDONLY, dir_fd=self._proc)
        except OSError:
            return 0.0
        try:
            return int(os.read(handle, 200).split()[1]) / 1e9
        finally:
            os.close(handle)

    def _family(self, pid: int, judge_pid: int) -> list[int]:
        """Return the processes of a job: in tiers A and B all of this worker's namespace but the worker and its judge,
        elsewhere the process group of its first."""
        pids = [int(name) for name in os.listdir(self._proc) if name.isdigit()]
        if self._pidns >= 0:
            return [p for p in pids if p not in (1, judge_pid)]
        found = []
        for one in pids:
            try:
                if os.getpgid(one) == pid:
                    found.append(one)
            except OSError:
                continue
        return found

    def count_own_processes(self) -> int:
        """Return how many threads run under this worker's uid; 0 where that cannot be read."""
        count = 0
        for name in os.listdir(self._proc) if self._proc >= 0 else ():
            try:
                if name.isdigit() and os.stat(name, dir_fd=self._proc).st_uid == os.geteuid():
                    count += len(os.listdir(f"/proc/{name}/task"))
            except OSError:
                continue
        return count

    def usage_of(self, pid: int, judge_pid: int) -> tuple[float, int, int]:
        """Return the CPU seconds, resident bytes and number of a job's processes (of its first where nothing else is
        known)."""
        if self._proc < 0:
            return time.clock_gettime(((~pid) << 3) | 2) if LINUX else 0.0, 0, 1
        ticks = pages = count = 0
        for one in self._family(pid, judge_pid):
            try:
                handle = os.open(f"{one}/stat", os.O_RDONLY, dir_fd=self._proc)
            except OSError:
                continue
            try:
                fields = os.read(handle, 4096).rpartition(b")")[2].split()
            except OSError:
                continue
            finally:
                os.close(handle)
            ticks += sum(map(int, fields[11:15]))
            pages += int(fields[21])
            count += 1
        return ticks / _TICKS, pages * _PAGE, count

    def prepare(self, limits: dict, kind: str = "candidate") -> Lock | LightLock:
        """Return the lock of a child with these limits (cpu_s, memory_bytes, processes, file_bytes), made once and
        kept; `kind` is candidate, judge or foreign."""
        key = (*[limits[k] for k in ("cpu_s", "memory_bytes", "processes", "file_bytes")], kind)
        if key not in self._locks:
            self._locks[key] = LightLock(self.uid, limits) if self.settled else Lock(self, limits, kind)
        return self._locks[key]

    def bury(self, pid: int, judge_pid: int) -> None:
        """End whatever is left of a child that has been waited for (tiers C and D share their pid namespace with
        it)."""
        if self._pidns >= 0:
            return
        try:
            os.killpg(pid, signal.SIGKILL)
            while os.waitpid(-pid, 0)[0]:
                continue
        except (ProcessLookupError, PermissionError, ChildProcessError):
            pass
        while orphans := self._children() - {judge_pid}:  # ending one brings its own children here
            for one in orphans:
                os.kill(one, signal.SIGKILL)
                os.waitpid(one, 0)

    def _children(self) -> set[int]:
        """Return the children of this process, ended ones that were not waited for too; none where the system does not say."""
        try:
            with open(f"/proc/self/task/{os.getpid()}/children", "rb") as listing:
                return set(map(int, listing.read().split()))
        except OSError:
            return set()


def empty_folder(path: str) -> None:
    """Delete all that a hostile program may have left in a folder: any depth, any names, no link followed."""
    top = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    moved, prefix = 0, os.urandom(8).hex()
    try:
        while names := os.listdir(top):
            for name in names:
                try:
                    os.unlink(name, dir_fd=top)
                    continue
                except (IsADirectoryError, PermissionError):
                    pass
                os.chmod(name, 0o700, dir_fd=top)
                inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=top)
                try:
                    for below in os.listdir(inner):  # flattened, so that no path grows too long
                        moved += 1
                        if stat.S_ISDIR(os.lstat(below, dir_fd=inner).st_mode):
                            os.chmod(below, 0o700, dir_fd=inner)  # a folder without rights cannot be moved
                        os.rename(below, f"{prefix}{moved}", src_dir_fd=inner, dst_dir_fd=top)
                finally:
                    os.close(inner)
                os.rmdir(name, dir_fd=top)
    finally:
        os.close(top)


def remove_folder(path: str) -> None:
    """Delete a folder a hostile program may have filled."""
    try:
        os.chmod(path, 0o700)
        empty_folder(path)
        os.rmdir(path)
    except FileNotFoundError:
        return
