"""The networks of Lens: transformer, text encoder and autoencoder, on one device."""
