"""Documents as an application sees them: collections, observers, subscriptions, and their replication."""
