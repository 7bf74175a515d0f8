"""More kinds of hostile programs, each among innocent ones: verdicts right, neighbours, a guard file and a canary process untouched.

A program is expected to end with one of the statuses given ("pass" of REACH: it found itself contained). Beside them honest programs of
forms that a sandbox easily gets wrong. At tier D what the allow-list does not prove harmless is refused, which is right there too.
"""

# ruff: noqa: E501  (a program a line)
import importlib.util
import os
import sys
from pathlib import Path

import pytest

from leaven.core.sandbox import Job, Limits, available_tiers, execute

ANSWER = "assert f(2) == 918273645"
CONTAINED = "assert f(2) == 'contained', f(2)"
LIMITS = Limits(cpu_s=0.6, wall_s=2.0, memory_bytes=256 << 20, output_bytes=1 << 17, file_bytes=1 << 20)
TIERS = [t for t, reason in available_tiers().items() if not reason]

# answers that lie about what they are
ANSWERS = {
    'namedtuple_eq': ("from collections import namedtuple\nclass E(namedtuple('E','a')):\n def __eq__(s,o): return True\ndef f(x): return E(1)", ANSWER, 'fail error'),
    'numpy_object': ('import numpy as np\nclass E:\n def __eq__(s,o): return True\ndef f(x):\n a = np.empty(1, object); a[0] = E(); return a', ANSWER, 'fail'),
    'numpy_array_eq': ('import numpy as np\nclass E(np.ndarray):\n def __eq__(s,o): return True\ndef f(x): return np.zeros(3).view(E)', ANSWER, 'fail'),
    'flag_answer': ('import enum\nclass E(enum.Flag):\n A = 1\n def __eq__(s,o): return True\n def __hash__(s): return 1\ndef f(x): return E.A', ANSWER, 'fail'),
    'dict_key_liar': ("class E(int):\n def __eq__(s,o): return True\n def __hash__(s): return hash('a')\ndef f(x): return {E(3): 1}", "assert f(2) == {'a': 1}", 'fail'),
    'set_liar': ('class E(int):\n def __eq__(s,o): return True\n def __hash__(s): return hash(5)\ndef f(x): return {E(3)}', 'assert f(2) == {5}', 'fail'),
    'in_liar': ('class E(list):\n def __contains__(s,o): return True\ndef f(x): return E()', 'assert 5 in f(2)', 'fail'),
    'in_liar_obj': ('class E:\n def __contains__(s,o): return True\ndef f(x): return E()', 'assert 5 in f(2)', 'fail error'),
    'sub_liar': ('class E:\n def __sub__(s,o): return 0\n __rsub__ = __sub__\n def __abs__(s): return 0\ndef f(x): return E()', 'assert abs(f(2) - 0.5) < 1e-6', 'fail error'),
    'float_sub_liar': ('class E(float):\n def __sub__(s,o): return 0\n __rsub__ = __sub__\n def __abs__(s): return 0\ndef f(x): return E(9)', 'assert abs(f(2) - 0.5) < 1e-6', 'fail'),
    'bool_liar': ('class E:\n def __bool__(s): return True\ndef f(x): return E()', 'assert f(2)', 'fail'),
    'lt_liar': ('class E:\n def __lt__(s,o): return True\n __gt__ = __lt__\ndef f(x): return E()', 'assert 3 < f(2) < 5', 'fail'),
    'entry_is_class': ('class f:\n def __init__(s,x): pass\n def __eq__(s,o): return True', ANSWER, 'fail'),
    'entry_meta_call': ('class M(type):\n def __call__(c,x): return c\n def __eq__(s,o): return True\n def __hash__(s): return 1\nclass f(metaclass=M): pass', ANSWER, 'fail'),
    'bool_for_int': ('def f(x): return True', 'assert f(2) == 1 and type(f(2)) is int', 'fail'),
    'int_for_bool': ('def f(x): return 1', 'assert f(2) is True', 'fail'),
    'changes_after': ('import threading\ndef f(x):\n a = [0]\n def g():\n  a[0] = 918273645\n threading.Timer(.02, g).start()\n return a', 'assert f(2) == [918273645]', 'fail'),
    'gen_infinite': ('def f(x):\n while True: yield 1', 'assert list(f(2)) == [1]', 'fail timeout_cpu timeout_wall memory'),
    'gen_mutating': ('def f(x):\n a = []\n for i in range(3):\n  a.append(i); yield a', 'assert list(f(2)) == [[0,1,2]]*3', 'fail'),
    'learn_from_eq': ('K = None\nclass E:\n def __eq__(s,o):\n  global K; K = o; return True\n __hash__ = None\ndef f(x):\n return K if K is not None else E()', ANSWER, 'fail'),
    'class_assign': ('class A: pass\nclass B(A):\n def __eq__(s,o): return True\ndef f(x):\n a = A(); a.__class__ = B; return a', ANSWER, 'fail'),
    'range_sub': ('def f(x): return range(0, 1 << 100, 3)', 'assert len(f(2)) == 3', 'fail error'),
    'forged_deque_liar': ("import collections\nclass deque(list):\n maxlen = 'x'\n def __eq__(s,o): return True\ndeque.__module__='collections'\ncollections.deque = deque\ndef f(x): return deque()", ANSWER, 'fail error'),
    'changes_between': ('class E(list):\n def grow(s): s.append(s[-1] + 1)\ndef f(x): return E([1])', 'r = f(2)\nassert r == [1] and r == [1, 2]', 'fail'),
    'changes_between_looks': ("import gc, itertools\nn = itertools.cycle([[1, 2], [3, 1]])\nfor o in gc.get_objects():\n if type(o).__name__ == 'Candidate': type(o).do_plain = lambda *a: ['v', next(n), []]\nclass E(list): pass\ndef f(x): return E(next(n))", 'r = f(2)\nassert r == sorted(r) and sorted(r) == [1, 3]', 'fail'),
    'np_of_program': ('class np:\n allclose = lambda *a: True\ndef f(x): return 1.0', 'assert np.allclose(f(2), 2)', 'fail error'),
    'exc_as_answer': ('def f(x): return ValueError(918273645)', ANSWER, 'fail'),
    'decimal_giant': ("from decimal import Decimal\ndef f(x): return Decimal('1e999999999')", 'assert int(f(2)) == 3', 'fail timeout_cpu memory'),
    'huge_int_5m': ('def f(x): return 1 << 40000000', ANSWER, 'fail output_limit timeout_cpu'),
}
# tests that catch everything do not hide how a program ended
CAUGHT = {
    'with_swallows_assert': ('class C:\n def __enter__(s): return s\n def __exit__(s, *a): return True\ndef f(x): return C()', 'with f(2):\n assert 1 == 2', 'fail'),
    'with_swallows_answer': ('class C:\n def __enter__(s): return s\n def __exit__(s, *a): return True\ndef f(x): return 3', 'with C():\n assert f(2) == 2', 'fail error'),
    'with_swallows_compare': ('class C:\n def __enter__(s): return s\n def __exit__(s, *a): return True\nclass E:\n def __eq__(s,o): return True\ndef f(x): return E()', 'with C():\n assert f(2) == 2', 'fail error'),
    'with_swallows_type_error': ('class C:\n def __enter__(s): return None\n def __exit__(s, *a): return True', 'with C() as c:\n assert c.value == 2', 'error'),
    'with_swallows_own_error': ('class C:\n def __enter__(s): return s\n def __exit__(s, *a): return True\n @property\n def value(s): raise ValueError', 'with C() as c:\n assert c.value == 2', 'error'),
    'generator_swallows': ('import contextlib\n@contextlib.contextmanager\ndef f(x):\n try: yield 1\n except BaseException: pass', 'with f(2) as c:\n assert c == 2', 'fail error'),
    'own_name_assertion': ('Wrong = AssertionError\ndef f(x): return 1', 'try:\n f(-1)\n assert False\nexcept Wrong:\n pass', 'fail'),
    'own_name_exception': ('Wrong = Exception\ndef f(x): return 1', 'try:\n f(-1)\n assert False\nexcept Wrong:\n pass', 'fail'),
    'own_name_base': ('Wrong = BaseException\ndef f(x): return 1', 'try:\n f(-1)\n assert False\nexcept Wrong:\n pass', 'fail'),
    'exit_in_bare_except2': ('import os\ndef f(x): os._exit(0)', 'try:\n r = f(2)\nexcept:\n pass', 'error'),
    'kill_in_bare_except': ('import os\ndef f(x): os.kill(os.getpid(), 9); import ctypes; ctypes.string_at(0)', 'try:\n r = f(2)\nexcept:\n pass', 'error crash'),
    'forge_in_bare_except': ("import os\ndef f(x): os.write(3, b'\\0\\0\\0\\2{}'); return 1", 'try:\n r = f(2)\nexcept:\n pass', 'error'),
    'close_in_bare_except': ('import os\ndef f(x): os.close(3)', 'try:\n r = f(2)\nexcept:\n pass', 'error'),
    'spin_in_bare_except': ('def f(x):\n while True: pass', 'try:\n r = f(2)\nexcept:\n pass', 'timeout_cpu'),
    'sleep_in_bare_except': ('import time\ndef f(x): time.sleep(99)', 'try:\n r = f(2)\nexcept:\n pass', 'timeout_wall'),
    'exit_except_exception': ('import sys\ndef f(x): sys.exit(0)', 'try:\n f(2)\nexcept Exception:\n pass\nelse:\n assert False', 'error'),
    'kbd_except_exception': ('def f(x): raise KeyboardInterrupt', 'try:\n f(2)\nexcept Exception:\n pass\nelse:\n assert False', 'error'),
    'base_sub_except': ('class E(BaseException): pass\ndef f(x): raise E', 'try:\n f(2)\nexcept Exception:\n pass\nelse:\n assert False', 'error'),
    'exit_in_bare_except': ('import os\ndef f(x): os._exit(0)', 'r = 0\ntry:\n r = f(2)\nexcept BaseException:\n r = None\nassert r is None', 'error'),
}
# hooks, forged messages, signals, processes, floods, files that are hard to delete
TRICKS = {
    'module_forces_beside': ('import os as square\nimport sys\nclass E:\n def __eq__(s,o): return True\ndef apply(g, x): return E()', 'assert apply(square, 3) == 7', 'fail error'),
    'thread_exit': ('import threading, os, time\nthreading.Thread(target=lambda: (time.sleep(.05), os._exit(0))).start()\ndef f(x): time.sleep(.5); return 1', ANSWER, 'error fail'),
    'gc_callback': ('import gc, os\ngc.callbacks.append(lambda *a: os._exit(0))\ndef f(x):\n gc.collect(); return 1', ANSWER, 'error fail'),
    'audit_hook': ('import sys, os\nsys.addaudithook(lambda *a: os._exit(0))\ndef f(x): return 1', ANSWER, 'error fail'),
    'weakref_exit': ('import weakref, os\nclass D: pass\nd = D()\nweakref.finalize(d, os._exit, 0)\ndef f(x):\n global d\n d = None\n return 1', ANSWER, 'error'),
    'profile_exit': ('import sys, os\ndef f(x): return 1\nsys.setprofile(lambda *a: os._exit(0))', ANSWER, 'error'),
    'patch_send': ("import sys\nfr = sys._getframe()\nwhile fr:\n s = fr.f_locals.get('self')\n if s is not None and hasattr(s, 'channel'):\n  o = s.channel.send\n  s.channel.send = lambda m: o([m[0], 'v', {}, [], '', 0.0, 0.0])\n fr = fr.f_back\ndef f(x): return 1", ANSWER, 'fail error'),
    'patch_send_no_questions': ("import sys\nfr = sys._getframe()\nwhile fr:\n s = fr.f_locals.get('self')\n if s is not None and hasattr(s, 'channel'):\n  o = s.channel.send\n  s.channel.send = lambda m: o([m[0], 'v', {'f': 1, 'AssertionError': {'N': 'ValueError'}, 'assert': 3}, [[1,[]]]*9, '', 0.0, 0.0])\n fr = fr.f_back\ndef f(x): return 1", ANSWER, 'fail error'),
    'forge_module_list': ("import os, sys\nfr = sys._getframe()\nwhile fr:\n s = fr.f_locals.get('self')\n if s is not None and hasattr(s, 'channel'):\n  o = s.channel.send\n  s.channel.send = lambda m: o([m[0], 'v', {'f': {'M': ['x']}}, [], '', 0.0, 0.0])\n fr = fr.f_back\ndef f(x): return 1", ANSWER, 'fail error'),
    'forge_antigravity': ("import os, sys\nfr = sys._getframe()\nwhile fr:\n s = fr.f_locals.get('self')\n if s is not None and hasattr(s, 'channel'):\n  o = s.channel.send\n  s.channel.send = lambda m: o([m[0], 'v', {'f': {'M': 'antigravity'}}, [], '', 0.0, 0.0])\n fr = fr.f_back\ndef f(x): return 1", ANSWER, 'fail error'),
    'forge_inf_times': ("import os, sys\nfr = sys._getframe()\nwhile fr:\n s = fr.f_locals.get('self')\n if s is not None and hasattr(s, 'channel'):\n  o = s.channel.send\n  s.channel.send = lambda m: o([m[0], 'v', {}, [], '', float('nan'), 10**400])\n fr = fr.f_back\ndef f(x): return 1", ANSWER, 'fail error'),
    'signal_handler_object': ("import signal, sys\nh = signal.getsignal(signal.SIGALRM)\ndef f(x):\n z = getattr(h, '__self__', None)\n try: z.zygote.control.sock.send(b'x')\n except Exception: pass\n try: z.zygote.verdicts.send(b'x')\n except Exception: pass\n return 1", ANSWER, 'fail error'),
    'callback_storm': ("import os, json\ndef f(x):\n d = json.dumps([None, 'callback', 0, []]).encode()\n while 1: os.write(3, len(d).to_bytes(4, 'big') + d); os.read(3, 99)", ANSWER, 'error timeout_cpu timeout_wall'),
    'trickle_frame': ("import os, time\ndef f(x):\n os.write(3, b'\\0\\1\\0\\0')\n while 1: os.write(3, b'['); time.sleep(.01)", ANSWER, 'timeout_wall error'),
    'kill_all': ('import os\ntry: os.kill(-1, 9)\nexcept OSError: pass\ndef f(x): return 1', ANSWER, 'fail crash error'),
    'kill_parent': ('import os\nfor s in (15, 9, 19):\n try: os.kill(os.getppid(), s)\n except OSError: pass\ndef f(x): return 1', ANSWER, 'fail error crash'),
    'block_all_signals': ('import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))\nwhile True: pass', ANSWER, 'timeout_cpu'),
    'daemon_holds_pipe': ("import os, time\ntry:\n if os.fork() == 0:\n  os.setsid()\n  if os.fork(): os._exit(0)\n  while 1: time.sleep(.1); print('x', flush=True)\nexcept OSError: pass\ndef f(x): return 1", ANSWER, 'fail error'),
    'vfork_bomb': ("import subprocess\nwhile 1:\n try: subprocess.Popen(['/bin/sh', '-c', 'sleep 9 & sleep 9'])\n except OSError: pass", ANSWER, 'error timeout_cpu timeout_wall memory'),
    'ptraceme': ('import ctypes\nctypes.CDLL(None).ptrace(0,0,0,0)\ndef f(x): return 1', ANSWER, 'fail'),
    'prctl_pdeath': ('import ctypes\nctypes.CDLL(None).prctl(1, 0)\nctypes.CDLL(None).prctl(4, 0)\nimport time\ntime.sleep(99)', ANSWER, 'timeout_wall'),
    'int80': ("import ctypes, mmap\nm = mmap.mmap(-1, 4096, prot=7)\nm.write(b'\\xb8\\x14\\0\\0\\0\\xcd\\x80\\xc3')\nctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(m)))()\ndef f(x): return 1", ANSWER, 'crash error fail'),
    'memfd_flood': ("import os\ndef f(x):\n n = 0\n while 1:\n  fd = os.memfd_create('x'); os.write(fd, b'x' * (1 << 19)); n += 1", ANSWER, 'error memory timeout_cpu'),
    'pipe_hoard': ('import os\ndef f(x):\n while 1: os.pipe()', ANSWER, 'error'),
    'memory_caught': ('def f(x):\n try: a = bytearray(1 << 40)\n except MemoryError: return 1', ANSWER, 'fail'),
    'no_newline_flood': ("import sys\ndef f(x):\n while 1: sys.stdout.write('x')", ANSWER, 'output_limit'),
    'stdout_nonblock_flood': ("import os\nos.set_blocking(1, False)\nwhile 1:\n try: os.write(1, b'x' * 4096)\n except OSError: pass", ANSWER, 'output_limit'),
    'sparse_file': ("import os\ndef f(x):\n h = open('big', 'wb'); h.truncate(1 << 40)", ANSWER, 'error'),
    'deep_dirs': ("import os\nfor _ in range(600):\n os.mkdir('d' * 100); os.chdir('d' * 100)\ndef f(x): return 1", ANSWER, 'fail error'),
    'closed_dirs': ("import os\nos.makedirs('a/b/c/d')\nopen('a/b/c/d/e', 'w')\nos.symlink('/', 'a/l')\nfor d in ('a/b/c/d', 'a/b/c', 'a/b', 'a'):\n try: os.chmod(d, 0)\n except OSError: pass\ndef f(x): return 1", ANSWER, 'fail error'),
    'odd_names': ("import os\nfor n in (b'\\xff\\xfe', b'a\\nb', b'-rf', b' ', b'x' * 255): open(n, 'w').close()\nos.mkfifo('p')\ndef f(x): return 1", ANSWER, 'fail error'),
    'scm_cycle': ("import socket, os, array\ndef f(x):\n for i in range(3):\n  a, b = socket.socketpair()\n  h = os.open('held%d' % i, os.O_CREAT | os.O_RDWR)\n  os.write(h, b'x' * 4096)\n  for s, o in ((a, b), (b, a)):\n   s.sendmsg([b'x'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', [h, a.fileno(), b.fileno()]))])\n return 1", ANSWER, 'fail error'),
    'landlock_own': ('import ctypes\nctypes.CDLL(None).syscall(446, 3, 0)\ndef f(x): return 1', ANSWER, 'fail'),
}
# judged by CONTAINED; {guard}, {canary} and {folder} are the test's own
REACH = {
    'setown_kill': ("import os, sys\ndef f(x):\n try:\n  import fcntl, socket, signal\n  a, b = socket.socketpair()\n  fcntl.fcntl(a, fcntl.F_SETOWN, {canary})\n  fcntl.fcntl(a, 10, 9)\n  fcntl.fcntl(a, fcntl.F_SETFL, fcntl.fcntl(a, fcntl.F_GETFL) | os.O_ASYNC)\n  b.send(b'x')\n  raise SystemExit\n except OSError as e:\n  return 'contained'\n return 'escaped'", CONTAINED, 'pass'),
    'fiosetown_kill': ("import os, sys\ndef f(x):\n try:\n  import fcntl, socket, struct\n  a, b = socket.socketpair()\n  fcntl.ioctl(a, 0x8901, struct.pack('i', {canary}))\n  fcntl.ioctl(a, 0x5452, struct.pack('i', 1))\n  b.send(b'x')\n  raise SystemExit\n except OSError as e:\n  return 'contained'\n return 'escaped'", CONTAINED, 'pass'),
    'affinity': ("import os, sys\ndef f(x):\n try:\n  os.sched_setaffinity({canary}, [0])\n except OSError as e:\n  return 'contained'\n return 'escaped'", CONTAINED, 'pass'),
    'truncate_guard': ("import os, sys\ndef f(x):\n try:\n  os.truncate('{guard}', 0)\n except OSError as e:\n  return 'contained'\n return 'escaped'", CONTAINED, 'pass'),
    'utime_guard': ("import os, sys\ndef f(x):\n try:\n  os.utime('{guard}', (1, 1))\n except OSError as e:\n  return 'contained'\n return 'escaped'", CONTAINED, 'pass'),
    'xattr_guard': ("import os, sys\ndef f(x):\n try:\n  os.setxattr('{guard}', 'user.x', b'1')\n except OSError as e:\n  return 'contained'\n return 'escaped'", CONTAINED, 'pass'),
    'opath_guard': ("import os, sys\ndef f(x):\n try:\n  fd = os.open('{guard}', os.O_PATH)\n  os.chmod('/proc/self/fd/%d' % fd, 0o777)\n except OSError as e:\n  return 'contained'\n return 'escaped'", CONTAINED, 'pass'),
    'fchmod_guard': ("import os, sys\ndef f(x):\n try:\n  fd = os.open('{guard}', os.O_PATH)\n  import ctypes\n  l = ctypes.CDLL(None, use_errno=True)\n  if l.syscall(452, fd, b'', 0o777, 0x1000) < 0: raise OSError\n except OSError as e:\n  return 'contained'\n return 'escaped'", CONTAINED, 'pass'),
    'mkdir_beside': ("import os, sys\ndef f(x):\n try:\n  os.mkdir('{folder}/d')\n except OSError as e:\n  return 'contained'\n return 'escaped'", CONTAINED, 'pass'),
    'rename_folder': ("import os, sys\ndef f(x):\n try:\n  os.rename('{folder}', '{folder}2')\n except OSError as e:\n  return 'contained'\n return 'escaped'", CONTAINED, 'pass'),
    'x32': ("import os, sys\ndef f(x):\n try:\n  import ctypes\n  l = ctypes.CDLL(None, use_errno=True)\n  if l.syscall(0x40000000 + 41, 2, 1, 0) < 0: raise OSError\n except OSError as e:\n  return 'contained'\n return 'escaped'", CONTAINED, 'pass'),
    'pidfd_signal': ("import os, sys\ndef f(x):\n try:\n  fd = os.pidfd_open({canary})\n  import signal\n  signal.pidfd_send_signal(fd, 9)\n except OSError as e:\n  return 'contained'\n return 'escaped'", CONTAINED, 'pass'),
    'sched_core': ("import os, sys\ndef f(x):\n try:\n  import ctypes\n  l = ctypes.CDLL(None, use_errno=True)\n  if l.prctl(62, 1, {canary}, 0, 0) < 0: raise OSError\n except OSError as e:\n  return 'contained'\n return 'escaped'", CONTAINED, 'pass'),
    'ioprio': ("import os, sys\ndef f(x):\n try:\n  import ctypes\n  l = ctypes.CDLL(None, use_errno=True)\n  if l.syscall(251, 1, {canary}, (3 << 13)) < 0: raise OSError\n except OSError as e:\n  return 'contained'\n return 'escaped'", CONTAINED, 'pass'),
    'vsock': ("import os, sys\ndef f(x):\n try:\n  import socket\n  socket.socket(40, socket.SOCK_STREAM)\n except OSError as e:\n  return 'contained'\n return 'escaped'", CONTAINED, 'pass'),
    'packet': ("import os, sys\ndef f(x):\n try:\n  import socket\n  socket.socket(17, socket.SOCK_RAW)\n except OSError as e:\n  return 'contained'\n return 'escaped'", CONTAINED, 'pass'),
    'fanotify': ("import os, sys\ndef f(x):\n try:\n  import ctypes\n  l = ctypes.CDLL(None, use_errno=True)\n  if l.fanotify_init(0, 0) < 0: raise OSError\n except OSError as e:\n  return 'contained'\n return 'escaped'", CONTAINED, 'pass'),
    'secret_env': ("import os\ndef f(x):\n return 'leak' if 'LEAVEN' in repr(dict(os.environ)) else 'contained'", CONTAINED, 'pass'),
    'leftovers': ("import os\ndef f(x): return os.listdir('.') or 'contained'", CONTAINED, 'pass'),
    'fd_leak': ("import os\ndef f(x):\n n = []\n for fd in range(4, 4096):\n  try: os.fstat(fd); n.append(fd)\n  except OSError: pass\n return n or 'contained'", CONTAINED, 'pass'),
    'proc_children': ("import os, sys\ndef f(x):\n try:\n  for p in os.listdir('/proc'):\n   if p.isdigit() and int(p) != os.getpid():\n    try: print(open('/proc/%s/cmdline' % p).read()); raise SystemExit\n    except OSError: pass\n  raise OSError\n except OSError as e:\n  return 'contained'\n return 'escaped'", CONTAINED, 'pass'),
}
# programs without tests; the output 1 is expected
SCRIPTS = {
    'fake_refusal': ("import os\nos.write(2, b'the program holds x')\nos._exit(76)", '', 'error'),
    'exit_early': ('import os\nos._exit(0)', '', 'fail'),
    'orphan': ('import os, time\nprint(1, flush=True)\ntry:\n if os.fork() == 0:\n  time.sleep(.05); print(2, flush=True); time.sleep(99)\nexcept OSError: pass', '', 'pass'),
    'thread_spin': ('import threading\ndef g():\n while 1: pass\nthreading.Thread(target=g).start()\nprint(1)', '', 'timeout_cpu'),
    'thread_sleep': ('import threading, time\nthreading.Thread(target=time.sleep, args=(99,)).start()\nprint(1)', '', 'timeout_wall'),
    'atexit_exit': ('import atexit, os\natexit.register(os._exit, 3)\nprint(1, flush=True)', '', 'error'),
    'system_exit_text': ("import sys\nprint(1)\nsys.exit('bad')", '', 'error'),
    'atexit': ('import atexit\natexit.register(print, 1)', '', 'pass'),
    'thread': ('import threading, time\ndef g():\n time.sleep(.1); print(1)\nthreading.Thread(target=g).start()', '', 'pass'),
    'daemon_thread': ('import threading, time\nthreading.Thread(target=time.sleep, args=(99,), daemon=True).start()\nprint(1)', '', 'pass'),
    'dunder_stdout': ("import sys, io\no = sys.stdout\nsys.stdout = io.StringIO()\nprint(5)\no.write('1')", '', 'pass'),
    'stdout_atexit': ('import sys, io, atexit\nb = io.StringIO()\nsys.stdout = b\natexit.register(lambda: sys.__stdout__.write(b.getvalue()))\nprint(1)', '', 'pass'),
    'sysexit_thread': ('import threading, sys\nthreading.stack_size(1 << 26)\ndef main():\n sys.setrecursionlimit(10 ** 6)\n def r(n): return 0 if n == 0 else 1 + r(n - 1)\n print(r(20000) // 20000)\nt = threading.Thread(target=main)\nt.start()\nt.join()', '', 'pass'),
    'close_stdout': ('import sys\nprint(1)\nsys.stdout.flush()\nsys.stdout.close()', '', 'pass'),
    'bom': ('\ufeffprint(1)', '', 'pass'),
}
# none of these may fail
HONEST = {
    'suppresses': ("class S:\n def __enter__(s): return s\n def __exit__(s, kind, value, trace): return kind is ValueError\ndef f(x): return S()", 'with f(2):\n raise ValueError\nassert True', 'pass'),
    'own_assertion_error': ("class Wrong(AssertionError): pass\ndef f(x): raise Wrong('x')", 'try:\n f(-1)\n assert False\nexcept Wrong as e:\n assert str(e) == "x"', 'pass'),
    'bom': ('\ufeffdef f(x): return 918273645', ANSWER, 'pass'),
    'crlf': ('def f(x):\r\n    y = x\r\n    return 918273645\r\n', ANSWER, 'pass'),
    'formfeed': ('\x0cdef f(x):\n\x0c    return 918273645', ANSWER, 'pass'),
    'coding': ("# -*- coding: latin-1 -*-\ndef f(x): return 918273645 if 'é' == chr(233) else 0", ANSWER, 'pass'),
    'future': ('from __future__ import annotations\ndef f(x: Undefined) -> Nope: return 918273645', ANSWER, 'pass'),
    'hint_str': ("def f(x: 'Undefined') -> 'Nope': return 918273645", ANSWER, 'pass'),
    'walrus': ('def f(x):\n if (y := x): return 918273645', ANSWER, 'pass'),
    'tabs': ('def f(x):\n\tif x:\n\t\treturn 918273645', ANSWER, 'pass'),
    'unicode': ('def f(x):\n été = 918273645\n return été', ANSWER, 'pass'),
    'main_guard': ("def f(x): return 918273645\nif __name__ == '__main__':\n import sys; sys.exit(f(1))", ANSWER, 'pass'),
    'print_much': ("def f(x):\n for i in range(9000): print('line', i)\n return 918273645", ANSWER, 'pass'),
    'print_100k': ("import os\ndef f(x):\n os.write(1, b'x' * 60000)\n print('y' * 4000)\n return 918273645", ANSWER, 'pass'),
    'threads': ('from concurrent.futures import ThreadPoolExecutor\ndef f(x):\n with ThreadPoolExecutor(4) as p: return sum(p.map(int, [918273645, 0]))', ANSWER, 'pass'),
    'recursion_980': ('def r(n): return 0 if n == 0 else 1 + r(n - 1)\ndef f(x): return 918273645 if r(980) == 980 else 0', ANSWER, 'pass'),
    'recursion_990': ('def r(n): return 0 if n == 0 else 1 + r(n - 1)\ndef f(x): return 918273645 if r(990) == 990 else 0', ANSWER, 'pass'),
    'recursion_set': ('import sys\nsys.setrecursionlimit(100000)\ndef r(n): return 0 if n == 0 else 1 + r(n - 1)\ndef f(x): return 918273645 if r(50000) == 50000 else 0', ANSWER, 'pass'),
    'async': ('import asyncio\nasync def f(x):\n await asyncio.sleep(0)\n return 918273645', 'import asyncio\nassert asyncio.run(f(2)) == 918273645', 'pass'),
    'async_plain': ('async def f(x): return 918273645', 'import asyncio\nassert asyncio.run(f(2)) == 918273645', 'pass'),
    'async_gather': ('async def f(x): return x', 'import asyncio\nasync def main():\n return await asyncio.gather(f(1), f(2))\nassert asyncio.run(main()) == [1, 2]', 'pass'),
    'namedtuple_attr': ("from collections import namedtuple\nP = namedtuple('P', 'a b')\ndef f(x): return P(1, 2)", 'r = f(2)\nassert r.a == 1 and r == (1, 2)', 'pass'),
    'counter_attr': ("from collections import Counter\ndef f(x): return Counter('aab')", "assert f(2).most_common(1) == [('a', 2)] and f(2) == {'a': 2, 'b': 1}", 'pass'),
    'counter_missing': ("from collections import Counter\ndef f(x): return Counter('aab')", "assert f(2)['z'] == 0", 'pass'),
    'lru_ordereddict': ('from collections import OrderedDict\nclass LRUCache(OrderedDict):\n def __init__(s, n): super().__init__(); s.n = n\n def get(s, k):\n  if k not in s: return -1\n  s.move_to_end(k); return s[k]\n def put(s, k, v):\n  s[k] = v; s.move_to_end(k)\n  if len(s) > s.n: s.popitem(last=False)', 'c = LRUCache(2)\nc.put(1, 1); c.put(2, 2)\nassert c.get(1) == 1\nc.put(3, 3)\nassert c.get(2) == -1 and len(c) == 2', 'pass'),
    'stack_list': ('class Stack(list):\n def push(s, x): s.append(x)\n def peek(s): return s[-1]', 's = Stack()\ns.push(3); s.push(4)\nassert s.peek() == 4 and s.pop() == 4 and len(s) == 1 and s == [3]', 'pass'),
    'str_sub': ("class Name(str):\n def shout(s): return s.upper() + '!'\ndef f(x): return Name('a')", "assert f(2).shout() == 'A!' and f(2) == 'a'", 'pass'),
    'int_enum': ('from enum import IntEnum\nclass Color(IntEnum):\n RED = 1\ndef f(x): return Color.RED', 'assert f(2) == 1', 'pass'),
    'enum_name': ('from enum import Enum\nclass Color(Enum):\n RED = 1\ndef f(x): return Color.RED', "assert f(2).name == 'RED' and f(2).value == 1", 'pass'),
    'isinstance': ('class Node:\n def __init__(s, v): s.v = v\ndef f(x): return Node(x)', 'assert isinstance(f(2), Node) and f(2).v == 2', 'pass'),
    'defaultdict': ('from collections import defaultdict\ndef f(x):\n d = defaultdict(list); d[1].append(2); return d', 'assert f(2) == {1: [2]} and f(2)[1] == [2]', 'pass'),
    'gen': ('def f(x): yield from range(3)', 'assert list(f(2)) == [0, 1, 2]', 'pass'),
    'map': ('def f(x): return map(str, range(3))', "assert list(f(2)) == ['0', '1', '2']", 'pass'),
    'zip_dict_views': ('def f(x): return {1: 2}.items()', 'assert list(f(2)) == [(1, 2)] and sorted(f(2)) == [(1, 2)]', 'pass'),
    'reversed': ('def f(x): return reversed([1, 2])', 'assert list(f(2)) == [2, 1]', 'pass'),
    'kwargs_inplace': ('def f(*, xs): xs.sort()', 'a = [2, 1]\nf(xs=a)\nassert a == [1, 2]', 'pass'),
    'nested_inplace': ('def f(m): m[0][0] = 5', 'a = [[1], [2]]\nf(a)\nassert a == [[5], [2]]', 'pass'),
    'deque_inplace': ('def f(d): d.append(3)', 'from collections import deque\nd = deque([1])\nf(d)\nassert list(d) == [1, 3]', 'pass'),
    'bytearray_inplace': ('def f(d): d[0] = 65', "d = bytearray(b'xy')\nf(d)\nassert d == b'Ay'", 'pass'),
    'numpy_tests': ('import numpy as np\ndef f(x): return np.arange(3)', 'import numpy as np\nassert np.array_equal(f(2), np.array([0, 1, 2]))', 'pass'),
    'numpy_allclose': ('import numpy as np\ndef f(x): return np.array([[1., 2.]]) @ np.eye(2)', 'import numpy as np\nr = f(2)\nassert np.allclose(r, [[1, 2]]) and r.shape == (1, 2) and r.tolist() == [[1.0, 2.0]]', 'pass'),
    'numpy_from_program': ('import numpy as np\ndef f(x): return np.arange(3)', 'assert np.allclose(f(2), [0, 1, 2])', 'pass'),
    'numpy_arg': ('import numpy as np\ndef f(a): return float(a.sum())', 'import numpy as np\nassert f(np.ones(3)) == 3.0', 'pass'),
    'unittest': ('def f(x): return x + 1', "import unittest\nclass T(unittest.TestCase):\n def test_a(self): self.assertEqual(f(1), 2)\n def test_b(self):\n  with self.assertRaises(TypeError): f('a')\nr = unittest.TextTestRunner(stream=open('/dev/null','w')).run(unittest.defaultTestLoader.loadTestsFromTestCase(T))\nassert r.wasSuccessful()", 'pass'),
    'helper_collision': ('def close(a, b): return True\ndef f(x): return 3', 'def close(a, b): return abs(a - b) < 1e-6\nassert close(f(2), 5)', 'fail'),
    'deep_list_400': ('def f(x):\n a = []\n for _ in range(400): a = [a]\n return a', 'e = []\nfor _ in range(400): e = [e]\nassert f(2) == e', 'pass'),
    'big_output_value': ('def f(x): return list(range(200000))', 'assert f(2) == list(range(200000))', 'pass'),
    'input_eof': ('def f(x):\n try: input()\n except EOFError: return 918273645', ANSWER, 'pass'),
    'warn': ("import warnings\nwarnings.simplefilter('error')\ndef f(x): return 918273645", ANSWER, 'pass'),
    'dataclass': ('from dataclasses import dataclass\n@dataclass(order=True)\nclass P:\n a: int\n b: int = 0\ndef f(x): return P(1, 2)', "p = f(2)\nassert (p.a, p.b) == (1, 2) and repr(p) == 'P(a=1, b=2)'", 'pass'),
    'setitem': ('class B:\n def __init__(s): s.d = {}\n def __setitem__(s, k, v): s.d[k] = v\n def __getitem__(s, k): return s.d[k]\n def __contains__(s, k): return k in s.d', "b = B()\nb['a'] = 3\nassert b['a'] == 3", 'pass'),
    'context_manager': ('class M:\n def __init__(s): s.n = 0\n def __enter__(s): s.n += 1; return s\n def __exit__(s, *a): s.n += 10', 'm = M()\nwith m as k:\n assert k.n == 1\nassert m.n == 11', 'pass'),
    'tempfile': ("import tempfile\ndef f(x):\n with tempfile.TemporaryFile('w+') as h:\n  h.write('918273645'); h.seek(0); return int(h.read())", ANSWER, 'pass'),
    'logging': ("import logging\nlogging.warning('hi')\ndef f(x): return 918273645", ANSWER, 'pass'),
    'locale': ('import locale, time, platform, uuid, hashlib, secrets\ndef f(x): return 918273645', ANSWER, 'pass'),
    'pickle': ('import pickle, copy\nclass X: pass\ndef f(x): return 918273645 if type(pickle.loads(pickle.dumps(X()))) is X else 0', ANSWER, 'pass'),
    'exception_custom': ("class Bad(ValueError): pass\ndef f(x): raise Bad('no')", "try:\n f(2)\nexcept ValueError as e:\n assert str(e) == 'no'\nelse:\n assert 0", 'pass'),
    'exception_class': ("class Bad(Exception): pass\ndef f(x): raise Bad('no')", "try:\n f(2)\nexcept Bad as e:\n assert str(e) == 'no'\nelse:\n assert 0", 'pass'),
    'static': ('class Solution:\n @staticmethod\n def go(x): return x + 1', 'assert Solution.go(1) == 2', 'pass'),
    'lambda': ('f = lambda x: 918273645', ANSWER, 'pass'),
    'partial': ('from functools import partial\nf = partial(max, 918273645)', ANSWER, 'pass'),
    'cached': ('from functools import lru_cache\n@lru_cache(None)\ndef f(x): return 918273645', ANSWER, 'pass'),
    'type_name': ('def f(x): return type(x).__name__, type.__name__, type(type).__name__', "assert f(2) == ('int', 'type', 'type')", 'pass'),
    'round_float': ('def f(x): return 0.1 + 0.2', 'assert round(f(2), 7) == 0.3 and abs(f(2) - .3) < 1e-9', 'pass'),
    'sys_exit_guarded': ('import sys\ndef f(x):\n try: sys.exit(1)\n except SystemExit: return 918273645', ANSWER, 'pass'),
    'list_grows': ('class E(list):\n def grow(s): s.append(s[-1] + 1)\ndef f(x): return E([1])', 'r = f(2)\nassert r == [1]\nr.grow()\nassert r == [1, 2] and len(r) == 2 and r[1] == 2 and isinstance(r, list) and [0] + r == [0, 1, 2]', 'pass'),
    'dict_class': ('class Trie(dict):\n def insert(s, w):\n  for c in w: s = s.setdefault(c, Trie())', "t = Trie()\nt.insert('ab')\nassert t == {'a': {'b': {}}} and 'a' in t and t['a'] == {'b': {}}", 'pass'),
    'point_passed': ("from collections import namedtuple\nP = namedtuple('P', 'x y')\ndef f(x): return P(x, 1)\ndef g(p): return p.x + p.y", 'assert g(f(2)) == 3 and g(P(1, 2)) == 3', 'pass'),
    'str_enum': ("import enum\nclass C(str, enum.Enum):\n A = 'a'\ndef f(x): return C.A", "assert f(2) == 'a' and f(2).name == 'A' and ''.join([f(2)]) == 'a'", 'pass'),
    'json_class': ('class D(dict): pass\ndef f(x): return D(a=1)', 'import json\nassert dict(f(2)) == {\'a\': 1} and sorted(f(2)) == [\'a\'] and f(2) == json.loads(\'{"a": 1}\')', 'pass'),
    'key_error': ("def f(x): raise KeyError('a')", 'try:\n f(2)\nexcept KeyError as e:\n assert e.args == (\'a\',) and str(e) == "\'a\'"\nelse:\n assert 0', 'pass'),
    'exception_tree': ('class A(Exception): pass\nclass B(A): pass\ndef f(x): raise B(1)', 'try:\n f(2)\nexcept A as e:\n assert e.args == (1,)\nelse:\n assert 0', 'pass'),
    'sysexit_code': ('import sys\ndef f(x): sys.exit(3)', 'try:\n f(2)\nexcept SystemExit as e:\n assert e.code == 3, e.code\nelse:\n assert False', 'pass'),
    'neg_zero_np': ('import numpy as np\ndef f(x): return np.float64(-0.0)', 'import math\nassert math.copysign(1, f(2)) == -1', 'pass'),
    'numpy_scalar_right': ('import numpy as np\ndef f(x): return np.int64(918273645)', ANSWER, 'pass'),
}
# what a program may leave to the next in a shared child, a shared pipe or a shared folder
POISON = {
    'counter_init': ('import collections\ncollections.Counter.__init__ = lambda s, *a: None\ndef f(x): return 1', ANSWER, 'fail error'),
    'counter_init2': ('from collections import Counter as C\nC.__init__, C.__repr__ = None, None\ndef f(x): return 1', ANSWER, 'fail error'),
    'counter_add': ('from collections import Counter as C\nC.__add__ = lambda s, o: 3\ndef f(x): return 1', ANSWER, 'fail error'),
    'abc_contains': ('from collections.abc import Mapping\nMapping.__contains__ = lambda s, k: True\ndef f(x): return 1', ANSWER, 'fail error'),
    'random_init': ('import random\nrandom.Random.__init__ = None\ndef f(x): return 1', ANSWER, 'fail error'),
    'jsonerr_init': ('import json\njson.JSONDecodeError.__init__ = None\ndef f(x): return 1', ANSWER, 'fail error'),
    'typing_nparams': ('import typing\ntyping.List._nparams = 5\ntyping.Dict._nparams = 7\ndef f(x): return 1', ANSWER, 'fail error'),
    'typing_name': ("import typing\ntyping.List._name = 'x'\ntyping.List._inst = False\ndef f(x): return 1", ANSWER, 'fail error'),
    'typing_getitem': ('from typing import Optional, Union\nOptional._getitem = lambda s, p: 1 / 0\nUnion._getitem = lambda s, p: 1 / 0\ndef f(x): return 1', ANSWER, 'fail error'),
    'typing_cache': ("import typing\nclass E:\n def __init__(s, t): s.t = t\n def __hash__(s): return hash(s.t)\n def __eq__(s, o): raise ValueError('poison')\n def __call__(s): pass\nfor t in (float, bool, complex, bytes, object, bytearray):\n typing.List[E(t)]; typing.Set[E(t)]; typing.Optional[E(t)]; typing.Iterable[E(t)]\ndef f(x): return 1", ANSWER, 'fail error'),
    're_flag': ("import re\nre.I._value_ = 0\nre.IGNORECASE._name_ = 'x'\ndef f(x): return 1", ANSWER, 'fail error'),
    're_flag2': ('import re\nre.M._value_ = 0\nre.MULTILINE._value_ = 0\ndef f(x): return 1', ANSWER, 'fail error'),
    'type_name': ("type.__name__ = 'x'\ntype.x = 5\ndef f(x): return 1", ANSWER, 'fail error'),
    'type_eq': ('type.__eq__ = lambda *a: True\ntype.__call__ = len\ndef f(x): return 1', ANSWER, 'fail error'),
    'func_defaults': ("import heapq, copy\nheapq.merge.__doc__ = 'x'\ncopy.deepcopy.__name__ = 'x'\ndef f(x): return 1", ANSWER, 'fail error'),
    'total_ordering': ('import functools, collections, random\ntry: functools.total_ordering(collections.Counter)\nexcept Exception: pass\ntry: functools.total_ordering(random.Random)\nexcept Exception: pass\ndef f(x): return 1', ANSWER, 'fail error'),
    'annotations': ("from collections import Counter\nCounter.__annotations__['x'] = 1\ndef f(x): return 1", ANSWER, 'fail error'),
    'random_state': ('import random\nrandom.setstate((3, tuple([1] * 624 + [624]), None))\ndef f(x): return 1', ANSWER, 'fail error'),
    'build_class': ("def body(): pass\nX = __build_class__(body, 'X', list)\ndef f(x): return 1", ANSWER, 'fail error'),
    'final': ('import typing, collections\ntyping.final(collections.Counter)\ndef f(x): return 1', ANSWER, 'fail error'),
    'memory_hoard': ("import functools\nhoard = []\n@functools.lru_cache(None)\ndef g(i): return 'x' * 3000000 + str(i)\nfor i in range(50): hoard.append(g(i))\ndef f(x): return 1", ANSWER, 'fail error'),
    'nonblock': ('import os\nos.set_blocking(1, False); os.set_blocking(2, False)\ntry: os.set_blocking(0, False)\nexcept OSError: pass\ndef f(x): return 1', ANSWER, 'fail error'),
    'pipe_size': ('import fcntl\nfcntl.fcntl(1, 1031, 4096)\ndef f(x): return 1', ANSWER, 'fail error'),
    'fioasync': ('import fcntl, os\nfcntl.fcntl(1, fcntl.F_SETFL, fcntl.fcntl(1, fcntl.F_GETFL) | os.O_ASYNC | os.O_APPEND)\ndef f(x): return 1', ANSWER, 'fail error'),
    'flock': ('import fcntl, os\nfor fd in (0, 1, 2):\n try: fcntl.flock(fd, fcntl.LOCK_EX)\n except OSError: pass\ndef f(x): return 1', ANSWER, 'fail error'),
    'umask': ("import os\nos.umask(0o777)\nos.chdir('/')\ndef f(x): return 1", ANSWER, 'fail error'),
    'rlimits': ('import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))\nresource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))\ndef f(x): return 1', ANSWER, 'fail error'),
    'decimal_ctx': ('import decimal, locale, sys\ndecimal.getcontext().prec = 1\nsys.set_int_max_str_digits(640)\nsys.setrecursionlimit(50)\ndef f(x): return 1', ANSWER, 'fail error'),
    'np_seed': ('import numpy as np\nnp.random.seed(3)\nnp.add = None\ndef f(x): return 1', ANSWER, 'fail error'),
    'print_left': ("import os\nos.write(1, b'left over')\ndef f(x): return 1", ANSWER, 'fail error'),
    'tmp_left': ("import os\nopen('/tmp/left', 'w').write('x')\nos.mkfifo('/tmp/p')\ndef f(x): return 1", ANSWER, 'fail error'),
    'builtins_patch': ('import builtins\nbuiltins.len = None\nbuiltins.sorted = None\ndef f(x): return 1', ANSWER, 'fail error'),
    'gc_off': ('import gc\ngc.disable()\ngc.freeze()\ndef f(x): return 1', ANSWER, 'fail error'),
    'intern_flood': ("import sys\nfor i in range(100000): sys.intern('k%d' % i)\ndef f(x): return 1", ANSWER, 'fail error'),
}
INNOCENT = {
    'typing': ("from typing import List, Dict, Optional, Union, Set, Iterable\nimport re, random\nfrom collections import Counter\nfrom collections.abc import Mapping\nimport json\ndef f(x: List[float], y: Optional[bool] = None, z: Set[bytes] = None, w: Iterable[complex] = (), v: Dict[str, int] = {}, u: Union[int, str] = 3) -> List[bytearray]:\n try: json.loads('{')\n except json.JSONDecodeError as e: n = e.pos\n return [len(Counter('aab')), Counter('a') + Counter('a') == Counter('aa'), bool(re.match('A', 'a', re.I)), len(re.findall('^a', 'a\\na', re.M)), n, random.Random(3).random() < 1, type(3).__name__, str(List[int]), sorted(Counter('ab')), 0 in Counter()]", "assert f([1]) == [2, True, True, 2, 1, True, 'int', 'typing.List[int]', ['a', 'b'], False], f([1])"),
    'plain': ('def f(x): return sorted(x, key=len)', "assert f(['aa', 'b']) == ['b', 'aa']"),
    'prints': ("import os\ndef f(x):\n for _ in range(60): print('z' * 1000, flush=True)\n return 5", 'assert f(1) == 5'),
    'random': ('import random\ndef f(x): return random.random()', 'assert abs(f(1) - 0.8444218515250481) < 1e-12'),
    'files': ("import os\ndef f(x):\n a = os.listdir('.')\n open('mine', 'w').write('x')\n return a, oct(os.stat('mine').st_mode & 0o777), os.listdir('.')", "assert f(1) == ([], '0o600', ['mine']), f(1)"),
}


