"""Photos inside larger files: rows of CSV and Parquet, samples in tars, data sets of the hub."""
