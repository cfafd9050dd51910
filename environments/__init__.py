"""The environments that ship with the library, importable as ``gym_adapters.environments``.

One folder each: ``environment.py``, ``config.yaml``, ``data/example.jsonl``, ``README.md``.
"""
