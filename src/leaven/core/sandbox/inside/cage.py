"""Rights -> fewer rights: what a worker and its children give up, per tier, through ctypes alone (no compiler
needed).

A  (root)          namespaces (pid, mount, net, ipc, uts), a private read-only root, own uid, seccomp, limits
B  (plain user)    the same inside a user namespace; capabilities dropped instead of the uid
C  (in containers) seccomp and landlock, no capabilities, no new processes, limits
D  (anything)      limits only: programs that the allow-list does not prove harmless must not run here

In tier B started by root (tier A is then the better one) the number of processes is not bounded by the kernel, which
counts root's never; programs in other languages are counted from outside there.

Why a pid namespace per child: killing its first process ends every descendant. What can be prepared or given up once
in the worker is; a child only makes the calls (`Lock.apply`). Not covered: cgroups (the memory of one job's processes
together is bounded by limits x processes only); disk use in tier C (each file is limited, their number is not; the
folder is removed after the job).
"""

from __future__ import annotations

import fcntl
import os
import resource
import signal
import struct
import sys
import time

from kernel import ABI, OWN_PID, CageError, Kernel, filter_program

LINUX = sys.platform == "linux"
_NEWNS, _NEWUTS, _NEWIPC, _NEWUSER, _NEWPID, _NEWNET = (
    0x20000,
    0x4000000,
    0x8000000,
    0x10000000,
    0x20000000,
    0x40000000,
)
_RDONLY, _NOSUID, _NODEV, _NOEXEC, _REMOUNT, _BIND, _REC, _PRIVATE = 1, 2, 4, 8, 32, 4096, 16384, 1 << 18
_UMOUNT_DETACH = 2
_PDEATHSIG, _NO_NEW_PRIVS, _SECCOMP, _SUBREAPER = 1, 38, 22, 36
_TICKS, _PAGE = (os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")) if LINUX else (100, 4096)
_SYSTEM_FOLDERS = ("/usr/lib", "/usr/lib64", "/lib", "/lib64", "/usr/bin", "/bin")


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
        self.root = LINUX and os.geteuid() == 0
        self.machine = os.uname().machine
        self._pidns = -1
        self._proc = -1
        self.kernel: Kernel | None = None
        self._ruleset = -1
        self._locks: dict[tuple, Lock] = {}
        if tier != "D":
            if not LINUX or self.machine not in ABI:
                raise CageError(
                    f"tier {tier} needs Linux on x86_64 or aarch64, found {sys.platform} on {self.machine}"
                )
            self.kernel = Kernel()
        if tier == "A" and not self.root:
            raise CageError(f"tier A needs root, found uid {os.geteuid()}")

    # -- the worker ---------------------------------------------------------------------------------------------------

    def enter(self, readable: list[str]) -> None:
        """Isolate the calling process for good, `readable` folders aside; in tiers A and B it returns in a new process, first of its pid
        namespace."""
        if self.tier in "AB":
            self._enter_namespaces()
            self._build_root(readable)
        elif LINUX:
            os.chmod(self.scratch, 0o711)  # a job of another uid lives in a folder of its own below
            self._proc = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)
        if self.tier == "C":
            self.kernel.call("prctl", _SUBREAPER, 1, 0, 0, 0)
            self._ruleset = self._build_ruleset([*readable, *_SYSTEM_FOLDERS])
        if self.tier == "A":
            os.setgroups([])
            os.setresgid(self.uid, self.uid, self.uid)
        if self.kernel is not None:
            self.kernel.call("prctl", _NO_NEW_PRIVS, 1, 0, 0, 0)
        os.umask(0o077)

    def _enter_namespaces(self) -> None:
        kernel, uid, gid = self.kernel, os.geteuid(), os.getegid()
        spaces = _NEWNS | _NEWNET | _NEWIPC | _NEWUTS | _NEWPID
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
        kernel.call("prctl", _PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        self._pidns = os.open("/proc/self/ns/pid", os.O_RDONLY)

    def _build_root(self, readable: list[str]) -> None:
        """Replace / by a tmpfs holding the interpreter and the system libraries, read-only, with no /proc, /etc or
        home."""
        mount = self.kernel.mount
        mount(b"none", b"/", None, _REC | _PRIVATE)
        root = next((d for d in ("/sys", "/mnt", "/media", "/srv") if os.path.isdir(d)), "/tmp")
        mount(b"tmpfs", root.encode(), b"tmpfs", _NOSUID | _NODEV, b"size=1m,mode=755")
        for folder in (*_SYSTEM_FOLDERS, *readable):
            if os.path.isdir(folder) and not os.path.ismount(root + folder):
                os.makedirs(root + folder, 0o755, exist_ok=True)
                mount(folder.encode(), (root + folder).encode(), None, _BIND)
                self._read_only((root + folder).encode())
        for folder in ("dev", "proc", "etc", "tmp", "var/tmp"):
            os.makedirs(f"{root}/{folder}", 0o755, exist_ok=True)
        for device in ("null", "zero", "urandom"):
            os.close(os.open(f"{root}/dev/{device}", os.O_CREAT | os.O_WRONLY))
            mount(f"/dev/{device}".encode(), f"{root}/dev/{device}".encode(), None, _BIND)
        for name, target in (("fd", "/proc/self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")):
            os.symlink(target, f"{root}/dev/{name}")  # they lead somewhere only where a child has a /proc
        try:  # for the worker, which reads run-queue delays in it; its children have no /proc or only their own
            mount(b"proc", f"{root}/proc".encode(), b"proc", _NOSUID | _NODEV | _NOEXEC)
            self._proc = os.open(f"{root}/proc", os.O_RDONLY | os.O_DIRECTORY)
            if self.tier == "A":  # in a user namespace a new /proc can be mounted only while another one is in sight
                self.kernel.call("umount2", f"{root}/proc".encode(), _UMOUNT_DETACH)
        except CageError:
            self._proc = -1  # a container may forbid it; wall limits are then not stretched
        os.chdir(root)
        self.kernel.call("syscall", {"x86_64": 155, "aarch64": 41}[self.machine], b".", b".")  # pivot_root
        self.kernel.call("umount2", b".", _UMOUNT_DETACH)
        os.chdir("/")
        self._read_only(b"/", _RDONLY | _NOSUID | _NODEV, bind=False)

    def _read_only(self, target: bytes, flags: int = _RDONLY | _NOSUID | _NODEV, bind: bool = True) -> None:
        # a user namespace may not clear flags the host set: keep those that statvfs reports
        kept = os.statvfs(target).f_flag & (_NOEXEC | 1024 | 2048 | 4096)
        extra = (_NOEXEC if kept & _NOEXEC else 0) | (kept & 3072) | ((1 << 21) if kept & 4096 else 0)
        self.kernel.mount(b"none", target, None, _REMOUNT | flags | extra | (_BIND if bind else 0))

    def _build_ruleset(self, readable: list[str]) -> int:
        """Landlock: read and execute the interpreter and system libraries, everything inside the scratch folder, no
        more."""
        abi = self.kernel.landlock_abi()
        if abi < 1:
            raise CageError("tier C needs landlock, which this kernel or container does not offer")
        handled = (1 << (13 if abi == 1 else 14 if abi == 2 else 15)) - 1
        ruleset = self.kernel.call("syscall", 444, self.kernel.buffer(struct.pack("=Q", handled)), 8, 0)
        devices = [(f"/dev/{d}", 0b110) for d in ("null", "zero", "urandom")]
        for path, rights in [*[(p, 0b1101) for p in readable], *devices, (self.scratch, handled)]:
            if os.path.exists(path):
                handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
                self.kernel.call(
                    "syscall", 445, ruleset, 1, self.kernel.buffer(struct.pack("=Qi", rights, handle)), 0
                )
                os.close(handle)
        high = fcntl.fcntl(
            ruleset, fcntl.F_DUPFD_CLOEXEC, 200
        )  # out of the way of the low numbers children are given
        os.close(ruleset)
        return high

    # -- the children -------------------------------------------------------------------------------------------------

    def fork(self) -> int:
        """Fork; in tiers A and B the child is the first process of a fresh pid namespace. Returns 0 in the child."""
        if self._pidns >= 0:  # a namespace can be unshared only from the one the process itself lives in
            self.kernel.call("setns", self._pidns, _NEWPID)
            self.kernel.call("unshare", _NEWPID)
        return os.fork()

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

    def prepare(self, limits: dict, kind: str = "candidate") -> Lock:
        """Return the lock of a child with these limits (cpu_s, memory_bytes, processes, file_bytes), made once and
        kept; `kind` is candidate, judge or foreign."""
        key = (*[limits[k] for k in ("cpu_s", "memory_bytes", "processes", "file_bytes")], kind)
        if key not in self._locks:
            self._locks[key] = Lock(self, limits, kind)
        return self._locks[key]

    def bury(self, pid: int) -> None:
        """End whatever is left of a child that has been waited for (tiers C and D share their pid namespace with
        it)."""
        if self._pidns >= 0:
            return
        try:
            os.killpg(pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            return
        while True:
            try:
                if os.waitpid(-pid, 0)[0] == 0:
                    return
            except ChildProcessError:
                return


class Lock:
    """Everything one child gives up, prepared in the worker. `apply` runs in the child and is kept short on
    purpose."""

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
            options = b"size=64m,nr_inodes=1000,mode=1777"
            self.first = [
                prepare("unshare", _NEWNS),
                prepare("mount", b"tmpfs", b"/tmp", b"tmpfs", _NOSUID | _NODEV, options),
            ]
            if kind == "foreign":  # virtual machines and shells read their own entries
                self.optional = prepare("mount", b"proc", b"/proc", b"proc", _NOSUID | _NODEV | _NOEXEC | _RDONLY, None)
            if self.tier == "B" and cage._proc >= 0 and kind != "foreign":
                self.first.append(prepare("umount2", b"/proc", _UMOUNT_DETACH))
        else:
            self.first = [prepare("syscall", 446, cage._ruleset, 0)]  # landlock_restrict_self
        if self.tier in "BC":  # capset to nothing
            self.last.append(
                prepare(
                    "capset", self.kernel.buffer(struct.pack("=Ii", 0x20080522, 0)), self.kernel.buffer(bytes(24))
                )
            )
        self.last.append(prepare("prctl", _PDEATHSIG, int(signal.SIGKILL), 0, 0, 0))
        # without a countable uid of its own a job may not start processes: root is exempt from RLIMIT_NPROC
        # (a foreign job's processes are counted from outside)
        may_fork = kind != "candidate" or self.tier == "A" or (self.tier == "B" and not cage.root)
        code = filter_program(cage.machine, self.tier == "C", may_fork)
        self.own_pid_at = [at for at in range(4, len(code), 8) if code[at : at + 4] == struct.pack("=I", OWN_PID)]
        self.code = self.kernel.buffer(code)
        self.program = self.kernel.buffer(struct.pack("=HxxxxxxQ", len(code) // 8, self.kernel.address(self.code)))
        self.last.append(prepare("prctl", _SECCOMP, 2, self.kernel.address(self.program), 0, 0))

    def _limits(self, limits: dict, kind: str) -> list[tuple[int, tuple[int, int]]]:
        wanted = {
            "RLIMIT_AS": limits["memory_bytes"],
            "RLIMIT_FSIZE": limits["file_bytes"],
            "RLIMIT_NOFILE": 256 if kind == "foreign" else 64,
            "RLIMIT_CORE": 0,
            "RLIMIT_STACK": 64 << 20,
            "RLIMIT_MEMLOCK": 0,
            "RLIMIT_MSGQUEUE": 0,
        }
        if kind != "judge":
            wanted["RLIMIT_CPU"] = int(limits["cpu_s"]) + 2
        if self.own_uid or self.tier == "B" or kind == "foreign":  # counted per uid, which may be that of other work
            wanted["RLIMIT_NPROC"] = limits["processes"] + self.others
        found = []
        for name, value in wanted.items():
            if (which := getattr(resource, name, None)) is not None:
                hard = resource.getrlimit(which)[1]
                value = value if hard == resource.RLIM_INFINITY else min(value, hard)
                found.append((which, (value, value)))
        return found

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
