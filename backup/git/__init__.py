"""Git: its wire, its packs and bundles, and the git program. Knows nothing of vaults."""
