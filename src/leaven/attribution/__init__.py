"""Checkpoints x training data -> influence of texts, segments and tokens on a target."""
