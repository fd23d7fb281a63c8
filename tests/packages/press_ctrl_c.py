#!/usr/bin/env python3
"""press_ctrl_c.py WORD PROGRAM ARGUMENT...: starts a program on a terminal of its own, presses Ctrl-C there once
it has printed WORD, and ends with the program's status; 99 when it has not ended by itself."""

import os
import pty
import select
import signal
import sys
import time

word, program = sys.argv[1].encode(), sys.argv[2:]
child, terminal = pty.fork()
if child == 0:
    os.execvp(program[0], program)
end, heard, pressed, status = time.monotonic() + 60, b"", False, None
while status is None and time.monotonic() < end:
    if select.select([terminal], [], [], 0.1)[0]:
        try:
            heard += os.read(terminal, 65536)
        except OSError:
            pass
    if not pressed and word in heard:
        os.write(terminal, b"\x03")
        pressed = True
    done, code = os.waitpid(child, os.WNOHANG)
    if done:
        status = os.waitstatus_to_exitcode(code)
sys.stdout.write(heard.decode(errors="replace"))
if status is None:
    os.kill(child, signal.SIGKILL)
sys.exit(99 if status is None or not pressed else status)
