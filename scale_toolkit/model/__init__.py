"""The trained model, in torch: encoder, mixture, loss, data loading, start and training loop."""