def check(programs, tier, share, guarded=None, neighbours=1):
    """Run programs with `neighbours` innocent ones after each, and compare verdicts."""
    jobs, expected, innocent = [], {}, list(INNOCENT.items())
    for number, (name, (program, test, statuses)) in enumerate(programs.items()):
        if "numpy" in program + test and importlib.util.find_spec("numpy") is None:
            continue
        for key, value in (guarded or {}).items():
            program = program.replace(key, value)
        script = "1" if not test else None
        jobs.append(Job(name, program, (test,) if test else (), expected_stdout=script, limits=LIMITS))
        expected[name] = statuses.split()
        for at in range(neighbours):
            kind, (good, its_test) = innocent[(number + at) % len(innocent)]
            jobs.append(Job(f"{kind} after {name}", good, (its_test,), limits=LIMITS))
            expected[jobs[-1].id] = ["pass"]
    wrong = []
    for result in execute(jobs, tier=tier, workers=2, share=share):
        refused = tier == "D" and result.status == "harness_error" and "refused" in result.detail
        if result.status not in expected[result.id] and not refused:
            wrong.append(f"{result.id}: {result.status} ({result.detail}), expected {' or '.join(expected[result.id])}")
    assert not wrong, "\n".join(wrong)


def runs(default):
    """Tiers and shares: those in `default` always, all others with `-m slow`."""
    every = [(tier, share) for tier in TIERS for share in (64, 1)]
    return [pytest.param(*one, marks=() if one in default else pytest.mark.slow) for one in every]


