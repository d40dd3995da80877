"""Is what was built the same function as the checkpoint, and where does it begin to differ?"""
