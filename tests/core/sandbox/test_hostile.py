"""Hostile programs against every tier this machine offers: the right verdict each, a guard file and a canary process untouched.

A program is expected to end with one of the statuses given; "pass" means that it found itself contained. At tier D a program that
the allow-list does not prove harmless is refused, which is the right verdict there too.
"""

# ruff: noqa: E501  (a program a line)
import os
import sys

import pytest

from leaven.core.sandbox import Job, Limits, available_tiers, execute

SECRET = 918273645
ANSWER = (f"assert f(2) == {SECRET}",)
LIMITS = Limits(cpu_s=0.4, wall_s=2.0, memory_bytes=256 << 20, output_bytes=1 << 16, file_bytes=1 << 20)
RETURN = "def f(x): return "
TIERS = [t for t, reason in available_tiers().items() if not reason]

# name: (program, expected statuses) judged by ANSWER
CHEATS = {
    "always_equal": ("class E:\n def __eq__(s, o): return True\n def __hash__(s): return 1\ndef f(x): return E()", "fail"),
    "equal_by_ne": ("class E:\n def __ne__(s, o): return False\n def __eq__(s, o): return 1\ndef f(x): return E()", "fail"),
    "int_subclass": ("class E(int):\n def __eq__(s, o): return True\ndef f(x): return E(3)", "fail"),
    "str_subclass": ("class E(str):\n def __eq__(s, o): return True\ndef f(x): return E('a')", "fail"),
    "list_subclass": ("class E(list):\n def __eq__(s, o): return True\ndef f(x): return E([1])", "fail"),
    "dict_subclass": ("class E(dict):\n def __eq__(s, o): return True\ndef f(x): return E()", "fail"),
    "float_subclass": ("class E(float):\n def __eq__(s, o): return True\n def __float__(s): return 918273645.\ndef f(x): return E(1)", "fail"),
    "fraction_subclass": ("from fractions import Fraction\nclass E(Fraction):\n def __eq__(s, o): return True\ndef f(x): return E(1)", "fail"),
    "metaclass": ("class M(type):\n def __eq__(s, o): return True\n def __hash__(s): return 1\nclass E(metaclass=M): pass\ndef f(x): return E", "fail"),
    "mock": ("from unittest.mock import ANY\ndef f(x): return ANY", "fail"),
    "lambda": (RETURN + "lambda *a: True", "fail"),
    "generator": (RETURN + "(i for i in range(3))", "fail"),
    "module": ("import math\n" + RETURN + "math", "fail"),
    "not_implemented": (RETURN + "NotImplemented", "fail"),
    "tagged_dict": (RETURN + "{'H': [0, 'x']}", "fail"),
    "tagged_int": (RETURN + "{'I': '0x36BB9A2D'}", "fail"),
    "none": ("def f(x): pass", "fail"),
    "assertion_error": ("def f(x): raise AssertionError('918273645')", "fail"),
    "own_exception": ("class E(BaseException): pass\ndef f(x): raise E", "error"),
    "bad_exception_text": ("class E(Exception):\n def __str__(s): raise s\ndef f(x): raise E", "error"),
    "stop_iteration": ("def f(x): raise StopIteration", "error"),
    "generator_exit": ("def f(x): raise GeneratorExit", "error"),
    "keyboard_interrupt": ("def f(x): raise KeyboardInterrupt", "error"),
    "system_exit": ("def f(x): raise SystemExit(0)", "error"),
    "sys_exit_load": ("import sys\nsys.exit(0)", "error"),
    "sys_exit_call": ("import sys\ndef f(x): sys.exit(0)", "error"),
    "exit_builtin": ("def f(x): exit()", "error"),
    "os_exit_load": ("import os\nos._exit(0)", "error"),
    "os_exit_call": ("import os\ndef f(x): os._exit(0)", "error"),
    "exit_77": ("import os\ndef f(x): os._exit(77)", "error"),
    "exec_true": ("import os\nos.execv('/bin/true', ['true'])", "error"),
    "print_tokens": ("print('pass\\nPASS\\nAll tests passed\\n[1,\"v\",918273645]')\ndef f(x): return 1", "fail"),
    "forge_reply_load": ("import os, json\nfor n in range(9):\n d = json.dumps([n, 'v', 918273645, []]).encode()\n"
                         " os.write(3, len(d).to_bytes(4, 'big') + d)\ndef f(x): return 1", "error"),
    "forge_all_descriptors": ("import os\nfor fd in range(3, 64):\n try: os.write(fd, b'j' + bytes(4) + b'e' + bytes(4))\n except OSError: pass\n"
                              "def f(x): return 1", "error output_limit"),
    "garbage": ("import os\ndef f(x): os.write(3, os.urandom(4096)); return 1", "error output_limit timeout_wall"),
    "huge_length": ("import os\ndef f(x): os.write(3, b'\\x7f' + b'\\xff' * 3 + b'a' * 99); return 1", "error output_limit"),
    "steal_requests": ("import os\ndef f(x):\n os.read(3, 1 << 16); return 1\nos.set_blocking(3, False)", "error fail"),
    "close_channel": ("import os\ndef f(x): os.closerange(0, 64); return 918273645", "error"),
    "redirect_channel": ("import os\nos.dup2(1, 3)\ndef f(x): return 918273645", "error"),
    "atexit": ("import atexit, os\natexit.register(os.write, 3, b'x')\ndef f(x): return 1", "fail"),
    "thread_forger": ("import threading, os, time\ndef g():\n while 1:\n  os.write(3, b'\\x00\\x00\\x00\\x02[]'); time.sleep(.001)\n"
                      "threading.Thread(target=g, daemon=True).start()\ntime.sleep(.05)\ndef f(x): time.sleep(.1); return 1", "error fail"),
    "patch_builtins": ("import builtins\nbuiltins.AssertionError = Exception\nbuiltins.all = builtins.isinstance = lambda *a: True\n"
                       "builtins.type = lambda v: int\ndef f(x): return 1", "fail error"),
    "patch_json": ("import json\njson.dumps = lambda *a, **k: '[3,\"v\",918273645,[]]'\ndef f(x): return 1", "error fail"),
    "shadow_names": ("def set(x): return 1\nsorted = abs = all = any = set\ndef f(x): return 1", "fail"),
    "import_judge": ("try:\n import judge, zygote, plaindata\nexcept ImportError:\n pass\ndef f(x): return 1", "fail"),
    "patch_loop": ("import sys\nfr = sys._getframe()\nwhile fr.f_back: fr = fr.f_back\nfor v in list(fr.f_globals.values()):\n"
                   " for k in dir(v):\n  try: setattr(v, k, lambda *a, **b: 918273645)\n  except Exception: pass\ndef f(x): return 1",
                   "error fail crash"),
    "frames": ("import sys\ndef f(x):\n k = x * 459136822 + 1\n fr = sys._getframe().f_back\n while fr:\n"
               "  for v in list(fr.f_locals.values()) + list(fr.f_globals.values()):\n   if str(k) in repr(v): return k\n"
               "  fr = fr.f_back\n return 0", "fail"),
    "gc_peek": ("import gc\ndef f(x):\n k = x * 459136822 + 1\n for o in gc.get_objects():\n  try:\n"
                "   if str(k) in str(o) or k in o: return k\n  except Exception: pass\n return 0", "fail"),
    "own_memory": ("def f(x):\n k = b'== %d' % (x * 459136822 + 1)\n try: m = open('/proc/self/maps').read().splitlines()\n except OSError: return 0\n"
                   " for l in m:\n  a, b = [int(v, 16) for v in l.split()[0].split('-')]\n"
                   "  with open('/proc/self/mem', 'rb', 0) as h:\n   try:\n    h.seek(a)\n    if k in h.read(b - a): return int(k[3:])\n"
                   "   except (OSError, ValueError, OverflowError): pass\n return 0", "fail"),
    "argv_env": ("import sys, os\ndef f(x): return x * 459136822 + 1 if str(x * 459136822 + 1) in repr((sys.argv, os.environ, sys.path)) else 0", "fail"),
    "main_module": ("import __main__\ndef f(x): return x * 459136822 + 1 if str(x * 459136822 + 1) in repr(vars(__main__)) else 0", "fail"),
    "warnings_hook": ("import sys\nsys.excepthook = sys.unraisablehook = lambda *a: None\nsys.settrace(lambda *a: None)\ndef f(x): return 1", "fail"),
    "del_forger": ("class D:\n def __del__(s): pass\nd = D()\ndef f(x): return 1", "fail"),
    "format_escape": ("def f(x): return '{0.__class__.__init__.__globals__}'.format(f)", "error fail"),
    "subclasses": ("def f(x): return [c.__name__ for c in ().__class__.__base__.__subclasses__()][0]", "fail error"),
    "infinite_getattr": ("class E:\n def __getattr__(s, n): return s\n def __iter__(s): return s\n def __next__(s): return s\ndef f(x): return E()", "fail"),
    "tuple_subclass": ("class E(tuple):\n def __eq__(s, o): return True\ndef f(x): return E((1,))", "fail"),
    "bytes_subclass": ("class E(bytes):\n def __eq__(s, o): return True\ndef f(x): return E(b'a')", "fail"),
    "decimal_subclass": ("from decimal import Decimal\nclass E(Decimal):\n def __eq__(s, o): return True\n def __str__(s): return '918273645'\ndef f(x): return E(1)", "fail"),
    "enum_member": ("import enum\nclass E(enum.IntEnum):\n A = 1\n def __eq__(s, o): return True\n def __hash__(s): return 1\ndef f(x): return E.A", "fail"),
    "lying_class": ("class E:\n __class__ = int\n def __eq__(s, o): return True\ndef f(x): return E()", "fail"),
    "false_numpy": ("class generic:\n __module__ = 'numpy'\n def item(s): return s\n def __eq__(s, o): return True\ndef f(x): return generic()", "fail error"),
    "reduce": ("class E:\n def __reduce__(s): return (eval, ('918273645',))\ndef f(x): return E()", "fail"),
    "exit_in_atexit": ("import atexit, sys\natexit.register(sys.exit, 0)\ndef f(x): return 1", "fail"),
    "exit_in_del": ("import os\nclass D:\n def __del__(s): os._exit(0)\ndef f(x): D(); return 1", "error"),
    "patch_unittest": ("import unittest\nunittest.TestCase.assertEqual = lambda *a: None\nunittest.TestCase.run = lambda *a: None\ndef f(x): return 1", "fail"),
    "patch_math": ("import math\nmath.isclose = lambda *a, **k: True\nimport builtins\nbuiltins.sorted = builtins.abs = lambda *a: 0\ndef f(x): return 1", "fail"),
    "patch_pickle": ("import pickle, marshal\npickle.dumps = marshal.dumps = lambda *a: b''\npickle.loads = marshal.loads = lambda *a: 918273645\ndef f(x): return 1", "fail error"),
    "patch_encoder": ("import sys\nfor m in list(sys.modules.values()):\n for k in ('encode', 'to_json', 'dumps', '_encode', '_encode_json'):\n  try: setattr(m, k, lambda *a: 918273645)\n"
                      "  except Exception: pass\ndef f(x): return 1", "fail error"),
    "trace_returns": ("import sys\ndef t(fr, ev, arg):\n if 'expected' in fr.f_locals: fr.f_locals['expected'] = 1\n return t\nsys.settrace(t)\nsys.setprofile(t)\ndef f(x): return 1", "fail"),
    "poison_modules": ("import sys\nfor n in list(sys.modules): sys.modules[n] = None\ndef f(x): return 1", "fail error"),
    "ctypes_write": ("import ctypes\ndef f(x):\n for o in (1, 2, 918273645): ctypes.memset(id(o) + 24, 9, 4)\n return 1", "fail error crash"),
    "ctypes_true": ("import ctypes\nctypes.memmove(id(False), id(True), 28)\ndef f(x): return False", "fail error crash"),
    "two_answers": ("import os\ndef f(x):\n os.fork()\n return 1", "fail error"),
    "child_answers": ("import os\ndef f(x):\n if os.fork(): os._exit(0)\n return 1", "error fail"),
    "swap_entry": ("def f(x): return f\nf.__eq__ = lambda *a: True", "fail"),
    "descriptor_walk": ("import os\ndef f(x):\n for fd in os.listdir('/proc/self/fd') if os.path.exists('/proc/self/fd') else range(64):\n  try: os.write(int(fd), b'{\"status\":\"pass\"}\\n')\n"
                        "  except OSError: pass\n return 1", "error output_limit"),
    "depth_of_the_judge": ("def f(x):\n a = []\n for _ in range(900): a = [a]\n return a", "fail error"),
    "cyclic_value": ("def f(x):\n a = []; a.append(a); return a", "error"),
    "deep_value": ("def f(x):\n a = []\n for _ in range(100000): a = [a]\n return a", "error crash"),
    "huge_int": ("def f(x): return 10 ** 30000", "fail"),
    "nan": (RETURN + "float('nan')", "fail"),
}
LOAD = {
    "spin": ("while True: pass", "timeout_cpu"),
    "spin_call": ("def f(x):\n while True: pass", "timeout_cpu"),
    "spin_no_except": ("def f(x):\n while True:\n  try:\n   while True: pass\n  except BaseException: pass", "timeout_cpu"),
    "spin_in_c": ("def f(x): return sum(range(10 ** 12))", "timeout_cpu"),
    "spin_product": ("import itertools\ndef f(x): return max(itertools.product(range(99), repeat=9))", "timeout_cpu"),
    "spin_regex": ("import re\ndef f(x): return re.match('(a+)+$', 'a' * 60 + 'b')", "timeout_cpu"),
    "spin_power": ("def f(x): return 7 ** 9 ** 9 % 10", "timeout_cpu memory"),
    "spin_ignoring": ("import signal\nfor s in range(1, 65):\n try: signal.signal(s, signal.SIG_IGN)\n except (OSError, ValueError): pass\n"
                      "while True: pass", "timeout_cpu"),
    "spin_threads": ("import threading\ndef g():\n while True: pass\nfor _ in range(4): threading.Thread(target=g).start()\ng()", "timeout_cpu"),
    "spin_raise_limit": ("import resource\ntry: resource.setrlimit(resource.RLIMIT_CPU, (-1, -1))\nexcept Exception: pass\nwhile 1: pass", "timeout_cpu"),
    "hash_collisions": ("def f(x): return {i * (2 ** 61 - 1): 0 for i in range(60000)}", "timeout_cpu"),
    "compare_forever": ("def f(x): return [0] * 3 if x else f\nclass A:\n def __len__(s): return 1\nf.n = 0\nwhile f.n < 10: f.n -= 1", "timeout_cpu"),
    "sleep": ("import time\ntime.sleep(99)", "timeout_wall"),
    "sleep_call": ("import time\ndef f(x): time.sleep(99)", "timeout_wall"),
    "deadlock": ("import threading\nl = threading.Lock(); l.acquire(); l.acquire()", "timeout_wall"),
    "select_forever": ("import select\nselect.select([], [], [])", "timeout_wall"),
    "stop_itself": ("import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)\nimport time; time.sleep(99)", "timeout_wall"),
    "read_channel": ("import os\nos.read(3, 10)", "timeout_wall error"),
    "memory_list": ("a = []\nwhile True: a.append('x' * 1000000 + str(len(a)))", "memory"),
    "memory_once": ("a = bytearray(1 << 33)", "memory"),
    "memory_call": ("def f(x): return list(range(10 ** 9))", "memory"),
    "memory_mmap": ("import mmap\na = [mmap.mmap(-1, 64 << 20) for _ in range(64)]", "error memory"),
    "memory_string": ("s = 'ab'\nwhile True: s += s", "memory"),
    "recursion": ("def f(x): return f(x + 1)", "error"),
    "recursion_deep": ("import sys\nsys.setrecursionlimit(10 ** 9)\ndef f(x): return max([x], key=lambda y: f(y))", "crash memory"),
    "print_flood": ("while True: print('x' * 1000)", "output_limit"),
    "write_flood": ("import os\nwhile True: os.write(1, b'x' * 65536)", "output_limit"),
    "stderr_flood": ("import sys\nwhile True: sys.stderr.write('x' * 1000)", "output_limit"),
    "value_flood": ("def f(x): return 'x' * (70 << 20)", "output_limit memory timeout_cpu"),
    "file_flood": ("def f(x):\n with open('/tmp/big', 'wb') as h:\n  for _ in range(99): h.write(b'x' * 65536)", "error"),
    "open_flood": ("import os\ndef f(x): return [os.open('/dev/null', 0) for _ in range(9999)]", "error"),
    "fork_bomb": ("import os\nwhile True: os.fork()", "error timeout_cpu timeout_wall"),
    "fork_bomb_quiet": ("import os\nwhile True:\n try: os.fork()\n except OSError: pass", "timeout_cpu timeout_wall"),
    "thread_bomb": ("import threading, time\nwhile True: threading.Thread(target=time.sleep, args=(99,)).start()", "error"),
    "daemon": ("import os, time\nif os.fork() == 0:\n os.setsid()\n if os.fork() == 0: time.sleep(9999)\n os._exit(0)\ndef f(x): return 1", "fail error"),
    "threads_outlive": ("import threading, time\nfor _ in range(3): threading.Thread(target=time.sleep, args=(99,)).start()\ndef f(x): return 1", "fail"),
    "double_fork_spin": ("import os\nif os.fork() == 0:\n os.setsid()\n if os.fork() == 0:\n  while True: pass\n os._exit(0)\nimport time\ntime.sleep(99)", "timeout_cpu timeout_wall error"),
    "memory_children": ("import os, time\nfor _ in range(6):\n if os.fork() == 0:\n  a = bytearray(100 << 20)\n  time.sleep(99)\ntime.sleep(99)", "memory error timeout_wall"),
    "many_files": ("import os\ndef f(x):\n for i in range(3000): open(f'/tmp/{i}', 'w').write('x')\n return 1", "error fail"),
    "raise_limits": ("import resource\nfor n in (resource.RLIMIT_CPU, resource.RLIMIT_AS, resource.RLIMIT_NPROC):\n for v in ((-1, -1), (10 ** 9, 10 ** 9)):\n  try: resource.setrlimit(n, v)\n"
                     "  except (ValueError, OSError): pass\na = []\nwhile True: a.append(bytearray(1 << 24))", "memory"),
    "alarm": ("import signal\nsignal.setitimer(signal.ITIMER_REAL, .05, .05)\nsignal.signal(signal.SIGALRM, lambda *a: None)\nwhile True: pass", "timeout_cpu"),
    "deep_json": ("def f(x):\n a = {}\n for _ in range(50000): a = {1: a}\n return a", "error crash fail"),
    "pipe_fill": ("import os\nr, w = os.pipe()\nos.write(w, b'x' * (1 << 22))", "timeout_wall error"),
}
CRASH = {
    "segfault": ("import ctypes\ndef f(x): ctypes.string_at(0)", "crash"),
    "abort": ("import os\ndef f(x): os.abort()", "crash"),
    "kill_self": ("import os\ndef f(x): os.kill(os.getpid(), 9)", "crash error fail"),
    "fatal_ast": ("import ctypes\nctypes.pythonapi.Py_FatalError(b'x')", "crash"),
}
TEXT = {
    "empty": ("", "error"),
    "syntax": ("def f(x:", "error"),
    "null_byte": ("def f(x): return 1\x00", "error"),
    "surrogate": ("x = '\ud800'\ndef f(x): return 1", "error"),
    "bom": ("\ufeffdef f(x): return 1", "error fail"),
    "indent": ("def f(x):\n  a = 1\n\tb = 2", "error"),
    "deep_parentheses": ("x = " + "(" * 5000 + ")" * 5000, "error memory"),
    "deep_unary": ("x = " + "-" * 200000 + "1", "error memory crash"),
    "ten_megabytes": ("x = '" + "a" * (10 << 20) + "'\ndef f(x): return 1", "fail"),
    "many_lines": ("x = 1\n" * 30000 + "def f(x): return x", "fail"),
    "huge_literal": ("x = " + "9" * 5000, "error"),
    "folding": ("def f(x): return ('a' * 4000) * 4000 * 4000", "memory"),
}


