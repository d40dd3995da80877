"""Pictures on their way into a training step: order, crops, batches, augmentation."""
