"""Training without a trainer's loop: stored rollouts as rows. See docs/training_data.md."""
