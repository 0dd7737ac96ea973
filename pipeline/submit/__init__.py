"""`python -m pipeline.submit`: the committed pipeline as a job of a cluster."""
