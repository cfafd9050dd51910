"""Environments of other libraries, as ours; and ours as theirs.

Each bridge is a module of its own: ``gymnasium_envs``, ``nemo_gym`` and ``child_process``.
"""
