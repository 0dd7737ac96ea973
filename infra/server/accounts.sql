-- PostgreSQL's image runs this once, on an empty volume: MLflow's accounts have a database of their own.
CREATE DATABASE accounts OWNER mlflow;
