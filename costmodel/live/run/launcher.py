"""A rank ends when the process that started it does, whatever ended that one.

The watchdog looks at its parent, and says what happened. Two cases are left to the kernel: a rank
that is still importing torch, and one whose main thread waits inside a driver with Python's lock
held, where no other thread runs. Both would hold the run's directory, and nothing would stop them.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket

#: prctl's PR_SET_PDEATHSIG: the signal that a process gets when the thread that started it ends
#: (Linux, include/uapi/linux/prctl.h). torch's launcher starts ranks from its main thread.
_SET_PARENT_DEATH_SIGNAL = 1

#: Sent by the kernel. Its number is also the seconds that the watchdog has to speak first.
_SIGNAL = signal.SIGQUIT

#: How long the launcher's store may take to accept a connection.
_ANSWER_S = 5.0


def end_with_launcher() -> None:
    """Have the kernel end this process :data:`_SIGNAL` seconds after the one that started it.

    The handler is libc's ``alarm`` itself, which takes the signal's number for seconds and needs
    nothing of Python; SIGALRM then ends the process. Without ``prctl`` (no Linux) nothing is set.
    """
    try:
        libc = ctypes.CDLL(None)
        prctl, handle, alarm = libc.prctl, libc.signal, libc.alarm
    except (AttributeError, OSError, TypeError):
        return
    handle.argtypes, handle.restype = (ctypes.c_int, ctypes.c_void_p), ctypes.c_void_p
    handle(_SIGNAL, ctypes.cast(alarm, ctypes.c_void_p))
    prctl(_SET_PARENT_DEATH_SIGNAL, ctypes.c_ulong(_SIGNAL), *[ctypes.c_ulong(0)] * 3)


def gone_already() -> bool:
    """Return whether the launcher ended before :func:`end_with_launcher` could be called.

    torch's launcher holds the store through which the ranks meet; nobody else answers there.
    """
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return False
    where = os.environ.get("MASTER_ADDR", "localhost"), int(os.environ["MASTER_PORT"])
    try:
        socket.create_connection(where, timeout=_ANSWER_S).close()
    except ConnectionRefusedError:
        return True
    except OSError:  # a name that does not resolve, say: joining says it better
        return False
    return False
