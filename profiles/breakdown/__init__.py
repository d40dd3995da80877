"""Where the time of a model goes: by module, by graph node, by part."""
