"""The server over real sockets: what a client sees, and nothing else."""
