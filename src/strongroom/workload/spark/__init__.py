"""Apache Spark between attested processes: an authenticated cluster without daemons, over encrypted Parquet."""
