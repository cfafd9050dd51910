"""Confining the calling process, on Linux, with nothing but the standard library.

It is called in a fresh child just before the child turns to code that nobody trusts:

* resource limits: CPU seconds, address space, file size, open files, processes;
* another user, where the caller is root: one that owns nothing else;
* Landlock: no file outside the folders named, and no signal to a process outside;
* a seccomp filter: no socket, no namespace, no mount, no tracing, no way out of the process group.

Documents: landlock(7), seccomp(2), capabilities(7), and linux/{landlock,filter,seccomp,audit}.h.
This module is imported by a bare interpreter: keep it free of imports from the library.
"""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import stat
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

__all__ = [
    "Confinement",
    "apply_limits",
    "drop_privileges",
    "is_public",
    "landlock_abi",
    "may_change_users",
    "no_new_privileges",
    "restrict_paths",
    "restrict_system_calls",
    "system_call_numbers",
]

_PR_SET_KEEPCAPS, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT = 8, 22, 38, 47
_CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH = 1, 2
# CHOWN, DAC_OVERRIDE, FOWNER, KILL, SETGID, SETUID: to give folders away, to become their owner,
# and afterwards to end what it runs and to remove what it left.
_TO_CHANGE_USERS = sum(1 << each for each in (0, _CAP_DAC_OVERRIDE, 3, 5, 6, 7))
_CAPABILITY_VERSION_3 = 0x20080522
_SYS_LANDLOCK_CREATE_RULESET, _SYS_LANDLOCK_ADD_RULE, _SYS_LANDLOCK_RESTRICT_SELF = 444, 445, 446

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1, 2, 4, 8
_READ = _EXECUTE | _READ_FILE | _READ_DIR
_ON_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | 1 << 14 | 1 << 15
# Rights known to each version of Landlock: 13 at first, then REFER, TRUNCATE, IOCTL_DEV.
_RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}
_SCOPE_ABSTRACT_SOCKETS_AND_SIGNALS = 3

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Confinement:
    """What a child may use.

    Attributes:
        readable: Files and folders it may read and execute.
        writable: Files and folders it may also write.
        cpu_time: Seconds of CPU.
        memory: Bytes of address space of each process.
        file_size: Bytes of the largest file it may write.
        processes: Processes and threads at once.
        uid: User to become, where the caller is root; ``None`` to stay.
    """

    readable: Sequence[str]
    writable: Sequence[str]
    cpu_time: float
    memory: int
    file_size: int
    processes: int
    uid: int | None


