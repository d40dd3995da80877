"""Operations, latency and throughput of LaViT and its baselines; `lavit-profile`."""
