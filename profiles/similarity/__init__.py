"""How alike the attention maps of neighbouring layers are (the paper's Fig. 3), with controls."""
