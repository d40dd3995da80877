"""Bodies in and answers out: uploads, JSON, tensors, schemas and problems."""
