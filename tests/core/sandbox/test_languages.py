"""Programs in other languages: compiled, run and limited in the sandbox; a toolchain that is missing is never a failure."""

# ruff: noqa: E501  (a program a line)
import json
import os
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import pytest

from leaven.core.sandbox import Job, Limits, available_tiers, execute, language_of, toolchains
from leaven.errors import RefusedError

TIERS = [t for t, reason in available_tiers().items() if not reason]
HERE = {language for language, reason in toolchains().items() if not reason}
SHORT = Limits(cpu_s=0.5, wall_s=1.0)
SMALL = Limits(memory_bytes=200 << 20)

# language -> name -> (program, stdin, expected stdout, limits, the verdicts that are right)
PROGRAMS = {
    "cpp": {
        "right": ("#include <iostream>\nint main() { int a; std::cin >> a; std::cout << a * 2 << std::endl; }", "21", "42", None, "pass"),
        "wrong": ("#include <cstdio>\nint main() { puts(\"41\"); }", "21", "42", None, "fail"),
        "assert": ("#include <cassert>\nint main() { assert(1 + 1 == 3); }", None, None, None, "fail"),
        "syntax": ("int main() { return 0 }", None, None, None, "error"),
        "include": ("#include \"/etc/shadow\"\nint main() {}", None, None, None, "error"),
        "spin": ("int main() { volatile int i = 0; for (;;) i++; }", None, None, SHORT, "timeout_cpu"),
        "sleep": ("#include <unistd.h>\nint main() { sleep(99); }", None, None, SHORT, "timeout_wall"),
        "crash": ("int main() { int *p = 0; *p = 1; }", None, None, None, "crash"),
        "memory": ("#include <vector>\nint main() { std::vector<char> v(3ull << 30, 1); return v[9] - 1; }", None, None, None, "memory"),
        "flood": ("#include <cstdio>\nint main() { for (;;) puts(\"xxxxxxxxxxxxxxxxxxxxxx\"); }", None, None, None, "output_limit"),
        "exit": ("#include <cstdlib>\nint main() { exit(3); }", None, None, None, "error"),
        "endless_template": ("template <int N> struct A { static const int v = A<N + 1>::v; };\nint main() { return A<0>::v; }", None, None, None, "error memory"),
        "socket": ("#include <sys/socket.h>\nint main() { return socket(AF_INET, SOCK_STREAM, 0) < 0 ? 0 : 1; }", None, None, None, "pass"),
    },
    "bash": {
        "right": ("read x\nwhile read l; do echo $l; done < <(echo $x | tr 3 4)", "3", "4", None, "pass"),
        "failed_test": ("set -e\nf() { echo 1; }\n[[ $(f) = 2 ]]", None, None, None, "fail"),
        "no_command": ("no_such_command", None, None, None, "error"),
        "syntax": ("if then", None, None, None, "error"),
        "children": ("for i in 1 2 3; do (while :; do :; done) & done; wait", None, None, SHORT, "timeout_cpu"),
        "sleep": ("sleep 99", None, None, SHORT, "timeout_wall"),
        "bomb": ("f() { f | f & }; f; sleep 9", None, None, SHORT, "error timeout_wall timeout_cpu"),
        "home": ("ls /root /home /work > /dev/null", None, None, None, "error"),
        "environment": ("[ -z \"$LEAVEN_TEST_SECRET\" ]", None, None, None, "pass"),
        "left": ("(sleep 99) & echo 1", None, "1", None, "pass"),
        "kill_parent": ("kill -9 $PPID 2>/dev/null; kill -9 1 2>/dev/null; echo 1", None, "1", None, "pass error crash"),
    },
    "java": {
        "right": ("import java.util.*;\npublic class Problem { public static void main(String[] a) { System.out.println(new Scanner(System.in).nextInt() * 2); } }", "21", "42", None, "pass"),
        "not_public": ("class Work { public static void main(String[] a) { System.out.println(1); } }", None, "1", None, "pass"),
        "assert": ("public class Problem { public static void main(String[] a) { assert 1 == 2; } }", None, None, None, "fail"),
        "syntax": ("public class Problem { void }", None, None, None, "error"),
        "memory": ("import java.util.*;\npublic class P { public static void main(String[] a) { List<long[]> l = new ArrayList<>(); while (true) l.add(new long[1000000]); } }", None, None, SMALL, "memory"),
    },
    "js": {
        "right": ("const t = require('fs').readFileSync(0, 'utf8'); console.log(Number(t) * 2);", "21", "42", None, "pass"),
        "assert": ("require('assert').deepEqual([1], [2])", None, None, None, "fail"),
        "memory": ("const a = []; for (;;) a.push(new Array(100000).fill(1.5))", None, None, SMALL, "memory"),
        "throw": ("throw new Error('x')", None, None, None, "error"),
    },
    "php": {
        "right": ("<?php echo intval(fgets(STDIN)) * 2;", "21", "42", None, "pass"),
        "assert": ("<?php assert(1 == 2);", None, None, None, "fail"),
        "syntax": ("<?php if (", None, None, None, "error"),
    },
}