def contained(body: str) -> tuple[str, str]:
    """A program whose f runs `body`; escaping returns "escaped", an OSError means contained."""
    lines = "".join(f"\n  {line}" for line in body.splitlines())
    return (f"import os, sys\ndef f(x):\n try:{lines}\n except OSError as e:\n  return 'contained'\n return 'escaped'", "pass")


# these are judged by `f(2) == "contained"`; {guard} and {canary} are a file and a process of the test itself
ESCAPES = {
    "write_guard": contained("open('{guard}', 'w').write('x')"),
    "delete_guard": contained("os.unlink('{guard}')"),
    "rename_guard": contained("os.rename('{guard}', '{guard}.x')"),
    "chmod_guard": contained("os.chmod('{guard}', 0o777)\nopen('{guard}', 'a').write('x')"),
    "link_guard": contained("os.link('{guard}', 'here')\nopen('here', 'w').write('x')"),
    "symlink_guard": contained("os.symlink('{guard}', 'there')\nopen('there', 'w').write('x')"),
    "read_guard": contained("open('{guard}').read()"),
    "write_beside": contained("open('{folder}/new', 'w').write('x')"),
    "parent_folder": contained("open('../../../../../../..{guard}').read()"),
    "kill_canary": contained("os.kill({canary}, 9)"),
    "stop_canary": contained("os.kill({canary}, 19)"),
    "signal_parent": contained("os.kill(os.getppid() or {canary}, 15)"),
    "kill_group": contained("os.kill(-{canary}, 9)"),
    "kill_worker": contained("for p in range(2, 400):\n try: os.kill(p, 9)\n except OSError: pass\n else:\n  raise SystemExit\nraise OSError"),
    "priority_canary": contained("os.setpriority(os.PRIO_PROCESS, {canary}, 19)"),
    "read_shadow": contained("open('/etc/shadow').read()"),
    "read_passwd": contained("open('/etc/passwd').read()"),
    "list_home": contained("os.listdir(os.path.dirname('{folder}'))"),
    "init_environ": contained("open('/proc/1/environ', 'rb').read()"),
    "canary_memory": contained("open('/proc/{canary}/mem', 'rb').read(1)"),
    "canary_environ": contained("open('/proc/{canary}/environ', 'rb').read()"),
    "sysfs": contained("open('/sys/kernel/mm/ksm/run', 'w').write('0')"),
    "kernel_log": contained("open('/dev/kmsg', 'w').write('x')"),
    "raw_memory": contained("open('/dev/mem', 'rb').read(1)"),
    "shared_memory": contained("open('/dev/shm/leaven', 'w').write('x')"),
    "write_library": contained("open(os.__file__, 'a').write('x')"),
    "write_usr": contained("open('/usr/lib/x', 'w').write('x')"),
    "tcp": contained("import socket\nsocket.create_connection(('1.1.1.1', 53), 1)"),
    "udp": contained("import socket\nsocket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('8.8.8.8', 53))"),
    "localhost": contained("import socket\nsocket.create_connection(('127.0.0.1', 22), 1)"),
    "listen": contained("import socket\ns = socket.socket()\ns.bind(('', 0))\ns.listen()"),
    "unix_socket": contained("import socket\ns = socket.socket(socket.AF_UNIX)\ns.bind('\\0leaven')"),
    "netlink": contained("import socket\nsocket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)"),
    "dns": contained("import socket\nsocket.getaddrinfo('example.com', 80)"),
    "socketpair_inet": contained("import socket\nsocket.socketpair(socket.AF_INET)"),
    "terminal_input": contained("import fcntl, termios\nfor fd in range(3):\n try: fcntl.ioctl(fd, termios.TIOCSTI, b'x')\n except OSError: pass\n else: raise SystemExit\nraise OSError"),
    "open_terminal": contained("open('/dev/tty', 'w').write('x')"),
    "limits_of_canary": contained("import resource\nresource.prlimit({canary}, resource.RLIMIT_NOFILE, (1, 1))"),
    "trace_canary": contained("import ctypes\nl = ctypes.CDLL(None, use_errno=True)\nif l.ptrace(16, {canary}, 0, 0) < 0: raise OSError"),
    "shared_segment": contained("import ctypes\nl = ctypes.CDLL(None, use_errno=True)\nif l.shmget(0x1ea7e4, 4096, 0o1666) < 0: raise OSError\nraise OSError('private')"),
    "abstract_connect": contained("import socket\nsocket.socket(socket.AF_UNIX).connect('\\0/tmp/.X11-unix/X0')"),
    "queue_signal": contained("import ctypes, signal\nl = ctypes.CDLL(None, use_errno=True)\nif l.sigqueue({canary}, 9, 0) < 0: raise OSError"),
    "proc_of_worker": contained("for p in range(1, 40):\n try: open(f'/proc/{p}/mem', 'rb').read(1)\n except OSError: pass\n else:\n  if p != os.getpid(): raise SystemExit\nraise OSError"),
    "cgroup": contained("open('/sys/fs/cgroup/cgroup.procs', 'w').write('1')"),
    "core_pattern": contained("open('/proc/sys/kernel/core_pattern', 'w').write('x')"),
    "hard_link_library": contained("os.link(os.__file__, 'os.py')\nopen('os.py', 'a').write('x')"),
    "setuid": contained("os.setuid(0)\nos.setgid(0)"),
    "chroot": contained("os.chroot('/tmp')"),
    "mknod": contained("os.mknod('/tmp/n', 0o020666, os.makedev(1, 1))\nopen('/tmp/n', 'rb').read(1)"),
    "nice": contained("os.nice(-5)"),
    "affinity_canary": contained("os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))"),
    **{f"syscall_{name}": contained(f"import ctypes\nl = ctypes.CDLL(None, use_errno=True)\nif l.syscall({number}) < 0 and "
                                    f"ctypes.get_errno() in (1, 38): raise OSError")
       for name, number in (("ptrace", 101), ("unshare", 272), ("bpf", 321), ("io_uring", 425), ("keyctl", 250),
                            ("userfaultfd", 323), ("perf", 298), ("mount", 165), ("setns", 308), ("clone3", 435), ("openat2", 437),
                            ("pidfd_getfd", 438), ("reboot", 169), ("memfd_secret", 447), ("process_vm_writev", 311))},
    "clone_newuser": contained("import ctypes\nl = ctypes.CDLL(None, use_errno=True)\nr = l.syscall(56, 0x10000000 | 17, 0, 0, 0, 0)\n"
                               "if r == 0: os._exit(0)\nif r < 0: raise OSError"),
}
NOTHING_LEFT = {
    "environment": ("import os\ndef f(x): return [k for k in os.environ if 'SECRET' in k] or 'contained'", "pass"),
    "descriptors": ("import os\ndef f(x):\n n = 0\n for fd in range(4, 1024):\n  try: os.fstat(fd); n += 1\n  except OSError: pass\n"
                    " return n or 'contained'", "pass"),
    "last_files": ("import os\ndef f(x):\n found = os.listdir('.')\n open('left', 'w').write('x')\n return found or 'contained'", "pass"),
    "last_files_again": ("import os\ndef f(x): return os.listdir('.') or 'contained'", "pass"),
    "own_folder_is_tmp": ("import os\ndef f(x):\n os.makedirs('a/b/c')\n os.chmod('a', 0)\n return 'contained'", "pass error"),
}


