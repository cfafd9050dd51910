"""The process that forks sandboxes. It runs in a bare interpreter, never in the trainer's.

It imports much-used modules once, then forks a child for each job; the child confines itself
(`confinement`) and runs a Python program or executes a command. A job comes over a socket with five
open files: the job (JSON), standard input, output, error, and the result of a called function. When
the job ends, however it ends, every process of its session is killed and one message goes back::

    {"job": 7, "status": 0, "timed_out": false, "setup": "", "seconds": 0.004}

`status` is a wait status, `setup` says what kept the job from starting.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import linecache
import os
import selectors
import signal
import socket
import sys
import threading
import time
import traceback
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from gym_adapters.sandbox import confinement
else:
    # Run as a script: its neighbour is imported by place, and no other neighbour can be.
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    import confinement

    sys.path.pop(0)
    del sys.modules["confinement"]

__all__: list[str] = []

PROGRAM = "solution.py"
NOT_STARTED, NOT_FOUND = 70, 127
# Names that programs for judged problems expect to find without importing them.
STAR_MODULES = (
    *("string", "re", "datetime", "collections", "heapq", "bisect", "copy", "math", "random"),
    *("statistics", "itertools", "functools", "operator", "io", "json", "typing"),
)
BUILTINS_LAST = "builtins"


@dataclass
class _Job:
    number: int
    pid: int
    pidfd: int
    started: int  # reading end of the pipe on which the child says that it has begun
    began: float
    deadline: float
    timed_out: bool = False


class _Server:
    def __init__(self, control: socket.socket, settings: dict[str, Any]) -> None:
        self.control = control
        self.settings = settings
        self.abi = confinement.landlock_abi() if settings["restrict_files"] else 0
        self.calls = confinement.system_call_numbers()
        self.jobs: dict[int, _Job] = {}
        self.selector = selectors.DefaultSelector()
        self.selector.register(control, selectors.EVENT_READ)
        self.names = _star_names(settings["preload"])
        gc.collect()
        gc.freeze()

    def serve(self) -> None:
        """Fork and reap until the other end closes."""
        self.control.send(json.dumps({"ready": True, "landlock": self.abi}).encode())
        while True:
            for key, _ in self.selector.select(self._patience()):
                if key.data is not None:
                    self._reap(key.data)
                elif not self._receive():
                    for job in self.jobs.values():
                        _kill_group(job.pid)
                    return
            now = time.monotonic()
            for job in self.jobs.values():
                if now >= job.deadline and not job.timed_out:
                    job.timed_out = True
                    _kill_group(job.pid)

    def _patience(self) -> float | None:
        waiting = [job.deadline for job in self.jobs.values() if not job.timed_out]
        return max(0.0, min(waiting) - time.monotonic()) if waiting else None

    def _receive(self) -> bool:
        message, fds, _, _ = socket.recv_fds(self.control, 4096, 8)
        if not message:
            return False
        header = json.loads(message)
        try:
            if "kill" in header:
                for job in self.jobs.values():
                    if job.number == header["kill"]:
                        job.deadline = 0.0
            else:
                self._start(header["job"], fds)
        finally:
            for fd in fds:
                os.close(fd)
        return True

    def _start(self, number: int, fds: list[int]) -> None:
        size = os.fstat(fds[0]).st_size
        spec = json.loads(os.pread(fds[0], size, 0))
        reading, writing = os.pipe()
        began = time.monotonic()
        pid = os.fork()
        if pid == 0:
            self._child(spec, fds, writing)
        os.close(writing)
        job = _Job(number, pid, os.pidfd_open(pid), reading, began, began + spec["wall_time"])
        self.jobs[number] = job
        self.selector.register(job.pidfd, selectors.EVENT_READ, job)

    def _reap(self, job: _Job) -> None:
        # The leader is a zombie still, so its number can't have been given to another process.
        _kill_group(job.pid)
        _, status, _ = os.wait4(job.pid, 0)
        self.selector.unregister(job.pidfd)
        os.close(job.pidfd)
        said = os.read(job.started, 65536)
        os.close(job.started)
        del self.jobs[job.number]
        begun = said == b"R"
        answer = {
            "job": job.number,
            "status": status,
            "timed_out": job.timed_out,
            "setup": "" if begun or job.timed_out else said.decode(errors="replace") or "it died",
            "seconds": time.monotonic() - job.began,
        }
        self.control.send(json.dumps(answer).encode())

    def _child(self, spec: dict[str, Any], fds: list[int], started: int) -> NoReturn:
        try:
            os.setsid()
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            # The five files may have any numbers: move them out of the way first.
            high = [os.dup2(fd, 200 + index) for index, fd in enumerate((*fds[1:], started))]
            for target, fd in enumerate(high):
                os.dup2(fd, target)
            os.closerange(5, 4096)
            os.set_inheritable(3, False)
            os.set_inheritable(4, False)
            self._confine(spec)
            os.chdir(spec["folder"])
            os.environ.clear()
            os.environ.update(spec["environment"])
        except BaseException as error:  # noqa: BLE001 - whatever it is, the other end must hear of it
            os.write(4, f"{type(error).__name__}: {error}".encode())
            os._exit(NOT_STARTED)
        os.write(4, b"R")
        os.close(4)
        if "command" in spec:
            _execute(spec["command"])
        _run_program(spec, self.names)

    def _confine(self, spec: dict[str, Any]) -> None:
        own = confinement.Confinement(**spec["confinement"])
        rules = None
        if self.abi:
            rules = confinement.restrict_paths(own.readable, own.writable, self.abi)
        others = 0 if own.uid is not None else _processes_of(os.getuid())
        confinement.apply_limits(own, others)
        if own.uid is not None:
            confinement.drop_privileges(own.uid, readable=() if rules is None else own.readable)
        confinement.no_new_privileges()
        if rules is not None:
            confinement.enforce_paths(rules)
        if self.calls is not None and self.settings["restrict_calls"]:
            confinement.restrict_system_calls(self.calls)


def _kill_group(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        # The child has not called setsid yet, or every process of the group is gone.
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return


def _processes_of(uid: int) -> int:
    """Threads that run as `uid`."""
    count = 0
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                if os.stat(f"/proc/{name}").st_uid == uid:
                    count += len(os.listdir(f"/proc/{name}/task"))
            except OSError:
                continue
    return count


def _execute(command: list[str]) -> NoReturn:
    try:
        os.execvpe(command[0], command, os.environ)
    except OSError as error:
        os.write(2, f"{command[0]}: {error.strerror}\n".encode())
        os._exit(NOT_FOUND)


def _run_program(spec: dict[str, Any], names: dict[str, Any]) -> NoReturn:
    _open_streams()
    sys.argv[:] = [PROGRAM]
    code: str = spec["program"]
    linecache.cache[PROGRAM] = (len(code), None, code.splitlines(keepends=True), PROGRAM)
    main = ModuleType("__main__")
    if spec["with_names"]:
        vars(main).update(names, stdin=sys.stdin, stdout=sys.stdout)
    sys.modules["__main__"] = main
    sys.setrecursionlimit(spec["recursion_limit"])
    status = 0
    try:
        exec(compile(code, PROGRAM, "exec"), vars(main))
        if spec["function"]:
            value = _callee(main, spec["function"])(*map(json.loads, spec["arguments"]))
            os.write(3, json.dumps(value).encode())
    except SystemExit as leaving:
        status = _exit_status(leaving.code)
    except BaseException as error:  # noqa: BLE001 - untrusted code may raise anything
        status = 1
        trace = error.__traceback__
        traceback.print_exception(error.with_traceback(trace.tb_next if trace else None))
    _leave(status)


def _open_streams() -> None:
    streams: dict[str, Any] = {
        "stdin": open(0, encoding="utf-8", errors="surrogateescape"),  # noqa: SIM115
        "stdout": open(1, "w", encoding="utf-8", errors="surrogateescape"),  # noqa: SIM115
        "stderr": open(2, "w", encoding="utf-8", errors="backslashreplace"),  # noqa: SIM115
    }
    for name, stream in streams.items():
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def _callee(main: ModuleType, name: str) -> Any:
    solution = getattr(main, "Solution", None)
    if isinstance(solution, type) and hasattr(solution, name):
        return getattr(solution(), name)
    if not hasattr(main, name):
        raise NameError(f"the program defines no {name}()")
    return getattr(main, name)


def _exit_status(code: object) -> int:
    if code is None or isinstance(code, int):
        return int(code or 0) & 0xFF
    sys.stderr.write(f"{code}\n")
    return 1


def _leave(status: int) -> NoReturn:
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()
    # Programs for judged problems often write their output on the way out.
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            status = status or 1
    os._exit(status)


def _star_names(preload: list[str]) -> dict[str, Any]:
    names: dict[str, Any] = {}
    for name in preload:
        try:
            names[name] = importlib.import_module(name)
        except ImportError:
            continue
    for name in (*STAR_MODULES, BUILTINS_LAST):
        module = importlib.import_module(name)
        public = getattr(module, "__all__", None) or [n for n in vars(module) if n[0] != "_"]
        names.update({public_name: getattr(module, public_name) for public_name in public})
    # A module goes before a class of its name: datetime is the module.
    return {**names, **{name: sys.modules[name] for name in (*STAR_MODULES, "sys")}}


def main() -> None:
    """Serve on the socket whose number is the first argument; the second holds settings (JSON)."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    control = socket.socket(fileno=int(sys.argv[1]))
    _Server(control, json.loads(sys.argv[2])).serve()


if __name__ == "__main__":
    main()
