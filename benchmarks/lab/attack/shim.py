"""Faults at a chosen system call, in a child of this process: see `shim.c`."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from ....cli import terminate
from ....runtime.errors import MdrtError

SOURCE: Final = Path(__file__).with_name("shim.c")
KILL_BEFORE, KILL_AFTER, DISK_FULL, NO_MEMORY, INTERRUPT, TERMINATE, CLOCKS = range(1, 8)
ENDED, REFUSED, SURPRISED = 0, 3, 4
"""How a child ends that was not killed: well, by an error that is told, by any other; by a signal
with the status of a process that it ended, as the command line does."""


def built(folder: Path) -> Path:
    """The shim, compiled into a folder.

    Raises:
        OSError, CalledProcessError: there is no C compiler, or it refuses.
    """
    library = folder / "shim.so"
    command = ["cc", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", str(SOURCE)]
    subprocess.run([*command, "-o", str(library), "-ldl"], check=True, capture_output=True)
    return library


def run_under(library: Path, arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Python, with the shim before the C library; disarmed."""
    return subprocess.run(
        [sys.executable, *arguments],
        env=os.environ | {"LD_PRELOAD": str(library)},
        capture_output=True,
        text=True,
    )


def in_child(fault: int, at: int, work: Callable[[], object]) -> tuple[int, int]:
    """Do work in a fork of this process, where the shim is armed.

    Returns:
        The child's exit status (negative: the signal that ended it), and how many calls it made
        where it ended by itself.
    """
    loaded = ctypes.CDLL(None)
    source, sink = os.pipe()
    child = os.fork()
    if child == 0:
        status = SURPRISED
        try:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.signal(signal.SIGTERM, terminate)
            loaded.shim_arm(fault, ctypes.c_long(at))
            work()
            status = ENDED
        except MdrtError:
            status = REFUSED
        except KeyboardInterrupt:
            status = 128 + signal.SIGINT
        except SystemExit as error:
            status = error.code if isinstance(error.code, int) else SURPRISED
        except BaseException as error:
            loaded.shim_arm(0, ctypes.c_long(0))
            told = isinstance(error, MemoryError) and fault == NO_MEMORY
            status = REFUSED if told else SURPRISED
            if not told:
                traceback.print_exc()
        finally:
            calls = loaded.shim_calls()
            loaded.shim_arm(0, ctypes.c_long(0))
            os.write(sink, str(calls).encode())
            os._exit(status)
    os.close(sink)
    with os.fdopen(source, "rb") as file:
        told_calls = file.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), int(told_calls or 0)
