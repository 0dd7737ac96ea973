"""What is sent to a cluster, made from one description of it (`infra/targets.yaml`): manifests, a Slurm script, a SkyPilot task, a command."""
