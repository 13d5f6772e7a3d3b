"""Photos that are rows of a table: CSV and Parquet files, data sets of the Hugging Face hub."""