def apply_limits(confinement: Confinement, other_processes: int = 0) -> None:
    """Set the resource limits.

    Args:
        confinement: The limits.
        other_processes: Processes the user runs besides, which the kernel counts too.
    """
    seconds = max(1, -int(-confinement.cpu_time // 1))
    limits = {
        resource.RLIMIT_CPU: (seconds, seconds + 1),
        resource.RLIMIT_AS: (confinement.memory, confinement.memory),
        resource.RLIMIT_FSIZE: (confinement.file_size, confinement.file_size),
        resource.RLIMIT_NPROC: (confinement.processes + other_processes,) * 2,
        resource.RLIMIT_NOFILE: (256, 256),
        resource.RLIMIT_CORE: (0, 0),
    }
    for kind, (soft, hard) in limits.items():
        _, highest = resource.getrlimit(kind)
        if highest != resource.RLIM_INFINITY:
            soft, hard = min(soft, highest), min(hard, highest)
        resource.setrlimit(kind, (soft, hard))


def may_change_users() -> bool:
    """Whether this process may run programs as users of their own.

    That is root, if it has root's capabilities for it: in many containers it has none.
    """
    if os.geteuid() != 0:
        return False
    return _capabilities() & _TO_CHANGE_USERS == _TO_CHANGE_USERS


def _capabilities() -> int:
    """The effective ones that have numbers below 32, a bit each; all where there are no such."""
    if not hasattr(_libc, "capget"):
        return -1
    header = struct.pack("Ii", _CAPABILITY_VERSION_3, 0)
    data = ctypes.create_string_buffer(24)
    _checked(_libc.capget(header, data), "capget")
    effective: int = struct.unpack("6I", data.raw)[0]
    return effective


def drop_privileges(uid: int, *, readable: Iterable[str] = ()) -> None:
    """Become the user `uid` for good.

    Args:
        uid: The user, and the group.
        readable: Keep the right to read these, whatever file modes say: an interpreter below
            ``/root`` could not import otherwise. Only where Landlock says what may be used.
    """
    right = _reading_right(readable)
    if right is not None:
        _prctl(_PR_SET_KEEPCAPS, 1)
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    if right is not None:
        mask = 1 << right
        header = struct.pack("Ii", _CAPABILITY_VERSION_3, 0)
        data = struct.pack("6I", mask, mask, mask, 0, 0, 0)
        _checked(_libc.capset(header, data), "capset")
        _prctl(_PR_CAP_AMBIENT, 2, right)


def _reading_right(readable: Iterable[str]) -> int | None:
    """The capability to keep for reading these; ``None`` to keep none."""
    paths = list(readable)
    if paths and _capabilities() >> _CAP_DAC_READ_SEARCH & 1:
        return _CAP_DAC_READ_SEARCH
    # Containers have the wider one alone, as a rule. By itself it would allow writing too, and with
    # Landlock still what Landlock leaves out, times and extended attributes of files: only in need.
    return None if all(map(is_public, paths)) else _CAP_DAC_OVERRIDE


def is_public(path: str) -> bool:
    """Whether every user may read `path` and go through the folders above; also where it isn't."""
    found = os.path.realpath(path)
    try:
        if not os.stat(found).st_mode & stat.S_IROTH:
            return False
        while (above := os.path.dirname(found)) != found:
            found = above
            if not os.stat(found).st_mode & stat.S_IXOTH:
                return False
    except OSError:
        return True
    return True


def no_new_privileges() -> None:
    """Let no program that is executed from here on gain privileges."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def landlock_abi() -> int:
    """The kernel's version of Landlock, 0 without it."""
    version: int = _libc.syscall(_SYS_LANDLOCK_CREATE_RULESET, None, ctypes.c_size_t(0), 1)
    return max(0, version)


def restrict_paths(readable: Iterable[str], writable: Iterable[str], abi: int) -> int:
    """A Landlock rule set that allows these paths alone; give it to `enforce_paths`.

    Paths that don't exist are left out. Open it before `drop_privileges`.
    """
    rights = _RIGHTS[max(version for version in _RIGHTS if version <= abi)]
    attributes = struct.pack("QQQ", rights, 0, _SCOPE_ABSTRACT_SOCKETS_AND_SIGNALS)
    size = 24 if abi >= 6 else 8
    rules: int = _libc.syscall(
        _SYS_LANDLOCK_CREATE_RULESET, attributes, ctypes.c_size_t(size), ctypes.c_uint(0)
    )
    _checked(rules, "landlock_create_ruleset")
    for paths, allowed in ((readable, _READ), (writable, rights)):
        for path in paths:
            _allow(rules, path, allowed & rights)
    return rules


def enforce_paths(rules: int) -> None:
    """Hold the process, and all it starts, to the rule set."""
    code = _libc.syscall(_SYS_LANDLOCK_RESTRICT_SELF, ctypes.c_int(rules), ctypes.c_uint(0))
    _checked(code, "landlock_restrict_self")
    os.close(rules)


def _allow(rules: int, path: str, allowed: int) -> None:
    try:
        at = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if not os.path.isdir(path):
            allowed &= _ON_FILES
        rule = struct.pack("=Qi", allowed, at)
        code = _libc.syscall(_SYS_LANDLOCK_ADD_RULE, ctypes.c_int(rules), 1, rule, ctypes.c_uint(0))
        _checked(code, f"landlock_add_rule of {path}")
    finally:
        os.close(at)


@dataclass(frozen=True)
class SystemCalls:
    """Numbers of one machine architecture, from its unistd.h."""

    audit_arch: int
    clone: int
    refused: tuple[int, ...]


# In order: socket, ptrace, setsid, setpgid, mount, umount2, unshare, setns, open_by_handle_at,
# process_vm_readv, process_vm_writev, bpf, perf_event_open, keyctl, add_key, request_key,
# init_module, finit_module, reboot, pivot_root, chroot, userfaultfd, io_uring_setup, open_tree,
# move_mount, fsopen, fsmount, mount_setattr, pidfd_getfd.
_NEW = (425, 428, 429, 430, 432, 442, 438)
_CALLS = {
    "x86_64": SystemCalls(
        audit_arch=0xC000003E,
        clone=56,
        refused=(
            *(41, 101, 112, 109, 165, 166, 272, 308, 304, 310, 311, 321, 298, 250, 248, 249),
            *(175, 313, 169, 155, 161, 323),
            *_NEW,
        ),
    ),
    "aarch64": SystemCalls(
        audit_arch=0xC00000B7,
        clone=220,
        refused=(
            *(198, 117, 157, 154, 40, 39, 97, 268, 265, 270, 271, 280, 241, 219, 217, 218),
            *(105, 273, 142, 41, 51, 282),
            *_NEW,
        ),
    ),
}
_CLONE3 = 435
_CLONE_NEW_NAMESPACES = 0x7E020080
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_EPERM, _ENOSYS = 1, 38
_X32_CALLS = 0x40000000


def system_call_numbers() -> SystemCalls | None:
    """Those of this machine; ``None`` where nobody has written them down."""
    return _CALLS.get(platform.machine())


def restrict_system_calls(calls: SystemCalls) -> None:
    """Refuse, with EPERM, calls that lead out of the sandbox. Needs `no_new_privileges`."""
    program = _filter(calls)
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in program))
    header = struct.pack("HxxxxxxP", len(program), ctypes.addressof(code))
    _prctl(_PR_SET_SECCOMP, 2, header)


