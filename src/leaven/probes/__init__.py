"""checkpoints x segments -> mechanism: what a trained model makes of thought and code on held-out examples."""
