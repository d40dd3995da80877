"""LaViT (Less-Attention Vision Transformer): the model, its checkpoints and its deployment bundle.

Importing this package imports no framework; each module imports what it needs.
"""

__version__ = "0.2.0.dev0"
