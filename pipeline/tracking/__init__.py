"""MLflow, and what it is told: the only room that imports it."""
