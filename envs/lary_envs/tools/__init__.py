"""Tools for people who build scenes: gallery, reachability, tracking."""