@pytest.mark.parametrize(("tier", "share"), runs([("A", 64), ("D", 64)]))
def test_lies_and_tricks_do_not_pass(tier, share):
    check(ANSWERS | CAUGHT | TRICKS, tier, share)


@pytest.mark.parametrize(("tier", "share"), runs([("A", 64), ("C", 1)]))
@pytest.mark.skipif(sys.platform != "linux" or os.uname().machine != "x86_64", reason="the programs speak Linux on x86_64")
def test_nothing_outside_is_reached(tier, share, guarded, monkeypatch):
    monkeypatch.setenv("LEAVEN_TEST_SECRET", "1")
    check(REACH, tier, share, guarded)


@pytest.mark.parametrize(("tier", "share"), runs([("A", 64)]))
def test_scripts_end_as_programs_do(tier, share):
    check(SCRIPTS, tier, share, neighbours=0)


@pytest.mark.parametrize(("tier", "share"), runs([("A", 64), ("A", 1), ("D", 64)]))
def test_honest_programs_pass(tier, share):
    check(HONEST, tier, share, neighbours=0)


@pytest.mark.parametrize(("tier", "share"), runs([("A", 64), ("A", 1), ("D", 64)]))
def test_neighbours_are_not_poisoned(tier, share):
    check(POISON, tier, share, neighbours=len(INNOCENT))


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_daemon_does_not_outlive_its_job_even_where_it_may_run(tier):
    mark = f"{90000 + os.getpid() % 1000}.5"
    program = ("import os\nif os.fork() == 0:\n os.setsid()\n if os.fork(): os._exit(0)\n"
               f" os.execv('/bin/sleep', ['sleep', '{mark}'])\ndef f(x): return 1")
    for tests in ((), ("assert f(2) == 1",)):
        [result] = execute([Job("daemon", program, tests, limits=LIMITS)], tier=tier, allow_unsafe=True, workers=1)
        assert result.status in ("pass", "error"), result
        assert not [p for p in Path("/proc").glob("[0-9]*/cmdline") if mark.encode() in read(p)]


def read(path):
    try:
        return path.read_bytes()
    except OSError:
        return b""
