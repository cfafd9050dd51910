"""Reusable scorers: each takes text or a transcript and gives values.

None raises on what a model wrote, and none takes more than linear time for it.
"""
