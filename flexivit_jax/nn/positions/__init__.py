"""Position embeddings and relations inside attention."""