def _filter(calls: SystemCalls) -> list[tuple[int, int, int, int]]:
    """The filter's steps (operation, steps to skip if true, if false, operand)."""
    steps = [(_LOAD, 0, 0, 4), (_EQUAL, 1, 0, calls.audit_arch), (_RETURN, 0, 0, _KILL)]
    steps.append((_LOAD, 0, 0, 0))
    # What follows the checks, counted from the end of `checks`: 2 steps on clone, then the returns.
    allow, refuse, unknown = 2, 3, 4
    checks: list[tuple[int, int, int]] = [(_AT_LEAST, _X32_CALLS, refuse)]
    checks += [(_EQUAL, number, refuse) for number in calls.refused]
    checks += [(_EQUAL, _CLONE3, unknown)]
    for position, (operation, operand, target) in enumerate(checks):
        steps.append((operation, len(checks) - position + target, 0, operand))
    steps.append((_EQUAL, 0, allow, calls.clone))
    steps += [(_LOAD, 0, 0, 16), (_ANY_BIT, 1, 0, _CLONE_NEW_NAMESPACES)]
    steps += [(_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _ERRNO | _EPERM)]
    # glibc turns to clone where clone3 is unknown; clone3's flags can't be seen from a filter.
    steps.append((_RETURN, 0, 0, _ERRNO | _ENOSYS))
    return steps


def _prctl(option: int, *arguments: int | bytes) -> None:
    padded = [
        value if isinstance(value, bytes) else ctypes.c_ulong(value)
        for value in (*arguments, 0, 0, 0, 0)[:4]
    ]
    _checked(_libc.prctl(option, *padded), f"prctl({option})")


def _checked(code: int, doing: str) -> None:
    if code < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{doing}: {os.strerror(number)}")
