"""The folded LaViT, and the forms that its parts take while it is being folded.

`FoldedLaViT` begins as an unfolded copy of a `LaViT` (`folding/unfolded.py`) and is rewritten part
by part; after every rewrite it is a whole model that computes the same function. Where a part has
two forms they share one interface, so a rewrite exchanges one for the other.

Letters as in `lavit_deploy.model.lavit`: B batch, N query tokens, M key tokens, D channels,
H heads, d = D / H, p patch size, k number of LA layers in a stage. "Scores" are always
pre-softmax.
"""
