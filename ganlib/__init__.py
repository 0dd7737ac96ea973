"""GAN training library: networks, losses, tasks, data and metrics. Knows nothing of Ray, MLflow, DVC or the pipeline."""
