"""The hub: races as lists of steps, without a socket."""