def job(language, name):
    program, stdin, expected, limits, _ = PROGRAMS[language][name]
    return Job(f"{language} {name}", program, stdin=stdin, expected_stdout=expected, language=language, limits=limits or Limits(cpu_s=10, wall_s=30))


@pytest.mark.parametrize("tier", [pytest.param(t, marks=pytest.mark.slow) if t in "BD" else t for t in TIERS])
@pytest.mark.parametrize("language", PROGRAMS)
def test_every_program_gets_the_right_verdict(language, tier, monkeypatch):
    monkeypatch.setenv("LEAVEN_TEST_SECRET", "1")
    left_out = {"D": ["home", "socket", "include", "kill_parent"], "B": ["bomb"] if os.geteuid() == 0 else []}.get(tier, [])
    jobs = [job(language, name) for name in PROGRAMS[language] if name not in left_out]  # B under root: see cage.py
    wrong = []
    for one, result in zip(jobs, execute(jobs, workers=2, tier=tier, allow_unsafe=True), strict=True):
        assert result.id == one.id and result.tier == tier
        expected = PROGRAMS[language][one.id.split()[1]][-1].split() if language in HERE else ["not_measured"]
        if result.status not in expected:
            wrong.append(f"{result.id}: {result.status} ({result.detail}), expected {' or '.join(expected)}")
    assert not wrong, "\n".join(wrong)


def test_tier_d_refuses_other_languages_unless_asked():
    result = next(execute([Job("j", "echo 1", language="bash")], tier="D", workers=1))
    assert result.status == "harness_error" and "refused at tier D" in result.detail


def test_names_of_languages():
    assert [language_of(n) for n in ("C++", "sh", "JavaScript", "python3")] == ["cpp", "bash", "js", "python"]
    with pytest.raises(RefusedError, match="expected a language"):
        list(execute([Job("j", "x", language="cobol")]))


def test_languages_mix_with_python_in_one_run():
    jobs = [Job(str(i), "echo 1" if i % 3 == 0 else "def f(): return 1", () if i % 3 == 0 else ("assert f() == 1",),
                language="sh" if i % 3 == 0 else "python") for i in range(30)]
    assert [(r.id, r.status) for r in execute(jobs, workers=2)] == [(str(i), "pass") for i in range(30)]


@pytest.mark.skipif(sys.platform != "linux", reason="a script stands for the toolchain")
def test_a_toolchain_that_is_missing_or_vanishes_is_not_measured():
    folder = tempfile.TemporaryDirectory(dir="/var/tmp")  # programs of the sandbox have a /tmp of their own
    os.chmod(folder.name, 0o755)
    commands = Path(folder.name) / "bin"
    commands.mkdir()
    (commands / "php").write_text('#!/bin/bash\nif [[ $(cat "${@: -1}") == *hello* ]]; then echo hello; else echo 1; fi\n')
    (commands / "php").chmod(0o755)
    text = textwrap.dedent("""
        import json, os, sys
        from leaven.core.sandbox import Job, execute
        said = []
        def jobs():
            for name in ("first", "gone", "gone too"):
                yield Job(name, "<?php echo 1;", language="php", expected_stdout="1")
                if name == "first": yield Job("gap", "x = 1")
        run = execute(jobs(), workers=1, share=1)
        for result in run:
            said.append([result.id, result.status, result.detail])
        print(json.dumps(said))
    """)
    slow = text.replace('yield Job(name', 'name == "gone" and os.rename(sys.argv[1], sys.argv[1] + ".moved")\n        yield Job(name').replace(
        "import json", "import time, json").replace('if name == "first":', 'if name == "first": time.sleep(1); ')
    for program, path, expected in (
        (text, os.environ["PATH"], ["not_measured", "pass", "not_measured", "not_measured"]),
        (slow, f"{commands}:{os.environ['PATH']}", ["pass", "pass", "not_measured", "not_measured"]),
    ):
        if "php" in HERE and program is text:
            continue
        done = subprocess.run([sys.executable, "-c", program, str(commands / "php")], env={**os.environ, "PATH": path}, capture_output=True, text=True, check=True)
        said = json.loads(done.stdout)
        assert [status for _, status, _ in said] == expected, said
        assert "php" in said[-1][2]
    folder.cleanup()
