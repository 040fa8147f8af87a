"""A second checker of scenes, which shares neither features nor regions nor training images with the first."""
