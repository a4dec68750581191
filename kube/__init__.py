"""The vocabulary that all of ktool shares: objects, quantities, selectors, patches, client, informers, certificates."""
