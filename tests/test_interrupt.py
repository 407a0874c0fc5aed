"""Ctrl-C ends a command soon, in the middle of anything, and says how to go on."""

import os
import signal
import subprocess
import sys
import time

import pytest

from lary_policy import cli
from lary_policy.cli.interrupt import PATIENCE_S

# In Python, where KeyboardInterrupt is raised at once; in one call of C; and in exit functions that hang.
WAYS = {
    "python": "while True: time.sleep(0.01)",
    "product": "hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)",
    "exit": "atexit.register(time.sleep, 60); time.sleep(60)",
}


@pytest.mark.parametrize("way", WAYS)
def test_an_interrupt_ends_what_would_not_end_and_names_the_command(way):
    code = (
        "import atexit, hashlib, signal, sys, time\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # ignored below a shell's `&`
        "from lary_policy import cli\n"
        "def busy(arguments):\n"
        "    print('up', flush=True)\n"
        f"    {WAYS[way]}\n"
        "cli._run = busy\n"
        "sys.argv = ['lary', 'suite', 'env=reach', 'out=a b']\n"
        "sys.exit(cli.main())\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as started:
        try:
            assert started.stdout is not None
            assert started.stdout.readline() == "up\n"
            time.sleep(0.1)
            os.kill(started.pid, signal.SIGINT)
            _, said = started.communicate(timeout=30)  # a busy machine; none ends alone in that time
        finally:
            started.kill()  # it would never end by itself
    assert started.returncode == 130
    assert "lary suite env=reach 'out=a b'" in said
    assert said.count("stopped") == 1
    assert "Traceback" not in said


def test_patience_leaves_room_within_two_seconds():
    assert 0.5 < PATIENCE_S < 1.5  # less: no time to leave in order; more: a person waits for over 2 s


def test_the_handler_is_taken_back(monkeypatch):
    before = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(before)
    assert cli.main(["--version"]) == 0
    assert signal.set_wakeup_fd(before) == before
