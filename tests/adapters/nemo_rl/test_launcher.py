from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from gym_adapters.adapters.nemo_rl import launcher
from gym_adapters.errors import Unsupported, UsageError


def test_a_script_that_is_not_there_is_refused() -> None:
    with pytest.raises(UsageError, match="name a script"):
        launcher.main(["nowhere/run_grpo.py"])


def test_without_nemo_rl_the_reason_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nemo_rl", None)
    for name in [name for name in sys.modules if name.startswith("nemo_rl.")]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UsageError, match="NeMo RL can't be imported"):
        launcher.register()


@pytest.mark.full
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_script_runs_with_everything_registered(
    nemo_rl: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nemo_rl.quietly("nemo_rl.algorithms.grpo")
    nemo_rl.quietly("nemo_rl.algorithms.grpo_sync")
    script = tmp_path / "run.py"
    script.write_text(
        "import sys\n"
        "from pathlib import Path\n"
        "from nemo_rl.algorithms import grpo\n"
        "from nemo_rl.data.processors import PROCESSOR_REGISTRY\n"
        "from nemo_rl.environments.utils import ENV_REGISTRY\n"
        "from nemo_rl.distributed.ray_actor_environment_registry import get_actor_python_env\n"
        "fqn = ENV_REGISTRY['gym']['actor_class_fqn']\n"
        "processor = PROCESSOR_REGISTRY['gym_adapters'].__name__\n"
        "told = [grpo.spinup_nemo_gym_actor.__name__, processor,\n"
        "        fqn, bool(get_actor_python_env(fqn)), *sys.argv[1:]]\n"
        "Path(__file__).with_suffix('.txt').write_text(repr(told))\n"
    )
    monkeypatch.setattr(sys, "argv", ["before"])
    launcher.main([str(script), "--config", "run.yaml"])
    assert script.with_suffix(".txt").read_text() == repr(
        [
            "spinup_rollout_actor",
            "gym_processor",
            launcher.STEP_ACTOR,
            True,
            "--config",
            "run.yaml",
        ]
    )
    data_plane = nemo_rl.quietly("nemo_rl.algorithms.grpo_sync")
    with pytest.raises(Unsupported, match="data-plane"):
        data_plane.grpo_train_sync()
