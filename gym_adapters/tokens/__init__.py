"""Exact tokens: the ledger, the chat renderer and the output parser."""