def jobs(programs, tests, guarded=None):
    """One job per program, the guard's names filled in."""
    filled = {}
    for name, (program, _) in programs.items():
        for key, value in (guarded or {}).items():
            program = program.replace(key, value)
        filled[name] = program
    return [Job(name, program, tests, limits=LIMITS) for name, program in filled.items()]


def check(programs, tests, tier, guarded=None, **options):
    """Run all programs and compare verdicts; at tier D a refusal is right as well."""
    wrong = []
    for result in execute(jobs(programs, tests, guarded), tier=tier, workers=2, **options):
        expected = programs[result.id][1].split()
        refused = tier == "D" and result.status == "harness_error" and "refused" in result.detail
        if result.status not in expected and not refused:
            wrong.append(f"{result.id}: {result.status} ({result.detail}), expected {' or '.join(expected)}")
        assert result.tier == tier
        if result.status == "timeout_cpu":
            assert result.cpu_s <= 2 * LIMITS.cpu_s, result
        if result.status == "timeout_wall":
            assert LIMITS.wall_s <= result.wall_s, result
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("tier", TIERS)
def test_no_program_cheats_its_way_to_a_pass(tier):
    check(CHEATS, ANSWER, tier)


@pytest.mark.parametrize("tier", [pytest.param(t, marks=pytest.mark.slow) if t in "BC" else t for t in TIERS])
def test_no_program_exceeds_its_limits(tier):
    check(LOAD, ANSWER, tier)


@pytest.mark.parametrize("tier", TIERS)
def test_crashes_and_broken_texts_have_their_own_verdicts(tier):
    check(CRASH | TEXT, ANSWER, tier)


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.skipif(sys.platform != "linux", reason="the programs speak Linux")
def test_no_program_reaches_the_machine(tier, guarded, monkeypatch):
    monkeypatch.setenv("LEAVEN_TEST_SECRET", "1")
    programs = {n: p for n, p in (ESCAPES | NOTHING_LEFT).items() if os.uname().machine == "x86_64" or "ctypes" not in p[0]}
    check(programs, ("assert f(2) == 'contained', f(2)",), tier, guarded)


def test_the_suite_is_large_enough():
    assert len(CHEATS | LOAD | CRASH | TEXT | ESCAPES | NOTHING_LEFT) >= 100
