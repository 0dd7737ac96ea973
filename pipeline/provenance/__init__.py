"""Where a registered version comes from: written down when it is registered, verified link by link, and made again."""
