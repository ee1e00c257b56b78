"""Collections to train on: webdataset shards, folders, CSV and Parquet files, whatever their size.

All become lists of `TrainingImage`, which know where their picture lies and read it when asked.
"""
