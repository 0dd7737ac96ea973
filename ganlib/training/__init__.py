"""The loop, the step, the state bundle and the hooks. `python -m ganlib.training SPEC.json` trains without any framework around it."""
