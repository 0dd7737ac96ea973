"""The workflow around ganlib: DVC stages, Ray Train, MLflow, job submission."""
