"""Every figure the README quotes, measured beside its peers in the same process group."""
