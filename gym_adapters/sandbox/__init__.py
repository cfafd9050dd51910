"""Where code that a model wrote runs: confined processes, bubblewrap, or docker."""

from gym_adapters.sandbox.opening import SandboxConfig, open_sandbox
from gym_adapters.sandbox.process import ProcessSandbox, open_process_sandbox
from gym_adapters.sandbox.protocol import Execution, Guarantees, Sandbox, SandboxLimits
from gym_adapters.sandbox.workspace import Workspace

__all__ = [
    "Execution",
    "Guarantees",
    "ProcessSandbox",
    "Sandbox",
    "SandboxConfig",
    "SandboxLimits",
    "Workspace",
    "open_process_sandbox",
    "open_sandbox",
]
