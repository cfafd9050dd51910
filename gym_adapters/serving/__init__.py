"""Over HTTP: environments and agents in NeMo Gym's wire format, and a token-capturing model gateway.

Needs the extra ``serve``. Nothing here is on the path of training in one process.
"""
