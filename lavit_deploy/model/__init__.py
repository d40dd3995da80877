"""LaViT as mathematics: its configuration, network, losses, operation counts and checkpoints."""
