"""Inference runtimes: one file each, all with the interface of `lavit_deploy.runtimes.base`."""
