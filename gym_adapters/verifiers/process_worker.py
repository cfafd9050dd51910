"""What a process of a `ProcessPool` runs: a loop over requests around one module's ``answer``.

It is run by path, with the path of the module, and imports nothing else of the library. The module
defines ``answer(request)``, from a JSON object to one, and may define ``warm_up()``. A request that
uses up its ``cpu_limit`` ends the process, by a timer that no Python code can hold up.
"""

from __future__ import annotations

import json
import logging
import resource
import signal
import sys
import warnings
from collections.abc import Callable, Iterable
from importlib.util import module_from_spec, spec_from_file_location
from types import ModuleType
from typing import Any, TextIO

# A caught MemoryError is better than a machine without memory; sympy alone maps about 300 MB.
_ADDRESS_SPACE = 4 << 30


def loaded(path: str) -> ModuleType:
    """The module at `path`."""
    spec = spec_from_file_location("answering", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"no module at {path}")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def serve(
    answer: Callable[[dict[str, Any]], dict[str, Any]], lines: Iterable[str], replies: TextIO
) -> None:
    """Answer each of `lines`; an exception becomes the reply ``{"error": ...}``."""
    for line in lines:
        request = json.loads(line)
        signal.setitimer(signal.ITIMER_PROF, request["cpu_limit"])
        try:
            reply = answer(request)
        except Exception as error:  # noqa: BLE001
            # Whatever a library raises on this text must not cost the next one its process.
            reply = {"error": type(error).__name__, "message": str(error)[:500]}
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0.0)
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


def main(path: str) -> None:
    """Serve standard input with the module at `path`."""
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the run, which ends its processes.
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_AS, (_ADDRESS_SPACE, _ADDRESS_SPACE))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Only replies may reach the pipe, whatever a library prints.
    pipe, sys.stdout = sys.stdout, sys.stderr
    module = loaded(path)
    warm_up = getattr(module, "warm_up", None)
    if warm_up is not None:
        warm_up()
    serve(module.answer, sys.stdin, pipe)


if __name__ == "__main__":
    main(sys.argv[1])
