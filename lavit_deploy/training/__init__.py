"""Training a LaViT from scratch: `lavit-train`."""
