"""Whether a training that is killed and resumed ends where an uninterrupted one does: anyone's script, judged by its checkpoints."""
