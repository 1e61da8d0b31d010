"""A checkpoint leaves the trainer: probes recorded by the real engine, and a whole copy in a store."""
