"""Root has all capabilities on a machine, few in a container, and none in a strict one."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gym_adapters.sandbox.confinement import may_change_users

pytestmark = [
    pytest.mark.skipif(not may_change_users(), reason="only root has capabilities to lose"),
    pytest.mark.skipif(shutil.which("setpriv") is None, reason="needs setpriv of util-linux"),
]
# What container engines leave root by default: no CAP_DAC_READ_SEARCH among it.
CONTAINER = ",".join(
    (
        "-all,+chown,+dac_override,+fowner,+fsetid,+kill,+setgid,+setuid,+setpcap",
        "+net_bind_service,+net_raw,+sys_chroot,+mknod,+audit_write,+setfcap",
    )
)
SCRIPT = """
import asyncio, os, shlex, sys
from pathlib import Path
from gym_adapters.sandbox import SandboxLimits, Workspace, open_process_sandbox

READ = f"import os; print(os.getuid()); open({sys.argv[1]!r}).read()"
OUTSIDE = shlex.quote(str(Path(sys.argv[1]).parent))
CLOSE = f"mkdir closed; ln -s {OUTSIDE} closed/link; touch own; chmod 000 own closed"
WRITE = f"{CLOSE}; echo more > {shlex.quote(sys.argv[1])}"

async def main():
    async with open_process_sandbox() as sandbox:
        done = await sandbox.run_python(READ)
        print(done.stdout.strip(), done.stderr.strip().splitlines()[-1], sep="|")
        async with await Workspace.create() as workspace:
            done = await sandbox.run(["sh", "-c", WRITE], folder=workspace.path)
            print(done.exit_code, done.stderr.strip(), sep="|")
            endless = "while True: pass"
            short = SandboxLimits(wall_time=1.0)
            print((await sandbox.run_python(endless, limits=short)).timed_out)
        print(workspace.path.exists())

asyncio.run(main())
"""


@pytest.mark.parametrize(("kept", "changes_users"), [(CONTAINER, True), ("-all", False)])
def test_a_sandbox_holds_with_fewer_capabilities(
    kept: str, changes_users: bool, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    tmp_path.chmod(0o755)
    done = subprocess.run(
        ["setpriv", "--bounding-set", kept, sys.executable, "-c", SCRIPT, str(secret)],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    read, write, timed_out, is_left = done.stdout.splitlines()
    user, error = read.split("|")
    assert (int(user) > 0) == changes_users
    assert error.startswith("PermissionError")
    code, said = write.split("|")
    assert (int(code) != 0, "ermission denied" in said) == (True, True)
    assert (timed_out, is_left) == ("True", "False")
    assert tmp_path.stat().st_mode & 0o777 == 0o755
