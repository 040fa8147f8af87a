"""Files to captioned records and back: folders, parquet, WebDataset, and the one format this project writes."""
