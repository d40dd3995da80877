"""`torchrun -m lavit_deploy.training`, the same as `lavit-train`."""

from lavit_deploy.training.cli import entry

if __name__ == "__main__":
    entry()
