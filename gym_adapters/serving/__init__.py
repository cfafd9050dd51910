"""Over HTTP: environments and agents in NeMo Gym's wire format, and a gateway that keeps tokens.

Needs the extra ``serve``. Nothing here is on the path of training in one process.
"""
