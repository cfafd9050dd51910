"""Recipes: one YAML that says what to train on what, and the trainer's own commands made of it."""

from __future__ import annotations

from gym_adapters.training.recipe import Recipe, load_recipe, recipe_names

__all__ = ["Recipe", "load_recipe", "recipe_names"]
