"""From the files of a checkpoint to named tensors, without trusting what else they hold."""
