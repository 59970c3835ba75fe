"""Base models and adapters: adding them to the catalog, checking, loading, publishing, and telling them apart."""
